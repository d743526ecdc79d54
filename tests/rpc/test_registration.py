"""What a role tells the coordinators, seen from a coordinator on the loopback interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from twisted.internet import reactor as real_reactor
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from penncloud.platform.config import Cluster, Storage
from penncloud.platform.errors import ConfigurationError, PennCloudError
from penncloud.platform.listening import listen
from penncloud.rpc.calls import Calls
from penncloud.rpc.errors import Disconnected, Refusal
from penncloud.rpc.protocol import RpcProtocol
from penncloud.rpc.registration import (
    Assign,
    Assigned,
    Coordinators,
    FetchAssignment,
    Identity,
    Leave,
    Left,
    Ping,
    Pong,
    Propose,
    Proposed,
    Register,
    Registered,
    Registration,
    TabletAssignment,
    Tip,
    identity,
    new_incarnation,
)
from penncloud.rpc.server import RpcServerFactory
from tests.rpc.world import environment

reactor: Any = real_reactor

INFO = Identity("storage", "storage-1", "127.0.0.1", 8700, 4711)
TABLET = TabletAssignment(1, 0, 2**32, 1, "storage-1", ["storage-1"])


class _Coordinator:
    """The coordinator's side: remembers what it is told."""

    def __init__(self) -> None:
        self.registered: DeferredQueue[tuple[RpcProtocol, Register]] = DeferredQueue()
        self.pongs: DeferredQueue[Pong] = DeferredQueue()
        self.left = 0
        self.refuse = False
        self.calls = Calls()
        self.calls.on_call(Register, self._register)
        self.calls.on_call(Leave, self._leave)
        self.calls.on_note(Pong, lambda _, pong: self.pongs.put(pong))
        self.factory = RpcServerFactory(environment(reactor), self.calls)

    def _register(self, connection: RpcProtocol, register: Register) -> msgspec.Struct:
        refuse, self.refuse = self.refuse, False
        self.registered.put((connection, register))
        if refuse:
            raise Refusal("NOT_YET", "not now")
        return Registered(heartbeat_ms=100)

    def _leave(self, connection: RpcProtocol, leave: Leave) -> Left:
        self.left += 1
        return Left()


class RegistrationTests(TestCase):
    timeout = 300

    async def _start(self, coordinators: int = 1, **more: Any) -> list[_Coordinator]:
        them = [_Coordinator() for _ in range(coordinators)]
        addresses = []
        for one in them:
            port = await listen(reactor, "127.0.0.1", 0, one.factory)
            self.addCleanup(port.stopListening)
            host: Any = port.getHost()
            addresses.append(f"127.0.0.1:{host.port}")
        cluster = Cluster(coordinators=addresses)
        self.registration = Registration(environment(reactor), cluster, INFO, **more)
        self.registration.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.registration.stop()))
        return them

    async def test_registers_everywhere(self) -> None:
        """Every coordinator gets the identity and the incarnation."""
        for one in await self._start(coordinators=2):
            _, register = await one.registered.get()
            self.assertEqual(register, Register(INFO, self.registration.incarnation))
        self.assertEqual(self.registration.connected, 2)

    async def test_pong(self) -> None:
        """A ping is answered with pid, incarnation and tips."""
        tips = [Tip(1, 2, 3)]
        [coordinator] = await self._start(tips=lambda: tips)
        connection, _ = await coordinator.registered.get()
        connection.note(Ping(9))
        pong = await coordinator.pongs.get()
        expected = Pong(9, 4711, self.registration.incarnation, tips)
        self.assertEqual(pong, expected)

    async def test_registers_again(self) -> None:
        """After a lost connection, and after a refusal, the role registers anew."""
        [coordinator] = await self._start()
        connection, first = await coordinator.registered.get()
        coordinator.refuse = True
        connection.close()
        _, second = await coordinator.registered.get()
        _, third = await coordinator.registered.get()
        self.assertEqual([second, third], [first, first])

    async def test_assign(self) -> None:
        """An assignment is answered once it is durable, and an error of the server is told."""
        durable: Deferred[None] = Deferred()
        given: list[Assign] = []

        async def on_assign(assign: Assign) -> None:
            given.append(assign)
            if len(given) == 2:
                raise PennCloudError("no room")
            await durable

        [coordinator] = await self._start(on_assign=on_assign)
        connection, _ = await coordinator.registered.get()
        result = connection.call(Assign(3, [TABLET]), Assigned, 5.0)
        with self.assertRaisesRegex(Refusal, "no room"):
            await connection.call(Assign(4, [TABLET]), Assigned, 5.0)
        self.assertNoResult(result)
        durable.callback(None)
        self.assertEqual(await result, Assigned())
        self.assertEqual(given, [Assign(3, [TABLET]), Assign(4, [TABLET])])

    async def test_coordinators_that_join(self) -> None:
        """A coordinator that one already known tells of is registered with, too, and left when it is no
        member any more; one that has another address than was configured is not taken for a second."""
        one, other = _Coordinator(), _Coordinator()
        ports = []
        for each in (one, other):
            listening = await listen(reactor, "127.0.0.1", 0, each.factory)
            self.addCleanup(listening.stopListening)
            host: Any = listening.getHost()
            ports.append(host.port)
        told: list[Sequence[str]] = []
        self.registration = Registration(
            environment(reactor),
            Cluster(coordinators=[f"localhost:{ports[0]}"]),
            INFO,
            on_coordinators=told.append,
        )
        self.registration.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.registration.stop()))
        connection, _ = await one.registered.get()
        members = {"one": f"127.0.0.1:{ports[0]}", "other": f"127.0.0.1:{ports[1]}"}
        connection.note(Coordinators("one", members))
        second, _ = await other.registered.get()
        second.note(Coordinators("other", members))
        self.assertEqual(told, [[f"localhost:{ports[0]}", f"127.0.0.1:{ports[1]}"]])
        connection.note(Ping(1))
        await one.pongs.get()
        self.assertEqual(self.registration.connected, 2)
        without = {"one": members["one"]}
        second.note(Coordinators("other", without))
        connection.note(Coordinators("one", without))
        connection.note(Ping(2))
        await one.pongs.get()
        self.assertEqual(told[-1], [f"localhost:{ports[0]}"])
        self.assertEqual(self.registration.connected, 1)

    async def test_asks_another_coordinator(self) -> None:
        """What one coordinator cannot do now is asked of the next one, beginning there the next time."""
        them = await self._start(coordinators=2)
        for one in them:
            await one.registered.get()
        asked: list[int] = []

        def leads(number: int, refusal: str) -> None:
            def propose(connection: RpcProtocol, message: Propose) -> Proposed:
                asked.append(number)
                if refusal:
                    raise Refusal(refusal, "no")
                return Proposed(True, message.expect + 1)

            them[number].calls.on_call(Propose, propose)

        leads(0, "NOT_LEADER")
        leads(1, "")
        message = Propose("storage-1", 5, 1, 7, "storage-1", 5, ["storage-1"])
        answer = await self.registration.ask(message, Proposed, 5.0)
        again = await self.registration.ask(message, Proposed, 5.0)
        self.assertEqual([answer, again], [Proposed(True, 8)] * 2)
        self.assertEqual(asked, [0, 1, 1])

    async def test_asks_in_vain(self) -> None:
        """What every coordinator would refuse is not asked again; with none there is an error."""
        [one] = await self._start()
        with self.assertRaises(Disconnected):
            await self.registration.ask(FetchAssignment("storage-1"), Assign, 5.0)
        await one.registered.get()
        with self.assertRaisesRegex(Refusal, "fetch-assignment"):
            await self.registration.ask(FetchAssignment("storage-1"), Assign, 5.0)

    async def test_leaves(self) -> None:
        """An orderly stop says so before it closes."""
        [coordinator] = await self._start()
        await coordinator.registered.get()
        await self.registration.stop()
        self.assertEqual(coordinator.left, 1)
        self.assertEqual(self.registration.connected, 0)


class IdentityTests(SynchronousTestCase):
    def test_from_section(self) -> None:
        """What others are told is the advertised address and the real port."""
        role = Storage(id="storage-2", host="0.0.0.0", advertise="db2", agent="db2:9000")
        self.assertEqual(
            identity("storage", role, 8701, pid=5),
            Identity("storage", "storage-2", "db2", 8701, 5, agent="db2:9000"),
        )

    def test_incarnations_grow(self) -> None:
        """A later start has a greater incarnation, and all are exact in JavaScript."""
        clock = Clock()
        world = environment(clock)
        numbers = []
        for _ in range(20):
            numbers.append(new_incarnation(world))
            clock.advance(0.001)
        self.assertEqual(numbers, sorted(set(numbers)))
        self.assertLess(numbers[-1], 2**53)

    def test_needs_a_secret(self) -> None:
        """A role on a network without a secret does not start."""
        cluster = Cluster(coordinators=["10.0.0.1:8600"])
        registration = Registration(environment(Clock()), cluster, INFO)
        self.assertRaises(ConfigurationError, registration.start)

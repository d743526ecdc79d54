"""The connection that comes back, against a server on the loopback interface."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from twisted.internet import reactor as real_reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from penncloud.platform.listening import listen
from penncloud.rpc.calls import Calls
from penncloud.rpc.client import RpcClient
from penncloud.rpc.endpoints import address_text
from penncloud.rpc.errors import Disconnected, Refusal
from penncloud.rpc.protocol import Hooks, RpcProtocol
from penncloud.rpc.server import RpcServerFactory
from tests.rpc.world import Add, Sum, environment

reactor: Any = real_reactor


def adding() -> Calls:
    calls = Calls()
    calls.on_call(Add, lambda _, add: Sum(add.a + add.b))
    return calls


class LoopbackTests(TestCase):
    timeout = 300

    async def _serve(self, secret: bytes = b"", port: int = 0) -> tuple[RpcServerFactory, int]:
        factory = RpcServerFactory(environment(reactor), adding(), secret=secret)
        self.port: IListeningPort = await listen(reactor, "127.0.0.1", port, factory)
        self.addCleanup(self._unserve, self.port, factory)
        host: Any = self.port.getHost()
        return factory, host.port

    async def _unserve(self, port: IListeningPort, factory: RpcServerFactory) -> None:
        stopped: Any = port.stopListening()
        await (stopped or _now())
        factory.close_all()

    def _client(self, port: int, **more: Any) -> RpcClient:
        client = RpcClient(environment(reactor), "127.0.0.1", port, longest_pause_s=0.1, **more)
        client.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(client.stop()))
        return client

    async def test_call(self) -> None:
        """A call waits for the connection and is answered."""
        _, port = await self._serve()
        client = self._client(port)
        self.assertEqual(await client.call(Add(2, 3), Sum, 5.0), Sum(5))

    async def test_large_messages(self) -> None:
        """Many large calls at once arrive whole, with the secret asked."""
        secret = b"sixteen bytes or more"
        _, port = await self._serve(secret)
        client = self._client(port, secret=secret)
        number = 1 << 62
        results = [
            Deferred.fromCoroutine(client.call(Add(number, n), Sum, 5.0)) for n in range(300)
        ]
        self.assertEqual([(await result).value - number for result in results], list(range(300)))

    async def test_comes_back(self) -> None:
        """When the server is lost and returns on its address, the client is connected again."""
        opened: list[RpcProtocol] = []
        lost: Deferred[None] = Deferred()

        def closed(connection: RpcProtocol, why: Failure) -> None:
            if not lost.called:
                lost.callback(None)

        factory, port = await self._serve()
        client = self._client(port, hooks=Hooks(opened.append, closed))
        await client.call(Add(1, 1), Sum, 5.0)
        await self._unserve(self.port, factory)
        await lost
        self.assertIsNone(client.connection)
        await self._serve(port=port)
        self.assertEqual(await client.call(Add(1, 1), Sum, 5.0), Sum(2))
        self.assertEqual(len(opened), 2)

    async def test_wrong_secret(self) -> None:
        """Calls with a wrong secret fail within their deadline; none is executed."""
        _, port = await self._serve(b"one secret, long enough")
        client = self._client(port, secret=b"another secret, as long")
        with self.assertRaises(Disconnected):
            await client.call(Add(1, 1), Sum, 0.3)

    async def test_stop(self) -> None:
        """After stop there is no connection, and calls fail at once."""
        _, port = await self._serve()
        client = self._client(port)
        await client.call(Add(1, 1), Sum, 5.0)
        await client.stop()
        self.assertIsNone(client.connection)
        with self.assertRaises(Disconnected):
            await client.call(Add(1, 1), Sum, 5.0)

    async def test_refusal(self) -> None:
        """What the server refuses arrives as Refusal."""
        _, port = await self._serve()
        client = self._client(port)
        with self.assertRaises(Refusal):
            await client.call(Sum(1), Sum, 5.0)


def _now() -> Deferred[None]:
    done: Deferred[None] = Deferred()
    done.callback(None)
    return done


class UnreachableTests(SynchronousTestCase):
    """Connecting, on a fake reactor whose connections never succeed."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.client = RpcClient(environment(self.reactor), "10.0.0.9", 8600)
        self.client.start()

    def _refuse(self) -> None:
        from twisted.internet.error import ConnectionRefusedError

        factory = self.reactor.tcpClients[-1][2]
        factory.clientConnectionFailed(
            self.reactor.connectors[-1], Failure(ConnectionRefusedError())
        )

    def test_keeps_trying(self) -> None:
        """Attempts go on with pauses that grow up to the longest."""
        starts = []
        for _ in range(12):
            attempts = len(self.reactor.tcpClients)
            self._refuse()
            while len(self.reactor.tcpClients) == attempts:
                self.reactor.advance(0.01)
            starts.append(self.reactor.seconds())
        pauses = [later - earlier for earlier, later in pairwise(starts)]
        self.assertLess(pauses[0], 0.25)
        self.assertGreater(pauses[-1], 0.9)
        self.assertLess(max(pauses), 2.1)

    def test_waiting_has_a_deadline(self) -> None:
        """A call that never gets a connection fails in time."""
        result = Deferred.fromCoroutine(self.client.call(Add(1, 1), Sum, 0.5))
        self.reactor.advance(0.4)
        self.assertNoResult(result)
        self.reactor.advance(0.2)
        self.failureResultOf(result, Disconnected)

    def test_stop_gives_up(self) -> None:
        """Stop fails what waits and leaves no timer behind, also during a pause."""
        result = Deferred.fromCoroutine(self.client.call(Add(1, 1), Sum, 5))
        self._refuse()
        self.successResultOf(Deferred.fromCoroutine(self.client.stop()))
        self.failureResultOf(result, Disconnected)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_addresses(self) -> None:
        """IPv6 addresses are written in brackets and connected to as such."""
        self.assertEqual(self.client.address, "10.0.0.9:8600")
        self.assertEqual(address_text("::1", 80), "[::1]:80")
        client = RpcClient(environment(self.reactor), "::1", 8600)
        client.start()
        self.assertEqual(self.reactor.tcpClients[-1][:2], ("::1", 8600))

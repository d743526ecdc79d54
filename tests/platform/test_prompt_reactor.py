"""The prompt reactor saves the turns it is meant to save, and lets nobody starve or harm another.

That it is a reactor at all is shown by Twisted's own tests (`test_prompt_reactor_by_twisted`).
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import Factory, Protocol
from twisted.python import context, log
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from penncloud.platform.prompt_reactor import PromptReactor

# A reactor that does not do what a test waits for is stopped.
_WITHIN_S = 60.0


class _Spy:
    """An epoll object that remembers what it was told of descriptors."""

    def __init__(self, poller: Any) -> None:
        self._poller = poller
        self.told: list[str] = []

    def register(self, fd: int, flags: int) -> None:
        self.told.append("register")
        self._poller.register(fd, flags)

    def modify(self, fd: int, flags: int) -> None:
        self.told.append("modify")
        self._poller.modify(fd, flags)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poller, name)


class _Echo(Protocol):
    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


class _Asking(Protocol):
    """Sends a byte, and another one when that has come back, so many times; then `done`."""

    def __init__(self, times: int, done: Callable[[], None]) -> None:
        self._left = times
        self._done = done

    def connectionMade(self) -> None:
        self.dataReceived(b"")

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        if not self._left:
            self._done()
            return
        self._left -= 1
        self.transport.write(b"x")


@implementer(IPullProducer)
class _Endless(Protocol):
    """Sends all that it is allowed to."""

    def __init__(self) -> None:
        self.asked = 0

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        self.asked += 1
        assert self.transport is not None
        self.transport.write(b"e")

    def stopProducing(self) -> None:
        pass


class PromptReactorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor: Any = PromptReactor()
        self.addCleanup(self._put_away)
        self.timed_out = False

    def _put_away(self) -> None:
        for reader in list(self.reactor._internalReaders):
            self.reactor.removeReader(reader)
            reader.connectionLost(None)
        self.reactor.disconnectAll()
        self.reactor._poller.close()

    def run_reactor(self) -> None:
        def too_long() -> None:
            self.timed_out = True
            self.reactor.stop()

        late = self.reactor.callLater(_WITHIN_S, too_long)
        self.reactor.run(installSignalHandlers=False)
        self.assertFalse(self.timed_out)
        late.cancel()

    def listen(self, protocol: Callable[[], Protocol]) -> int:
        factory = Factory.forProtocol(protocol)
        port = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        number: int = port.getHost().port
        return number

    def connect(self, port: int, protocol: Protocol) -> None:
        where = TCP4ClientEndpoint(self.reactor, "127.0.0.1", port)
        connectProtocol(where, protocol).addErrback(log.err)

    def pair(self, protocol: Protocol) -> tuple[Any, socket.socket]:
        """The transport of a connection of the reactor's, and the socket at its other end."""
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        self.addCleanup(theirs.close)
        theirs.setblocking(False)
        factory = Factory.forProtocol(lambda: protocol)
        self.reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, factory)
        ours.close()
        return protocol.transport, theirs

    def test_small_answers_never_ask_epoll(self) -> None:
        """While the kernel takes everything, epoll is told of two connections, and nothing of writing."""
        spy = self.reactor._poller = _Spy(self.reactor._poller)
        port = self.listen(_Echo)
        asking = _Asking(50, self.reactor.stop)
        self.reactor.callWhenRunning(self.connect, port, asking)
        self.run_reactor()
        # The port, and the two ends; the client's end is waited for until it is connected.
        self.assertLess(len(spy.told), 12)

    def test_an_endless_producer_lets_others_work(self) -> None:
        """A connection whose producer always has more writes a bounded number of times in a round."""
        endless = _Endless()
        rounds = [0]
        poll = self.reactor.doIteration

        def counted(timeout: float | None) -> None:
            rounds[0] += 1
            poll(timeout)

        self.reactor.doIteration = counted
        producing = self.listen(lambda: endless)
        echoing = self.listen(_Echo)
        reader = Protocol()
        self.reactor.callWhenRunning(self.connect, producing, reader)
        self.reactor.callWhenRunning(self.connect, echoing, _Asking(50, self.reactor.stop))
        self.run_reactor()
        self.assertGreater(endless.asked, 1)
        self.assertLessEqual(endless.asked, 3 * rounds[0])

    def test_a_full_socket_is_left_to_epoll(self) -> None:
        """To a peer that does not read nothing is tried again until epoll says so; then all arrives."""
        size = 8 * 1024 * 1024
        transport, theirs = self.pair(Protocol())
        writes = [0]
        write_some = transport.writeSomeData

        def counted(data: bytes) -> Any:
            writes[0] += 1
            return write_some(data)

        transport.writeSomeData = counted
        transport.write(b"x" * size)
        for _ in range(200):
            self.reactor.iterate(0)
        tried = writes[0]
        for _ in range(50):
            self.reactor.iterate(0)
        self.assertEqual(writes[0], tried)
        self.assertEqual(self.reactor.getWriters(), [transport])
        taken = 0
        for _ in range(10_000):
            self.reactor.iterate(0)
            try:
                taken += len(theirs.recv(1 << 20))
            except BlockingIOError:
                continue
            if taken == size:
                break
        self.assertEqual(taken, size)
        self.reactor.iterate(0)
        self.assertEqual(self.reactor.getWriters(), [])

    def test_a_connection_that_fails_harms_no_other(self) -> None:
        """What the protocol of one connection raises is logged; the turns of others go on."""

        class Broken(Protocol):
            def connectionLost(self, reason: Any = None) -> None:
                raise ZeroDivisionError("connectionLost")

        broken, _ = self.pair(Broken())
        sound, theirs = self.pair(Protocol())
        broken.loseConnection()
        sound.write(b"x")
        self.reactor.iterate(0)
        self.assertEqual(theirs.recv(2), b"x")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_reader_that_fails_harms_no_other(self) -> None:
        """What dataReceived raises ends that connection, and is logged; the others' events are had."""

        class Broken(Protocol):
            def dataReceived(self, data: bytes) -> None:
                raise ZeroDivisionError("dataReceived")

            def connectionLost(self, reason: Any = None) -> None:
                raise ZeroDivisionError("connectionLost")

        got: list[bytes] = []

        class Sound(Protocol):
            def dataReceived(self, data: bytes) -> None:
                got.append(data)

        (_, to_broken), (_, to_sound) = self.pair(Broken()), self.pair(Sound())
        to_broken.send(b"x")
        to_sound.send(b"x")
        self.reactor.iterate(0)
        self.assertEqual(got, [b"x"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_the_end_is_not_waited_for(self) -> None:
        """A reactor that is told to stop while it writes to a connection stops at once."""
        stop = self.reactor.stop

        class Stopping(Protocol):
            def connectionLost(self, reason: Any = None) -> None:
                stop()

        transport, _ = self.pair(Stopping())
        self.reactor.callWhenRunning(transport.loseConnection)
        self.run_reactor()

    def test_the_log_says_whose_event_it_is(self) -> None:
        """The old log's context is of each connection in turn, and nobody's afterwards."""
        seen: list[str] = []

        class Named(Protocol):
            def __init__(self, name: str) -> None:
                self._name = name

            def logPrefix(self) -> str:
                return self._name

            def dataReceived(self, data: bytes) -> None:
                seen.append(context.get(log.ILogContext)["system"])
                assert self.transport is not None
                self.transport.write(data)

        before = len(context.theContextTracker.currentContext().contexts)
        ports = [self.listen(lambda name=name: Named(name)) for name in ("one", "two")]  # type: ignore[misc]
        left = [2]

        def done() -> None:
            left[0] -= 1
            if not left[0]:
                self.reactor.stop()

        for port in ports:
            self.reactor.callWhenRunning(self.connect, port, _Asking(3, done))
        self.run_reactor()
        self.assertEqual(len(seen), 6)
        for name in ("one", "two"):
            self.assertEqual(sum(system.startswith(name) for system in seen), 3)
        self.assertEqual(len(context.theContextTracker.currentContext().contexts), before)

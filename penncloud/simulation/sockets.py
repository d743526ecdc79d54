"""Simulated TCP: ports, connectors and transports that behave as Twisted's do on a real kernel.

Theory of operation
    A connection is two sockets and two wires, one in each direction. `Socket.write` gathers bytes; at
    the end of the turn they are cut into segments, at random bytes too, and put on the wire as far as
    the window (what the other side has not yet read) allows. A wire delivers in order. What the reader
    does not take, because it has paused or is stopped, fills the window; then the writer's buffer
    grows, and its producer is told to pause: back-pressure works end to end.

    A killed process leaves its kernel: some of what it had written is still sent, then the connection
    is ended or reset. A machine without power leaves nothing: the other side learns of it when what it
    sends is refused by the machine that has come back, or by giving up.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from twisted.internet.address import IPv4Address
from twisted.internet.base import BaseConnector
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    TimeoutError,
)
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableDescriptor,
    IHalfCloseableProtocol,
    IListeningPort,
    IPushProducer,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from penncloud.simulation.network import GIVE_UP_S, LONGEST_RETRY_S, RETRY_S
from penncloud.simulation.timeline import NS, Event

if TYPE_CHECKING:
    from penncloud.simulation.host import Host
    from penncloud.simulation.network import Network
    from penncloud.simulation.process import Process

# Bytes on their way or waiting at a reader that does not read.
WINDOW_BYTES: Final = 64 * 1024
# Bytes that wait in a writer before its producer is paused (Twisted's own bound).
BUFFER_BYTES: Final = 64 * 1024
SYN_RETRY_S: Final = 1.0

OPEN: Final = "open"
DATA: Final = "data"
END: Final = "end"
RESET: Final = "reset"


class Wire:
    """One direction of a connection: what is on its way, in order."""

    def __init__(self, network: Network, sender: Socket, receiver: Socket) -> None:
        self.unread_bytes = 0
        # The sending machine has lost its power: nothing is sent again.
        self.orphaned = False
        self._network = network
        self._sender = sender
        self._receiver = receiver
        self._flight: deque[tuple[int, str, bytes]] = deque()
        self._event: Event | None = None
        self._last_ns = 0
        self._cut_since_ns: int | None = None
        self._retry_s = RETRY_S

    def send(self, kind: str, data: bytes = b"") -> None:
        network = self._network
        now_ns = network.timeline.now_ns
        delay_ns = network.delay_ns(self._sender.host, self._receiver.host, len(data))
        self._last_ns = max(self._last_ns, now_ns + delay_ns)
        self.unread_bytes += len(data)
        self._flight.append((self._last_ns, kind, data))
        if self._event is None:
            self._event = network.timeline.at(self._last_ns, self._due)

    def _due(self) -> None:
        self._event = None
        network = self._network
        if not network.reaches(self._sender.host, self._receiver.host):
            self._try_again()
            return
        self._cut_since_ns = None
        self._retry_s = RETRY_S
        _, kind, data = self._flight.popleft()
        if self._flight:
            self._event = network.timeline.at(self._flight[0][0], self._due)
        self._receiver.arrived(kind, data)

    def _try_again(self) -> None:
        timeline = self._network.timeline
        if self._cut_since_ns is None:
            self._cut_since_ns = timeline.now_ns
        if self.orphaned or timeline.now_ns - self._cut_since_ns > GIVE_UP_S * NS:
            self._flight.clear()
            self._sender.process.execute(self._sender.lost, TimeoutError())
            return
        pause_s = self._retry_s * self._network.chance.uniform(0.9, 1.1)
        self._retry_s = min(2 * self._retry_s, LONGEST_RETRY_S)
        self._event = timeline.after(pause_s, self._due)

    def read(self, size: int, since_ns: int | None = None) -> None:
        """The receiver has read so many bytes: the sender is told, as soon as it can be."""
        network = self._network
        if network.reaches(self._receiver.host, self._sender.host):
            self.unread_bytes -= size
            self._sender.has_room()
            return
        begun_ns = network.timeline.now_ns if since_ns is None else since_ns
        if network.timeline.now_ns - begun_ns > GIVE_UP_S * NS:
            self._sender.process.execute(self._sender.lost, TimeoutError())
        elif not self._sender.gone:
            network.timeline.after(RETRY_S, self.read, size, begun_ns)


@implementer(ITCPTransport, IConsumer, IPushProducer, IHalfCloseableDescriptor)
class Socket:
    """One end of a connection: the transport of its protocol."""

    def __init__(self, process: Process, local: IPv4Address, remote: IPv4Address) -> None:
        self.process = process
        self.host: Host = process.host
        self.connected = False
        self.disconnecting = False
        self.gone = False
        self.protocol: Any = None
        self.connector: Connector | None = None
        # Set where this end was made by a port that has not accepted it yet.
        self.port: Port | None = None
        self.peer: Socket | None = None
        self.wire: Wire | None = None
        self._network = process.host.world.network
        self._local = local
        self._remote = remote
        self._outgoing = bytearray()
        self._pumping = False
        self._inbox: deque[tuple[str, bytes]] = deque()
        self._draining = False
        self._reading = True
        self._aborting = False
        self._ending_write = False
        self._write_ended = False
        self._producer: Any = None
        self._streaming = False
        self._producer_paused = False

    # -- ITransport ------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if not self.connected or self._write_ended or self.process.dead or not data:
            return
        self._outgoing += data
        if (
            self._producer is not None
            and self._streaming
            and not self._producer_paused
            and len(self._outgoing) > BUFFER_BYTES
        ):
            self._producer_paused = True
            self._producer.pauseProducing()
        self.has_room()

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        if not self.connected or self.disconnecting:
            return
        self._reading = False
        if self._write_ended:
            self.process.callLater(0, self.lost, ConnectionDone())
        else:
            self.disconnecting = True
            self._pump_soon()

    def abortConnection(self) -> None:
        if self.gone or self._aborting or not self.connected:
            return
        self._aborting = self.disconnecting = True
        self._reading = False
        self._outgoing.clear()
        self._say(RESET)
        self.process.callLater(0, self.lost, ConnectionAborted())

    def loseWriteConnection(self) -> None:
        self._ending_write = True
        self._pump_soon()

    def getHost(self) -> IPv4Address:
        return self._local

    def getPeer(self) -> IPv4Address:
        return self._remote

    def getTcpNoDelay(self) -> bool:
        return True

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Segments are cut at random anyway."""

    def getTcpKeepAlive(self) -> bool:
        return True

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Its hours are longer than any run."""

    # -- IHalfCloseableDescriptor, as a reactor would call it ------------------------------------

    def writeConnectionLost(self, reason: Failure) -> None:
        if IHalfCloseableProtocol.providedBy(self.protocol):
            self.protocol.writeConnectionLost()

    def readConnectionLost(self, reason: Failure) -> None:
        if IHalfCloseableProtocol.providedBy(self.protocol):
            self.protocol.readConnectionLost()
        else:
            self.lost(ConnectionDone())

    # -- IConsumer, IPushProducer ----------------------------------------------------------------

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self._producer is not None:
            raise RuntimeError("there is a producer already")
        if self.gone:
            producer.stopProducing()
            return
        self._producer, self._streaming = producer, streaming
        self._producer_paused = False
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self._producer = None
        if self.connected and self.disconnecting:
            self._pump_soon()

    def pauseProducing(self) -> None:
        self._reading = False

    def resumeProducing(self) -> None:
        if self.connected and not self.disconnecting and not self._reading:
            self._reading = True
            self.process.callLater(0, self._drain)

    def stopProducing(self) -> None:
        self.loseConnection()

    # -- connecting ------------------------------------------------------------------------------

    def connect(self, attempt: int = 0) -> None:
        """Ask the other side, again and again, until there is an answer."""
        network, target = self._network, self._network.host(self._remote.host)
        if self.gone or self.process.dead:
            return
        timeline = network.timeline
        if target is None:
            timeline.after(0, self.process.execute, self.failIfNotConnected, TimeoutError())
            return
        reaches = network.reaches(self.host, target) and network.reaches(target, self.host)
        if not reaches:
            timeline.after(SYN_RETRY_S * 2**attempt, self.connect, attempt + 1)
            return
        there_ns = timeline.now_ns + network.delay_ns(self.host, target, 0)
        timeline.at(there_ns, self._asked, target)

    def _asked(self, target: Host) -> None:
        network = self._network
        back_ns = network.timeline.now_ns + network.delay_ns(target, self.host, 0)
        port = network.listening(self._remote.host, self._remote.port)
        if port is None:
            network.timeline.at(
                back_ns, self.process.execute, self.failIfNotConnected, ConnectionRefusedError()
            )
            return
        peer = Socket(port.process, self._remote, self._local)
        peer.port = port
        self.peer, peer.peer = peer, self
        self.wire = Wire(network, self, peer)
        peer.wire = Wire(network, peer, self)
        network.timeline.at(back_ns, self.process.execute, self._answered)

    def _answered(self) -> None:
        if self.gone:
            return
        assert self.connector is not None
        self.connected = True
        self.process.sockets[self] = None
        self._say(OPEN)
        self.protocol = self.connector.buildProtocol(self._remote)
        if self.protocol is None:
            self.protocol = Protocol()
            self.loseConnection()
        else:
            self.protocol.makeConnection(self)

    def failIfNotConnected(self, error: Exception) -> None:
        if self.connected or self.gone:
            return
        self.gone = True
        assert self.connector is not None
        self.connector.connectionFailed(Failure(error))

    # -- sending ---------------------------------------------------------------------------------

    def _say(self, kind: str, data: bytes = b"") -> None:
        assert self.wire is not None
        world = self.host.world
        peer = self.peer
        assert peer is not None
        stamped = self._network.stamped_ports.intersection((self._local.port, self._remote.port))
        content = "" if stamped else f"{crc32(data):08x}"
        world.trace.fact(self.host.name, f"{kind} to {peer.host.name} {len(data)} {content}")
        self.wire.send(kind, data)

    def has_room(self) -> None:
        """There is something to send, or room to send it."""
        if self._outgoing or self._producer_paused:
            self._pump_soon()

    def _pump_soon(self) -> None:
        if not self._pumping and not self.gone:
            self._pumping = True
            self._network.timeline.after(0, self.process.execute, self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if self.gone or self._aborting or self.wire is None:
            return
        while self._outgoing and (room := WINDOW_BYTES - self.wire.unread_bytes) > 0:
            size = self._network.piece(min(room, len(self._outgoing)))
            data = bytes(self._outgoing[:size])
            del self._outgoing[:size]
            self._say(DATA, data)
        if self._outgoing:
            return
        if self._producer is not None and (not self._streaming or self._producer_paused):
            self._producer_paused = False
            self._producer.resumeProducing()
        elif self.disconnecting and self._producer is None:
            self._end()
        elif self._ending_write and not self._write_ended:
            self._write_ended = True
            self._say(END)
            self.writeConnectionLost(Failure(ConnectionDone()))

    def _end(self) -> None:
        if not self._write_ended:
            # What is unread is lost, and the other side is told.
            self._say(RESET if any(kind == DATA for kind, _ in self._inbox) else END)
            self._write_ended = True
        self.lost(ConnectionDone())

    # -- receiving -------------------------------------------------------------------------------

    def arrived(self, kind: str, data: bytes) -> None:
        """Something has come over the wire; the process need not be alive."""
        assert self.peer is not None
        if self.gone or self.process.dead:
            if kind in (OPEN, DATA):
                self._network.refuse(self.peer, self.host)
            return
        self._inbox.append((kind, data))
        self.process.execute(self._drain)

    def _drain(self) -> None:
        if self._draining:
            return
        self._draining = True
        try:
            while self._inbox and not self.gone and not self._aborting:
                kind = self._inbox[0][0]
                if kind == RESET:
                    self.lost(ConnectionLost())
                    return
                if not self._reading and kind != OPEN:
                    return
                self._take(*self._inbox.popleft())
        finally:
            self._draining = False

    def _take(self, kind: str, data: bytes) -> None:
        if kind == OPEN:
            self.process.sockets[self] = None
            self.connected = True
            port, self.port = self.port, None
            assert port is not None
            self.protocol = port.factory.buildProtocol(self._remote)
            if self.protocol is None:
                self.protocol = Protocol()
                self.abortConnection()
            else:
                self.protocol.makeConnection(self)
        elif kind == DATA:
            assert self.peer is not None
            assert self.peer.wire is not None
            self.protocol.dataReceived(data)
            self.peer.wire.read(len(data))
        elif kind == END:
            self.readConnectionLost(Failure(ConnectionDone()))

    # -- the end ---------------------------------------------------------------------------------

    def lost(self, error: Exception) -> None:
        """The connection is gone, because of `error`; the protocol is told."""
        if self.gone:
            return
        self.gone = True
        was_connected, self.connected = self.connected, False
        self.process.sockets.pop(self, None)
        if isinstance(error, ConnectionDone) and not self._write_ended and self.wire is not None:
            self._say(END)
        self._outgoing.clear()
        self._inbox.clear()
        if not was_connected:
            return
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        reason = Failure(error)
        self.protocol.connectionLost(reason)
        if self.connector is not None:
            self.connector.connectionLost(reason)

    def break_off(self) -> None:
        """Something between the two has reset the connection: both ends are told."""
        for end in (self, self.peer):
            if end is not None and not end.gone:
                end.process.execute(end.lost, ConnectionLost())

    def vanish(self, power: bool) -> None:
        """The process has been killed, or its machine has lost its power."""
        self.gone = True
        self.connected = False
        if self.wire is None or self._write_ended:
            return
        if power:
            self.wire.orphaned = True
            return
        sent = self._network.chance.randint(0, len(self._outgoing))
        if sent:
            self._say(DATA, bytes(self._outgoing[:sent]))
        self._say(RESET if self._inbox or sent < len(self._outgoing) else END)


class Connector(BaseConnector):
    """What `connectTCP` returns."""

    def __init__(
        self, process: Process, address: str, port: int, factory: Any, timeout: float
    ) -> None:
        super().__init__(factory, timeout, process)  # type: ignore[arg-type]
        self._process = process
        self._remote = IPv4Address("TCP", address, port)

    def _makeTransport(self) -> Any:
        process = self._process
        local = IPv4Address("TCP", process.host.address, process.host.world.network.free_port())
        socket = Socket(process, local, self._remote)
        socket.connector = self
        # Nobody may be told before `connect` has returned.
        process.callLater(0, socket.connect)
        return socket

    def getDestination(self) -> IPv4Address:
        return self._remote


@implementer(IListeningPort)
class Port:
    """What `listenTCP` returns. It is known by the address of its host, whatever the interface."""

    def __init__(self, process: Process, number: int, factory: Any) -> None:
        self.process = process
        self.factory = factory
        self.address = process.host.address
        self.number = number or process.host.world.network.free_port()

    def startListening(self) -> None:
        """Raises CannotListenError."""
        self.process.host.world.network.open_port(self)
        self.factory.doStart()

    def stopListening(self) -> None:
        self.process.host.world.network.close_port(self)
        self.factory.doStop()

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", self.address, self.number)

"""WHERE and MAP by the text protocol, see `wire`.

Requests are answered in order, from a state that is as new as all that was acknowledged before they came
(`fresh`); where no majority of the coordinators confirms that, the client is told to try again. While a
client does not read, what it has sent is neither answered nor read on; one that does not read for
STALLED_S is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, ITCPTransport
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from penncloud.placement.tablets import TabletMap
from penncloud.platform.errors import PennCloudError
from penncloud.wire.messages import (
    At,
    Busy,
    Error,
    Malformed,
    Map,
    Reply,
    Request,
    TabletLine,
    Tablets,
    Where,
)
from penncloud.wire.replies import encode_reply
from penncloud.wire.requests import RequestDecoder

STALLED_S: Final = 10.0
# Clients connected at a time; each keeps one connection for as long as it runs.
MAX_CONNECTIONS: Final = 10_000
# Requests of one connection that may wait; no more are read then.
MAX_WAITING: Final = 1024
# Told to one who asks before the first tablets are there, or while no coordinator leads.
_RETRY_MS: Final = 200

Answer = Callable[[Request], Reply]


def answer(request: Request, tablets: TabletMap, address: Callable[[str], str]) -> Reply:
    """`address` gives the host:port of a server, empty while there is none to be handed out."""
    if isinstance(request, Where):
        tablet = tablets.find(request.row)
        if tablet is None:
            return Busy(_RETRY_MS)
        return At(tablet.id, tablet.epoch, address(tablet.primary))
    if isinstance(request, Map):
        lines = [TabletLine(t.id, t.lo, t.hi, t.epoch, address(t.primary)) for t in tablets.tablets]
        return Tablets(tablets.version, tuple(lines))
    return Error("COMMAND", "a coordinator answers WHERE and MAP only")


def _at_once() -> Deferred[None]:
    return succeed(None)


class TextFactory(Factory):
    """`answer` gives the reply to a request, once `fresh` has fired; `reactor` has IReactorTime."""

    log = Logger()
    noisy = False

    def __init__(
        self, reactor: Any, answer: Answer, fresh: Callable[[], Deferred[None]] = _at_once
    ) -> None:
        self.reactor = reactor
        self.answer = answer
        self.fresh = fresh
        # A dict as an ordered set: what is done to all is done in the same order in every run.
        self.connections: dict[TextProtocol, None] = {}

    def buildProtocol(self, addr: IAddress | None) -> TextProtocol | None:
        if len(self.connections) >= MAX_CONNECTIONS:
            self.log.error("client refused: there are {count}", count=MAX_CONNECTIONS)
            return None
        protocol = TextProtocol(self)
        protocol.factory = self
        return protocol

    def close_all(self) -> None:
        """End every connection after what is written has left."""
        for connection in list(self.connections):
            connection.close()


@implementer(IHalfCloseableProtocol)
class TextProtocol(LineReceiver):
    """One client. The transport pauses it (a LineReceiver is a push producer) when its buffer is full:
    it then reads nothing until the client has."""

    def __init__(self, owner: TextFactory) -> None:
        self._owner = owner
        self._decoder = RequestDecoder()
        self._waiting: deque[Request | Malformed] = deque()
        self._asking = False
        self._held = False
        self._ended = False
        self._closing = False
        self._stalled: Any = None

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.registerProducer(self, True)
        if ITCPTransport.providedBy(transport):
            transport.setTcpKeepAlive(True)
            transport.setTcpNoDelay(True)
        self._owner.connections[self] = None

    def dataReceived(self, data: bytes) -> None:
        self._waiting.extend(self._decoder.feed(data))
        self._go_on()
        if len(self._waiting) > MAX_WAITING and not self._held and not self._closing:
            self._held = True
            transport: Any = self.transport
            transport.pauseProducing()

    def _go_on(self) -> None:
        """Answer all that waits now, once the state is fresh; what comes meanwhile is asked for anew."""
        if self._waiting and not (self._asking or self.paused or self._closing):
            self._asking = True
            count = len(self._waiting)
            self._owner.fresh().addCallbacks(
                lambda _: self._answer(count), lambda failure: self._answer(count, failure)
            ).addErrback(self._broken)
        if self._ended and not self._waiting:
            self.close()

    def _answer(self, count: int, stale: Failure | None = None) -> None:
        self._asking = False
        if stale is not None:
            stale.trap(PennCloudError)
        transport: Any = self.transport
        while count and self._waiting and not self.paused and not self._closing:
            count -= 1
            request = self._waiting.popleft()
            if isinstance(request, Malformed):
                transport.write(encode_reply(Error(request.code, request.text)))
                if request.fatal:
                    self.close()
            elif stale is not None and isinstance(request, Where | Map):
                transport.write(encode_reply(Busy(_RETRY_MS)))
            else:
                transport.write(encode_reply(self._owner.answer(request)))
        if self._held and not self._closing and len(self._waiting) <= MAX_WAITING:
            self._held = False
            if not self.paused:
                transport.resumeProducing()
        self._go_on()

    def _broken(self, failure: Failure) -> None:
        self._owner.log.failure("answering a client", failure)
        transport: Any = self.transport
        transport.abortConnection()

    def pauseProducing(self) -> None:
        super().pauseProducing()
        self._watch_stall()

    def resumeProducing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        if not self._held:
            super().resumeProducing()
        self.paused = False
        self._go_on()

    def readConnectionLost(self) -> None:
        """The client sends no more, but may wait for answers."""
        self._ended = True
        self.dataReceived(b"")

    def writeConnectionLost(self) -> None:
        """The client reads no more."""
        self.close()

    def close(self) -> None:
        """End the connection after what is written has left, if the client reads it in time."""
        if not self._closing:
            self._closing = True
            self._waiting.clear()
            # A transport that has a paused producer would wait for it for ever.
            transport: Any = self.transport
            transport.unregisterProducer()
            transport.loseConnection()
            self._watch_stall()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._owner.connections.pop(self, None)
        self._closing = True
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _watch_stall(self) -> None:
        if self._stalled is None:
            self._stalled = self._owner.reactor.callLater(STALLED_S, self._does_not_read)

    def _does_not_read(self) -> None:
        self._stalled = None
        transport: Any = self.transport
        transport.abortConnection()

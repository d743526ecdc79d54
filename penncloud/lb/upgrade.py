"""WebSockets through the balancer (RFC 6455 section 4, RFC 9110 section 7.8).

Theory of operation
    A request that asks to upgrade to `websocket` goes to a frontend on a connection of its own, with that
    wish in it. If the frontend answers 101, its answer goes to the client, and from then on the two
    connections are one: bytes go both ways as they come, neither side is read faster than the other takes,
    and when one ends so does the other. A frontend that does not agree has answered something else; that is
    thrown away, and the request goes on as the ordinary GET that it also is.

    Nothing but `websocket` is passed on. A wish for `h2c` above all is not: who gets to speak another
    protocol with a frontend would no more be seen by the balancer.

    What is bounded: the time to connect and to answer, the head of the answer, the number of such
    connections, the time without a byte in either direction, and after one side's end the time in which the
    other takes what is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

from penncloud.client.directory import NodeInfo
from penncloud.lb.forwarding import Client, to_frontend
from penncloud.lb.proxy import ANSWER_S, ATTEMPTS, HandedOn
from penncloud.platform import trace
from penncloud.platform.errors import PennCloudError

if TYPE_CHECKING:
    from penncloud.lb.proxy_site import ProxyChannel

# Connections at the same time; further requests are answered as ordinary ones.
MAX_TUNNELS: Final = 1000
# Seconds without a byte in either direction. Whoever keeps a WebSocket open sends pings more often.
IDLE_S: Final = 300.0
# Seconds in which one side has to take what is left when the other has ended.
_LEFT_S: Final = 10.0
_HEAD_BYTES: Final = 32 * 1024
# Of the answer that a WebSocket is; all others end at each hop.
_SWITCHED: Final = b"HTTP/1.1 101 "


class NotUpgraded(PennCloudError):
    """The frontend answered, and not with 101."""


class Broken(PennCloudError):
    """No answer came, or none that HTTP knows."""


def wants_websocket(method: bytes, version: bytes, headers: Headers) -> bool:
    """Whether a request without a body asks to become a WebSocket, and to nothing else."""
    upgrade = [value.strip().lower() for value in headers.getRawHeaders(b"upgrade", [])]
    connection = {
        name.strip().lower()
        for value in headers.getRawHeaders(b"connection", [])
        for name in value.split(b",")
    }
    return (
        method == b"GET"
        and version == b"HTTP/1.1"
        and upgrade == [b"websocket"]
        and b"upgrade" in connection
    )


def request_head(uri: bytes, headers: Headers) -> bytes:
    """The request as it goes to a frontend. `headers` are those of `forwarding.to_frontend`."""
    lines = [b"GET " + uri + b" HTTP/1.1"]
    for name, values in headers.getAllRawHeaders():
        lines.extend(name + b": " + value for value in values)
    return b"\r\n".join([*lines, b"Connection: Upgrade", b"Upgrade: websocket", b"", b""])


class FrontendSide(Protocol):
    """The connection with the frontend. `switched` fires with the head of its 101 and what came behind it.

    It fails with NotUpgraded, or with Broken when the connection ends before.
    """

    transport: Any = None

    def __init__(self) -> None:
        self.switched: Deferred[tuple[bytes, bytes]] = Deferred()
        self._head = b""
        self._tunnel: Tunnel | None = None

    def abort(self) -> None:
        """Close the connection, if there is one; nobody waits for it."""
        self.switched.addErrback(lambda _: None)
        if self.transport is not None:
            self.transport.abortConnection()

    def join(self, tunnel: Tunnel) -> None:
        """From now on what comes is the tunnel's."""
        self._tunnel = tunnel

    def dataReceived(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._tunnel.from_frontend(data)
            return
        if self.switched.called:
            return
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if end:
            if head.startswith(_SWITCHED):
                # Until it has joined a tunnel nothing more is read.
                self.transport.pauseProducing()
                self.switched.callback((head + end, rest))
            else:
                self.switched.errback(NotUpgraded("the frontend does not speak WebSocket there"))
        elif len(self._head) > _HEAD_BYTES:
            self.switched.errback(Broken("the head of the answer has no end"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._tunnel is not None:
            self._tunnel.frontend_lost()
        elif not self.switched.called:
            self.switched.errback(Broken("the connection was closed without an answer"))


class Upgrading(HandedOn):
    """A request that asks to become a WebSocket, until it is one, or goes on as an ordinary one. It has no
    body."""

    async def _run(self) -> None:
        tried: list[str] = []
        while len(tried) < ATTEMPTS:
            frontend = self._proxy.choose(tried)
            if frontend is None:
                break
            tried.append(frontend.id)
            side = FrontendSide()
            try:
                head, rest = await self._ask(frontend, side)
            except CancelledError:
                side.abort()
                raise
            except NotUpgraded:
                side.abort()
                break
            except Exception as error:  # noqa: BLE001 (endpoints fail in many ways; all mean: not reached)
                side.abort()
                self._note(frontend, error)
                continue
            self._proxy.failures.worked(frontend.id, frontend.incarnation)
            self._proxy.count("upgraded")
            self._proxy.tunnels += 1
            tunnel = Tunnel(
                self._proxy.environment.reactor, self._request.channel, side, self._ended
            )
            tunnel.begin(head, rest)
            return
        self._request.go_on()

    async def _ask(self, frontend: NodeInfo, side: FrontendSide) -> tuple[bytes, bytes]:
        request, proxy = self._request, self._proxy
        endpoint = proxy.frontends.endpoint(frontend)
        await endpoint.connect(Factory.forProtocol(lambda: side))
        headers = to_frontend(
            request.requestHeaders,
            Client(request.client_address, bool(request.isSecure())),
            proxy.trusted,
            request.trace_id,
        )
        side.transport.write(request_head(request.uri, headers))
        return await side.switched.addTimeout(ANSWER_S, proxy.environment.reactor)

    def _ended(self) -> None:
        self._proxy.tunnels -= 1

    def _note(self, frontend: NodeInfo, error: Exception) -> None:
        self._proxy.failures.failed(frontend.id, frontend.incarnation)
        with trace.working_for(self._request.trace_id):
            self.log.warn("{id} made no WebSocket: {why}", id=frontend.id, why=str(error))


class Tunnel:
    """Two connections that are one. `ended` is called once, when both are gone."""

    def __init__(
        self, clock: Any, channel: ProxyChannel, frontend: FrontendSide, ended: Any
    ) -> None:
        self._clock = clock
        self._channel: ProxyChannel | None = channel
        self._frontend: FrontendSide | None = frontend
        self._ended = ended
        self._timer: IDelayedCall = clock.callLater(IDLE_S, self._abort)
        self._is_ending = False

    def begin(self, head: bytes, rest: bytes) -> None:
        """The frontend has agreed with `head`; `rest` came right behind it."""
        assert self._channel is not None
        assert self._frontend is not None
        early = self._channel.become(self)
        client, frontend = self._channel.transport, self._frontend.transport
        self._frontend.join(self)
        client.registerProducer(frontend, True)
        frontend.registerProducer(client, True)
        frontend.resumeProducing()
        client.write(head + rest)
        if early:
            frontend.write(early)
        client.resumeProducing()

    def from_client(self, data: bytes) -> None:
        self._alive()
        if self._frontend is not None:
            self._frontend.transport.write(data)

    def from_frontend(self, data: bytes) -> None:
        self._alive()
        if self._channel is not None:
            self._channel.transport.write(data)

    def client_lost(self) -> None:
        self._channel = None
        self._one_side_left(self._frontend)

    def frontend_lost(self) -> None:
        self._frontend = None
        self._one_side_left(self._channel)

    def _one_side_left(self, other: ProxyChannel | FrontendSide | None) -> None:
        if self._timer.active():
            self._timer.cancel()
        if other is None:
            self._ended()
            return
        self._timer = self._clock.callLater(_LEFT_S, self._abort)
        self._is_ending = True
        transport: Any = other.transport
        transport.unregisterProducer()
        transport.loseConnection()

    def _alive(self) -> None:
        if not self._is_ending and self._timer.active():
            self._timer.reset(IDLE_S)

    def _abort(self) -> None:
        for side in (self._channel, self._frontend):
            if side is not None:
                transport: Any = side.transport
                transport.abortConnection()

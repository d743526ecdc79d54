"""The balancer in proxy mode as an HTTP server: one origin for browsers, whichever frontend answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

from prometheus_client import CollectorRegistry
from twisted.internet.protocol import connectionDone
from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource
from twisted.web.server import Request

from penncloud.client.directory import NodeInfo
from penncloud.lb.balance import RoundRobin
from penncloud.lb.failures import Failures
from penncloud.lb.frontends import Frontends
from penncloud.lb.proxy import Exchange, Upload
from penncloud.lb.redirect import BadRequest, origin_form, requested_name
from penncloud.lb.site import HSTS, IDLE_S, Balancer, Nowhere
from penncloud.lb.upgrade import MAX_TUNNELS, Tunnel, Upgrading, wants_websocket
from penncloud.platform import trace
from penncloud.platform.environment import Environment
from penncloud.platform.quiet_site import QuietSite
from penncloud.platform.trusted import Trusted

# What a client may still send of a request whose answer is complete: bytes, and seconds without any.
_LINGER_BYTES: Final = 16 * 1024 * 1024
_LINGER_S: Final = 5.0


class Proxy:
    """What all exchanges share."""

    def __init__(
        self, environment: Environment, turns: RoundRobin, balancer: Balancer, trusted: Trusted
    ) -> None:
        self.environment = environment
        self.frontends = Frontends(environment)
        self.failures = Failures(environment.reactor)
        self.trusted = trusted
        self.balancer = balancer
        # Requests that have become WebSockets.
        self.tunnels = 0
        self._turns = turns

    @property
    def has_frontends(self) -> bool:
        """Whether there is anybody to hand requests on to."""
        return bool(self._turns.eligible)

    def choose(self, tried: Sequence[str]) -> NodeInfo | None:
        """The next frontend that was not tried; those that have just failed only when no other is left."""
        failures = self.failures
        passed_over = [
            node.id
            for node in self._turns.eligible
            if failures.is_passed_over(node.id, node.incarnation)
        ]
        return self._turns.next([*tried, *passed_over]) or self._turns.next(tried)

    def count(self, outcome: str) -> None:
        self.balancer.count(outcome)


class ProxyChannel(HTTPChannel):
    """A client's connection, which may become one side of a WebSocket."""

    transport: Any
    _tunnel: Tunnel | None = None

    def become(self, tunnel: Tunnel) -> bytes:
        """Be no HTTP any more; what the client has sent already."""
        self._tunnel = tunnel
        self.setTimeout(None)
        early, self._dataBuffer = b"".join(self._dataBuffer), []
        self.requests.clear()
        self.transport.unregisterProducer()
        return early

    def dataReceived(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._tunnel.from_client(data)
        else:
            super().dataReceived(data)

    def connectionLost(self, reason: Any = connectionDone) -> None:
        super().connectionLost(reason)
        if self._tunnel is not None:
            self._tunnel.client_lost()


class ProxyRequest(Request):
    """A request that is handed on; those that no frontend can have get the balancer's own answer."""

    channel: ProxyChannel
    site: ProxySite

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.site = cast(Any, self.channel).site
        self.trace_id = ""
        self._exchange: Exchange | Upgrading | None = None
        self._complete = False
        self._finish_pending = False
        self._left_bytes = _LINGER_BYTES
        self._linger: Any = None

    # From the channel, in this order: gotLength, handleContentChunk..., requestReceived.

    def gotLength(self, length: int | None) -> None:
        self.content = Nowhere()
        channel: Any = self.channel
        self.method, self.uri = channel._command, channel._path
        self.clientproto = channel._version
        self.path = self.uri.partition(b"?")[0]
        self._complete = length == 0
        try:
            hosts = self.requestHeaders.getRawHeaders(b"host", [])
            requested_name(hosts, self.clientproto == b"HTTP/1.1")
            self.uri = origin_form(self.uri)
        except BadRequest:
            return  # the balancer's own answer says why
        proxy = self.site.proxy
        if self.path == b"/healthz" or not proxy.has_frontends:
            return
        self._name()
        if (
            wants_websocket(self.method, self.clientproto, self.requestHeaders)
            and length == 0
            and proxy.tunnels < MAX_TUNNELS
        ):
            self._exchange = Upgrading(proxy, self)
            self._exchange.begin()
            return
        upload = None
        if length != 0:
            upload = Upload(length, self._pause_client, self._resume_client)
        self._exchange = Exchange(proxy, self, upload)
        self._exchange.begin()

    def handleContentChunk(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None or self._finish_pending:
            self._throw_away(len(data))
        elif exchange.upload is not None:
            exchange.upload.received(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        self._complete = True
        self._stop_lingering()
        exchange = self._exchange
        if exchange is None:
            super().requestReceived(command, path, version)
            return
        if exchange.upload is not None:
            exchange.upload.ended()
        if self._finish_pending:
            self._finish_pending = False
            super().finish()

    def connectionLost(self, reason: Any) -> None:
        self._stop_lingering()
        exchange, self._exchange = self._exchange, None
        super().connectionLost(reason)
        if exchange is not None:
            exchange.client_gone()

    # For the exchange.

    @property
    def client_address(self) -> str:
        return str(getattr(self.getClientAddress(), "host", ""))

    def begin_answer(self, producer: Any) -> None:
        """Status and headers are set: send them, and begin to take the body from `producer`."""
        if self.isSecure() and not self.responseHeaders.hasHeader(b"strict-transport-security"):
            self.responseHeaders.setRawHeaders(b"strict-transport-security", [HSTS])
        if not self._complete:
            # Whoever answers before the end of a body does not want the rest of it.
            cast(Any, self.channel).persistent = 0
            self.responseHeaders.setRawHeaders(b"connection", [b"close"])
        self.registerProducer(producer, True)
        self.write(b"")

    def go_on(self) -> None:
        """It does not become a WebSocket: hand it on as what it is else."""
        self._exchange = Exchange(self.site.proxy, self, None)
        self._exchange.begin()

    def end_answer(self) -> None:
        """The answer is complete. What the client still sends is thrown away, within bounds, so that it can
        read the answer."""
        self.unregisterProducer()
        if self._complete:
            self.finish()
            return
        self._finish_pending = True
        self._resume_client()
        self._linger = self.site.proxy.environment.reactor.callLater(_LINGER_S, self.broken)

    def unanswered(self, status: int) -> None:
        """No frontend has answered."""
        self.site.proxy.count("unavailable" if status == 503 else "bad_gateway")
        if not self._complete:
            cast(Any, self.channel).persistent = 0
            self.responseHeaders.setRawHeaders(b"connection", [b"close"])
        self.write(self.site.proxy.balancer.unanswered(self, status))
        self.end_answer()

    def broken(self) -> None:
        """Close the connection at once."""
        self._stop_lingering()
        channel: Any = self.channel
        if channel is not None:
            channel.forceAbortClient()

    def _throw_away(self, size: int) -> None:
        self._left_bytes -= size
        if self._left_bytes < 0:
            self.broken()

    def _stop_lingering(self) -> None:
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        self._linger = None

    def _pause_client(self) -> None:
        channel: Any = self.channel
        if channel is not None and channel.transport is not None:
            # It is we who make it wait.
            channel.setTimeout(None)
            channel.transport.pauseProducing()

    def _resume_client(self) -> None:
        channel: Any = self.channel
        if channel is not None and channel.transport is not None and not self._complete:
            channel.setTimeout(IDLE_S)
            channel.transport.resumeProducing()

    def _name(self) -> None:
        given = self.requestHeaders.getRawHeaders("x-request-id", [""])[0]
        is_good = trace.is_id(given)
        self.trace_id = given if is_good else trace.new_id(self.site.proxy.environment.entropy)


class ProxySite(QuietSite):
    """The site to listen with. `proxy.balancer` answers what no frontend can be asked."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(
            cast(Resource, proxy.balancer),
            requestFactory=ProxyRequest,
            timeout=IDLE_S,
            reactor=proxy.environment.reactor,
            parsePOSTFormSubmission=False,
        )
        self.displayTracebacks = False
        self.proxy = proxy

    def protocol(self) -> ProxyChannel:  # type: ignore[override]
        return ProxyChannel()


def proxy_site(
    environment: Environment, turns: RoundRobin, registry: CollectorRegistry, trusted: Trusted
) -> ProxySite:
    """Everything goes to the frontends that `turns` has."""
    balancer = Balancer(turns, registry)
    return ProxySite(Proxy(environment, turns, balancer, trusted))

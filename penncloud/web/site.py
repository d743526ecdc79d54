"""The HTTP server: connections with bounds, and an orderly end.

`WebChannel` is Twisted's HTTP/1.1 channel with three things changed: a request is told when its headers
are complete (`request.py` explains why), every answer carries the security headers, and a client has a
bounded time to send its headers.
"""

from __future__ import annotations

import math
from typing import Any, Final, cast

from prometheus_client import CollectorRegistry, Counter, Histogram
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.http_headers import Headers
from twisted.web.server import Site

from penncloud.platform import trace
from penncloud.platform.environment import Environment
from penncloud.platform.trusted import Trusted
from penncloud.web.application import Application
from penncloud.web.request import WebRequest
from penncloud.web.security import SECURITY_HEADERS, HostNames

# Seconds without a byte after which a connection is closed.
_IDLE_S: Final = 60
# Seconds from the first byte of a request to the end of its headers.
_HEADERS_S: Final = 20.0
# Connections at once; further ones are closed at once. Well below the usual limit of descriptors.
_MAX_CONNECTIONS: Final = 4000
# Seconds that requests under way are given when the server ends.
GRACE_S: Final = 10.0

__all__ = ["GRACE_S", "WebChannel", "WebSite"]


class WebChannel(HTTPChannel):
    """One connection of a client."""

    site: WebSite
    requests: list[WebRequest]
    # Twisted sends a bare 400 for more than this; forms and cookies of ours are far smaller.
    totalHeadersSize = 32 * 1024
    maxHeaders = 100
    _headers_deadline: IDelayedCall | None = None
    _has_request_line = False
    _abort: IDelayedCall | None = None

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.channels.add(self)
        if len(self.site.channels) > _MAX_CONNECTIONS:
            cast(Any, self.transport).abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.site.channels.discard(self)
        self._stop_deadline()
        if self._abort is not None:
            if self._abort.active():
                self._abort.cancel()
            self._abort = None
        super().connectionLost(reason)
        self.site.channel_lost()

    def dataReceived(self, data: bytes) -> None:
        if self.line_mode and not self.requests:
            self._start_deadline()
        super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        self._start_deadline()
        super().lineReceived(line)
        self._has_request_line = bool(self.line_mode and (self._has_request_line or line))
        # The request whose headers this line completed, now that the channel expects its body.
        if not self.line_mode and self.requests:
            self.requests[-1].begin_early()

    def allHeadersReceived(self) -> None:
        self._stop_deadline()
        request = self.requests[-1]
        request.parseCookies()
        self.persistent = self.checkPersistence(request, self._version)
        if self.site.is_ending:
            self.persistent = False
        request.head_received(self._command, self._path, self._version, self.length)

    def lineLengthExceeded(self, line: bytes) -> None:
        # Without an answer a person would see a broken connection and try again.
        if self._has_request_line:
            self._respond_and_disconnect(b"431 Request Header Fields Too Large")
        else:
            self._respond_and_disconnect(b"414 URI Too Long")

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        headers.setRawHeaders(b"server", [b"PennCloud"])
        for name, value in SECURITY_HEADERS:
            if not headers.hasHeader(name):
                headers.setRawHeaders(name, [value])
        if self.isSecure():
            headers.setRawHeaders(b"strict-transport-security", [b"max-age=31536000"])
        if not self.persistent:
            headers.setRawHeaders(b"connection", [b"close"])
        super().writeHeaders(version, code, reason, headers)

    def abort_after(self, seconds: float) -> None:
        """End the connection after so long, unless this is called again or it ends before."""
        if self._abort is not None and self._abort.active():
            self._abort.reset(seconds)
        else:
            self._abort = self.callLater(seconds, self.forceAbortClient)

    @property
    def is_idle(self) -> bool:
        return not self.requests

    def _respondToBadRequestAndDisconnect(self) -> None:
        # Twisted's answer to what it cannot parse has no headers at all.
        self._respond_and_disconnect(b"400 Bad Request")

    def _respond_and_disconnect(self, status: bytes) -> None:
        self._stop_deadline()
        lines = [b"HTTP/1.1 " + status, b"server: PennCloud", b"content-length: 0"]
        lines.extend(name + b": " + value for name, value in SECURITY_HEADERS)
        cast(Any, self.transport).write(b"\r\n".join([*lines, b"connection: close", b"", b""]))
        self.loseConnection()

    def _start_deadline(self) -> None:
        if self._headers_deadline is None:
            self._headers_deadline = self.callLater(_HEADERS_S, self._headers_late)

    def _headers_late(self) -> None:
        self._headers_deadline = None
        self.forceAbortClient()

    def _stop_deadline(self) -> None:
        if self._headers_deadline is not None and self._headers_deadline.active():
            self._headers_deadline.cancel()
        self._headers_deadline = None


class WebSite(Site):
    """Listens for browsers. `host_names`: what it answers to besides localhost. Requests that took
    `slow_s` are logged. `trusted`: proxies that are believed when they say who the client is.
    `cookie_domain`: lower case, "" for none; see `[http]`."""

    _log = Logger()

    def __init__(
        self,
        application: Application,
        environment: Environment,
        host_names: HostNames,
        registry: CollectorRegistry,
        *,
        slow_s: float = math.inf,
        trusted: Trusted = Trusted(),  # noqa: B008 - a value
        cookie_domain: str = "",
    ) -> None:
        super().__init__(
            application.resource(),
            requestFactory=WebRequest,
            reactor=environment.reactor,
            timeout=_IDLE_S,
            parsePOSTFormSubmission=False,
        )
        self.application = application
        self.entropy = environment.entropy
        self.host_names = host_names
        self.slow_s = slow_s
        self.trusted = trusted
        self.cookie_domain = cookie_domain
        self.channels: set[WebChannel] = set()
        self.is_ending = False
        self._awaiting_end: list[Deferred[None]] = []
        self._deadline: IDelayedCall | None = None
        self._requests = Counter(
            "penncloud_http_requests_total",
            "Requests answered, by method and status.",
            ["method", "status"],
            registry=registry,
        )
        self._sent = Counter(
            "penncloud_http_sent_bytes_total", "Bytes of answers' bodies.", registry=registry
        )
        self._seconds = Histogram(
            "penncloud_http_request_seconds",
            "From the end of the headers to the end of the answer.",
            registry=registry,
        )

    def protocol(self) -> WebChannel:  # type: ignore[override]
        return WebChannel()

    def startFactory(self) -> None:
        """No access log: it would name users and paths. `log` counts instead."""

    def stopFactory(self) -> None:
        """Nothing was opened."""

    def log(self, request: WebRequest) -> None:  # type: ignore[override]
        method = request.method if request.method in _METHODS else b"other"
        self._requests.labels(method.decode(), str(request.code)).inc()
        self._sent.inc(max(0, request.sentLength))
        took_s = max(0.0, self.reactor.seconds() - request.begun_at_s)
        self._seconds.observe(took_s)
        if took_s >= self.slow_s:
            # Without the address, which names users and files.
            with trace.working_for(request.trace_id):
                self._log.info(
                    "{method} took {ms} ms: {status}",
                    method=method.decode(),
                    ms=round(took_s * 1000),
                    status=request.code,
                )

    async def end(self, within_s: float = GRACE_S, *, patient: bool = False) -> None:
        """Let requests under way finish, for so long at most, then close everything.

        Connections without a request are closed at once. If `patient` they stay until they are used once
        more or time out as ever: a client that is about to use one does not find it closed. Called again
        meanwhile, this can only hasten the end.
        """
        self.is_ending = True
        if not patient:
            for channel in list(self.channels):
                channel.persistent = 0
                if channel.is_idle:
                    channel.loseConnection()
        if not self.channels:
            return
        self._abort_within(within_s)
        gone: Deferred[None] = Deferred()
        self._awaiting_end.append(gone)
        await gone

    def _abort_within(self, seconds: float) -> None:
        deadline = self._deadline
        if deadline is not None and deadline.active():
            if deadline.getTime() <= self.reactor.seconds() + seconds:
                return
            deadline.cancel()
        self._deadline = self.reactor.callLater(seconds, self._abort_all)

    def channel_lost(self) -> None:
        """From a channel: its connection is gone."""
        if self.channels or not self.is_ending:
            return
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        awaiting, self._awaiting_end = self._awaiting_end, []
        for gone in awaiting:
            gone.callback(None)

    def _abort_all(self) -> None:
        for channel in list(self.channels):
            channel.forceAbortClient()


_METHODS: Final = frozenset(
    {b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"PROPFIND", b"MKCOL"}
)

"""A request on its way in: checked when its headers are there, before any of its body is taken.

Twisted's own way (`Site` with its defaults) takes the whole body first, whatever its size and whoever
sends it, and then looks for a route. Here the order is:

1. All headers have arrived: `head_received` checks them (host, control characters, length) and asks
   the application for the route.
2. Ordinary routes: the body is kept in memory, at most as much as the route allows (a form), and the
   route runs when it is complete. Streamed routes run at once, so that login and CSRF token are checked
   before the first byte of the body is taken; they read `request.body` with back-pressure.
3. An answer that is finished before its body has all come (a refusal, mostly) closes the connection,
   after the rest was read and thrown away for a while: closing at once would reset the connection and
   the client would not see the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from io import BytesIO
from typing import TYPE_CHECKING, Any, AnyStr, Final, TypeVar, cast
from urllib.parse import unquote_to_bytes

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.web.http import datetimeToString, parse_qs
from twisted.web.server import Request
from zope.interface import implementer

from penncloud.platform import trace
from penncloud.services.sessions import Session, csrf_token
from penncloud.web.body import Body, ClientGone
from penncloud.web.errors import WebError
from penncloud.web.forms import Form, parse_form
from penncloud.web.security import (
    has_control,
    host_name,
    is_under,
    same_origin,
    same_token,
    split_host,
)

if TYPE_CHECKING:
    from penncloud.web.siblings import Siblings
    from penncloud.web.site import WebChannel, WebSite

# The rest of a body is thrown away after an early answer: at most so many bytes, for so many seconds,
# and not longer than this after the last of it.
_LINGER_BYTES: Final = 16 * 1024 * 1024
_LINGER_S: Final = 10.0
_LINGER_IDLE_S: Final = 2.0

SESSION_COOKIE: Final = "penncloud_session"
# Binds the login and sign-up forms to the browser that was given them, before there is a session.
VISITOR_COOKIE: Final = "penncloud_visitor"

_STATUSES: Final = frozenset(HTTPStatus)
_T = TypeVar("_T")


@implementer(IPushProducer)
class _Flow:
    """Whether the client keeps up with what is sent to it."""

    def __init__(self) -> None:
        self._resumed: Deferred[None] | None = None

    def pauseProducing(self) -> None:
        if self._resumed is None:
            self._resumed = Deferred()

    def resumeProducing(self) -> None:
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resumed.callback(None)

    stopProducing = resumeProducing

    async def ready(self) -> None:
        if self._resumed is not None:
            await self._resumed


class WebRequest(Request):
    """One request. `session` is the visitor's login, if any; `body` is for streamed routes."""

    session: Session | None = None
    # Whether a page of another frontend sends it, to a route that takes it from there.
    is_from_sibling = False
    channel: WebChannel
    site: WebSite
    content: BytesIO

    def __init__(self, channel: WebChannel, *args: Any, **kwargs: Any) -> None:
        super().__init__(channel, *args, **kwargs)
        self.site = channel.site
        self.body = Body(0, 0, _nothing, _nothing)
        # Why the request is refused whatever its route is.
        self.refusal: WebError | None = None
        self.visitor_token = ""
        self.begun_at_s = 0.0
        # What the logs of all servers call this request; the answer tells it.
        self.trace_id = ""
        # The body of an ordinary route, complete.
        self.data = b""
        self._streamed = False
        self._limit_bytes = 0
        self._begun = False
        self._complete = False
        self._finish_pending = False
        self._answered_at_s = 0.0
        self._awaits_continue = False
        self._flow: _Flow | None = None
        self._form: Form | None = None

    # From the channel, in this order: head_received, handleContentChunk..., requestReceived.

    def head_received(self, method: bytes, uri: bytes, version: bytes, length: int | None) -> None:
        """All headers are there; `length` of the body is None if it is chunked."""
        self.method, self.uri, self.clientproto = method, uri, version
        self.path, _, query = uri.partition(b"?")
        self.args = parse_qs(query, True)
        self.begun_at_s = float(self.site.reactor.seconds())
        self._name()
        self.content = BytesIO()
        self.body = Body(length, 0, _nothing, _nothing)
        if length == 0:
            self.body.ended()
        try:
            self._check_head()
            if length != 0:
                self._choose_body(length)
        except WebError as error:
            self.refusal = error
        self._complete = length == 0
        expectation = (self.getHeader(b"expect") or b"").lower()
        self._awaits_continue = expectation == b"100-continue" and version == b"HTTP/1.1"

    def begin_early(self) -> None:
        """The channel is ready to take the body: run what does not wait for all of it."""
        if self._begun or self._complete:
            return
        if self._streamed or self.refusal is not None:
            self._begin()
        else:
            self._continue()

    def handleContentChunk(self, data: bytes) -> None:
        self.body.received(data)
        if self._finish_pending:
            lingered_s = self.site.reactor.seconds() - self._answered_at_s
            if self.body.received_bytes > _LINGER_BYTES or lingered_s > _LINGER_S:
                self.channel.forceAbortClient()
            else:
                self.channel.abort_after(_LINGER_IDLE_S)
        elif not self._begun:
            if self.content.tell() + len(data) > self._limit_bytes:
                self.refusal = WebError(413, "The form is too large.")
                self._begin()
            else:
                self.content.write(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        self._complete = True
        self.body.ended()
        if self._finish_pending:
            self._finish_pending = False
            super().finish()
        elif not self._begun:
            self.data = self.content.getvalue()
            self._begin()

    def connectionLost(self, reason: Any) -> None:
        # First of all nothing may be written any more; then those who wait are told.
        super().connectionLost(reason)
        self.body.lost()
        if self._flow is not None:
            self._flow.resumeProducing()

    def write(self, data: bytes) -> None:
        """Write a part of the answer; see `send` for large ones."""
        if not self.startedWriting and not self._complete:
            # An answer before the end of the body is the connection's last one, and its headers say
            # so: a client that sent another request on it would never see an answer.
            self.channel.persistent = 0
        super().write(data)

    def finish(self) -> None:
        """The answer is complete."""
        if self._flow is not None and self.producer is not None:
            self.unregisterProducer()
        if self._complete or self._disconnected:
            super().finish()
            return
        self.channel.persistent = 0
        if not self.startedWriting:
            self.write(b"")
        if self._awaits_continue:
            # RFC 9110 section 10.1.1: without "100 Continue" the body will not come.
            self._complete = True
            super().finish()
            return
        self._finish_pending = True
        self._answered_at_s = float(self.site.reactor.seconds())
        self.body.discard()
        self.channel.abort_after(_LINGER_IDLE_S)

    # For the features.

    def getHeader(self, key: AnyStr) -> AnyStr | None:
        """A header's (last) value; asked for by a text name it is text, whatever bytes were sent."""
        value = super().getHeader(key if isinstance(key, bytes) else key.encode("ascii"))
        if value is None or isinstance(key, bytes):
            return value
        return value.decode("utf-8", "replace")

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:
        """Twisted knows no phrases for the newer codes."""
        if message is None and code in _STATUSES:
            message = HTTPStatus(code).phrase.encode("ascii")
        super().setResponseCode(code, message)

    async def send(self, data: bytes) -> None:
        """Write a part of the answer, and wait until the client takes more. Raises ClientGone."""
        if self._disconnected:
            raise ClientGone("the client closed the connection")
        if self._flow is None:
            self._flow = _Flow()
            self.registerProducer(self._flow, True)
        self.write(data)
        await self._flow.ready()
        if self._disconnected:
            raise ClientGone("the client closed the connection")

    @property
    def is_gone(self) -> bool:
        """The client has closed the connection."""
        return bool(self._disconnected)

    @property
    def login(self) -> Session:
        """The session of a route that needs one."""
        if self.session is None:
            raise WebError(401, "Please log in.")
        return self.session

    @property
    def query(self) -> Form:
        """The fields of the query string."""
        return parse_form(self.uri.partition(b"?")[2])

    def form(self) -> Form:
        """The fields of the form that was posted; empty when it was none. WebError if malformed."""
        if self._form is None:
            kind = (self.getHeader(b"content-type") or b"").partition(b";")[0].strip().lower()
            is_form = kind == b"application/x-www-form-urlencoded"
            self._form = parse_form(self.data) if is_form else Form({})
        return self._form

    def json(self, kind: type[_T]) -> _T:
        """The body as JSON of the form `kind`, or a WebError (400)."""
        try:
            return msgspec.json.decode(self.data, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise WebError(400, f"The request could not be read: {error}") from error

    @property
    def csrf(self) -> str:
        """The token that forms on this page have to carry."""
        if self.session is not None:
            return self.session.csrf
        return csrf_token(self.visitor_token) if self.visitor_token else ""

    def check_csrf(self, given: str) -> None:
        """WebError (403) unless `given` is this visitor's token."""
        if not self.csrf or not same_token(given, self.csrf):
            raise WebError(
                403, "This form is out of date. Please go back, reload the page and try again."
            )

    def check_origin(self) -> None:
        """WebError (403) if a browser says that another site sent this request."""
        origin = self.getHeader(b"origin")
        host = self.getHeader(b"host") or b""
        if origin is not None and not self.is_from_sibling and not same_origin(origin, host):
            raise WebError(403, "This request comes from another site.")

    def welcome_sibling(self, siblings: Siblings, methods: Sequence[str]) -> None:
        """Let the pages of other frontends send this request and read its answer, if one of them does."""
        self.responseHeaders.addRawHeader(b"vary", b"origin")
        origin = self.getHeader(b"origin")
        if origin is None or not siblings.knows(origin, self.getHeader(b"host") or b""):
            return
        self.is_from_sibling = True
        for name, value in (
            (b"access-control-allow-origin", origin),
            (b"access-control-allow-credentials", b"true"),
            (b"access-control-allow-methods", ", ".join(methods).encode()),
            (b"access-control-allow-headers", b"x-csrf-token, content-type"),
            (b"access-control-max-age", b"600"),
        ):
            self.setHeader(name, value)

    @property
    def comes_by_proxy(self) -> bool:
        """Whether a balancer, or another proxy that is trusted, has handed it on."""
        return str(getattr(self.getClientAddress(), "host", "")) in self.site.trusted

    @property
    def wants_page(self) -> bool:
        """Whether a person looks at the answer (a navigation), not a script."""
        mode = self.getHeader(b"sec-fetch-mode")
        if mode is not None:
            return mode == b"navigate"
        accept = self.getHeader(b"accept") or b""
        scripted = self.getHeader(b"x-csrf-token") or self.getHeader(b"x-requested-with")
        return not scripted and b"application/json" not in accept

    @property
    def client_address(self) -> str:
        """Of the client itself, also behind proxies that are trusted; others' word on it counts nothing."""
        peer = str(getattr(self.getClientAddress(), "host", ""))
        trusted = self.site.trusted
        if peer not in trusted:
            return peer
        values = self.requestHeaders.getRawHeaders("x-forwarded-for", [])
        return trusted.client(peer, [a.strip() for value in values for a in value.split(",")])

    @property
    def is_encrypted(self) -> bool:
        """Whether the client's own connection is, as far as it is known."""
        if self.isSecure():
            return True
        peer = str(getattr(self.getClientAddress(), "host", ""))
        return peer in self.site.trusted and self.getHeader("x-forwarded-proto") == "https"

    def cookie(self, name: str) -> str:
        """A cookie's value, or ""."""
        value: bytes = self.getCookie(name.encode()) or b""
        return value.decode("ascii", "replace")

    def set_cookie(self, name: str, value: str, max_age_s: float) -> None:
        """Cookies do not tell ports apart: all frontends of a host share them, on purpose, and those of a
        configured domain."""
        host, _ = split_host(self.getHeader(b"host") or b"")
        domain = self.site.cookie_domain
        self.addCookie(
            name,
            value,
            path="/",
            domain=domain if is_under(host, domain) else None,
            max_age=str(int(max_age_s)),
            httpOnly=True,
            secure=self.is_encrypted,
            sameSite="lax",
        )

    def process(self) -> None:
        """Run the route, or answer what refused the request before there was one."""
        if self.refusal is None:
            super().process()
            return
        self.setHeader(b"date", datetimeToString())
        self.write(self.site.application.error_answer(self, self.refusal) or b"")
        self.finish()

    def _begin(self) -> None:
        self._begun = True
        with trace.working_for(self.trace_id):
            self.process()

    def _name(self) -> None:
        """The id that a balancer has given the request already, else a new one."""
        given = self.requestHeaders.getRawHeaders("x-request-id", [""])[0]
        self.trace_id = given if trace.is_id(given) else trace.new_id(self.site.entropy)
        self.setHeader(b"x-request-id", self.trace_id.encode())

    def _continue(self) -> None:
        if self._awaits_continue:
            self._awaits_continue = False
            self.channel.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _choose_body(self, length: int | None) -> None:
        route = self.site.application.find_route(self.method, self.path)
        if route is None:
            # Nobody will read the body: the answer (404, 405) need not wait for it.
            self._streamed = True
            return
        self._streamed = route.streamed
        self._limit_bytes = route.max_body_bytes
        if (length or 0) > self._limit_bytes:
            raise WebError(413, f"At most {self._limit_bytes:,} bytes are accepted here.")
        if self._streamed:
            transport = cast(Any, self.channel.transport)
            self.body = Body(
                length, self._limit_bytes, transport.pauseProducing, transport.resumeProducing
            )
            self.body.on_first_read = self._continue

    def _check_head(self) -> None:
        for _, values in self.requestHeaders.getAllRawHeaders():
            if any(has_control(value) for value in values):
                raise WebError(400, "A header holds a control character.")
        self._check_host()
        path = self._checked_path()
        # NUL and invalid UTF-8 have no place in any name that a route takes.
        decoded = unquote_to_bytes(path)
        try:
            decoded.decode("utf-8")
        except UnicodeDecodeError as error:
            raise WebError(400, "The address is not valid UTF-8.") from error
        if b"\x00" in decoded:
            raise WebError(400, "The address holds a NUL character.")

    def _checked_path(self) -> bytes:
        # RFC 9112 section 3.2.2: servers accept the absolute form too.
        if self.path.startswith((b"http://", b"https://")):
            authority, slash, rest = self.path.partition(b"://")[2].partition(b"/")
            if authority.lower() != (self.getHeader(b"host") or b"").lower():
                raise WebError(400, "The address and the Host header differ.")
            self.path = slash + rest or b"/"
        if not self.path.startswith(b"/"):
            raise WebError(400, "The address has to begin with a slash.")
        return self.path

    def _check_host(self) -> None:
        hosts = self.requestHeaders.getRawHeaders(b"host") or []
        name = host_name(hosts[0]) if len(hosts) == 1 else None
        if name is None:
            raise WebError(400, "Exactly one valid Host header is needed.")
        own_address = str(getattr(self.getHost(), "host", ""))
        if not self.site.host_names.accepts(name, own_address):
            # RFC 9110 section 15.5.20
            raise WebError(421, "This server does not answer to that name.")


def _nothing() -> None:
    """For bodies that nobody streams."""

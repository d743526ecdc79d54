"""The web application: routes, and what holds for all of them.

A route says who may use it and how its body is taken; the rest follows here, so that no feature can
forget it: login, CSRF token, origin, error pages.

    @app.route("/chat/messages", methods=["POST"])
    async def post(request: WebRequest) -> bytes: ...

A route's function gives the answer's bytes or text, or None when it has written and finished it by
itself. It raises `WebError` for an answer with another status.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Literal, TypeVar, cast
from urllib.parse import quote, unquote

import msgspec
from attrs import frozen
from klein import Klein
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from penncloud.platform.errors import PennCloudError
from penncloud.web.body import BodyTooLarge, ClientGone
from penncloud.web.context import WebContext
from penncloud.web.errors import WebError
from penncloud.web.request import SESSION_COOKIE, VISITOR_COOKIE, WebRequest
from penncloud.web.security import SAFE_METHODS

__all__ = ["Application", "Route", "WebContext", "json_answer", "see_other"]

# Largest body of an ordinary route, in bytes: forms, and JSON of scripts.
FORM_BYTES: Final = 1024 * 1024
# Seconds after which a client may try again when the store is not there.
_RETRY_AFTER_S: Final = 2
_VISITOR_S: Final = 24 * 3600

# open: not even the session is looked up; public: for visitors too; user: logged in; admin: the admin.
Access = Literal["open", "public", "user", "admin"]
_Handler = TypeVar("_Handler", bound=Callable[..., Any])


@frozen
class Route:
    """What holds for a route; see `Application.route`."""

    access: Access
    streamed: bool
    max_body_bytes: int
    csrf_in_body: bool
    # None: for pages of this frontend only; else the methods that those of its siblings may use.
    siblings: Sequence[str] | None


class Application(Klein):
    """All routes of a frontend."""

    log = Logger()

    def __init__(self, context: WebContext) -> None:
        super().__init__()
        self._context = context
        self._routes: dict[str, Route] = {}
        # No redirects that are made from the Host header.
        self.url_map.strict_slashes = False
        self.url_map.merge_slashes = False
        Klein.handle_errors(self, Exception)(cast(Any, self._answer_error))

    def route(  # type: ignore[override]
        self,
        url: str,
        *,
        methods: Sequence[str] = ("GET",),
        access: Access = "user",
        streamed: bool = False,
        max_body_bytes: int = FORM_BYTES,
        csrf_in_body: bool = False,
        siblings: bool = False,
        **rule: Any,
    ) -> Callable[[_Handler], _Handler]:
        """Call the decorated function (request, and the url's variables by name) for `url`.

        `streamed`: it runs before the body has come, and reads `request.body`. A body beyond
        `max_body_bytes` is refused (413). Methods that change something need the CSRF token in the
        field `csrf` of a form or in the header X-CSRF-Token; a streamed route that gets it within
        the body says `csrf_in_body` and has to call `request.check_csrf` before it believes it.
        `siblings`: scripts of the pages of other frontends may use it, too; see `web.siblings`.
        """
        # Two routes may share a function, and two features may use the same name.
        route = Route(
            access, streamed, max_body_bytes, csrf_in_body, tuple(methods) if siblings else None
        )

        def register(function: _Handler) -> _Handler:
            endpoint = f"{function.__module__}.{function.__qualname__} {url} {','.join(methods)}"
            self._routes[endpoint] = route
            # Klein keeps its notes as attributes of the function that it is given.
            added = Klein.route(self, url, methods=list(methods), endpoint=endpoint, **rule)
            added(_named(function))
            if siblings:
                self._answer_preflights(url, methods, rule)
            return function

        return register

    def _answer_preflights(self, url: str, methods: Sequence[str], rule: dict[str, Any]) -> None:
        """Browsers ask first whether a script may send a request to another origin (CORS)."""
        endpoint = f"preflight {url}"
        self._routes[endpoint] = Route("open", False, 0, False, tuple(methods))

        def preflight(request: WebRequest, **_: str) -> bytes:
            request.setResponseCode(204)
            return b""

        Klein.route(self, url, methods=["OPTIONS"], endpoint=endpoint, **rule)(preflight)

    def find_route(self, method: bytes, path: bytes) -> Route | None:
        """The route of a request whose body has not come yet; None: it will be an error."""
        try:
            endpoint, _ = self.url_map.bind("").match(
                _unquoted(path), method.decode("ascii", "replace")
            )
        except HTTPException:
            return None
        return self._routes[endpoint]

    def execute_endpoint(self, endpoint: str, request: Any, *args: Any, **kwargs: Any) -> Any:
        """From Klein: answer a request that has a route."""
        execute = super().execute_endpoint
        route = self._routes[endpoint]

        async def answer() -> bytes | None:
            await self._admit(route, request)
            result: Any = execute(endpoint, request, *args, **kwargs)
            if isinstance(result, Awaitable):
                result = await result
            return self._finished(request, result)

        return self._unharmed(Deferred.fromCoroutine(answer()))

    async def _admit(self, route: Route, request: WebRequest) -> None:
        """Raise WebError unless the route may be used by this visitor with this request."""
        if route.siblings is not None and not request.comes_by_proxy:
            request.welcome_sibling(self._context.siblings, route.siblings)
        if route.access == "open":
            return
        changes = request.method not in SAFE_METHODS
        await self._recognise(request)
        if changes:
            request.check_origin()
        if route.access != "public" and request.session is None:
            raise self._login_first(request)
        if changes and not route.csrf_in_body:
            given = request.getHeader("x-csrf-token")
            if given is None and not route.streamed:
                given = request.form().text("csrf", "")
            request.check_csrf(given or "")
        if route.access == "admin" and not request.login.is_admin:
            raise WebError(403, "Only the administrator may see this.")

    async def _recognise(self, request: WebRequest) -> None:
        cookie = request.cookie(SESSION_COOKIE)
        sessions = self._context.sessions
        session = await sessions.find(cookie) if cookie else None
        if request.is_gone:
            raise ClientGone("the client closed the connection")
        if session is None:
            self._recognise_visitor(request)
            return
        request.session = session
        if session.slid:
            request.set_cookie(SESSION_COOKIE, session.cookie, sessions.lifetime_s)

    def _recognise_visitor(self, request: WebRequest) -> None:
        """Somebody who is not logged in gets a token of their own, for the CSRF tokens."""
        request.visitor_token = request.cookie(VISITOR_COOKIE)
        if len(request.visitor_token) != 32 or not request.visitor_token.isalnum():
            request.visitor_token = self._context.environment.entropy(16).hex()
            request.set_cookie(VISITOR_COOKIE, request.visitor_token, _VISITOR_S)

    def _login_first(self, request: WebRequest) -> WebError:
        if not request.wants_page:
            return WebError(401, "Please log in.")
        target = "/login"
        if request.method in SAFE_METHODS and request.uri != b"/":
            target += "?next=" + quote(request.uri.decode("ascii", "replace"), safe="")
        return WebError(303, "Please log in.", {"location": target})

    def _finished(self, request: WebRequest, result: Any) -> bytes | None:
        if isinstance(result, str):
            result = result.encode()
        if not isinstance(result, bytes):
            return None
        if not request.responseHeaders.hasHeader(b"content-type"):
            request.setHeader(b"content-type", b"text/html; charset=utf-8")
        # With its length known an answer is complete even while its request is still coming in.
        if request.code not in (204, 304):
            request.setHeader(b"content-length", b"%d" % len(result))
        return result

    def _unharmed(self, answer: Deferred[Any]) -> Deferred[Any]:
        """Klein cancels a route when the client goes away; what was begun here is brought to its end.

        A half-done change would be correct too (it is what a crash leaves), but would need repair.
        """
        outer: Deferred[Any] = Deferred()

        def passed(result: Any) -> None:
            if not outer.called:
                outer.callback(result)
            elif isinstance(result, Failure) and not result.check(PennCloudError):
                self.log.failure("after the client had gone", result)

        answer.addBoth(passed)
        return outer

    def _answer_error(self, request: WebRequest, failure: Failure) -> bytes | None:
        """From Klein: every exception of a route, and of finding one."""
        if request.startedWriting:
            if not failure.check(ClientGone):
                self.log.failure("in the middle of an answer", failure)
            # All that can still be done is not to let the answer look complete.
            request.channel.forceAbortClient()
            return None
        return self.error_answer(request, self._as_web_error(failure))

    def error_answer(self, request: WebRequest, error: WebError) -> bytes | None:
        """The body of an error's answer, a page or JSON; status and headers are set."""
        request.setResponseCode(error.status)
        for name, value in error.headers.items():
            request.setHeader(name, value)
        if error.status in (302, 303):
            return self._finished(request, b"")
        if request.wants_page:
            return self._finished(
                request,
                self._context.page(request, "error.html", status=error.status, text=error.message),
            )
        return self._finished(request, json_answer(request, {"error": error.message}))

    def _as_web_error(self, failure: Failure) -> WebError:
        error = failure.value
        match error:
            case WebError():
                return error
            case BodyTooLarge():
                return WebError(413, "This is more than is accepted here.")
            case NotFound():
                return WebError(404, "There is nothing at this address.")
            case MethodNotAllowed():
                allowed = ", ".join(sorted(error.valid_methods or ()))
                return WebError(405, "This cannot be done here.", {"allow": allowed})
            case HTTPException():
                return WebError(error.code or 400, error.description or "Bad request.")
            case PennCloudError() if error.retryable:
                self.log.warn("answered 503: {error}", error=str(error))
                return WebError(
                    503,
                    "The cloud cannot do this just now. Nothing is lost: please try again in a moment.",
                    {"retry-after": str(_RETRY_AFTER_S)},
                )
        self.log.failure("a request failed", failure)
        return WebError(500, "Something went wrong here. It has been noted in the log.")


def json_answer(request: WebRequest, value: Any) -> bytes:
    """`value` as JSON, with the content type set."""
    request.setHeader(b"content-type", b"application/json")
    return msgspec.json.encode(value)


def see_other(request: WebRequest, path: str) -> bytes:
    """Send the browser to another page of this site, by GET (after a form: no second posting)."""
    request.setResponseCode(303)
    request.setHeader(b"location", path.encode())
    return b""


def _named(function: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of a route's function for Klein to write on."""

    def endpoint(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return endpoint


def _unquoted(path: bytes) -> str:
    return unquote(path.decode("ascii", "replace"), errors="replace")

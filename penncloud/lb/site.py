"""What the balancer answers over HTTP: a redirect, a page that waits, a health line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from penncloud.client.directory import NodeInfo
from penncloud.lb.balance import RoundRobin
from penncloud.lb.redirect import BadRequest, location, origin_form, requested_name
from penncloud.platform.quiet_site import QuietSite

# The seconds after which a waiting browser asks again: a server that was restarted is back by then.
RETRY_S = 2
# A client that says nothing for so long, in seconds, is hung up on.
IDLE_S = 60
# Browsers that were once here by HTTPS come by nothing else for a year.
HSTS = b"max-age=31536000"

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
{refresh}<title>{title} - PennCloud</title>
</head>
<body>
<main>
<h1>{title}</h1>
<p>{text}</p>
</main>
</body>
</html>
"""


class Nowhere:
    """The body of a request to the balancer: read and dropped, so that its size does not matter."""

    def write(self, data: bytes) -> int:
        return len(data)

    def read(self, size: int = -1) -> bytes:
        return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        return 0

    def tell(self) -> int:
        return 0

    def close(self) -> None:
        pass


class _BodilessRequest(Request):
    """A request whose body nobody reads: the frontend will get it."""

    def gotLength(self, length: int | None) -> None:
        self.content = Nowhere()


class Balancer(Resource):
    """Every path leads to a frontend, except `/healthz`, which says that the balancer works."""

    isLeaf = True

    def __init__(self, turns: RoundRobin, registry: CollectorRegistry) -> None:
        super().__init__()
        self._turns = turns
        self._answers = Counter(
            "penncloud_lb_answers",
            "Requests answered, by outcome",
            ["outcome"],
            registry=registry,
        )
        eligible = Gauge(
            "penncloud_lb_frontends", "Frontends that are given clients", registry=registry
        )
        eligible.set_function(lambda: len(turns.eligible))

    def render(self, request: IRequest) -> bytes:
        assert isinstance(request, Request)
        request.setHeader(b"cache-control", b"no-store")
        request.setHeader(b"x-content-type-options", b"nosniff")
        if request.isSecure():
            request.setHeader(b"strict-transport-security", HSTS)
        try:
            hosts = request.requestHeaders.getRawHeaders(b"host", [])
            name = requested_name(hosts, request.clientproto == b"HTTP/1.1")
            if request.path == b"/healthz":
                return self._health(request)
            target = origin_form(request.uri)
        except BadRequest as error:
            self._answers.labels("bad_request").inc()
            return self._page(request, 400, "This request cannot be understood", f"{error}.")
        frontend = self._turns.next()
        if frontend is None:
            return self._wait(request)
        self._answers.labels("redirect").inc()
        request.setResponseCode(307)
        request.setHeader(b"location", location(frontend, name, target))
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        return f"Go on at {frontend.id}.\n".encode()

    def count(self, outcome: str) -> None:
        """One more request that ended so."""
        self._answers.labels(outcome).inc()

    def unanswered(self, request: Request, status: int) -> bytes:
        """The page for a request that no frontend has answered."""
        request.setHeader(b"cache-control", b"no-store")
        request.setHeader(b"x-content-type-options", b"nosniff")
        request.setHeader(b"retry-after", b"%d" % RETRY_S)
        text = "The web server that was asked has not answered. Whether it has done anything is not known."
        if status == 503:
            text = "No web server is running at the moment."
        page = self._page(request, status, "PennCloud is not available", text)
        request.setHeader(b"content-length", b"%d" % len(page))
        return page

    def _health(self, request: Request) -> bytes:
        self._answers.labels("health").inc()
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        return b"ok\n"

    def _wait(self, request: Request) -> bytes:
        self._answers.labels("unavailable").inc()
        request.setHeader(b"retry-after", b"%d" % RETRY_S)
        if self._turns.known == 0:
            text = "No web server has started yet."
        elif self._turns.disabled == self._turns.known:
            text = "The administrator has disabled all web servers."
        else:
            text = "No web server is running at the moment."
        again = f"This page tries again every {RETRY_S} seconds."
        return self._page(request, 503, "PennCloud is not available", f"{text} {again}", RETRY_S)

    def _page(
        self, request: Request, code: int, title: str, text: str, refresh_s: int | None = None
    ) -> bytes:
        request.setResponseCode(code)
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        request.setHeader(
            b"content-security-policy",
            b"default-src 'none'; base-uri 'none'; frame-ancestors 'none'",
        )
        refresh = (
            f'<meta http-equiv="refresh" content="{refresh_s}">\n' if refresh_s is not None else ""
        )
        return _PAGE.format(title=title, text=text, refresh=refresh).encode()


def balancer_site(turns: RoundRobin, registry: CollectorRegistry, reactor: Any) -> Site:
    """The site to listen with. Bodies are neither parsed nor kept."""
    return _bodiless_site(Balancer(turns, registry), reactor)


class ToHttps(Resource):
    """Every path leads to the same one by HTTPS. `balancer` is the balancer itself, as others find it."""

    isLeaf = True

    def __init__(self, balancer: Callable[[], NodeInfo]) -> None:
        super().__init__()
        self._balancer = balancer

    def render(self, request: IRequest) -> bytes:
        assert isinstance(request, Request)
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        try:
            hosts = request.requestHeaders.getRawHeaders(b"host", [])
            name = requested_name(hosts, request.clientproto == b"HTTP/1.1")
            target = origin_form(request.uri)
        except BadRequest as error:
            request.setResponseCode(400)
            return f"{error}.\n".encode()
        request.setResponseCode(308)
        request.setHeader(b"location", location(self._balancer(), name, target))
        return b"Go on by HTTPS.\n"


def clear_site(balancer: Callable[[], NodeInfo], reactor: Any) -> Site:
    """The site of the port that only sends browsers to the encrypted one."""
    return _bodiless_site(ToHttps(balancer), reactor)


def _bodiless_site(root: Resource, reactor: Any) -> Site:
    site = QuietSite(
        root,
        requestFactory=_BodilessRequest,
        timeout=IDLE_S,
        reactor=reactor,
        parsePOSTFormSubmission=False,
    )
    site.displayTracebacks = False
    return site

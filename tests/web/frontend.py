"""A whole frontend on a real socket over the in-memory store, and a browser of few words."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import treq
from argon2 import PasswordHasher
from attrs import define, field
from prometheus_client import CollectorRegistry
from treq.client import HTTPClient
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IListeningPort
from twisted.web.client import Agent, HTTPConnectionPool

from penncloud.client.directory import MemoryDirectory
from penncloud.client.memory import MemoryTable
from penncloud.client.raw import MemoryRawCells
from penncloud.placement.tablets import Tablet, TabletMap, even_ranges
from penncloud.platform.config import Cluster, Http
from penncloud.platform.environment import Environment
from penncloud.web.assembly import build_site
from penncloud.web.context import WebContext
from penncloud.web.site import WebSite
from tests.services.recording_control import RecordingControl

# As quick as argon2 can be: what is tested is not the hash.
QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


def run_here(f: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
    """`Environment.run_in_thread` without threads."""
    return succeed(f(*args, **kwargs))


def environment_for(
    reactor: Any, now: Callable[[], float] = lambda: 1_700_000_000.0
) -> Environment:
    chance = random.Random(1)
    return Environment(
        reactor=reactor,
        now=now,
        random=random.Random(2),
        entropy=chance.randbytes,
        run_in_thread=run_here,
    )


@define
class Frontend:
    """One frontend at work; `table` may be shared with another one."""

    site: WebSite
    context: WebContext
    table: MemoryTable
    directory: MemoryDirectory
    control: RecordingControl
    listening: IListeningPort
    reactor: Any
    browsers: list[Browser] = field(factory=list)

    @property
    def port(self) -> int:
        return int(self.listening.getHost().port)  # type: ignore[attr-defined]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def browser(self) -> Browser:
        browser = Browser(self)
        self.browsers.append(browser)
        return browser

    async def stop(self) -> None:
        for browser in self.browsers:
            await browser.close()
        await maybeDeferred(self.listening.stopListening)
        self.context.events.end()
        await self.site.end()


def start_frontend(
    reactor: Any,
    *,
    table: MemoryTable | None = None,
    now: Callable[[], float] = lambda: 1_700_000_000.0,
    config: Http | None = None,
    port: int = 0,
    environment: Environment | None = None,
) -> Frontend:
    table = MemoryTable() if table is None else table
    directory = MemoryDirectory()
    control = RecordingControl()
    tablets = (
        Tablet(number, lo, hi, 1, f"127.0.0.1:{8700 + number % 2}", ())
        for number, (lo, hi) in enumerate(even_ranges(4))
    )
    site, context = build_site(
        environment or environment_for(reactor, now),
        cluster=Cluster(),
        config=config or Http(id="http-1", port=0),
        table=table,
        raw=MemoryRawCells(table, TabletMap(1, tablets)),
        directory=directory,
        control=control,
        registry=CollectorRegistry(),
        hasher=QUICK,
    )
    listening = reactor.listenTCP(port, site, interface="127.0.0.1")
    return Frontend(site, context, table, directory, control, listening, reactor)


@define
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def header(self, name: str) -> str:
        return str((self.headers.getRawHeaders(name) or [""])[0])


class Browser:
    """Keeps cookies, does not follow redirects, knows the CSRF token of the page it saw last."""

    def __init__(self, frontend: Frontend) -> None:
        self.base = frontend.url
        self.cookies: dict[str, str] = {}
        self.csrf = ""
        self._pool = HTTPConnectionPool(frontend.reactor, persistent=True)
        self._http = HTTPClient(Agent(frontend.reactor, pool=self._pool))

    async def close(self) -> None:
        await self._pool.closeCachedConnections()

    async def send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        sent: dict[bytes | str, bytes | str] = dict((headers or {}).items())
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        response = await self._http.request(
            method, self.base + path, headers=sent, data=body, allow_redirects=False
        )
        for line in response.headers.getRawHeaders("set-cookie") or []:
            name, _, value = line.partition(";")[0].partition("=")
            if value:
                self.cookies[name] = value
            else:
                self.cookies.pop(name, None)
        content = await treq.content(response)
        token = re.search(rb'<meta name="csrf" content="([^"]*)"', content)
        if token:
            self.csrf = token[1].decode()
        return Answer(response.code, response.headers, content)

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.send(
            "GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )

    async def post(self, path: str, fields: dict[str, str] | None = None, **headers: str) -> Answer:
        """Post a form with the CSRF token of the page seen last (unless `fields` has one)."""
        data = {"csrf": self.csrf, **(fields or {})}
        return await self.send(
            "POST", path, data, {k.replace("_", "-"): v for k, v in headers.items()}
        )

    async def sign_up(self, name: str, password: str = "correct horse") -> Answer:
        await self.get("/signup")
        answer = await self.post("/signup", {"name": name, "password": password, "again": password})
        if answer.status == 303:
            await self.get("/")
        return answer

    async def log_in(self, name: str, password: str = "correct horse") -> Answer:
        await self.get("/login")
        answer = await self.post("/login", {"name": name, "password": password})
        if answer.status == 303:
            await self.get("/")
        return answer

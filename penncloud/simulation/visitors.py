"""People who use the web pages and send mail: by HTTP and SMTP to the real servers.

Everybody signs up, logs in, posts in the chat, writes mail in the browser and by SMTP. What a server
confirmed has to be there in the end, exactly once; what it did not confirm, at most once. An account that
was confirmed can log in, and a session ends only when somebody ends it.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import AsyncGenerator
from typing import Any, Final
from urllib.parse import urlencode

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web._newclient import RequestNotSent, RequestTransmissionFailed
from twisted.web.client import Agent, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from penncloud.client.table import Unavailable
from penncloud.judge.history import Outcome
from penncloud.judge.workloads import SETTLE_S, NotLive, User, Workload, settled
from penncloud.platform.config import Cluster
from penncloud.services.accounts import Accounts
from penncloud.services.blobs import Blobs
from penncloud.services.mail.bodies import Bodies
from penncloud.services.mail.post import PostOffice
from penncloud.simulation.cluster import HTTP_PORT, SMTP_PORT
from penncloud.smtp.client import Conversation, Job, Timeouts

PASSWORD: Final = "correct horse battery"
FRONTENDS: Final = ("http-1", "http-2")
MAIL_SERVER: Final = "smtp-1"
_PATIENCE: Final = Timeouts(5, 20, 20, 20, 20, 20)
_FAILURES: Final = (
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
    RequestNotSent,
    RequestTransmissionFailed,
    ResponseFailed,
    PotentialDataLoss,
    DeferredTimeout,
    CancelledError,
)


class Browser:
    """One person's: keeps cookies and the token of the page seen last; asks any frontend."""

    def __init__(self, user: User) -> None:
        self._user = user
        self._clock = user.access.environment.reactor
        self._agent = Agent(self._clock, connectTimeout=5)
        self._cookies: dict[str, str] = {}
        self.csrf = ""

    async def get(self, path: str, deadline_s: float) -> tuple[int, bytes]:
        return await self.send("GET", path, b"", "", deadline_s)

    async def post(self, path: str, fields: dict[str, str], deadline_s: float) -> tuple[int, bytes]:
        """Send a form. Raises Unavailable: nobody knows then whether it was taken."""
        body = urlencode({"csrf": self.csrf, **fields}).encode()
        kind = "application/x-www-form-urlencoded"
        return await self.send("POST", path, body, kind, deadline_s)

    async def post_parts(
        self, path: str, fields: dict[str, str], deadline_s: float
    ) -> tuple[int, bytes]:
        """Send a form as browsers do when it may hold files."""
        parts = [
            f'--edge\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in {"csrf": self.csrf, **fields}.items()
        ]
        body = ("".join(parts) + "--edge--\r\n").encode()
        return await self.send("POST", path, body, "multipart/form-data; boundary=edge", deadline_s)

    async def send(
        self, method: str, path: str, body: bytes, kind: str, deadline_s: float
    ) -> tuple[int, bytes]:
        frontend = self._user.chance.choice(FRONTENDS)
        hosts = self._clock.host.world.hosts
        headers = Headers({"cookie": ["; ".join(f"{k}={v}" for k, v in self._cookies.items())]})
        if kind:
            headers.setRawHeaders("content-type", [kind])
        url = f"http://{hosts[frontend].address}:{HTTP_PORT}{path}"
        asking = Deferred.fromCoroutine(self._exchange(method, url, headers, body))
        asking.addTimeout(deadline_s, self._clock)
        try:
            return await asking
        except _FAILURES as error:
            raise Unavailable(f"{frontend}: {error!r}") from error

    async def _exchange(
        self, method: str, url: str, headers: Headers, body: bytes
    ) -> tuple[int, bytes]:
        producer = _Body(body) if body else None
        response = await self._agent.request(method.encode(), url.encode(), headers, producer)
        for line in response.headers.getRawHeaders("set-cookie") or []:
            name, _, value = line.partition(";")[0].partition("=")
            if value:
                self._cookies[name] = value
            else:
                self._cookies.pop(name, None)
        reader = _Reader()
        response.deliverBody(reader)
        content = await reader.done
        token = re.search(rb'<meta name="csrf" content="([^"]*)"', content)
        if token:
            self.csrf = token[1].decode()
        return response.code, content


class _Reader(Protocol):
    """Gathers the body of an answer. (Twisted's own complains when it was cancelled before the end.)"""

    def __init__(self) -> None:
        self.done: Deferred[bytes] = Deferred()
        self._pieces: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        self._pieces.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        if reason.check(ResponseDone):
            self.done.callback(b"".join(self._pieces))
        else:
            self.done.errback(reason)


@implementer(IBodyProducer)
class _Body:
    """What is posted; see twisted.web.iweb.IBodyProducer."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.length = len(body)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        consumer.write(self.body)
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done

    def pauseProducing(self) -> None:
        """All of it was written at once."""

    def resumeProducing(self) -> None:
        """See pauseProducing."""

    def stopProducing(self) -> None:
        """See pauseProducing."""


@define(eq=False)
class _Person:
    name: str
    browser: Browser
    asked: bool = False
    confirmed: bool = False
    logged_in: bool = False


@define(eq=False)
class _Found:
    """What there is in the end."""

    chat: list[str] = field(factory=list)
    subjects: list[str] = field(factory=list)


class Visitors(Workload):
    """See the module."""

    name = "visitors"

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self._people: dict[str, _Person] = {}
        self._found = _Found()

    async def step(self, user: User) -> None:
        person = self._people.get(user.name)
        if person is None:
            name = user.name.replace("/", ".")
            person = self._people[user.name] = _Person(name, Browser(user))
        try:
            if not person.confirmed:
                await self._sign_up(user, person, user.deadline_s)
            elif not person.logged_in:
                await self._log_in(person, user.deadline_s)
            else:
                await self._use(user, person)
        except Unavailable:
            return

    async def look(self, user: User) -> None:
        """Strangers see the page at which one logs in."""
        browser = Browser(user)
        try:
            status, _ = await browser.get("/login", user.deadline_s)
        except Unavailable:
            return
        if status != 200 and status < 500:
            self.violated(f"the log-in page answers {status}")

    # -- what people do --------------------------------------------------------------------------

    async def _sign_up(self, user: User, person: _Person, deadline_s: float) -> None:
        await person.browser.get("/signup", deadline_s)
        fields = {"name": person.name, "password": PASSWORD, "again": PASSWORD}
        again, person.asked = person.asked, True
        status, page = await person.browser.post("/signup", fields, deadline_s)
        if status == 303:
            person.confirmed = person.logged_in = True
        elif status == 400 and again:
            # The first attempt was carried out, though its answer did not come.
            person.confirmed = True
        elif status < 500:
            self.violated(f"signing up as {person.name} answers {status}: {page[-300:]!r}")

    async def _log_in(self, person: _Person, deadline_s: float) -> None:
        await person.browser.get("/login", deadline_s)
        fields = {"name": person.name, "password": PASSWORD}
        status, _ = await person.browser.post("/login", fields, deadline_s)
        if status == 303:
            person.logged_in = True
        elif status < 500:
            self.violated(f"{person.name}, whose account was confirmed, logs in: {status}")

    async def _use(self, user: User, person: _Person) -> None:
        roll = user.chance.random()
        others = [p.name for p in self._people.values() if p.confirmed]
        if roll < 0.5:
            await self._post(user, person, user.deadline_s)
        elif roll < 0.7:
            await self._write(user, person, user.chance.choice(others), user.deadline_s)
        else:
            await self._mail(user, user.chance.choice(others), user.deadline_s)

    async def _post(self, user: User, person: _Person, deadline_s: float) -> bool:
        """A message in the chat; sent again under the same id, it still stands there once."""
        text = user.unique().decode()
        await person.browser.get("/chat", deadline_s)
        fields = {"id": f"{user.chance.getrandbits(128):032x}", "text": text}
        operation = self.history.begin(user.name, user.now_s(), "chat", "post", text)
        for _ in range(3):
            try:
                status, page = await person.browser.post("/chat/messages", fields, deadline_s)
            except Unavailable:
                continue
            if status in (200, 303):
                self.history.done(operation)
                return True
            if status < 500:
                self.violated(f"{operation} answers {status}: {page[:300]!r}")
                return False
        return False

    async def _write(self, user: User, person: _Person, to: str, deadline_s: float) -> None:
        """Mail, written in the browser."""
        domain = Cluster().domain
        _, page = await person.browser.get("/mail/compose", deadline_s)
        token = re.search(rb'name="token" value="([0-9a-f]{32})"', page)
        if token is None:
            return
        subject = user.unique().decode()
        fields = {"token": token[1].decode(), "kind": "new", "box": "", "stamp": ""}
        fields |= {"to": f"{to}@{domain}", "subject": subject, "text": "Hello."}
        operation = self.history.begin(user.name, user.now_s(), "mail", "write", subject)
        for _ in range(2):
            try:
                status, page = await person.browser.post_parts("/mail/send", fields, deadline_s)
            except Unavailable:
                continue
            if status in (200, 303):
                self.history.done(operation)
                return
            if status < 500:
                self.violated(f"{operation} answers {status}: {page[:300]!r}")
                return

    async def _mail(self, user: User, to: str, deadline_s: float) -> bool:
        """Mail from outside, by SMTP."""
        environment = user.access.environment
        subject, domain = user.unique().decode(), Cluster().domain
        recipient = f"{to}@{domain}"
        text = (
            f"From: <friend@example.org>\r\nTo: <{recipient}>\r\nSubject: {subject}\r\n\r\nHi.\r\n"
        )

        async def body() -> AsyncGenerator[bytes, None]:
            yield text.encode()

        job = Job("friend@example.org", [recipient], len(text), body)
        talk = Conversation(environment, job, "friend.example.org", _PATIENCE)
        operation = self.history.begin(user.name, user.now_s(), "mail", "send", subject)
        endpoint = HostnameEndpoint(environment.reactor, MAIL_SERVER, SMTP_PORT, timeout=5)
        factory: Any = Factory()
        factory.noisy = False
        factory.buildProtocol = lambda _: talk
        try:
            await endpoint.connect(factory)
            ended = talk.done
            ended.addTimeout(max(deadline_s, 20.0), environment.reactor)
            outcome = await ended
        except _FAILURES:
            return False
        answer = outcome.answers.get(recipient)
        if answer is not None and answer.is_delivered:
            self.history.done(operation)
            return True
        if answer is not None and answer.is_permanent:
            self.violated(f"{operation} is refused: {answer}")
        return False

    # -- the end ---------------------------------------------------------------------------------

    async def settle(self, user: User) -> None:
        person = _Person("auditor", Browser(user))
        clock: Any = user.access.environment.reactor
        until_s = clock.seconds() + SETTLE_S
        while not person.logged_in:
            await settled("sign up", self._sign_up(user, person, SETTLE_S))
            if person.confirmed and not person.logged_in:
                await settled("log in", self._log_in(person, SETTLE_S))
            if clock.seconds() > until_s:
                raise NotLive("nobody can sign up and log in")
        if not await settled("post", self._post(user, person, SETTLE_S)):
            raise NotLive("nobody can post in the chat")
        if not await self._mail(user, person.name, SETTLE_S):
            raise NotLive("no mail is taken")
        for known in self._people.values():
            if known.confirmed:
                again = _Person(known.name, Browser(user))
                await settled("log in", self._log_in(again, SETTLE_S))
        await self._read_chat(person)
        # What a frontend had accepted when it died is delivered by the mail server when the lease of the
        # submission has run out.
        until_s = clock.seconds() + SETTLE_S
        await self._read_mail(user, person.name)
        while self._undelivered() and clock.seconds() < until_s:
            await deferLater(clock, 1.0)
            await self._read_mail(user, person.name)

    def _undelivered(self) -> bool:
        """Whether mail that was accepted is not there (yet)."""
        return any(
            operation.outcome is Outcome.DONE and operation.arguments[0] not in self._found.subjects
            for operation in self.history.operations
            if operation.key == "mail"
        )

    async def _read_chat(self, person: _Person) -> None:
        before = ""
        while True:
            path = "/chat/messages" + (f"?before={before}" if before else "")
            status, page = await settled("read chat", person.browser.get(path, SETTLE_S))
            if status != 200:
                raise NotLive(f"the chat answers {status}")
            read = json.loads(page)
            self._found.chat += [message["text"] for message in read["messages"]]
            if not read["more"]:
                return
            before = read["messages"][0]["cursor"]

    async def _read_mail(self, user: User, own: str) -> None:
        table, environment = user.access.table, user.access.environment
        bodies = Bodies(table, Blobs(table, environment.entropy), environment)
        post = PostOffice(
            table, bodies, environment, Accounts(table, environment), Cluster().domain
        )
        self._found.subjects.clear()
        for name in [own, *(person.name for person in self._people.values())]:
            before, more = "", True
            while more:
                page = post.mailbox(name).page("inbox", before=before)
                listed, more = await settled(f"inbox of {name}", page)
                self._found.subjects += [each.entry.subject for each in listed]
                before = listed[-1].stamp if listed else ""

    def check(self) -> list[str]:
        for operation in self.history.operations:
            found = self._found.chat if operation.key == "chat" else self._found.subjects
            times = found.count(operation.arguments[0])
            if times > 1 or (operation.outcome is Outcome.DONE and times == 0):
                self.violated(f"{operation} is there {times} times")
        return self.violations

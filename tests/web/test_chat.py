"""The chat board in the browser, with and without scripts, and its stream of events."""

from __future__ import annotations

import json
import re
from typing import Any

from attrs import define, field
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from penncloud.services.chat import Chat
from penncloud.web.events import MAX_PER_SESSION, parse_id
from tests.web.frontend import Browser, Frontend
from tests.web.test_application import FrontendTests


@define
class StreamedEvent:
    id: str
    name: str
    data: Any


@define(slots=False)
class EventReader(Protocol):
    """A client of /events that waits for events one by one."""

    head: Deferred[None] = field(factory=Deferred)
    head_bytes: bytes = b""
    ended: Deferred[None] = field(factory=Deferred)
    _buffer: bytes = b""
    _in_head: bool = True
    _events: list[StreamedEvent] = field(factory=list)
    _waiting: Deferred[StreamedEvent] | None = None

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        if self._in_head and b"\r\n\r\n" in self._buffer:
            self.head_bytes, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            self._in_head = False
            self.head.callback(None)
        while not self._in_head:
            # One chunk of the chunked encoding is one message here.
            match = re.match(rb"([0-9a-f]+)\r\n", self._buffer)
            if match is None or len(self._buffer) < match.end() + int(match[1], 16) + 2:
                return
            size = int(match[1], 16)
            message = self._buffer[match.end() : match.end() + size]
            self._buffer = self._buffer[match.end() + size + 2 :]
            self._message(message.decode())

    def _message(self, message: str) -> None:
        fields = dict(line.split(": ", 1) for line in message.strip().split("\n") if line)
        if "event" not in fields:
            return
        event = StreamedEvent(fields["id"], fields["event"], json.loads(fields["data"]))
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.callback(event)
        else:
            self._events.append(event)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended.callback(None)

    async def next(self) -> StreamedEvent:
        if self._events:
            return self._events.pop(0)
        self._waiting = Deferred()
        return await self._waiting


class ChatPageTests(FrontendTests):
    async def test_posting_without_scripts(self) -> None:
        """A plain form posts, and the page shows it after a redirect."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        page = (await browser.get("/chat")).text
        client_id = re.search(r'name="id" value="([0-9a-f]{32})"', page)
        assert client_id is not None
        fields = {"id": client_id[1], "text": "hello <script>alert(1)</script>"}
        for _ in range(2):
            # Sent twice by a double click, it shows once.
            answer = await browser.post("/chat", fields)
            self.assertEqual((answer.status, answer.header("location")), (303, "/chat#end"))
        page = (await browser.get("/chat")).text
        self.assertEqual(page.count("hello &lt;script&gt;"), 1)
        self.assertNotIn("<script>alert", page)

    async def test_page_of_a_bad_message_keeps_the_draft(self) -> None:
        """Nothing that was typed is lost with the error."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        await browser.get("/chat")
        answer = await browser.post("/chat", {"id": "x", "text": "precious"})
        self.assertEqual(answer.status, 422)
        self.assertIn("precious</textarea>", answer.text)

    async def test_posting_and_paging_by_script(self) -> None:
        """JSON in, JSON out; pages by cursor in both directions."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        posted = []
        for number in range(3):
            answer = await browser.send(
                "POST",
                "/chat/messages",
                json.dumps({"id": f"id-{number:08d}", "text": f"number {number}"}).encode(),
                {"x-csrf-token": browser.csrf, "content-type": "application/json"},
            )
            posted.append(json.loads(answer.body))
        self.assertEqual([m["author"] for m in posted], ["anna"] * 3)
        before = await browser.get(f"/chat/messages?before={posted[2]['cursor']}")
        self.assertEqual(json.loads(before.body), {"messages": posted[:2], "more": False})
        after = await browser.get(f"/chat/messages?after={posted[0]['cursor']}")
        self.assertEqual(json.loads(after.body), {"messages": posted[1:], "more": False})
        self.assertEqual((await browser.get("/chat/messages?after=nonsense")).status, 400)

    async def test_malformed_json(self) -> None:
        """What a script sends wrong is a 400 with a reason."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        for body in (b"", b"{", b"[]", b'{"id": 1}', b'{"id":"12345678","text":"x","more":1}'):
            answer = await browser.send(
                "POST", "/chat/messages", body, {"x-csrf-token": browser.csrf}
            )
            self.assertEqual(answer.status, 400)


class EventStreamTests(FrontendTests):
    async def open(
        self, browser: Browser, query: str, last_id: str = "", frontend: Frontend | None = None
    ) -> EventReader:
        reader = EventReader()
        port = (frontend or self.frontend).port
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        await connectProtocol(endpoint, reader)
        assert reader.transport is not None
        cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
        resume = f"Last-Event-ID: {last_id}\r\n" if last_id else ""
        reader.transport.write(
            f"GET /events?{query} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
            f"Cookie: {cookies}\r\n{resume}\r\n".encode()
        )
        self.addCleanup(self.close, reader)
        await reader.head
        return reader

    async def close(self, reader: EventReader) -> None:
        assert reader.transport is not None
        reader.transport.loseConnection()
        if not reader.ended.called:
            await reader.ended

    async def test_message_reaches_browsers_of_all_frontends(self) -> None:
        """What is posted on one frontend is streamed by another one."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        other = self.start(table=self.frontend.table)
        reader = await self.open(browser, "topics=chat", frontend=other)
        self.assertIn(b"text/event-stream", reader.head_bytes)
        chat = Chat(self.frontend.table, self.frontend.context.environment)
        await chat.post("berta", "live", "12345678")
        event = await reader.next()
        self.assertEqual(event.name, "chat")
        self.assertEqual([m["text"] for m in event.data["messages"]], ["live"])

    async def test_resumes_without_gap_or_repetition(self) -> None:
        """After a cut the stream goes on behind the last event, on any frontend."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        chat = Chat(self.frontend.table, self.frontend.context.environment)
        reader = await self.open(browser, "topics=chat")
        await chat.post("berta", "first", "id-first")
        event = await reader.next()
        await self.close(reader)
        await chat.post("berta", "second", "id-second")
        await chat.post("berta", "third", "id-third-")
        other = self.start(table=self.frontend.table)
        reader = await self.open(browser, "topics=chat", event.id, other)
        resumed = await reader.next()
        self.assertEqual([m["text"] for m in resumed.data["messages"]], ["second", "third"])
        self.assertEqual(resumed.data["after"], event.data["messages"][-1]["cursor"])
        await chat.post("berta", "fourth", "id-fourth")
        texts = [m["text"] for m in (await reader.next()).data["messages"]]
        self.assertEqual(texts, ["fourth"])

    async def test_since_is_for_those_who_cannot_send_a_header(self) -> None:
        """A page gives the place up to which it was rendered."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        chat = Chat(self.frontend.table, self.frontend.context.environment)
        first = await chat.post("berta", "first", "id-first")
        await chat.post("berta", "second", "id-second")
        reader = await self.open(browser, f"topics=chat&since=chat%3D{first.cursor}")
        texts = [m["text"] for m in (await reader.next()).data["messages"]]
        self.assertEqual(texts, ["second"])

    async def test_streams_of_a_session_are_bounded(self) -> None:
        """More streams than a browser opens are refused, and a closed one makes room."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        readers = [await self.open(browser, "topics=chat") for _ in range(MAX_PER_SESSION)]
        answer = await browser.get("/events?topics=chat")
        self.assertEqual(answer.status, 429)
        await self.close(readers[0])
        while len(self.frontend.context.events._streams) == MAX_PER_SESSION:
            await _turn()
        await self.open(browser, "topics=chat")

    async def test_unknown_topics(self) -> None:
        """A stream of nothing is an error."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        for query in ("", "topics=", "topics=nothing", "topics=chat,nothing"):
            self.assertEqual((await browser.get(f"/events?{query}")).status, 400)

    async def test_end_of_the_server_ends_streams(self) -> None:
        """A frontend that stops does not wait for streams; their clients go elsewhere."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        reader = await self.open(browser, "topics=chat")
        self.frontend.context.events.end()
        await self.frontend.site.end()
        await reader.ended

    def test_ids(self) -> None:
        """Malformed ids count as nothing: the client gets everything again."""
        self.assertEqual(parse_id("chat=0a,mail=7"), {"chat": "0a", "mail": "7"})
        self.assertEqual(parse_id("chat"), {})
        self.assertEqual(parse_id("chat=<>"), {})
        self.assertEqual(parse_id("x" * 5000), {})


async def _turn() -> None:
    turned: Deferred[None] = Deferred()
    reactor.callLater(0, turned.callback, None)
    await turned

"""The SMTP server over real sockets: what it answers, and what is in the mailboxes afterwards."""

from __future__ import annotations

import smtplib
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from penncloud.client.table import Unavailable
from penncloud.smtp.reception import Reception
from penncloud.smtp.server import InboundServer, Limits
from tests.services.mail_world import MailWorld

reactor: Any = _reactor


class Raw(Protocol):
    """A client that sends bytes and waits until so many final replies have come."""

    transport: Any

    def __init__(self) -> None:
        self.received = b""
        self.closed: Deferred[None] = Deferred()
        self._waiting: tuple[int, Deferred[list[str]]] | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._check()

    def connectionLost(self, reason: Any = None) -> None:
        self._check(is_lost=True)
        self.closed.callback(None)

    def finals(self) -> list[str]:
        lines = self.received.decode().split("\r\n")[:-1]
        return [line for line in lines if line[3:4] == " "]

    def replies(self, count: int) -> Deferred[list[str]]:
        """Wait for `count` replies in all, or for the end of the connection."""
        waiting: Deferred[list[str]] = Deferred()
        self._waiting = (count, waiting)
        self._check()
        return waiting

    def _check(self, is_lost: bool = False) -> None:
        if self._waiting is not None and (is_lost or len(self.finals()) >= self._waiting[0]):
            (_, waiting), self._waiting = self._waiting, None
            waiting.callback(self.finals())

    def send(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


class ServerCase(TestCase):
    limits = Limits()

    async def setUp(self) -> None:  # type: ignore[override]
        self.world = MailWorld(reactor)
        self.world.offset_s = 1_700_000_000.0 - reactor.seconds()
        self.server = InboundServer(
            self.world.environment,
            Reception(self.world.environment, self.world.post, "mx.penncloud"),
            CollectorRegistry(),
            self.limits,
        )
        self.port: Any = reactor.listenTCP(0, self.server, interface="127.0.0.1")
        self.clients: list[Raw] = []

    async def tearDown(self) -> None:  # type: ignore[override]
        await self.port.stopListening()
        for client in self.clients:
            if client.transport is not None:
                client.transport.abortConnection()
        for client in self.clients:
            await client.closed
        await self.server.stop()

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        for _ in range(10_000):
            if condition():
                return
            turn: Deferred[None] = Deferred()
            reactor.callLater(0, turn.callback, None)
            await turn

    async def connect(self) -> Raw:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port.getHost().port)
        client: Raw = await connectProtocol(endpoint, Raw())
        self.clients.append(client)
        await client.replies(1)
        return client

    async def say(self, *lines: bytes, count: int | None = None) -> list[str]:
        """Send all lines at once after EHLO and give the replies to them."""
        client = await self.connect()
        client.send(b"EHLO me\r\n" + b"".join(line + b"\r\n" for line in lines))
        replies = await client.replies(2 + (len(lines) if count is None else count))
        return replies[2:]

    async def transaction(self, body: bytes, *more: bytes, count: int = 0) -> list[str]:
        """MAIL, RCPT, DATA, then after 354 `body`; the replies behind 354."""
        client = await self.connect()
        client.send(b"EHLO me\r\nMAIL FROM:<x@y.org>\r\nRCPT TO:<bob@penncloud>\r\nDATA\r\n")
        replies = await client.replies(5)
        self.assertEqual(replies[-1][:3], "354")
        client.send(body)
        replies = await client.replies(6 + count)
        return replies[5:]

    async def inbox(self, name: str = "bob") -> list[Any]:
        return (await self.world.post.mailbox(name).page("inbox"))[0]

    async def raw(self, listed: Any) -> bytes:
        return await self.world.bodies.read_all(listed.entry.id, 100_000_000)

    async def smtplib(self, f: Callable[[smtplib.SMTP], Any]) -> Any:
        port = self.port.getHost().port

        def run() -> Any:
            with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
                return f(client)

        return await deferToThread(run)


class CommandTests(ServerCase):
    async def test_ehlo(self) -> None:
        """EHLO announces what there is, and nothing that there is not."""
        client = await self.connect()
        client.send(b"EHLO me\r\n")
        await client.replies(2)
        for name in (
            b"PIPELINING",
            b"8BITMIME",
            b"SMTPUTF8",
            b"ENHANCEDSTATUSCODES",
            b"SIZE 26214400",
        ):
            self.assertIn(name + b"\r\n", client.received)
        for name in (b"AUTH", b"STARTTLS", b"CHUNKING", b"DSN"):
            self.assertNotIn(name, client.received)

    async def test_small_commands(self) -> None:
        """NOOP, RSET, VRFY and HELP answer at any time; what is unknown or not implemented too."""
        replies = await self.say(
            b"NOOP x", b"RSET", b"VRFY bob", b"HELP", b"AUTH", b"AUTH PLAIN !", b"STARTTLS", b"EXPN x",
            b"\xff\xfe", b"", b"FOO", b"QUIT",
        )  # fmt: skip
        self.assertEqual(
            [reply[:3] for reply in replies],
            ["250", "250", "252", "214", "502", "502", "502", "502", "500", "500", "500", "221"],
        )

    async def test_order_of_commands(self) -> None:
        """MAIL needs EHLO, RCPT needs MAIL, DATA needs a recipient; a second MAIL is refused."""
        client = await self.connect()
        client.send(b"MAIL FROM:<a@b>\r\nEHLO\r\nRCPT TO:<bob@penncloud>\r\nDATA\r\n")
        replies = await client.replies(5)
        self.assertEqual([r[:3] for r in replies[1:]], ["503", "501", "503", "503"])
        replies = await self.say(b"MAIL FROM:<a@b>", b"MAIL FROM:<a@b>", b"DATA")
        self.assertEqual([r[:3] for r in replies], ["250", "503", "503"])

    async def test_recipients(self) -> None:
        """Users here are accepted, strangers are 5.1.1, other domains 5.7.1 in every disguise."""
        replies = await self.say(
            b"MAIL FROM:<>",
            b"RCPT TO:<Bob@PennCloud>",
            b"RCPT TO:<postmaster>",
            b"RCPT TO:<postmaster@penncloud>",
            b"RCPT TO:<zoe@penncloud>",
            b"RCPT TO:<bob@example.org>",
            b"RCPT TO:<bob%example.org@penncloud>",
            b"RCPT TO:<@penncloud:bob@example.org>",
            b"RCPT TO:<example.org!bob@penncloud>",
            b"RCPT TO:<bob@[127.0.0.1]>",
        )
        self.assertEqual(
            [reply[:9] for reply in replies],
            ["250 2.1.0"] + ["250 2.1.5"] * 3 + ["550 5.1.1"] + ["550 5.7.1"] * 5,
        )

    async def test_bare_newlines_and_nul_in_commands(self) -> None:
        """CR, LF or NUL alone in a command line is refused, and the session goes on."""
        client = await self.connect()
        client.send(b"EHLO me\r\nNOOP\nMAIL FROM:<a\rb@c>\r\nNO\x00OP\r\nNOOP\r\n")
        replies = await client.replies(6)
        self.assertEqual([r[:3] for r in replies[2:]], ["500", "500", "500", "250"])

    async def test_answers_keep_the_order_of_questions(self) -> None:
        """Pipelined commands are answered in order although some have to wait for the store."""
        waiting: list[Deferred[None]] = []

        async def slow(address: Any) -> str:
            turn: Deferred[None] = Deferred()
            waiting.append(turn)
            await turn
            return str(address.local)

        self.patch(self.server.reception, "accept_recipient", slow)
        client = await self.connect()
        names = [b"u%d" % n for n in range(5)]
        client.send(
            b"EHLO me\r\nMAIL FROM:<a@b>\r\n"
            + b"".join(b"RCPT TO:<" + name + b"@penncloud>\r\nVRFY x\r\n" for name in names)
            + b"QUIT\r\n"
        )
        await client.replies(3)
        for n in range(5):
            await self.wait_for(lambda n=n: len(waiting) == n + 1)  # type: ignore[misc]
            waiting[n].callback(None)
        await client.closed
        codes = [reply[:3] for reply in client.finals()]
        self.assertEqual(codes, ["220", "250", "250", *["250", "252"] * 5, "221"])

    async def test_a_flood_waits_outside(self) -> None:
        """A client that sends on while the store is slow is not read: memory stays bounded."""
        turn: Deferred[None] = Deferred()

        async def slow(address: Any) -> str:
            await turn
            return "bob"

        self.patch(self.server.reception, "accept_recipient", slow)
        client = await self.connect()
        client.send(b"EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<bob@penncloud>\r\n")
        client.send(b"NOOP\r\n" * 100_000)
        session = next(iter(self.server.sessions))
        await self.wait_for(lambda: session._is_paused)
        self.assertLess(len(session._input), 300_000)
        turn.callback(None)
        client.send(b"QUIT\r\n")
        await client.closed
        self.assertEqual(len(client.finals()), 100_000 + 5)

    async def test_long_command(self) -> None:
        """A command line without end gets one 500, however long it is, and the session goes on."""
        client = await self.connect()
        for _ in range(20):
            client.send(b"x" * 5000)
        client.send(b"\r\nNOOP\r\n")
        replies = await client.replies(3)
        self.assertEqual([r[:3] for r in replies[1:]], ["500", "250"])

    async def test_store_unavailable(self) -> None:
        """While the store does not answer, recipients and DATA are put off with 451."""
        client = await self.connect()
        client.send(b"EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<bob@penncloud>\r\n")
        await client.replies(4)
        self.world.table.unavailable = True
        client.send(b"RCPT TO:<carol@penncloud>\r\nDATA\r\n")
        replies = await client.replies(6)
        self.assertEqual([r[:9] for r in replies[4:]], ["451 4.3.0", "451 4.3.0"])
        self.world.table.unavailable = False

    async def test_too_many_errors(self) -> None:
        """A client that does nothing but err is sent away."""
        client = await self.connect()
        client.send(b"X\r\n" * 500)
        await client.closed
        self.assertEqual(client.finals()[-1][:3], "421")
        self.assertLess(len(client.finals()), 110)

    async def test_errors_before_data(self) -> None:
        """A message sent along with a DATA that is refused is not read as commands."""
        client = await self.connect()
        client.send(b"EHLO me\r\nDATA\r\nMAIL FROM:<a@b>\r\n.\r\n")
        await client.closed
        self.assertEqual([r[:3] for r in client.finals()[2:]], ["503", "421"])


class DeliveryTests(ServerCase):
    async def test_delivery(self) -> None:
        """A message arrives byte for byte behind our Received field, for every recipient."""
        body = b"Subject: hi\r\n\r\n.dot\r\n" + bytes(range(128, 256)) + b"\x00\r\n"
        raw = body.replace(b"\r\n.", b"\r\n..")
        (reply,) = await self.transaction(raw + b".\r\n")
        self.assertEqual(reply[:9], "250 2.0.0")
        (listed,) = await self.inbox()
        stored = await self.raw(listed)
        self.assertRegex(
            stored.decode("latin-1"),
            r"^Received: from me \(\[127\.0\.0\.1\]\)\r\n\tby mx\.penncloud \(PennCloud\) with ESMTP id "
            r"\w+\r\n\tfor <bob@penncloud>;\r\n\t\w{3}, ",
        )
        self.assertTrue(stored.endswith(b"\r\n" + body))
        self.assertEqual((listed.entry.subject, listed.entry.return_path), ("hi", "x@y.org"))
        self.assertTrue(listed.unread)

    async def test_smtplib(self) -> None:
        """Python's client delivers to several users, and is told which ones do not exist."""
        text = "Subject: s\r\n\r\n" + "line\r\n" * 10

        def run(client: smtplib.SMTP) -> Any:
            return client.sendmail(
                "a@b.c", ["bob@penncloud", "no@penncloud", "carol@penncloud"], text
            )

        refused = await self.smtplib(run)
        self.assertEqual({who: code for who, (code, _) in refused.items()}, {"no@penncloud": 550})
        for name in ("bob", "carol"):
            (listed,) = await self.inbox(name)
            self.assertNotIn(b"for <", await self.raw(listed))

    async def test_postmaster_and_null_sender(self) -> None:
        """postmaster's mail goes to the admin; the null sender is accepted."""

        def run(client: smtplib.SMTP) -> Any:
            return client.sendmail("<>", ["postmaster"], "Subject: s\r\n\r\nx\r\n")

        await self.smtplib(run)
        (listed,) = await self.inbox("admin")
        self.assertEqual(listed.entry.return_path, "")

    async def test_split_at_every_byte(self) -> None:
        """A whole session sent byte by byte is the same as sent at once."""
        client = await self.connect()
        client.transport.setTcpNoDelay(True)
        session = (
            b"EHLO me\r\nMAIL FROM:<x@y>\r\nRCPT TO:<bob@penncloud>\r\nDATA\r\n"
            b"A: b\r\n\r\n..x\r\n\r\n.\r\nNOOP\r\n"
        )
        session_class = next(iter(self.server.sessions))
        for byte in session:
            session_class.dataReceived(bytes((byte,)))
        replies = await client.replies(7)
        self.assertEqual(
            [r[:3] for r in replies], ["220", "250", "250", "250", "354", "250", "250"]
        )
        (listed,) = await self.inbox()
        self.assertTrue((await self.raw(listed)).endswith(b"A: b\r\n\r\n.x\r\n\r\n"))

    async def test_pipelining_two_messages(self) -> None:
        """Commands behind the end of a message, in the same packet, begin the next one."""
        envelope = b"MAIL FROM:<x@y>\r\nRCPT TO:<bob@penncloud>\r\nDATA\r\n"
        client = await self.connect()
        client.send(b"EHLO me\r\n" + envelope + b"S: 1\r\n\r\n1\r\n.\r\n" + envelope)
        await client.replies(9)
        client.send(b"S: 2\r\n\r\n2\r\n.\r\nQUIT\r\n")
        await client.closed
        codes = [reply[:3] for reply in client.finals()[2:]]
        self.assertEqual(codes, ["250", "250", "354", "250", "250", "250", "354", "250", "221"])
        self.assertEqual(len(await self.inbox()), 2)

    async def test_smuggling(self) -> None:
        """No fake end of data makes a second message; the whole is refused once, as one."""
        evil = (
            b"MAIL FROM:<evil@x>\r\nRCPT TO:<carol@penncloud>\r\nDATA\r\nSubject: evil\r\n\r\nx\r\n"
        )
        for fake in (b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\r.\r\n"):
            replies = await self.transaction(
                b"Subject: s\r\n\r\nx" + fake + evil + b".\r\nNOOP\r\n", count=1
            )
            with self.subTest(fake=fake):
                self.assertEqual([r[:3] for r in replies], ["554", "250"])
        self.assertEqual(await self.inbox("carol"), [])
        self.assertEqual(await self.inbox("bob"), [])
        self.assertEqual(self.world.rows(b"message/") + self.world.rows(b"mail-intents/"), [])

    async def test_long_line_in_data(self) -> None:
        """A line that is too long gets one 5xx at the end; nothing of the body becomes a command."""
        body = b"S: s\r\n\r\n" + b"x" * 200_000 + b"\r\nRSET\r\nMAIL FROM:<a@b>\r\n.\r\nNOOP\r\n"
        replies = await self.transaction(body, count=1)
        self.assertEqual([r[:3] for r in replies], ["554", "250"])
        self.assertEqual(await self.inbox(), [])

    async def test_loop(self) -> None:
        """A message with a hundred Received fields goes in circles."""
        body = b"Received: from a by b; x\r\n" * 100 + b"\r\nx\r\n.\r\n"
        (reply,) = await self.transaction(body)
        self.assertEqual(reply[:9], "554 5.4.6")

    async def test_claims_in_our_name(self) -> None:
        """Authentication-Results in our name and a Return-Path are not taken over."""
        await self.transaction(
            b"Return-Path: <fake@x>\r\nAuthentication-Results: mx.penncloud; spf=pass\r\n\r\nx\r\n.\r\n"
        )
        (listed,) = await self.inbox()
        stored = await self.raw(listed)
        self.assertNotIn(b"fake", stored)
        self.assertNotIn(b"spf=pass", stored)

    async def test_store_fails_at_the_end(self) -> None:
        """When the store cannot be asked at the dot: 451; sent again, everybody has it once."""
        message = b"Message-ID: <1@x>\r\nSubject: s\r\n\r\nx\r\n.\r\n"
        client = await self.connect()
        envelope = (
            b"MAIL FROM:<x@y>\r\nRCPT TO:<bob@penncloud>\r\nRCPT TO:<carol@penncloud>\r\nDATA\r\n"
        )
        client.send(b"EHLO me\r\n" + envelope)
        await client.replies(6)
        original = self.world.post._deliver

        async def fails_for_carol(name: str, filing: Any) -> None:
            if name == "carol":
                raise Unavailable("carol's tablet has no primary")
            await original(name, filing)

        self.patch(
            type(self.world.post), "_deliver", lambda _, name, filing: fails_for_carol(name, filing)
        )
        client.send(message)
        self.assertEqual((await client.replies(7))[-1][:9], "451 4.3.0")
        self.patch(
            type(self.world.post), "_deliver", lambda _, name, filing: original(name, filing)
        )
        client.send(envelope)
        await client.replies(11)
        client.send(message)
        self.assertEqual((await client.replies(12))[-1][:3], "250")
        self.assertEqual([len(await self.inbox(name)) for name in ("bob", "carol")], [1, 1])

    async def test_unavailable_while_sending(self) -> None:
        """A store that goes away in the middle of a big message: read to the end, then 451."""
        client = await self.connect()
        client.send(b"EHLO me\r\nMAIL FROM:<x@y>\r\nRCPT TO:<bob@penncloud>\r\nDATA\r\n")
        await client.replies(5)
        self.world.table.unavailable = True
        client.send(b"S: s\r\n\r\n" + b"line of text\r\n" * 200_000 + b".\r\n")
        self.assertEqual((await client.replies(6))[-1][:9], "451 4.3.0")
        self.world.table.unavailable = False
        client.send(b"NOOP\r\n")
        self.assertEqual((await client.replies(7))[-1][:3], "250")

    async def test_connection_lost_in_data(self) -> None:
        """A client that goes away in the middle of a message leaves nothing behind."""
        client = await self.connect()
        client.send(b"EHLO me\r\nMAIL FROM:<x@y>\r\nRCPT TO:<bob@penncloud>\r\nDATA\r\n")
        await client.replies(5)
        session = next(iter(self.server.sessions))
        session.dataReceived(b"S: s\r\n\r\n" + b"line of text\r\n" * 100_000)
        self.assertNotEqual(self.world.rows(b"blob/"), [])
        session.transport.abortConnection()
        await client.closed
        await self.wait_for(lambda: not self.server.sessions)
        self.assertEqual(self.world.rows(b"blob/") + self.world.rows(b"mail-intents/"), [])


class LimitTests(ServerCase):
    limits = Limits(message_bytes=300_000, recipients=3, connections_per_client=3, connections=4)

    async def test_size_announced(self) -> None:
        """A message announced as too large is refused at MAIL."""
        replies = await self.say(b"MAIL FROM:<a@b> SIZE=300001", b"MAIL FROM:<a@b> SIZE=300000")
        self.assertEqual([r[:9] for r in replies], ["552 5.3.4", "250 2.1.0"])

    async def test_size_at_the_dot(self) -> None:
        """A message that becomes too large is read to its end without being kept, then 552."""
        body = b"S: s\r\n\r\n" + b"0123456789\r\n" * 100_000 + b".\r\nNOOP\r\n"
        replies = await self.transaction(body, count=1)
        self.assertEqual([r[:9] for r in replies], ["552 5.3.4", "250 2.0.0"])
        self.assertEqual(self.world.rows(b"blob/") + self.world.rows(b"message/"), [])

    async def test_recipients(self) -> None:
        """Beyond the number of recipients: 452 4.5.3, and the others are delivered to."""
        replies = await self.say(b"MAIL FROM:<a@b>", *[b"RCPT TO:<bob@penncloud>"] * 4)
        self.assertEqual([r[:9] for r in replies[1:]], ["250 2.1.5"] * 3 + ["452 4.5.3"])

    async def test_connections_of_one_client(self) -> None:
        """One address gets so many connections, the next one is told 421."""
        for _ in range(3):
            await self.connect()
        refused = await self.connect()
        await refused.closed
        self.assertEqual(refused.finals()[0][:9], "421 4.7.0")

    async def test_stop(self) -> None:
        """When the server stops, waiting clients are told so."""
        client = await self.connect()
        await self.server.stop()
        await client.closed
        self.assertEqual(client.finals()[-1][:9], "421 4.3.2")


class TimeoutTests(ServerCase):
    limits = Limits(idle_s=30.0, data_s=60.0)

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.fake = Clock()

    async def session(self, client: Raw) -> Any:
        session = next(iter(self.server.sessions))
        session.setTimeout(None)
        session.callLater = self.fake.callLater
        session.setTimeout(session.timeout)
        return session

    async def test_idle(self) -> None:
        """A client that says nothing is told 421 after the time for a command."""
        client = await self.connect()
        await self.session(client)
        self.fake.advance(29)
        client.send(b"NOOP\r\n")
        await client.replies(2)
        self.fake.advance(29)
        self.fake.advance(2)
        await client.closed
        self.assertEqual([r[:3] for r in client.finals()], ["220", "250", "421"])

    async def test_slow_data(self) -> None:
        """A client that sends a line now and then cannot hold a DATA open for ever."""
        client = await self.connect()
        session = await self.session(client)
        client.send(b"EHLO me\r\nMAIL FROM:<x@y>\r\nRCPT TO:<bob@penncloud>\r\nDATA\r\n")
        await client.replies(5)
        for _ in range(4):
            self.fake.advance(14)
            session.dataReceived(b"X: y\r\n")
        self.fake.advance(10)
        await client.closed
        self.assertEqual(client.finals()[-1][:9], "421 4.4.2")
        self.assertEqual(await self.inbox(), [])

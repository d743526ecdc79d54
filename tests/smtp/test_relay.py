"""The way out: MX records of a real name server, scripted mail servers on real sockets."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.task import Clock
from twisted.names.error import AuthoritativeDomainError
from twisted.trial.unittest import TestCase

from penncloud.smtp.client import Conversation, Job, Timeouts
from penncloud.smtp.mx import MxRouter, NoRoute, make_resolver
from penncloud.smtp.relay import Relay, Verdict
from tests.services.mail_world import MailWorld
from tests.smtp.servers import NameServer, ScriptedMail, reactor


def job_of(*recipients: str, body: bytes = b"Subject: s\r\n\r\nx\r\n", pieces: int = 3) -> Job:
    async def read() -> AsyncGenerator[bytes, None]:
        for at in range(0, len(body), pieces):
            yield body[at : at + pieces]

    return Job("alice@penncloud", list(recipients), len(body), read)


class RelayCase(TestCase):
    async def setUp(self) -> None:  # type: ignore[override]
        self.world = MailWorld(reactor)
        self.names = NameServer()
        self.zone = self.names.zone
        self.router = MxRouter(
            self.world.environment,
            make_resolver(self.world.environment, self.names.address),
            "mx.penncloud",
        )
        self.servers: list[ScriptedMail] = []
        self.port = 0

    async def tearDown(self) -> None:  # type: ignore[override]
        for server in self.servers:
            await server.stop()
        await self.names.stop()

    def serve(self, host: str, **script: Any) -> ScriptedMail:
        """One more server, on another address of the loopback network and the same port."""
        server = ScriptedMail(script)
        self.port = server.listen(host, self.port)
        self.servers.append(server)
        return server

    async def send(self, domain: str, job: Job, **options: Any) -> dict[str, Verdict]:
        relay = Relay(self.world.environment, self.router, "mx.penncloud", self.port, **options)
        return await relay.send(domain, job)

    def codes(self, verdicts: dict[str, Verdict]) -> dict[str, tuple[int, str]]:
        return {who: (v.answer.code, v.answer.status) for who, v in verdicts.items()}


class RoutingTests(RelayCase):
    async def test_preference(self) -> None:
        """Hosts come by preference; equal ones in either order, over the runs."""
        self.zone.mx["x.org"] = [(20, "c.org"), (10, "a.org"), (10, "b.org")]
        seen = {tuple(await self.router.hosts("x.org")) for _ in range(30)}
        self.assertEqual(seen, {("a.org", "b.org", "c.org"), ("b.org", "a.org", "c.org")})

    async def test_implicit_mx(self) -> None:
        """Without MX the domain itself is the host; its addresses are asked for."""
        self.zone.a["x.org"] = ["127.0.0.2"]
        self.assertEqual(await self.router.hosts("x.org"), ["x.org"])
        self.assertEqual(await self.router.addresses("x.org"), ["127.0.0.2"])

    async def test_name_servers_that_do_not_know_of_ipv6(self) -> None:
        """An address that is known is used, whatever they say when they are asked for another kind."""
        self.zone.a.update({"a.org": ["127.0.0.2"], "b.org": ["127.0.0.3"]})
        self.zone.aaaa["a.org"] = RuntimeError("the name server has an error")
        self.zone.aaaa["b.org"] = AuthoritativeDomainError("b.org")
        self.assertEqual(await self.router.addresses("a.org"), ["127.0.0.2"])
        self.assertEqual(await self.router.addresses("b.org"), ["127.0.0.3"])
        self.flushLoggedErrors(RuntimeError)

    async def test_no_route(self) -> None:
        """Null MX, no such domain, and only ourselves are permanent; a failing server is not."""
        self.zone.mx["null.org"] = [(0, "")]
        self.zone.mx["us.org"] = [(10, "mx.penncloud"), (20, "b.org")]
        self.zone.mx["broken.org"] = RuntimeError("the name server has an error")
        self.zone.mx["empty.org"] = []
        for domain, status in (
            ("null.org", "5.1.10"),
            ("nowhere.org", "5.1.2"),
            ("us.org", "5.4.6"),
            ("broken.org", "4.4.3"),
        ):
            with self.subTest(domain=domain), self.assertRaises(NoRoute) as caught:
                await self.router.hosts(domain)
            self.assertEqual(caught.exception.status, status)
        self.flushLoggedErrors(RuntimeError)
        with self.assertRaises(NoRoute):
            await self.router.addresses("empty.org")

    async def test_before_ourselves(self) -> None:
        """Hosts that are preferred to us are used, those behind us are not."""
        self.zone.mx["x.org"] = [(5, "a.org"), (10, "mx.penncloud"), (20, "b.org")]
        self.assertEqual(await self.router.hosts("x.org"), ["a.org"])

    async def test_literal(self) -> None:
        """An address literal is its own host where the administrator wants it, and refused elsewhere."""
        resolver = make_resolver(self.world.environment, self.names.address)
        router = MxRouter(self.world.environment, resolver, "mx.penncloud", literals=True)
        self.assertEqual(await router.hosts("[127.0.0.1]"), ["127.0.0.1"])
        self.assertEqual(await router.hosts("[IPv6:::1]"), ["::1"])
        with self.assertRaises(NoRoute) as caught:
            await self.router.hosts("[127.0.0.1]")
        self.assertEqual(caught.exception.status, "5.7.1")


class ConversationTests(RelayCase):
    async def test_no_route(self) -> None:
        """A null MX and a missing domain are refusals at once; silent name servers are not."""
        self.zone.mx["null.org"] = [(0, "")]
        self.zone.mx["broken.org"] = RuntimeError("the name server has an error")
        for domain, code in (
            ("null.org", (550, "5.1.10")),
            ("nowhere.org", (550, "5.1.2")),
            ("broken.org", (450, "4.4.3")),
        ):
            verdicts = await self.send(domain, job_of(f"b@{domain}"))
            self.assertEqual(self.codes(verdicts), {f"b@{domain}": code})
        self.flushLoggedErrors(RuntimeError)

    async def test_delivery(self) -> None:
        """The message arrives byte for byte, dots and pieces notwithstanding."""
        server = self.serve("127.0.0.1")
        self.zone.a["x.org"] = ["127.0.0.1"]
        body = b"A: b\r\n\r\n.\r\n..\r\n.x\r\n\r\ny.\r\n" + b"z" * 300_000 + b"\r\n.\r\n"
        for pieces in (1 << 20, 65_536, 7):
            job = job_of("bob@x.org", body=body[-200:] if pieces == 7 else body, pieces=pieces)
            verdicts = await self.send("x.org", job)
            self.assertEqual(self.codes(verdicts), {"bob@x.org": (250, "2.0.0")})
        self.assertEqual(server.messages, [body, body, body[-200:]])
        self.assertEqual(server.lines[:3], [
            "EHLO mx.penncloud",
            f"MAIL FROM:<alice@penncloud> SIZE={len(body)}",
            "RCPT TO:<bob@x.org>",
        ])  # fmt: skip

    async def test_helo(self) -> None:
        """A server that does not know EHLO is greeted with HELO."""
        server = self.serve("127.0.0.1", EHLO="502 what?")
        self.zone.a["x.org"] = ["127.0.0.1"]
        self.assertTrue(
            (await self.send("x.org", job_of("b@x.org")))["b@x.org"].answer.is_delivered
        )
        self.assertIn("HELO mx.penncloud", server.lines)
        self.assertIn("MAIL FROM:<alice@penncloud>", server.lines)

    async def test_next_host(self) -> None:
        """Each host that is away, refuses to talk or breaks off leads to the next one."""
        self.serve("127.0.0.2", CONNECT="554 5.7.1 no service")
        self.serve("127.0.0.3", CONNECT=None)
        self.serve("127.0.0.4", MAIL="451 4.7.1 come back")
        last = self.serve("127.0.0.5")
        self.zone.mx["x.org"] = [(n, f"m{n}.org") for n in range(1, 6)]
        for n in range(1, 6):
            self.zone.a[f"m{n}.org"] = [f"127.0.0.{n}" if n > 1 else "127.0.0.9"]
        verdicts = await self.send("x.org", job_of("b@x.org"))
        self.assertEqual(self.codes(verdicts), {"b@x.org": (250, "2.0.0")})
        self.assertEqual([server.connections for server in self.servers], [1, 1, 1, 1])
        self.assertEqual(len(last.messages), 1)

    async def test_all_refuse(self) -> None:
        """When every host refuses for good, so does the domain; when one is only away, not."""
        self.serve("127.0.0.2", CONNECT="554 5.7.1 no service")
        self.zone.mx["x.org"] = [(1, "a.org")]
        self.zone.a["a.org"] = ["127.0.0.2"]
        self.assertEqual(
            self.codes(await self.send("x.org", job_of("b@x.org"))), {"b@x.org": (554, "5.7.1")}
        )
        self.zone.mx["y.org"] = [(1, "a.org"), (2, "away.org")]
        self.zone.a["away.org"] = ["127.0.0.9"]
        self.assertEqual(
            self.codes(await self.send("y.org", job_of("b@y.org"))), {"b@y.org": (0, "4.4.1")}
        )

    async def test_recipients_one_by_one(self) -> None:
        """Every recipient gets an answer of its own; the refused one is not offered to the next."""
        answers = {"no": "550 5.1.1 unknown", "full": "452 4.2.2 full", "yes": "250 ok"}

        def rcpt(line: str) -> str:
            return answers[line.split("<")[1].split("@", maxsplit=1)[0]]

        self.serve("127.0.0.2", RCPT=rcpt)
        second = self.serve("127.0.0.3")
        self.zone.mx["x.org"] = [(1, "a.org"), (2, "b.org")]
        self.zone.a["a.org"], self.zone.a["b.org"] = ["127.0.0.2"], ["127.0.0.3"]
        verdicts = await self.send("x.org", job_of("no@x.org", "full@x.org", "yes@x.org"))
        self.assertEqual(
            self.codes(verdicts),
            {
                "no@x.org": (550, "5.1.1"),
                "full@x.org": (250, "2.0.0"),
                "yes@x.org": (250, "2.0.0"),
            },
        )
        self.assertEqual(
            [line for line in second.lines if "RCPT" in line], ["RCPT TO:<full@x.org>"]
        )

    async def test_refusals(self) -> None:
        """What a server says at each step, and what it means for the recipient."""
        cases: list[tuple[dict[str, Any], tuple[int, str]]] = [
            ({"MAIL": "550 5.7.1 no"}, (550, "5.7.1")),
            ({"DATA": "554 5.5.1 no"}, (554, "5.5.1")),
            ({"DATA": "250 what?"}, (0, "4.5.0")),
            ({"DOT": "552 too big"}, (552, "5.0.0")),
            ({"DOT": "451 4.3.0 later"}, (451, "4.3.0")),
            ({"DOT": None}, (0, "4.4.2")),
            ({"RCPT": "421 4.3.2 closing"}, (421, "4.3.2")),
            ({"RCPT": "nonsense"}, (0, "4.5.0")),
            ({"MAIL": "250-x\r\n" * 200 + "250 x"}, (0, "4.5.0")),
            ({"MAIL": "250 " + "x" * 20_000}, (0, "4.5.0")),
            ({"EHLO": "250-there\r\n250 SIZE 5"}, (552, "5.3.4")),
        ]
        self.zone.a["x.org"] = ["127.0.0.1"]
        for script, expected in cases:
            server = self.serve("127.0.0.1", **script)
            with self.subTest(script=script):
                verdicts = await self.send("x.org", job_of("b@x.org"))
                self.assertEqual(self.codes(verdicts), {"b@x.org": expected})
            await server.stop()
            self.servers.remove(server)
            self.port = 0

    async def test_smtputf8(self) -> None:
        """A non-ASCII address needs a server that takes it."""
        self.zone.a["x.org"] = ["127.0.0.1"]
        server = self.serve("127.0.0.1")
        self.assertEqual(
            self.codes(await self.send("x.org", job_of("ü@x.org"))), {"ü@x.org": (550, "5.6.7")}
        )
        server.script["EHLO"] = "250-there\r\n250 SMTPUTF8"
        verdicts = await self.send("x.org", job_of("ü@x.org"))
        self.assertTrue(verdicts["ü@x.org"].answer.is_delivered)
        self.assertIn("MAIL FROM:<alice@penncloud> SMTPUTF8", server.lines)

    async def test_smart_host(self) -> None:
        """With a smart host no MX is asked for."""
        server = self.serve("127.0.0.1")
        verdicts = await self.send("x.org", job_of("b@x.org"), smart_host=f"127.0.0.1:{self.port}")
        self.assertTrue(verdicts["b@x.org"].answer.is_delivered)
        self.assertEqual((self.zone.asked, server.connections), ([], 1))

    async def test_lease_lost_before_the_dot(self) -> None:
        """A node that does not hold the message any more does not make it final."""
        server = self.serve("127.0.0.1")
        self.zone.a["x.org"] = ["127.0.0.1"]
        job = job_of("b@x.org")
        job.may_finish = lambda: False
        self.assertEqual(self.codes(await self.send("x.org", job)), {"b@x.org": (0, "4.3.2")})
        self.assertEqual(server.messages, [])


class TimeoutTests(RelayCase):
    async def test_every_step(self) -> None:
        """A server that falls silent at any step is given up after that step's time."""
        for step in ("CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "DOT"):
            server = self.serve("127.0.0.1", **{step: ""})
            clock = Clock()
            timeouts = Timeouts()
            conversation = Conversation(self.world.environment, job_of("b@x.org"), "us", timeouts)
            conversation.callLater = clock.callLater
            silent = self.silence(server, step)
            await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", self.port), conversation)
            await silent
            clock.advance(timeouts.end + 1)
            outcome = await conversation.done
            self.assertEqual(outcome.answers["b@x.org"].status, "4.4.2")
            self.assertEqual(outcome.is_refused, step in ("CONNECT", "EHLO", "MAIL"))
            await server.stop()
            self.servers.remove(server)
            self.port = 0

    def silence(self, server: ScriptedMail, step: str) -> Any:
        """Fires when the server has been asked for the step that it leaves unanswered."""
        asked: Deferred[None] = Deferred()

        def said(line: str) -> str:
            reactor.callLater(0.01, asked.callback, None)
            return ""

        server.script[step] = said
        return asked

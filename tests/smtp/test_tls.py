"""STARTTLS in both directions, on real sockets."""

from __future__ import annotations

import smtplib
import ssl
from pathlib import Path

from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

from penncloud.platform.tls import AnybodysCertificate, ServerCertificate
from penncloud.smtp.client import Conversation, Timeouts
from tests.certificates import TestAuthority
from tests.smtp.servers import reactor
from tests.smtp.test_inbound import ServerCase
from tests.smtp.test_relay import RelayCase, job_of

_PLAIN = {
    "CONNECT": "220 hello",
    "MAIL": "250 ok",
    "RCPT": "250 ok",
    "DATA": "354 go on",
    "DOT": "250 taken",
    "QUIT": "221 bye",
}


def certificate_in(directory: str, host: str = "mx.penncloud") -> tuple[ServerCertificate, Path]:
    """A server's certificate and what signed it."""
    ca = TestAuthority(directory)
    ca.issue("smtp", "smtp-1", host)
    files = [str(ca.out / f"smtp-1.{kind}") for kind in ("pem", "key")]
    return ServerCertificate(*files), ca.out / "ca.pem"


class InboundTests(ServerCase):
    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.server.certificate, self.ca = certificate_in(self.mktemp())

    async def test_a_mail_by_tls(self) -> None:
        """A mail server that checks certificates delivers, and the message says how it came (RFC 3848)."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.check_hostname = False

        def deliver(client: smtplib.SMTP) -> list[str]:
            client.ehlo("me")
            before = "starttls" in client.esmtp_features
            client.starttls(context=context)
            client.ehlo("me")
            offered = [str(before), str("starttls" in client.esmtp_features)]
            client.sendmail("x@y.org", ["bob@penncloud"], b"Subject: s\r\n\r\nsecret\r\n")
            return offered

        self.assertEqual(await self.smtplib(deliver), ["True", "False"])
        [listed] = await self.inbox()
        self.assertIn(b" with ESMTPS id ", await self.raw(listed))

    async def test_nothing_crosses_the_handshake(self) -> None:
        """What came in the clear behind STARTTLS is thrown away, as is the envelope (RFC 3207 4.2)."""
        client = await self.connect()
        client.send(b"EHLO me\r\nMAIL FROM:<x@y.org>\r\nSTARTTLS\r\nRCPT TO:<bob@penncloud>\r\n")
        replies = await client.replies(4)
        self.assertEqual([reply[:3] for reply in replies], ["220", "250", "250", "220"])
        # The next bytes are taken for a handshake; as they are none, the connection ends without a word.
        client.send(b"RCPT TO:<bob@penncloud>\r\n" * 10)
        await client.closed
        self.assertEqual(len(client.finals()), 4)

    async def test_refused(self) -> None:
        """STARTTLS with an argument, and where there is no certificate."""
        replies = await self.say(b"STARTTLS now", b"NOOP")
        self.assertEqual([reply[:3] for reply in replies], ["501", "250"])
        self.server.certificate = None
        replies = await self.say(b"STARTTLS", b"NOOP")
        self.assertEqual([reply[:3] for reply in replies], ["502", "250"])

    async def test_renewed(self) -> None:
        """A renewed certificate is shown to the next client."""

        def shown(client: smtplib.SMTP) -> bytes:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            client.starttls(context=context)
            assert isinstance(client.sock, ssl.SSLSocket)
            return client.sock.getpeercert(binary_form=True) or b""

        before = await self.smtplib(shown)
        self.assertEqual(await self.smtplib(shown), before)
        _, other = certificate_in(self.mktemp())
        for name in ("smtp-1.key", "smtp-1.pem"):
            (self.ca.parent / name).write_bytes((other.parent / name).read_bytes())
        self.assertNotEqual(await self.smtplib(shown), before)


class OutboundTests(RelayCase):
    def serve_at(self, address: str, **more: object) -> None:
        """The mail server of x.org from now on."""
        self.zone.mx["x.org"] = [(10, f"{address}.org")]
        self.zone.a[f"{address}.org"] = [address]
        self.server = self.serve(address, **{**_PLAIN, **more})

    async def sent(self, **options: object) -> None:
        verdicts = await self.send("x.org", job_of("ann@x.org"), **options)
        self.assertEqual(verdicts["ann@x.org"].answer.code, 250)

    async def test_without_offer(self) -> None:
        """A server that offers nothing is spoken to in the clear, at the first attempt."""
        self.serve_at("127.0.0.2", EHLO="250 hello")
        await self.sent()
        self.assertEqual(self.server.connections, 1)
        self.assertNotIn("STARTTLS", self.server.lines)

    async def test_falls_back(self) -> None:
        """One that offers STARTTLS and then declines, or hangs up, gets the message in the clear."""
        for address, answer in (("127.0.0.2", "454 not now"), ("127.0.0.3", None)):
            self.serve_at(address, EHLO="250-hello\r\n250 STARTTLS", STARTTLS=lambda _, a=answer: a)
            await self.sent()
            self.assertEqual(self.server.connections, 2)
            self.assertEqual(self.server.lines.count("STARTTLS"), 1)

    async def test_off(self) -> None:
        """Where the administrator wants none, none is tried."""
        self.serve_at("127.0.0.2", EHLO="250-hello\r\n250 STARTTLS", STARTTLS="220 go")
        await self.sent(opportunistic_tls=False)
        self.assertNotIn("STARTTLS", self.server.lines)


class BetweenOurselvesTests(ServerCase):
    """Our client with our server."""

    async def test_encrypted_whatever_the_certificate(self) -> None:
        """A certificate that nobody knows is better than none."""

        self.server.certificate, _ = certificate_in(self.mktemp())
        job = job_of("bob@penncloud")
        conversation = Conversation(
            self.world.environment, job, "mx.other", Timeouts(), AnybodysCertificate("mx.penncloud")
        )
        port = self.port.getHost().port
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), conversation)
        outcome = await conversation.done
        self.assertEqual(outcome.answers["bob@penncloud"].code, 250)
        self.assertFalse(outcome.tls_failed)
        [listed] = await self.inbox()
        self.assertIn(b" with ESMTPS id ", await self.raw(listed))

"""Who is let in: on real sockets, with certificates of a real authority."""

from __future__ import annotations

import shutil
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from attrs import evolve
from OpenSSL import crypto
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredQueue, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import EventLoggingObserver, StringTransport
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.listening import listen_internal, port_of
from penncloud.platform.process import real_environment
from penncloud.platform.threads import BoundedPool
from penncloud.platform.tls import Credentials, entrance, peer_of
from penncloud.platform.tls.entrance import HANDSHAKE_S, HandshakeFailed
from penncloud.rpc.endpoints import internal_endpoint
from tests.certificates import TestAuthority


class _Echo(Protocol):
    """Answers with whom it takes the client for."""

    made = 0

    def connectionMade(self) -> None:
        _Echo.made += 1

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(f"{peer_of(self.transport)}: ".encode() + data)


class _Client(Protocol):
    def __init__(self) -> None:
        self.heard: DeferredQueue[bytes] = DeferredQueue()
        self.ended: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.heard.put(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended.callback(None)


def _quiet(kind: type[Protocol]) -> Any:
    factory: Any = Factory.forProtocol(kind)
    factory.noisy = False
    return factory


class EntranceTests(TestCase):
    timeout = 300

    async def setUp(self) -> None:  # type: ignore[override]
        self.ca = TestAuthority(self.mktemp())
        self.world = real_environment(reactor, BoundedPool(reactor))
        self.events = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        _Echo.made = 0
        server = self.as_(self.ca.issue("storage", "storage-1"))
        listening = await listen_internal(server, "127.0.0.1", 0, _quiet(_Echo), ("http", "admin"))
        self.addCleanup(listening.stopListening)
        self.port = port_of(listening)

    def as_(self, credentials: Credentials | None) -> Environment:
        return evolve(self.world, credentials=credentials)

    async def connect(self, credentials: Credentials, *roles: str) -> _Client:
        """Connect and wait for an answer, or raise; the server has to be one of `roles`."""
        endpoint = internal_endpoint(
            self.as_(credentials), "127.0.0.1", self.port, 5, roles or ("storage",)
        )
        client: Any = await endpoint.connect(_quiet(_Client))
        self.addCleanup(lambda: client.ended)
        self.addCleanup(lambda: client.ended.called or client.transport.abortConnection())
        return client  # type: ignore[no-any-return]

    def refusals(self) -> list[str]:
        return [
            str(event["why"])
            for event in self.events
            if event.get("why") and "refused" in str(event.get("log_format"))
        ]

    async def refused(self, credentials: Credentials) -> None:
        """TLS 1.3: the client is through with its part before the server has looked at it."""
        client = await self.connect(credentials)
        client.transport.write(b"let me in")  # type: ignore[union-attr]
        await client.ended
        self.assertEqual(client.heard.size or len(client.heard.pending), 0)

    async def test_both_know_each_other(self) -> None:
        """Each side knows the other's name and role."""
        client = await self.connect(self.ca.issue("http", "http-7"))
        self.assertEqual(str(peer_of(client.transport)), "storage-1 (storage)")
        client.transport.write(b"hello")  # type: ignore[union-attr]
        self.assertEqual(await client.heard.get(), b"http-7 (http): hello")

    async def test_wrong_role(self) -> None:
        """A member whose role has no business here is refused, and the log says who it was."""
        await self.refused(self.ca.issue("lb", "lb-1"))
        self.assertEqual(self.refusals(), ["lb-1 (lb) is not one of admin, http"])
        self.assertEqual(_Echo.made, 0)

    async def test_another_cluster(self) -> None:
        """A certificate of another authority is none."""
        other = TestAuthority(self.mktemp())
        stranger = other.issue("http", "http-1")
        mixed = Credentials(str(self.ca.out / "ca.pem"), stranger.certificate, stranger.key)
        await self.refused(mixed)
        self.assertIn("authority", self.refusals()[0])

    async def test_expired(self) -> None:
        """A certificate that has ended is none, and the log says so."""
        self.ca.authority.now = lambda: 1_000_000_000.0
        await self.refused(self.ca.issue("http", "http-1"))
        self.assertEqual(self.refusals(), ["its certificate has expired"])

    async def test_server_of_another_role(self) -> None:
        """A client does not talk to a member that stands in the wrong place."""
        client = self.ca.issue("http", "http-7")
        with self.assertRaisesRegex(HandshakeFailed, r"storage-1 \(storage\) is not one of coord"):
            await self.connect(client, "coordinator")
        self.assertEqual(_Echo.made, 0)

    async def test_in_the_clear(self) -> None:
        """Somebody who does not speak TLS, and somebody without a certificate, reach nothing; each is one
        line in the log and no traceback."""
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)
        for words in (b"GET;a;b\r\n", b"\0\0\0\x04abcd", b"GET / HTTP/1.1\r\n\r\n"):
            client: Any = await connectProtocol(endpoint, _Client())
            client.transport.write(words)
            await client.ended
        self.assertEqual(len(self.refusals()), 1)
        self.assertIn("does not speak TLS", self.refusals()[0])
        self.assertEqual(_Echo.made, 0)
        self.assertEqual([each for each in self.events if "log_failure" in each], [])

    async def test_only_looking(self) -> None:
        """A connection that is opened and closed (a port check) is nothing to complain of."""
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)
        client: Any = await connectProtocol(endpoint, _Client())
        client.transport.loseConnection()
        await client.ended
        await self.connect(self.ca.issue("http", "http-7"))
        self.assertEqual(self.refusals(), [])

    async def test_renewed(self) -> None:
        """New files are in use at the next connection; those that are no good are not, and are told of."""
        mine = self.ca.issue("http", "http-7")
        await self.connect(mine)
        before = mine.context()
        key = (self.ca.out / "http-7.key").read_bytes()
        self.ca.issue("http", "http-7")
        await self.connect(mine)
        self.assertIsNot(mine.context(), before)
        renewed = mine.context()
        (self.ca.out / "http-7.key").write_bytes(key)  # of the certificate before
        await self.connect(mine)
        await self.connect(mine)
        self.assertIs(mine.context(), renewed)
        errors = [each for each in self.events if each["log_level"].name == "error"]
        self.assertEqual(len(errors), 1)

    async def test_new_authority(self) -> None:
        """While an authority is replaced, old and new certificates work with each other at each step;
        afterwards the old ones do not any more."""
        old = self.ca.issue("http", "http-old")
        for name in ("ca.pem", "http-old.pem", "http-old.key"):
            (self.ca.out / f"kept-{name}").write_bytes((self.ca.out / name).read_bytes())
        authority, out = self.ca.authority, self.ca.out
        authority.rotate("begin", out)
        await self.connect(old)
        authority.rotate("switch")
        authority.publish(out)
        await self.connect(old)
        new = self.ca.issue("http", "http-new")
        self.ca.issue("storage", "storage-1")
        for member in (old, new):
            client = await self.connect(member)
            client.transport.write(b"hello")  # type: ignore[union-attr]
            self.assertIn(b"hello", await client.heard.get())
        authority.rotate("finish", out)
        await self.connect(new)
        stale = Credentials(
            str(out / "ca.pem"), str(out / "kept-http-old.pem"), str(out / "kept-http-old.key")
        )
        await self.refused(stale)

    async def test_connections_do_not_outlive_their_certificates(self) -> None:
        """One whose peer's certificate is of an authority that is believed no more is closed by either
        side; one whose is good goes on."""
        self.patch(import_module("penncloud.platform.tls.entrance"), "LOOK_S", 0.05)
        authority, out = self.ca.authority, self.ca.out
        old = self.ca.issue("http", "http-1")
        apart = self.mktemp()
        shutil.copytree(out, apart)
        # Believes the old authority for ever, and so only the server can end it.
        stale = await self.connect(Credentials.at(apart, "http-1"))
        # Its key is believed, but it does not believe the server any more.
        renewed = await self.connect(old)
        authority.rotate("begin", out)
        authority.rotate("switch")
        authority.publish(out)
        self.ca.issue("http", "http-1")
        self.ca.issue("storage", "storage-1")
        good = await self.connect(old)
        authority.rotate("finish", out)
        await gatherResults([stale.ended, renewed.ended])
        good.transport.write(b"hello")  # type: ignore[union-attr]
        self.assertIn(b"hello", await good.heard.get())
        self.assertFalse(good.ended.called)
        said = [str(each["why"]) for each in self.events if "closed the" in str(each["log_format"])]
        self.assertEqual(
            set(said), {"its certificate is of an authority that is not believed here"}
        )

    def test_refusal(self) -> None:
        """What is said of a certificate that was good once."""

        def certificate(of: Credentials) -> crypto.X509:
            pem = Path(of.certificate).read_bytes()
            return crypto.load_certificate(crypto.FILETYPE_PEM, pem)

        mine = self.ca.issue("http", "http-1")
        self.assertEqual(mine.refusal(certificate(mine)), "")
        self.ca.authority.now = lambda: 1_000_000_000.0
        old = self.ca.issue("http", "http-2")
        self.assertEqual(mine.refusal(certificate(old)), "its certificate has expired")
        self.ca.authority.now = lambda: time.time() + 86400.0
        young = self.ca.issue("http", "http-3")
        self.assertEqual(mine.refusal(certificate(young)), "")
        stranger = TestAuthority(self.mktemp()).issue("http", "http-1")
        self.assertIn("authority", mine.refusal(certificate(stranger)))


class UnusableTests(SynchronousTestCase):
    def test_files(self) -> None:
        """What is wrong with the files is said at once, with the path."""
        ca = TestAuthority(self.mktemp())
        good = ca.issue("http", "http-1")
        ca.issue("http", "http-2")
        nothing = ca.out / "nothing.pem"
        nothing.write_bytes(b"")
        for paths, text in (
            ((good.ca, good.certificate, str(ca.out / "gone.key")), "gone.key: No such file"),
            ((good.ca, good.certificate, str(ca.out / "http-2.key")), "http-2.key: .*mismatch"),
            ((good.ca, str(nothing), good.key), "nothing.pem"),
            ((str(nothing), good.certificate, good.key), "nothing.pem"),
            ((good.ca, good.ca, good.key), "ca.pem: .*is no server of PennCloud"),
        ):
            with self.assertRaisesRegex(ConfigurationError, text):
                Credentials(*paths).context()

    def test_silent(self) -> None:
        """Who says nothing is hung up on."""
        ca = TestAuthority(self.mktemp())
        clock = Clock()
        factory = entrance(clock, ca.issue("http", "http-1"), ("http",), _quiet(_Echo))
        protocol = factory.buildProtocol(None)
        transport = StringTransport()
        protocol.makeConnection(transport)
        clock.advance(HANDSHAKE_S - 1)
        self.assertFalse(transport.disconnected)
        clock.advance(1)
        self.assertTrue(transport.disconnected)
        protocol.connectionLost(Failure(ConnectionError()))
        self.assertEqual(clock.getDelayedCalls(), [])

"""The balancer in proxy mode: raw clients on one side, scripted frontends on the other, real sockets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from attrs import evolve
from prometheus_client import CollectorRegistry
from twisted.internet import reactor as real_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.http_headers import Headers
from zope.interface import implementer

from penncloud.client.directory import MemoryDirectory, NodeInfo
from penncloud.lb.failures import FIRST_S, LONGEST_S, Failures
from penncloud.lb.forwarding import Client, to_client, to_frontend
from penncloud.lb.node import LbNode
from penncloud.platform.config import Cluster, Lb
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.tls import ServerCertificate, over_https
from penncloud.platform.trusted import Trusted
from tests.certificates import TestAuthority
from tests.lb.test_node import environment

reactor: Any = real_reactor

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


class Wire(Protocol):
    """One end of a connection: what has come, and waiting for more."""

    transport: Any

    def __init__(self) -> None:
        self.data = bytearray()
        self.is_lost = False
        self.lost: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_lost = True
        self.lost.callback(None)

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    async def until(self, text: bytes) -> bytes:
        """What has come, once `text` is in it."""
        while text not in self.data:
            assert not self.is_lost, self.data
            await deferLater(reactor, 0.005)
        return bytes(self.data)

    async def has(self, size: int) -> None:
        """Wait until a head and a body of so many bytes have come."""
        while len(self.data) < size or len(self.data) - self.data.find(b"\r\n\r\n") - 4 < size:
            assert not self.is_lost, len(self.data)
            await deferLater(reactor, 0.005)


@implementer(IPushProducer)
class Flood:
    """Sends as much as the other side takes, up to `size` bytes."""

    def __init__(self, wire: Wire, size: int) -> None:
        self.sent = 0
        self._wire = wire
        self._size = size
        self._is_paused = True
        wire.transport.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        if self._is_paused:
            self._is_paused = False
            reactor.callLater(0, self._go_on)

    def pauseProducing(self) -> None:
        self._is_paused = True

    def stopProducing(self) -> None:
        self._is_paused = True

    def _go_on(self) -> None:
        while not self._is_paused and self.sent < self._size:
            self._wire.send(b"x" * 65536)
            self.sent += 65536
        if self.sent >= self._size and not self._wire.is_lost:
            self._wire.transport.unregisterProducer()

    async def stalls(self) -> None:
        """Wait until nothing has been taken for many turns of the reactor."""
        quiet, last = 0, -1
        while quiet < 50:
            await deferLater(reactor, 0.002)
            quiet = quiet + 1 if self.sent == last else 0
            last = self.sent


class FrontendWire(Wire):
    """A frontend's end: `script` is run once the head of a request is there."""

    def __init__(self, frontend: Frontend) -> None:
        super().__init__()
        self.frontend = frontend
        self.has_head = False

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if not self.has_head and b"\r\n\r\n" in self.data:
            self.has_head = True
            self.frontend.heads.append(bytes(self.data.partition(b"\r\n\r\n")[0]))
            self.frontend.script(self)

    def answer(self, data: bytes) -> None:
        """Answer, and be ready for the next request."""
        self.data.clear()
        self.has_head = False
        self.send(data)


class Frontend(Factory):
    """A frontend that does with each request what its script says."""

    noisy = False

    def __init__(self, number: int, script: Callable[[FrontendWire], None]) -> None:
        self.id = f"http-{number}"
        self.script = script
        self.heads: list[bytes] = []
        self.wires: list[FrontendWire] = []
        self.port = 0

    def buildProtocol(self, addr: Any) -> FrontendWire:
        wire = FrontendWire(self)
        self.wires.append(wire)
        return wire

    def info(self, scheme: str = "http") -> NodeInfo:
        return NodeInfo("http", self.id, "127.0.0.1", self.port, 1, "live", scheme=scheme)


class ProxyCase(TestCase):
    timeout = 300

    async def setUp(self) -> None:  # type: ignore[override]
        self.directory = MemoryDirectory()
        self.frontends: list[Frontend] = []
        self.clients: list[Wire] = []
        self.world = environment()

    async def start(self, **keys: Any) -> None:
        role = Lb(id="lb-1", port=0, mode="proxy", **keys)
        self.node = LbNode(self.world, Cluster(), role, self.directory, CollectorRegistry())
        await self.node.start()

    async def tearDown(self) -> None:  # type: ignore[override]
        for wire in [*self.clients, *(each for one in self.frontends for each in one.wires)]:
            if not wire.is_lost:
                wire.transport.abortConnection()
                await wire.lost
        await self.node.stop()

    def frontend(
        self, script: Callable[[FrontendWire], None], certificate: ServerCertificate | None = None
    ) -> Frontend:
        made = Frontend(len(self.frontends) + 1, script)
        factory = over_https(reactor, certificate, made)
        listening = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        made.port = listening.getHost().port
        self.frontends.append(made)
        self.announce()
        return made

    def announce(self) -> None:
        self.directory.set(*(each.info() for each in self.frontends))

    async def client(self, data: bytes = b"") -> Wire:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.node.port)
        wire: Wire = await connectProtocol(endpoint, Wire())
        self.clients.append(wire)
        wire.send(data)
        return wire

    async def ask(self, request: bytes, last: bytes = b"\r\n\r\nhi") -> bytes:
        return await (await self.client(request)).until(last)


def get(path: str = "/", *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: cloud.example:8080", *headers, "", ""]
    return "\r\n".join(lines).encode()


def put(length: int, method: str = "PUT") -> bytes:
    return (
        f"{method} /x HTTP/1.1\r\nHost: cloud.example\r\nContent-Length: {length}\r\n\r\n".encode()
    )


class PassingTests(ProxyCase):
    async def test_there_and_back(self) -> None:
        """Address, host, cookies and body reach the frontend as they came, and its answer the client; who the
        client is, is said by the balancer and not by the client."""
        await self.start()
        one = self.frontend(lambda wire: wire.answer(OK))
        answer = await self.ask(
            get(
                "/a%2Fb;c?x=1&y=?",
                "Cookie: s=1",
                "X-Forwarded-For: 6.6.6.6",
                "X-Forwarded-Proto: https",
            )
        )
        self.assertTrue(answer.startswith(b"HTTP/1.1 200 OK\r\n"))
        head = one.heads[0].decode()
        self.assertTrue(head.startswith("GET /a%2Fb;c?x=1&y=? HTTP/1.1\r\n"), head)
        lines = head.lower().split("\r\n")
        for line in (
            "host: cloud.example:8080",
            "cookie: s=1",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-proto: http",
            "x-forwarded-host: cloud.example:8080",
        ):
            self.assertIn(line, lines)
        self.assertTrue(any(line.startswith("x-request-id: ") for line in lines))

    async def test_one_after_the_other(self) -> None:
        """A connection serves several requests, of which each goes to the next frontend; connections to
        frontends are used again."""
        await self.start()
        for _ in range(2):
            self.frontend(lambda wire: wire.answer(OK))
        client = await self.client()
        for count in range(1, 7):
            client.send(get())
            while client.data.count(b"hi") < count:
                await deferLater(reactor, 0.005)
        self.assertEqual([len(each.heads) for each in self.frontends], [3, 3])
        self.assertEqual([len(each.wires) for each in self.frontends], [1, 1])

    async def test_event_stream(self) -> None:
        """Each part of an answer without an end reaches the client at once; when the client leaves, the
        frontend hears of it."""
        await self.start()
        one = self.frontend(
            lambda wire: wire.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        )
        client = await self.client(get("/events"))
        await client.until(b"\r\n\r\n")
        for number in range(3):
            one.wires[0].send(b"data: %d\n\n" % number)
            await client.until(b"data: %d\n\n" % number)
        client.transport.abortConnection()
        await one.wires[0].lost

    async def test_no_faster_than_the_frontend_takes(self) -> None:
        """While a frontend does not read, the client is not read either: next to nothing is held."""
        await self.start()
        size = 64 * 1024 * 1024
        one = self.frontend(lambda wire: wire.transport.pauseProducing())
        client = await self.client(put(size))
        flood = Flood(client, size)
        while not one.wires:
            await deferLater(reactor, 0.005)
        await flood.stalls()
        self.assertLess(flood.sent, 30_000_000)  # the buffers of four sockets, and no more
        wire = one.wires[0]
        wire.transport.resumeProducing()
        await wire.has(size)
        wire.answer(OK)
        await client.until(b"hi")

    async def test_no_faster_than_the_client_takes(self) -> None:
        """While a client does not read, the frontend is not read either."""
        await self.start()
        size = 64 * 1024 * 1024
        floods = []

        def answer(wire: FrontendWire) -> None:
            wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            floods.append(Flood(wire, size))

        self.frontend(answer)
        client = await self.client(get("/large"))
        client.transport.pauseProducing()
        while not floods:
            await deferLater(reactor, 0.005)
        await floods[0].stalls()
        self.assertLess(floods[0].sent, 30_000_000)
        client.transport.resumeProducing()
        await client.has(size)

    async def test_answer_before_the_end_of_the_body(self) -> None:
        """A frontend that wants no body says so at once; the client reads the answer."""
        await self.start()
        self.frontend(
            lambda wire: wire.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nhi")
        )
        client = await self.client(put(10_000_000) + b"x" * 100_000)
        answer = await client.until(b"\r\n\r\nhi")
        self.assertIn(b"HTTP/1.1 413", answer)
        self.assertIn(b"connection: close", answer.lower())
        client.send(b"x" * 9_900_000)
        await client.lost

    async def test_chunked(self) -> None:
        """A body of unknown length stays one."""
        await self.start()
        one = self.frontend(lambda _: None)
        client = await self.client(
            b"PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        )
        while not one.wires or b"3\r\nabc\r\n" not in one.wires[0].data:
            await deferLater(reactor, 0.005)
        client.send(b"0\r\n\r\n")
        await one.wires[0].until(b"0\r\n\r\n")
        one.wires[0].answer(OK)
        await client.until(b"hi")


class FailureTests(ProxyCase):
    async def test_not_there(self) -> None:
        """A frontend that cannot be reached costs the client nothing, whatever is asked: nothing was sent."""
        await self.start()
        dead, good = self.frontend(lambda _: None), self.frontend(lambda wire: wire.answer(OK))
        dead.port = 1
        self.announce()
        for request in (get(), put(2) + b"ab", get(), put(2) + b"ab"):
            self.assertIn(b"200 OK", await self.ask(request))
        self.assertEqual(len(good.heads), 4)

    async def test_dies_before_the_answer(self) -> None:
        """What changes nothing is asked of another frontend; what may have been done is not done twice."""
        await self.start()
        dying = self.frontend(lambda wire: wire.transport.abortConnection())
        good = self.frontend(lambda wire: wire.answer(OK))
        self.assertIn(b"200 OK", await self.ask(get()))
        self.assertEqual((len(dying.heads), len(good.heads)), (1, 1))
        self.directory.set(dying.info(), good.info())
        await self.directory.set_enabled("http-2", False)
        answer = await self.ask(put(0, "POST"), b"not known.")
        self.assertIn(b"HTTP/1.1 502", answer)
        self.assertEqual((len(dying.heads), len(good.heads)), (2, 1))

    async def test_dies_within_the_answer(self) -> None:
        """A part of an answer is never taken for the whole."""
        await self.start()

        def break_off(wire: FrontendWire) -> None:
            wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")
            reactor.callLater(0.01, wire.transport.abortConnection)

        self.frontend(break_off)
        other = self.frontend(lambda wire: wire.answer(OK))
        client = await self.client(get())
        await client.until(b"part")
        await client.lost
        self.assertEqual(other.heads, [])

    async def test_nobody(self) -> None:
        """Without frontends the balancer answers by itself; with dead ones only, after having tried them."""
        await self.start()
        self.assertIn(b"HTTP/1.1 503", await self.ask(get(), b"</html>"))
        self.assertIn(b"HTTP/1.1 200", await self.ask(get("/healthz"), b"ok\n"))
        one = self.frontend(lambda _: None)
        one.port = 1
        self.announce()
        self.assertIn(b"HTTP/1.1 502", await self.ask(get(), b"</html>"))
        self.assertIn(b"HTTP/1.1 400", await self.ask(b"GET / HTTP/1.1\r\n\r\n", b"</html>"))

    async def test_disabled(self) -> None:
        """A disabled frontend gets no new requests; the one it works on it finishes."""
        await self.start()
        one, two = self.frontend(lambda _: None), self.frontend(lambda wire: wire.answer(OK))
        client = await self.client(get("/slow"))
        while not one.heads:
            await deferLater(reactor, 0.005)
        await self.directory.set_enabled("http-1", False)
        for _ in range(3):
            await self.ask(get())
        self.assertEqual((len(one.heads), len(two.heads)), (1, 3))
        one.wires[0].answer(OK)
        await client.until(b"hi")

    async def test_encrypted_frontend(self) -> None:
        """A frontend that speaks HTTPS has to show the certificate of a frontend of this cluster."""
        ca = TestAuthority(self.mktemp())
        self.world = evolve(self.world, credentials=ca.issue("lb", "lb-1"))
        await self.start()
        for role, code in (("http", b"200 OK"), ("smtp", b"502 Bad")):
            ca.issue(role, f"{role}-1")
            files = [str(ca.out / f"{role}-1.{kind}") for kind in ("pem", "key")]
            one = self.frontend(lambda wire: wire.answer(OK), ServerCertificate(*files))
            self.directory.set(one.info("https"))
            # The old one is no longer known.
            self.directory.current = msgspec.structs.replace(
                self.directory.current, nodes=[one.info("https")]
            )
            self.directory.set(one.info("https"))
            self.assertIn(code, (await self.ask(get(), b"\r\n\r\n"))[:40])


class HeaderTests(SynchronousTestCase):
    def forwarded(self, trusted: tuple[str, ...] = (), **given: str) -> dict[str, list[str]]:
        headers = Headers({name.replace("_", "-"): [value] for name, value in given.items()})
        sent = to_frontend(headers, Client("10.0.0.9", True), Trusted(trusted), "r1")
        return {
            name.decode().lower(): [value.decode() for value in values]
            for name, values in sent.getAllRawHeaders()
        }

    def test_hop_by_hop(self) -> None:
        """What is for one connection stays on it, also what `Connection` names; but not who one is."""
        sent = self.forwarded(
            connection="close, x-private, cookie",
            x_private="1",
            cookie="s=1",
            upgrade="websocket",
            te="trailers",
            accept="*/*",
        )
        for name in ("connection", "x-private", "upgrade", "te"):
            self.assertNotIn(name, sent)
        self.assertEqual((sent["cookie"], sent["accept"]), (["s=1"], ["*/*"]))
        back = Headers({"Connection": ["x-own"], "X-Own": ["1"], "Set-Cookie": ["a=1", "b=2"]})
        self.assertEqual(to_client(back), [(b"Set-Cookie", [b"a=1", b"b=2"])])

    def test_who_is_believed(self) -> None:
        """A stranger's word on who the client is counts for nothing, that of a named proxy does."""
        claims = {
            "host": "cloud.example",
            "x_forwarded_for": "1.2.3.4",
            "x_forwarded_proto": "http",
            "x_forwarded_host": "other.example",
            "forwarded": "for=1.2.3.4",
            "x_real_ip": "1.2.3.4",
        }
        stranger = self.forwarded((), **claims)
        self.assertEqual(stranger["x-forwarded-for"], ["10.0.0.9"])
        self.assertEqual(stranger["x-forwarded-proto"], ["https"])
        self.assertEqual(stranger["x-forwarded-host"], ["cloud.example"])
        self.assertNotIn("forwarded", stranger)
        self.assertNotIn("x-real-ip", stranger)
        proxy = self.forwarded(("10.0.0.0/24",), **claims)
        self.assertEqual(proxy["x-forwarded-for"], ["1.2.3.4, 10.0.0.9"])
        self.assertEqual(proxy["x-forwarded-proto"], ["http"])
        self.assertEqual(proxy["x-forwarded-host"], ["other.example"])

    def test_bad_network(self) -> None:
        """A typing error in the list is said at the start."""
        with self.assertRaisesRegex(ConfigurationError, "10.0.0"):
            Trusted(("10.0.0",))


class FailuresTests(SynchronousTestCase):
    def test_pauses(self) -> None:
        """Each failure makes the pause longer, a success or a new start ends it."""
        clock = Clock()
        failures = Failures(clock)
        pause_s = FIRST_S
        for _ in range(8):
            failures.failed("http-1", 1)
            clock.advance(pause_s * 0.9)
            self.assertTrue(failures.is_passed_over("http-1", 1))
            clock.advance(pause_s * 0.2)
            self.assertFalse(failures.is_passed_over("http-1", 1))
            pause_s = min(LONGEST_S, 2 * pause_s)
        failures.failed("http-1", 1)
        self.assertFalse(failures.is_passed_over("http-1", 2))
        failures.worked("http-1", 1)
        self.assertFalse(failures.is_passed_over("http-1", 1))

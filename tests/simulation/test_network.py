"""Simulated TCP: as Twisted's protocols know it, and as cables and machines fail."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import Agent, readBody
from twisted.web.resource import Resource
from twisted.web.server import Request, Site
from zope.interface import implementer

from penncloud.platform.disk import Disk
from penncloud.platform.environment import Environment
from penncloud.simulation.host import Host
from penncloud.simulation.process import Process
from penncloud.simulation.world import World


class Idle:
    """A program that does nothing by itself."""

    async def start(self) -> None:
        """Nothing."""

    async def stop(self) -> None:
        """Nothing."""


def idle(environment: Environment, disk: Disk) -> Idle:
    return Idle()


class Talker(Protocol):
    """Keeps what it hears."""

    transport: Any

    def __init__(self) -> None:
        self.heard = bytearray()
        self.pieces = 0
        self.ended: Failure | None = None
        self.on_data: Any = lambda: None

    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        self.pieces += 1
        self.on_data()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended = reason


@implementer(IHalfCloseableProtocol)
class HalfTalker(Talker):
    """Goes on talking when the other side has finished."""

    finished = False

    def readConnectionLost(self) -> None:
        self.finished = True

    def writeConnectionLost(self) -> None:
        pass


class Producer:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")


class NetworkCase(SynchronousTestCase):
    """Two hosts, `left` and `right`; the right one listens."""

    kind: type[Talker] = Talker

    def setUp(self) -> None:
        self.world = World(1)
        self.left = self.world.add_host("left", idle)
        self.right = self.world.add_host("right", idle)
        self.left.start()
        self.right.start()
        self.listen()

    def listen(self) -> None:
        self.accepted: list[Talker] = []
        factory = Factory.forProtocol(self.kind)

        def build(address: object) -> Talker:
            self.accepted.append(self.kind())
            return self.accepted[-1]

        factory.buildProtocol = build  # type: ignore[assignment,method-assign]
        endpoint = TCP4ServerEndpoint(self.reactor(self.right), 80)
        self.successResultOf(endpoint.listen(factory))

    def reactor(self, host: Host) -> Process:
        assert host.process is not None
        return host.process

    def attempt(self, timeout_s: float = 5.0) -> Deferred[Any]:
        endpoint = HostnameEndpoint(self.reactor(self.left), "right", 80, timeout=timeout_s)
        return endpoint.connect(Factory.forProtocol(self.kind))

    def connect(self) -> tuple[Talker, Talker]:
        attempt = self.attempt()
        self.world.run(1)
        client: Talker = self.successResultOf(attempt)
        return client, self.accepted[-1]


class TransportTests(NetworkCase):
    """What protocols may expect of a transport."""

    def test_order(self) -> None:
        """Bytes arrive complete and in order, cut into pieces that nobody chose."""
        self.world.network.quality.split_rate = 0.9
        client, server = self.connect()
        sent = bytes(range(256)) * 400
        for start in range(0, len(sent), 1000):
            client.transport.write(sent[start : start + 1000])
        self.world.run(5)
        self.assertEqual(bytes(server.heard), sent)
        self.assertGreater(server.pieces, 3)

    def test_refused(self) -> None:
        """Nobody listens: refused at once."""
        endpoint = HostnameEndpoint(self.reactor(self.left), "right", 81)
        attempt: Deferred[Any] = endpoint.connect(Factory.forProtocol(Talker))
        self.world.run(1)
        self.failureResultOf(attempt, ConnectionRefusedError)

    def test_close(self) -> None:
        """What was written before loseConnection arrives; then both sides learn of the end."""
        client, server = self.connect()
        client.transport.write(b"x" * 200_000)
        client.transport.loseConnection()
        self.world.run(5)
        self.assertEqual(len(server.heard), 200_000)
        for talker in (client, server):
            assert talker.ended is not None
            talker.ended.trap(ConnectionDone)

    def test_abort(self) -> None:
        """An abort is told to both sides, after the current turn."""
        client, server = self.connect()
        client.transport.abortConnection()
        self.assertIsNone(client.ended)
        self.world.run(1)
        self.assertIsNotNone(client.ended)
        assert server.ended is not None
        server.ended.trap(ConnectionLost)

    def test_back_pressure(self) -> None:
        """A reader that pauses fills the window, then the buffer; then the producer is paused."""
        client, server = self.connect()
        producer = Producer()
        client.transport.registerProducer(producer, True)
        server.transport.pauseProducing()
        client.transport.write(b"x" * 60_000)
        self.world.run(1)
        client.transport.write(b"x" * 100_000)
        self.world.run(1)
        self.assertEqual(producer.calls, ["pause"])
        self.assertEqual(len(server.heard), 0)
        server.transport.resumeProducing()
        self.world.run(5)
        self.assertEqual(producer.calls, ["pause", "resume"])
        self.assertEqual(len(server.heard), 160_000)

    def test_pull_producer(self) -> None:
        """A producer that is asked for each piece is asked until it has no more."""
        client, server = self.connect()

        class Pull:
            left = 5

            def resumeProducing(self) -> None:
                self.left -= 1
                client.transport.write(b"piece")
                if not self.left:
                    client.transport.unregisterProducer()

            def stopProducing(self) -> None:
                pass

        client.transport.registerProducer(Pull(), False)
        self.world.run(1)
        self.assertEqual(bytes(server.heard), b"piece" * 5)

    def test_http(self) -> None:
        """Twisted's web server and client talk over it."""

        class Hello(Resource):
            isLeaf = True

            def render_GET(self, request: Request) -> bytes:
                return b"hello " * 50_000

        right = self.reactor(self.right)
        right.listenTCP(8080, Site(Hello(), reactor=right))
        agent = Agent(self.reactor(self.left))
        answer: Deferred[bytes] = agent.request(b"GET", b"http://right:8080/").addCallback(readBody)
        self.world.run(10)
        self.assertEqual(self.successResultOf(answer), b"hello " * 50_000)


class HalfCloseTests(NetworkCase):
    """Ending one direction."""

    kind = HalfTalker

    def test_half_close(self) -> None:
        """The side that was told of the end can still answer."""
        client, server = self.connect()
        client.transport.write(b"question")
        client.transport.loseWriteConnection()
        self.world.run(1)
        assert isinstance(server, HalfTalker)
        self.assertTrue(server.finished)
        self.assertIsNone(server.ended)
        server.transport.write(b"answer")
        server.transport.loseConnection()
        self.world.run(1)
        self.assertEqual(bytes(client.heard), b"answer")


class CutTests(NetworkCase):
    """Links that let nothing through."""

    def test_cut_delays(self) -> None:
        """What is sent over a cut link arrives when it is whole again."""
        client, server = self.connect()
        self.world.network.cut = {("left", "right"), ("right", "left")}
        client.transport.write(b"late")
        self.world.run(5)
        self.assertEqual(bytes(server.heard), b"")
        self.world.network.cut = set()
        self.world.run(5)
        self.assertEqual(bytes(server.heard), b"late")
        self.assertIsNone(client.ended)

    def test_long_cut_ends(self) -> None:
        """Who sends over a link that stays cut gives up; the other side knows nothing of it."""
        client, server = self.connect()
        self.world.network.cut = {("left", "right"), ("right", "left")}
        client.transport.write(b"never")
        self.world.run(60)
        assert client.ended is not None
        client.ended.trap(ConnectTimeout)
        self.assertIsNone(server.ended)

    def test_one_way(self) -> None:
        """A link that is cut in one direction still carries the other one."""
        client, server = self.connect()
        self.world.network.cut = {("right", "left")}
        client.transport.write(b"there")
        server.transport.write(b"back")
        self.world.run(5)
        self.assertEqual((bytes(server.heard), bytes(client.heard)), (b"there", b""))

    def test_no_connection_over_a_cut(self) -> None:
        """Connecting over a cut link times out."""
        self.world.network.cut = {("right", "left")}
        attempt = self.attempt(timeout_s=3)
        self.world.run(10)
        self.failureResultOf(attempt, ConnectTimeout)


class DeathTests(NetworkCase):
    """Programs and machines that end."""

    def test_a_port_of_the_dead(self) -> None:
        """The power goes in the middle of a turn that goes on to listen: the next program may, too."""
        process = self.reactor(self.right)

        def turn() -> None:
            self.right.kill(power=True)
            process.listenTCP(80, Factory.forProtocol(Talker))

        process.execute(turn)
        self.world.run(1.0)
        self.assertIsNone(self.world.network.listening(self.right.address, 80))
        self.right.start()
        self.listen()

    def test_killed(self) -> None:
        """A killed program's connections end, its timers never fire, its port is free."""
        client, server = self.connect()
        fired: list[int] = []
        self.reactor(self.right).callLater(2, fired.append, 1)
        self.right.kill(power=False)
        self.world.run(5)
        self.assertIsNotNone(client.ended)
        self.assertIsNone(server.ended)
        self.assertEqual(fired, [])
        self.right.start()
        self.listen()
        self.connect()

    def test_silent_machine(self) -> None:
        """A machine without power says nothing; back again, it knows nothing of the connection."""
        client, _ = self.connect()
        self.right.kill(power=True)
        self.world.run(3)
        self.assertIsNone(client.ended)
        self.right.start()
        client.transport.write(b"anybody?")
        self.world.run(3)
        assert client.ended is not None
        client.ended.trap(ConnectionLost)

    def test_dead_write(self) -> None:
        """What a dead program writes goes nowhere."""
        client, server = self.connect()
        self.right.kill(power=True)
        server.transport.write(b"ghost")
        self.world.run(3)
        self.assertEqual(bytes(client.heard), b"")

    def test_paused(self) -> None:
        """Nothing happens to a paused program; all of it does when it goes on, in order."""
        client, server = self.connect()
        fired: list[float] = []
        right = self.reactor(self.right)
        right.callLater(1, lambda: fired.append(self.world.timeline.now_s))
        self.right.pause()
        client.transport.write(b"hello")
        self.world.run(10)
        self.assertEqual((bytes(server.heard), fired), (b"", []))
        self.right.resume()
        self.assertEqual(bytes(server.heard), b"hello")
        self.assertEqual(len(fired), 1)

    def test_clock_rates(self) -> None:
        """A clock that runs fast reaches its times early, and says so."""
        fast = self.world.add_host("fast", idle, clock_rate=1.05)
        fast.start()
        reactor = self.reactor(fast)
        begun = reactor.seconds()
        fired: list[float] = []
        reactor.callLater(10.5, lambda: fired.append(self.world.timeline.now_s))
        now_s = self.world.timeline.now_s
        self.world.run(20)
        self.assertAlmostEqual(fired[0] - now_s, 10.0, places=6)
        self.assertAlmostEqual(reactor.seconds() - begun, 21.0, places=6)

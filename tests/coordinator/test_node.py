"""A coordinator with real sockets on the loopback interface and a simulated disk."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from twisted.internet import reactor as real_reactor
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.trial.unittest import TestCase

from penncloud.client.coordinator_link import CoordinatorDirectory
from penncloud.client.directory import NodeInfo, NoSuchNode
from penncloud.client.table import Refused, Unavailable
from penncloud.coordinator.node import CoordinatorNode
from penncloud.platform.config import Cluster, Coordinator
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.memory_disk import MemoryDisk
from penncloud.rpc.registration import Assign, Identity, MailPart, Registration, Tip, Worker
from penncloud.wire.messages import At, Busy, Error, Malformed, Map, Reply, Request, Tablets, Where
from penncloud.wire.replies import ReplyDecoder
from penncloud.wire.requests import encode_request
from tests.rpc.world import environment

reactor: Any = real_reactor


class _TextClient(Protocol):
    def __init__(self) -> None:
        self.replies: DeferredQueue[Reply | Malformed] = DeferredQueue()
        self._decoder = ReplyDecoder()
        self.ended: Deferred[None] = Deferred()

    def ask(self, *requests: Request) -> None:
        transport: Any = self.transport
        transport.write(b"".join(map(encode_request, requests)))

    def dataReceived(self, data: bytes) -> None:
        for reply in self._decoder.feed(data):
            self.replies.put(reply)

    def connectionLost(self, reason: Any = None) -> None:
        self.ended.callback(None)


class _Server:
    """A registered storage or http server that serves nothing."""

    def __init__(self, test: NodeTests, role: Any, number: int, tips: Sequence[Tip] = ()) -> None:
        self.mail: MailPart = ""
        self.workers: list[Worker] = []
        self.assigned: DeferredQueue[Assign] = DeferredQueue()
        info = Identity(role, f"{role}-{number}", "127.0.0.1", 7000 + number, 100 + number)
        self.registration = Registration(
            environment(reactor, seed=number),
            test.cluster,
            info,
            on_assign=self._assign if role == "storage" else None,
            tips=lambda: tips,
            mail=lambda: self.mail,
            workers=lambda: self.workers,
        )
        self.registration.start()
        test.addCleanup(self.stop)

    async def _assign(self, assign: Assign) -> None:
        self.assigned.put(assign)

    async def settled(self) -> Assign:
        """The first assignment in which every tablet is there and has a primary."""
        while True:
            assign = await self.assigned.get()
            if assign.tablets and all(tablet.primary for tablet in assign.tablets):
                return assign

    def stop(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.registration.stop())


class NodeTests(TestCase):
    timeout = 300

    def setUp(self) -> Deferred[None]:  # type: ignore[override]
        return Deferred.fromCoroutine(self._set_up())

    async def _set_up(self) -> None:
        self.disk = MemoryDisk(reactor, random.Random(3))
        self.role = Coordinator(
            id="coordinator-1",
            port=0,
            heartbeat_ms=20,
            dead_after_missed=5,
            expect_storage=2,
            initial_tablets=4,
        )
        self.node: CoordinatorNode | None = None
        await self._start()

    def tearDown(self) -> Deferred[None]:  # type: ignore[override]
        return Deferred.fromCoroutine(self._stop())

    async def _start(self) -> None:
        self.registry = CollectorRegistry()
        cluster = Cluster(coordinators=["127.0.0.1:1"], replication_factor=1)
        node = CoordinatorNode(environment(reactor), cluster, self.role, self.registry, self.disk)
        await node.start()
        self.node = node
        # A restart is on the same port, as with a configured one.
        self.role = Coordinator(
            id="coordinator-1",
            port=node.port,
            heartbeat_ms=20,
            dead_after_missed=5,
            expect_storage=2,
            initial_tablets=4,
        )
        self.cluster = Cluster(coordinators=[f"127.0.0.1:{node.port}"])

    async def _stop(self) -> None:
        if self.node is not None:
            node, self.node = self.node, None
            await node.stop()

    async def _directory(self) -> CoordinatorDirectory:
        directory = CoordinatorDirectory(environment(reactor, seed=50), self.cluster)
        directory.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(directory.stop()))
        return directory

    def _watch(self, directory: CoordinatorDirectory) -> DeferredQueue[dict[str, NodeInfo]]:
        """Every state of the servers that the directory tells of, by id."""
        news: DeferredQueue[dict[str, NodeInfo]] = DeferredQueue()
        directory.subscribe(lambda nodes: news.put({node.id: node for node in nodes}))
        return news

    async def _until(self, news: DeferredQueue[dict[str, NodeInfo]], node: str, state: str) -> None:
        while True:
            now = await news.get()
            if node in now and now[node].state == state:
                return

    async def _text(self) -> _TextClient:
        assert self.node is not None
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.node.port)
        client: _TextClient = await connectProtocol(endpoint, _TextClient())
        transport: Any = client.transport
        self.addCleanup(lambda: client.ended)
        self.addCleanup(transport.abortConnection)
        return client

    async def test_assigns_tablets(self) -> None:
        """Once enough storage servers are there each gets its share, and clients learn where."""
        text = await self._text()
        text.ask(Where(b"row", b"col"), Map())
        self.assertIsInstance(await text.replies.get(), Busy)
        self.assertEqual(await text.replies.get(), Tablets(0, ()))
        first = _Server(self, "storage", 1)
        second = _Server(self, "storage", 2)
        assigned = [await first.settled(), await second.settled()]
        ids = [{tablet.id for tablet in assign.tablets} for assign in assigned]
        self.assertEqual([len(ids[0]), len(ids[1])], [2, 2])
        self.assertEqual(ids[0] | ids[1], {1, 2, 3, 4})
        for assign, name in zip(assigned, ("storage-1", "storage-2"), strict=True):
            for tablet in assign.tablets:
                self.assertEqual((tablet.primary, tablet.members), (name, [name]))
                self.assertTrue(tablet.taken)
        text.ask(Where(b"row", b"col"), Map())
        where = await text.replies.get()
        tablets = await text.replies.get()
        assert isinstance(where, At)
        assert isinstance(tablets, Tablets)
        self.assertIn(where.address, {"127.0.0.1:7001", "127.0.0.1:7002"})
        at = {line.tablet: line.address for line in tablets.tablets}
        self.assertEqual(at[where.tablet], where.address)
        self.assertEqual({i for i in at if at[i] == "127.0.0.1:7001"}, ids[0])

    async def test_mail_part(self) -> None:
        """Who watches hears what the mail server within a frontend does, whenever that changes."""
        http = _Server(self, "http", 1)
        news = self._watch(await self._directory())
        await self._until(news, "http-1", "live")
        for part in ("stands by for mail", "serves mail", ""):
            http.mail = part
            while (await news.get())["http-1"].mail != part:
                pass

    async def test_workers(self) -> None:
        """The view shows the processes of a frontend as it told them last, and none when it has left."""
        http = _Server(self, "http", 1)
        directory = await self._directory()
        await self._until(self._watch(directory), "http-1", "live")
        told: tuple[list[Worker], ...] = (
            [Worker(1, 11, "serving"), Worker(2, 12, "starting")],
            [Worker(1, 11, "retiring"), Worker(1, 13, "serving"), Worker(2, 12, "waiting")],
            [],
        )
        for workers in told:
            http.workers = workers
            found: list[Worker] | None = None
            while found != workers:
                [node] = [one for one in (await directory.view()).nodes if one.id == "http-1"]
                found = list(node.workers)

    async def test_restart(self) -> None:
        """A restarted coordinator knows all it had decided, and servers and watchers find it again."""
        first, second = _Server(self, "storage", 1), _Server(self, "storage", 2)
        http = _Server(self, "http", 1)
        before = (await first.settled(), await second.settled())
        directory = await self._directory()
        news = self._watch(directory)
        await self._until(news, "http-1", "live")
        await directory.set_enabled("http-1", False)
        old = await directory.view()
        await self._stop()
        self.disk = self.disk.crash()
        await self._start()
        after = (await first.assigned.get(), await second.assigned.get())
        for one, other in zip(after, before, strict=True):
            self.assertEqual([t.id for t in one.tablets], [t.id for t in other.tablets])
        await self._until(news, "http-1", "live")
        view = await directory.view()
        self.assertEqual(view.tablets, old.tablets)
        self.assertEqual([c.term for c in old.coordinators + view.coordinators], [1, 2])
        [frontend] = [node for node in view.nodes if node.id == "http-1"]
        self.assertFalse(frontend.enabled)
        self.assertEqual(frontend.pid, http.registration.info.pid)

    async def test_dead_and_back(self) -> None:
        """A primary that stops is not handed out, its tablets are unavailable; back, it is again."""
        first, second = _Server(self, "storage", 1), _Server(self, "storage", 2)
        await first.settled()
        await second.settled()
        directory = await self._directory()
        news = self._watch(directory)
        await self._until(news, "storage-2", "live")
        await second.stop()
        await self._until(news, "storage-2", "dead")
        text = await self._text()
        text.ask(Map())
        tablets = await text.replies.get()
        assert isinstance(tablets, Tablets)
        self.assertEqual({line.address for line in tablets.tablets}, {"127.0.0.1:7001", ""})
        states = {t.primary: t.state for t in (await directory.view()).tablets}
        self.assertEqual(states, {"storage-1": "ok", "storage-2": "unavailable"})
        again = _Server(self, "storage", 2)
        assign = await again.assigned.get()
        self.assertEqual(len(assign.tablets), 2)
        states = {t.primary: t.state for t in (await directory.view()).tablets}
        self.assertEqual(states, {"storage-1": "ok", "storage-2": "ok"})

    async def test_silent_server(self) -> None:
        """A server that does not answer pings is suspected, then dead, while its connection stands."""
        server = _Server(self, "http", 1)
        directory = await self._directory()
        news = self._watch(directory)
        await self._until(news, "http-1", "live")
        self.patch(Registration, "_ping", lambda *_: None)
        for client in server.registration._clients:
            assert client.connection is not None
            client.connection._calls._notes.clear()
        await self._until(news, "http-1", "suspected")
        await self._until(news, "http-1", "dead")

    async def test_view(self) -> None:
        """The view has the servers with what they told, this coordinator, and the tablets' lag."""
        tips = [Tip(tablet, 1, 40 + tablet) for tablet in range(1, 5)]
        first = _Server(self, "storage", 1, tips)
        second = _Server(self, "storage", 2, tips)
        await first.assigned.get()
        await second.assigned.get()
        directory = await self._directory()
        view = await directory.view()
        ids = [node.id for node in view.nodes]
        self.assertEqual(ids, ["coordinator-1", "storage-1", "storage-2"])
        [node] = [node for node in view.nodes if node.id == "storage-2"]
        self.assertEqual((node.role, node.port, node.pid), ("storage", 7002, 102))
        self.assertEqual(node.incarnation, second.registration.incarnation)
        [own] = view.coordinators
        assert self.node is not None
        self.assertEqual((own.id, own.port, own.role), ("coordinator-1", self.node.port, "leader"))
        self.assertEqual({tablet.id for tablet in view.tablets}, {1, 2, 3, 4})
        text = generate_latest(self.registry).decode()
        self.assertIn('penncloud_coordinator_nodes{role="storage",state="live"} 2.0', text)

    async def test_taken_tablets(self) -> None:
        """A server that comes back is told which tablets it had taken: it has to have them still."""
        first, second = _Server(self, "storage", 1), _Server(self, "storage", 2)
        fresh = [*(await first.assigned.get()).tablets, *(await second.assigned.get()).tablets]
        self.assertEqual([tablet.taken for tablet in fresh], [False] * 4)
        await second.stop()
        again = (await _Server(self, "storage", 2).assigned.get()).tablets
        self.assertEqual([tablet.taken for tablet in again], [True] * 2)

    async def test_refusals(self) -> None:
        """What cannot be done is refused in words."""
        _Server(self, "smtp", 1)
        directory = await self._directory()
        news = self._watch(directory)
        await self._until(news, "smtp-1", "live")
        with self.assertRaises(NoSuchNode):
            await directory.set_enabled("http-9", True)
        with self.assertRaises(Refused):
            await directory.set_enabled("smtp-1", False)

    async def test_other_requests(self) -> None:
        """Requests for storage servers, and rubbish, are answered with an error."""
        text = await self._text()
        transport: Any = text.transport
        transport.write(b"GET;row;col\r\nWHERE;row\r\nMAP\r\n")
        for _ in range(2):
            self.assertIsInstance(await text.replies.get(), Error)
        self.assertIsInstance(await text.replies.get(), Tablets)
        transport.write(b"NONSENSE;1\r\n")
        self.assertIsInstance(await text.replies.get(), Error)

    async def test_half_closed(self) -> None:
        """A client that ends its sending still gets its answers, then the connection ends."""
        text = await self._text()
        text.ask(Map())
        transport: Any = text.transport
        transport.loseWriteConnection()
        self.assertIsInstance(await text.replies.get(), Tablets)
        await text.ended

    async def test_no_coordinator(self) -> None:
        """Without a coordinator the directory says so within its deadline."""
        directory = CoordinatorDirectory(
            environment(reactor), Cluster(coordinators=["127.0.0.1:1"]), deadline_s=0.3
        )
        directory.start()
        with self.assertRaises(Unavailable):
            await directory.view()
        await directory.stop()

    async def test_identity_used_twice(self) -> None:
        """Of two processes with one id the one started later is believed."""
        directory = await self._directory()
        news = self._watch(directory)
        older = _Server(self, "http", 1)
        await self._until(news, "http-1", "live")
        newer = _Server(self, "http", 1)
        self.assertGreater(newer.registration.incarnation, older.registration.incarnation)
        while (await news.get())["http-1"].incarnation != newer.registration.incarnation:
            pass
        [node] = [n for n in (await directory.view()).nodes if n.id == "http-1"]
        self.assertEqual(node.incarnation, newer.registration.incarnation)

    async def test_configuration(self) -> None:
        """What an administrator has to mend is said in words."""
        cases: list[tuple[Cluster, dict[str, Any], str]] = [
            (Cluster(coordinators=["127.0.0.1:1"]), {"election_timeout_ms": 9}, "four times"),
            (Cluster(coordinators=["127.0.0.1:1"]), {"heartbeat_ms": 0}, "heartbeat_ms"),
            (Cluster(coordinators=["127.0.0.1:1"], secret_file="/none"), {}, "secret file"),
            (Cluster(coordinators=["127.0.0.1:1"]), {"host": "0.0.0.0"}, "tls_dir"),
        ]
        for cluster, keys, expected in cases:
            role = Coordinator(id="coordinator-1", port=0, **keys)
            disk = MemoryDisk(reactor, random.Random(1))
            with self.assertRaisesRegex(ConfigurationError, expected):
                registry = CollectorRegistry()
                await CoordinatorNode(environment(reactor), cluster, role, registry, disk).start()

    async def test_port_taken(self) -> None:
        """A port that another process listens on is an error in words; stop cleans up after it."""
        assert self.node is not None
        role = Coordinator(id="coordinator-1", port=self.node.port)
        disk = MemoryDisk(reactor, random.Random(1))
        cluster = Cluster(coordinators=["127.0.0.1:1"])
        node = CoordinatorNode(environment(reactor), cluster, role, CollectorRegistry(), disk)
        with self.assertRaisesRegex(ConfigurationError, "cannot listen"):
            await node.start()
        await node.stop()

    async def test_with_secret(self) -> None:
        """With a secret, servers that know it register; a directory that does not gets nothing."""
        await self._stop()
        path = Path(self.mktemp())
        path.write_bytes(b"a secret of good length")
        cluster = Cluster(coordinators=["127.0.0.1:1"], secret_file=str(path))
        disk = MemoryDisk(reactor, random.Random(1))
        registry = CollectorRegistry()
        self.node = CoordinatorNode(environment(reactor), cluster, self.role, registry, disk)
        await self.node.start()
        address = f"127.0.0.1:{self.node.port}"
        self.cluster = Cluster(coordinators=[address], secret_file=str(path))
        _Server(self, "http", 1)
        news = self._watch(await self._directory())
        await self._until(news, "http-1", "live")
        stranger = CoordinatorDirectory(
            environment(reactor), Cluster(coordinators=[address]), deadline_s=0.3
        )
        stranger.start()
        with self.assertRaises(Unavailable):
            await stranger.view()
        await stranger.stop()

"""The whole storage server in one process: sockets and disk are real, the coordinator is played."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Protocol
from twisted.trial.unittest import TestCase

from penncloud.placement.tablets import HASH_SPACE
from penncloud.platform.config import Cluster, Storage
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.process import real_environment
from penncloud.platform.real_disk import RealDisk
from penncloud.platform.threads import BoundedPool
from penncloud.rpc.calls import Calls
from penncloud.rpc.protocol import RpcProtocol
from penncloud.rpc.registration import Assign, Assigned, Register, Registered, TabletAssignment
from penncloud.rpc.server import RpcServerFactory
from penncloud.storage.node import StorageNode
from penncloud.wire.messages import Error, Get, Moved, Ok, Put, Reply, Request, Value
from penncloud.wire.replies import ReplyDecoder
from penncloud.wire.requests import encode_request

WHOLE = TabletAssignment(1, 0, HASH_SPACE, 4, "storage-1", ["storage-1"])


class Asking(Protocol):
    """Sends one request at a time."""

    def __init__(self) -> None:
        self._decoder = ReplyDecoder()
        self._answer: Deferred[Any] = Deferred()

    def ask(self, request: Request) -> Deferred[Reply]:
        self._answer = Deferred()
        transport: Any = self.transport
        transport.write(encode_request(request))
        return self._answer

    def dataReceived(self, data: bytes) -> None:
        for reply in self._decoder.feed(data):
            self._answer.callback(reply)


class NodeTests(TestCase):
    """storage-1 and what it does for a coordinator and for clients."""

    timeout = 30

    def setUp(self) -> None:
        self.directory = self.mktemp()
        Path(self.directory).mkdir()
        self.registered: Deferred[tuple[RpcProtocol, Register]] = Deferred()
        calls = Calls()
        calls.on_call(Register, self.register)
        self.tcp: Any = reactor
        environment = real_environment(reactor, BoundedPool(reactor))
        factory: Any = RpcServerFactory(environment, calls)
        self.coordinator: IListeningPort = self.tcp.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(lambda: maybeDeferred(self.coordinator.stopListening))
        address: Any = self.coordinator.getHost()
        self.cluster = Cluster(coordinators=[f"127.0.0.1:{address.port}"])

    def register(self, connection: RpcProtocol, register: Register) -> Registered:
        self.tcp.callLater(0, self.registered.callback, (connection, register))
        return Registered(100)

    def node(self, **values: Any) -> StorageNode:
        role = Storage(id="storage-1", port=0, data_dir=self.directory, **values)
        self.registry = CollectorRegistry()
        return StorageNode(
            real_environment(reactor, BoundedPool(reactor)),
            self.cluster,
            role,
            self.registry,
            RealDisk(self.directory, reactor),
        )

    async def ask(self, node: StorageNode, *requests: Request) -> list[Reply]:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", node.port)
        client: Asking = await connectProtocol(endpoint, Asking())
        replies = [await client.ask(request) for request in requests]
        transport: Any = client.transport
        transport.loseConnection()
        return replies

    async def test_from_registration_to_restart(self) -> None:
        """It registers, serves what it is assigned, and after a restart needs nobody to serve it."""
        node = self.node()
        await node.start()
        connection, register = await self.registered
        self.assertEqual((register.node.id, register.node.port), ("storage-1", node.port))
        self.assertEqual(await self.ask(node, Get(b"r", b"c")), [Moved("", 0)])
        await connection.call(Assign(1, [WHOLE]), Assigned, 5.0)
        replies = await self.ask(node, Put(b"r", b"c", b"v"), Get(b"r", b"c"))
        self.assertEqual(replies, [Ok(1), Value(1, b"v")])
        metrics = generate_latest(self.registry).decode()
        self.assertIn('penncloud_storage_requests_total{kind="mutate"} 1.0', metrics)
        self.assertIn("penncloud_storage_tablets 1.0", metrics)
        await node.stop()
        await maybeDeferred(self.coordinator.stopListening)
        again = self.node()
        await again.start()
        self.assertEqual(await self.ask(again, Get(b"r", b"c")), [Value(1, b"v")])
        self.assertEqual(await self.ask(again, Put(b"r", b"c", b"w")), [Ok(2)])
        await again.stop()

    async def _lost(self, wiped: Callable[[Path], bool], told: Assign | None) -> None:
        """Let a server take a tablet and stop, wipe its directory, and ask it for a cell again."""
        node = self.node()
        await node.start()
        connection, _ = await self.registered
        await connection.call(Assign(1, [WHOLE]), Assigned, 5.0)
        self.assertEqual(await self.ask(node, Put(b"r", b"c", b"v")), [Ok(1)])
        await node.stop()
        for path in Path(self.directory).iterdir():
            if wiped(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.registered = Deferred()
        again = self.node()
        await again.start()
        connection, _ = await self.registered
        if told is not None:
            await connection.call(told, Assigned, 5.0)
        [got, put] = await self.ask(again, Get(b"r", b"c"), Put(b"r", b"c", b"w"))
        for reply in (got, put):
            assert isinstance(reply, Error)
            self.assertEqual(reply.code, "DAMAGED")
        await again.stop()

    async def test_a_wiped_directory(self) -> None:
        """A tablet that was taken and is gone is refused: an empty one would pass for its cells."""
        taken = msgspec.structs.replace(WHOLE, taken=True)
        await self._lost(lambda path: True, Assign(1, [taken]))

    async def test_a_directory_without_its_store(self) -> None:
        """The same where only the engine's files are gone: what was assigned had been made."""
        await self._lost(lambda path: path.name == "lsm", None)

    async def test_a_damaged_directory(self) -> None:
        """What cannot be used is named, and nothing is listened on."""
        node = self.node()
        await node.start()
        await node.stop()
        (Path(self.directory) / "assignment.json").write_text("{")
        broken = self.node()
        with self.assertRaises(ConfigurationError) as caught:
            await broken.start()
        self.assertIn(f"data directory {self.directory}: assignment.json", str(caught.exception))
        await broken.stop()

    async def test_a_port_that_is_taken(self) -> None:
        """A clear error; everything that had been opened is closed again."""
        address: Any = self.coordinator.getHost()
        role = Storage(id="storage-1", port=address.port, data_dir=self.directory)
        node = StorageNode(
            real_environment(reactor, BoundedPool(reactor)),
            self.cluster,
            role,
            CollectorRegistry(),
            RealDisk(self.directory, reactor),
        )
        with self.assertRaises(ConfigurationError):
            await node.start()
        await node.stop()

    def test_values_that_cannot_be_used(self) -> None:
        """They are named before anything is touched."""
        for values in ({"pipeline_depth": 0}, {"memtable_bytes": 1}, {"checkpoint_writes": -1}):
            error = self.assertRaises(ConfigurationError, self.node, **values)
            self.assertIn(f"[storage]: {next(iter(values))}:", str(error))

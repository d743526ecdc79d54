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
from twisted.internet.task import deferLater
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
from penncloud.wire.messages import (
    Busy,
    Error,
    Get,
    Missing,
    Moved,
    Ok,
    Put,
    Reply,
    Request,
    Value,
)
from penncloud.wire.replies import ReplyDecoder
from penncloud.wire.requests import encode_request

WHOLE = TabletAssignment(1, 0, HASH_SPACE, 0, "", ["storage-1"])


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

    timeout = 300

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

    async def lead(self, node: StorageNode, epoch: int) -> None:
        """Make the node that has just registered the primary, and wait until it serves."""
        connection, register = self.current
        whole = msgspec.structs.replace(
            WHOLE, epoch=epoch, primary="storage-1", incarnation=register.incarnation, taken=True
        )
        await connection.call(Assign(epoch, [whole]), Assigned, 5.0)
        while (await self.ask(node, Get(b"r", b"none"))) != [Missing()]:
            await deferLater(reactor, 0.02)

    async def started(self, node: StorageNode) -> tuple[RpcProtocol, Register]:
        """Start it and wait until it has registered."""
        self.registered = Deferred()
        await node.start()
        self.current = await self.registered
        return self.current

    async def found(self) -> StorageNode:
        """A new node with a tablet that it leads."""
        node = self.node()
        connection, _ = await self.started(node)
        await connection.call(Assign(1, [WHOLE]), Assigned, 5.0)
        await self.lead(node, 2)
        return node

    async def test_from_registration_to_restart(self) -> None:
        """It registers, serves what it is assigned, and after a restart when it is told to."""
        node = self.node()
        connection, register = await self.started(node)
        self.assertEqual((register.node.id, register.node.port), ("storage-1", node.port))
        self.assertEqual(await self.ask(node, Get(b"r", b"c")), [Moved("", 0)])
        await connection.call(Assign(1, [WHOLE]), Assigned, 5.0)
        [busy] = await self.ask(node, Get(b"r", b"c"))
        self.assertIsInstance(busy, Busy)
        await self.lead(node, 2)
        replies = await self.ask(node, Put(b"r", b"c", b"v"), Get(b"r", b"c"))
        self.assertEqual(replies, [Ok(2), Value(2, b"v")])
        metrics = generate_latest(self.registry).decode()
        self.assertIn('penncloud_storage_requests_total{kind="mutate"} 1.0', metrics)
        for line in (
            "penncloud_storage_tablets 1.0",
            "penncloud_storage_replicas 1.0",
            "penncloud_storage_blank_replicas 0.0",
            "penncloud_storage_frozen_tablets 0.0",
            "penncloud_storage_transfers 0.0",
            'penncloud_storage_transferred_bytes_total{direction="sent"} 0.0',
            "penncloud_storage_splits_total 0.0",
            "penncloud_storage_cuts_total 0.0",
            "penncloud_storage_quarantine_bytes 0.0",
            "penncloud_storage_quarantined_entries_total 0.0",
        ):
            self.assertIn(line, metrics)
        await node.stop()
        again = self.node()
        _, later = await self.started(again)
        [busy] = await self.ask(again, Get(b"r", b"c"))
        self.assertIsInstance(busy, Busy)
        self.assertGreater(later.incarnation, register.incarnation)
        await self.lead(again, 3)
        self.assertEqual(await self.ask(again, Get(b"r", b"c")), [Value(2, b"v")])
        self.assertEqual(await self.ask(again, Put(b"r", b"c", b"w")), [Ok(4)])
        await again.stop()

    async def _lost(self, wiped: Callable[[Path], bool]) -> None:
        """Let a server take a tablet and stop, wipe its directory, and ask it for a cell again."""
        node = await self.found()
        self.assertEqual(await self.ask(node, Put(b"r", b"c", b"v")), [Ok(2)])
        await node.stop()
        for path in Path(self.directory).iterdir():
            if wiped(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        again = self.node()
        connection, register = await self.started(again)
        whole = msgspec.structs.replace(
            WHOLE, epoch=3, primary="storage-1", incarnation=register.incarnation, taken=True
        )
        await connection.call(Assign(3, [whole]), Assigned, 5.0)
        [got, put] = await self.ask(again, Get(b"r", b"c"), Put(b"r", b"c", b"w"))
        for reply in (got, put):
            assert isinstance(reply, Error)
            self.assertEqual(reply.code, "DAMAGED")
        await again.stop()

    async def test_a_wiped_directory(self) -> None:
        """A tablet that was taken and is gone is refused: an empty one would pass for its cells."""
        await self._lost(lambda path: True)

    async def test_a_directory_without_its_store(self) -> None:
        """The same where only the engine's files are gone: what was assigned had been made."""
        await self._lost(lambda path: path.name == "lsm")

    async def test_a_directory_without_its_promises(self) -> None:
        """Nobody knows what was promised for the tablets: then they are no member's."""
        await self._lost(lambda path: path.name == "replicas")

    async def test_a_damaged_directory(self) -> None:
        """What cannot be used is named, and nothing is listened on."""
        node = self.node()
        await node.start()
        await node.stop()
        path = Path(self.directory) / "replicas"
        path.write_text("{")
        broken = self.node()
        with self.assertRaises(ConfigurationError) as caught:
            await broken.start()
        self.assertIn(f"data directory {self.directory}: replicas", str(caught.exception))
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

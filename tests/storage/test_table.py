"""The table's contract on a real store: a coordinator, three storage servers, sockets and disks."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from penncloud.client.router import RoutedTable
from penncloud.client.table import PutCell, Table
from penncloud.coordinator.node import CoordinatorNode
from penncloud.platform.config import Cluster, Coordinator, Storage
from penncloud.platform.process import real_environment
from penncloud.platform.real_disk import RealDisk
from penncloud.platform.threads import BoundedPool
from penncloud.storage.node import StorageNode
from tests.client.table_contract import TableContract, deferred
from tests.processes.role_process import free_port

SERVERS = 3


class StoredTableContract(TableContract):
    """See TableContract."""

    timeout = 300

    def make_table(self) -> Table:
        self.directory = Path(self.mktemp())
        self.cluster = Cluster(coordinators=[f"127.0.0.1:{free_port()}"])
        self.environment = real_environment(reactor, BoundedPool(reactor))
        self.nodes: list[CoordinatorNode | StorageNode] = []
        table = RoutedTable(self.environment, self.cluster)
        table.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.end(table)))
        started = Deferred.fromCoroutine(self.start())
        self.addCleanup(lambda: started)
        return table

    def disk(self, name: str) -> RealDisk:
        """The disk of a node, the same at each of its starts."""
        directory = self.directory / name
        directory.mkdir(parents=True, exist_ok=True)
        return RealDisk(str(directory), reactor)

    async def start(self) -> None:
        port = int(self.cluster.coordinators[0].rpartition(":")[2])
        role = Coordinator(id="coordinator-1", port=port, expect_storage=SERVERS)
        coordinator = CoordinatorNode(
            self.environment, self.cluster, role, CollectorRegistry(), self.disk(role.id)
        )
        self.nodes.append(coordinator)
        await coordinator.start()
        for number in range(1, SERVERS + 1):
            server = Storage(id=f"storage-{number}", port=0)
            node = StorageNode(
                self.environment, self.cluster, server, CollectorRegistry(), self.disk(server.id)
            )
            self.nodes.append(node)
            await node.start()

    async def end(self, table: RoutedTable) -> None:
        table.stop()
        for node in reversed(self.nodes):
            await node.stop()

    @deferred
    async def test_rows_spread_over_all_servers(self) -> None:
        """Each server holds some of the rows, and each row is where the map says."""
        table = self.table
        for index in range(60):
            await table.mutate(b"row-%d" % index, [PutCell(b"c", b"%d" % index)])
        for index in range(60):
            cell = await table.get(b"row-%d" % index, b"c")
            assert cell is not None
            self.assertEqual(cell.value, b"%d" % index)
        for node in self.nodes[1:]:
            assert isinstance(node, StorageNode)
            written = sum(tablet.committed for tablet in node._tablets.tablets)
            self.assertGreater(written, 0)

    @deferred
    async def test_a_server_that_is_away_for_a_while(self) -> None:
        """Calls wait for it, and find everything when it is back."""
        table = self.table
        await table.put(b"row", b"c", b"v")
        holder = next(
            node
            for node in self.nodes[1:]
            if isinstance(node, StorageNode) and any(t.committed for t in node._tablets.tablets)
        )
        await holder.stop()
        reading = Deferred.fromCoroutine(table.get(b"row", b"c"))
        await deferLater(reactor, 0)
        self.assertNoResult(reading)
        again = StorageNode(
            self.environment,
            self.cluster,
            holder._role,
            CollectorRegistry(),
            self.disk(holder._role.id),
        )
        self.nodes[self.nodes.index(holder)] = again
        await again.start()
        cell = await reading
        assert cell is not None
        self.assertEqual(cell.value, b"v")


del TableContract

"""Storage servers that are added to a running cluster and taken out of it, with data on them."""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from tests.processes.cluster import RunningCluster
from tests.waiting import PATIENCE_S, wait_until

_ROWS = 3


class GrowthTests(SynchronousTestCase):
    def test_storage_servers_come_and_go(self) -> None:
        """One is added and gets tablets; another is drained and removed; nothing is lost, not by a restart
        either, and what would leave too few copies is refused."""
        cluster = RunningCluster(self.mktemp(), ["--coordinators=1", "--http=1"])
        self.addCleanup(cluster.destroy)
        cluster.start()
        for number in range(_ROWS):
            cluster.penncloud("kv", "put", f"row{number}", "col", f"value {number}")
        added = self._node(cluster, "add", "--within", "170")
        self.assertIn("storage-4 is started", added)
        self._until(lambda: self._held(cluster)["storage-4"] >= 4, "storage-4 has its share")
        drained = self._node(cluster, "drain", "storage-1", "--within", "170")
        self.assertIn("storage-1 is drained", drained)
        self._node(cluster, "remove", "storage-1", "--timeout", "170")
        ids = [one.id for one in cluster.document.storage]
        self.assertEqual(ids, ["storage-2", "storage-3", "storage-4"])
        self._until(lambda: self._whole(cluster), "three copies without storage-1")
        refused = cluster.penncloud("node", "drain", "storage-2", expect=1).stderr.decode()
        self.assertIn("add one first", refused)
        cluster.stop()
        cluster.start()
        self.assertEqual([one.id for one in cluster.document.storage], ids)
        self._data_is_there(cluster)

    def _node(self, cluster: RunningCluster, *arguments: str) -> str:
        command = ["node", *arguments, f"--data={cluster.layout.root}"]
        return cluster.command(command, timeout_s=180).stdout.decode()

    def _held(self, cluster: RunningCluster) -> dict[str, int]:
        tablets = cluster.status["tablets"]
        return {
            one.id: sum(one.id in tablet["members"] for tablet in tablets)
            for one in cluster.document.storage
        }

    def _whole(self, cluster: RunningCluster) -> bool:
        members = [tablet["members"] for tablet in cluster.status["tablets"]]
        return all(len(some) == 3 and "storage-1" not in some for some in members)

    def _until(self, is_so: Callable[[], bool], what: str) -> None:
        # A server that gets no processor for a while counts as dead, and comes back.
        wait_until(is_so, what, PATIENCE_S)

    def _data_is_there(self, cluster: RunningCluster) -> None:
        for number in range(_ROWS):
            value = cluster.penncloud("kv", "get", f"row{number}", "col").stdout
            self.assertEqual(value, f"value {number}".encode())

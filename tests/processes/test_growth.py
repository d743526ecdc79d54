"""Storage servers that are added to a running cluster and taken out of it, with data on them."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.processes.cluster import RunningCluster

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
        added = self._node(cluster, "add", "--within", "120")
        self.assertIn("storage-4 is started", added)
        self.assertGreaterEqual(self._held(cluster)["storage-4"], 4)
        drained = self._node(cluster, "drain", "storage-1", "--within", "120")
        self.assertIn("storage-1 is drained", drained)
        self._node(cluster, "remove", "storage-1", "--timeout", "60")
        ids = [one.id for one in cluster.document.storage]
        self.assertEqual(ids, ["storage-2", "storage-3", "storage-4"])
        self._whole(cluster)
        refused = cluster.penncloud("node", "drain", "storage-2", expect=1).stderr.decode()
        self.assertIn("add one first", refused)
        cluster.stop()
        cluster.start()
        self.assertEqual([one.id for one in cluster.document.storage], ids)
        self._data_is_there(cluster)

    def _node(self, cluster: RunningCluster, *arguments: str) -> str:
        command = ["node", *arguments, f"--data={cluster.layout.root}"]
        return cluster.command(command, timeout_s=180).stdout.decode()

    def _tablets(self, cluster: RunningCluster) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(cluster.penncloud("status", "--json").stdout)[
            "tablets"
        ]
        return found

    def _held(self, cluster: RunningCluster) -> dict[str, int]:
        tablets = self._tablets(cluster)
        return {
            one.id: sum(one.id in tablet["members"] for tablet in tablets)
            for one in cluster.document.storage
        }

    def _whole(self, cluster: RunningCluster) -> None:
        for tablet in self._tablets(cluster):
            self.assertEqual(len(tablet["members"]), 3, tablet)
            self.assertNotIn("storage-1", tablet["members"])

    def _data_is_there(self, cluster: RunningCluster) -> None:
        for number in range(_ROWS):
            value = cluster.penncloud("kv", "get", f"row{number}", "col").stdout
            self.assertEqual(value, f"value {number}".encode())

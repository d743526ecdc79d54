"""Twin of `penncloud.cluster.cluster_file`."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from penncloud.cluster.cluster_file import describe, read, write
from penncloud.cluster.layout import Layout
from penncloud.cluster.topology import Wanted, plan
from penncloud.platform.errors import ConfigurationError
from tests.cluster.test_topology import anything


class ClusterFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.layout = Layout.at(self.mktemp())
        self.layout.make()

    def test_as_promised(self) -> None:
        """The keys are those that scripts and checks rely on."""
        topology = plan(Wanted(), None, anything)
        pids: dict[str, int | None] = {"lb-1": 11, "storage-2": 12}
        write(self.layout, describe(topology, "agent-1", 10, pids))
        document = json.loads(self.layout.cluster_file.read_text())
        self.assertEqual(
            set(document),
            {"lb", "http", "smtp", "coordinators", "storage", "agent", "domain", "tls"},
        )
        metrics = topology.of("lb")[0].metrics_port
        self.assertEqual(
            document["lb"],
            [
                {
                    "id": "lb-1",
                    "host": "127.0.0.1",
                    "port": 8080,
                    "pid": 11,
                    "metrics_port": metrics,
                }
            ],
        )
        self.assertEqual([entry["pid"] for entry in document["storage"]], [None, 12, None])
        self.assertEqual(document["agent"]["pid"], 10)
        self.assertEqual(document["domain"], "penncloud")
        self.assertIsNone(document["tls"])

    def test_read_back(self) -> None:
        """A command sees what the agent wrote."""
        written = describe(plan(Wanted(), None, anything), "agent-1", 10, {})
        write(self.layout, written)
        self.assertEqual(read(self.layout), written)
        self.assertEqual(len(written.listeners), 10)

    def test_absent_and_damaged(self) -> None:
        """No file is no cluster; half a file is an error that names it."""
        self.assertIsNone(read(self.layout))
        self.layout.cluster_file.write_text('{"lb": [')
        with self.assertRaises(ConfigurationError) as caught:
            read(self.layout)
        self.assertIn("cluster.json", str(caught.exception))

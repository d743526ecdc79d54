"""`penncloud up`, `down` and what happens when parts of a real cluster are killed."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from itertools import chain
from urllib.request import urlopen

from twisted.trial.unittest import SynchronousTestCase

from penncloud.cluster import leftovers
from tests.processes.cluster import RunningCluster, free_block
from tests.waiting import PATIENCE_S, wait_until


class UpTests(SynchronousTestCase):
    def cluster(self, *options: str) -> RunningCluster:
        cluster = RunningCluster(self.mktemp(), options)
        self.addCleanup(cluster.destroy)
        return cluster

    def until(self, what: str, condition: Callable[[], bool]) -> None:
        wait_until(condition, f"in vain: {what}", PATIENCE_S)

    def test_a_cluster_from_start_to_end(self) -> None:
        """Up, looked at, broken, resumed and taken down: what a person does on the first day."""
        cluster = self.cluster()
        cluster.start()
        self.check_what_is_served(cluster)
        self.check_status(cluster)
        self.check_exit_codes(cluster)
        self.check_second_start_is_refused(cluster)
        self.check_dead_server_comes_back(cluster)
        self.check_stopped_server_stays_down(cluster)
        self.check_killed_agent_leaves_nothing(cluster)
        cluster.start()
        kept = cluster.penncloud("kv", "get", "row", "col").stdout
        self.assertEqual(kept, bytes(range(256)))
        cluster.stop()
        self.assertEqual(leftovers.find(cluster.layout), [])
        self.assertIn(b"was not running", cluster.penncloud("down").stdout)

    def check_what_is_served(self, cluster: RunningCluster) -> None:
        """The address that was printed leads to a login page on a frontend."""
        with urlopen(cluster.url, timeout=PATIENCE_S) as answer:
            self.assertIn(b"<form", answer.read())
            ports = [entry.port for entry in cluster.document.http]
            self.assertIn(int(answer.url.split(":")[2].split("/")[0]), ports)

    def check_status(self, cluster: RunningCluster) -> None:
        """Every server is live with the pid that cluster.json has, every tablet is served."""
        self.until("all are live and serve", lambda: self.is_whole(cluster))
        status = cluster.status
        listeners = {entry.id: entry for entry in cluster.document.listeners}
        for node in status["nodes"]:
            if node["role"] != "agent":
                entry = listeners.pop(node["id"])
                self.assertEqual((node["port"], node["pid"]), (entry.port, entry.pid))
        self.assertEqual(listeners, {})
        self.until(
            "primaries are spread",
            lambda: len({t["primary"] for t in cluster.status["tablets"]}) > 1,
        )

    def is_whole(self, cluster: RunningCluster) -> bool:
        status = cluster.status
        states = {node["state"] for node in status["nodes"]}
        return states == {"live"} and {t["state"] for t in status["tablets"]} == {"ok"}

    def check_exit_codes(self, cluster: RunningCluster) -> None:
        """The store's commands end with the codes that scripts rely on."""
        everything = bytes(range(256))
        cluster.penncloud("kv", "put", "row", "col", stdin=everything)
        self.assertEqual(cluster.penncloud("kv", "get", "row", "col").stdout, everything)
        cluster.penncloud("kv", "get", "row", "none", expect=1)
        cluster.penncloud("kv", "cput", "row", "col", "wrong", "new", expect=1)
        cluster.penncloud("kv", "get", "row", expect=2)
        nobody = f"--coordinators=127.0.0.1:{free_block(1)}"
        cluster.command(["kv", "get", "r", "c", nobody, "--timeout=1"], expect=3)
        cluster.penncloud("user", "add", "ann", stdin=b"correct horse battery\n")
        cluster.penncloud("user", "add", "ann", stdin=b"correct horse battery\n", expect=1)
        self.assertIn(b"ann\t", cluster.penncloud("user", "list").stdout)
        cluster.penncloud("lb", "disable", "http-1")
        self.assertIn(b"disabled", cluster.penncloud("lb", "list").stdout)
        cluster.penncloud("lb", "enable", "http-1")

    def check_second_start_is_refused(self, cluster: RunningCluster) -> None:
        """A second agent on the same directory says who is there, and changes nothing."""
        before = cluster.document
        refused = cluster.penncloud("up", "--detach", expect=None)
        self.assertNotEqual(refused.returncode, 0)
        text = (refused.stdout + refused.stderr).decode()
        self.assertIn(f"agent pid {before.agent.pid}", text)
        self.assertEqual(cluster.document, before)

    def check_dead_server_comes_back(self, cluster: RunningCluster) -> None:
        """A killed server is started again, and cluster.json has its new pid."""
        old = cluster.pid("storage-1")
        cluster.kill("storage-1")
        self.until("storage-1 is started again", lambda: cluster.pid("storage-1") != old)
        self.until("storage-1 is live", lambda: cluster.state("storage-1") == "live")

    def check_stopped_server_stays_down(self, cluster: RunningCluster) -> None:
        """A server that an administrator stopped is started by an administrator only."""
        cluster.penncloud("node", "stop", "http-2")
        self.assertRaises(ProcessLookupError, os.kill, cluster.pid("http-2"), 0)
        self.until("http-2 is gone", lambda: cluster.state("http-2") != "live")
        cluster.penncloud("node", "start", "http-2")
        self.until("http-2 is live", lambda: cluster.state("http-2") == "live")
        cluster.penncloud("node", "stop", "nobody-1", expect=1)

    def check_killed_agent_leaves_nothing(self, cluster: RunningCluster) -> None:
        """When only the agent is killed its servers end by themselves."""
        agent = cluster.document.agent.pid
        assert agent is not None
        os.kill(agent, signal.SIGKILL)
        self.until("all have ended", lambda: not leftovers.find(cluster.layout))

    def test_five_of_each(self) -> None:
        """All of five storage servers have tablets; with two of five coordinators gone all goes on."""
        cluster = self.cluster("--storage=5", "--coordinators=5", "--http=1")
        cluster.start()
        everyone = {f"storage-{number}" for number in range(1, 6)}

        def spread() -> bool:
            status = cluster.status
            members = [tablet["members"] for tablet in status["tablets"]]
            live = {node["id"] for node in status["nodes"] if node["state"] == "live"}
            by_three = {len(some) for some in members} == {3}
            return everyone <= live and by_three and {*chain(*members)} == everyone

        # Who was late finds tablets that were made without it.
        self.until("the tablets are spread", spread)
        cluster.penncloud("kv", "put", "row", "col", stdin=b"before")
        for gone in ("coordinator-1", "coordinator-2"):
            cluster.penncloud("node", "stop", gone)
        self.assertEqual(cluster.penncloud("kv", "get", "row", "col").stdout, b"before")
        cluster.penncloud("kv", "put", "row", "col", stdin=b"after")
        self.assertEqual(cluster.penncloud("kv", "get", "row", "col").stdout, b"after")
        # A change that only the coordinators decide.
        cluster.penncloud("lb", "disable", "http-1")
        self.assertIn(b"disabled", cluster.penncloud("lb", "list").stdout)

    def test_port_in_use(self) -> None:
        """A balancer's port that somebody has is said at once, and nothing was started."""
        cluster = self.cluster()
        first = free_block()
        with socket.create_server(("127.0.0.1", first)):
            up = ["up", "--detach", f"--data={cluster.layout.root}", f"--base-port={first}"]
            refused = cluster.command(up, expect=None)
        text = (refused.stdout + refused.stderr).decode()
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn(str(first), text)
        self.assertIn("--base-port", text)
        self.assertNotIn("Traceback", text)
        self.assertEqual(leftovers.find(cluster.layout), [])

    def test_does_not_serve(self) -> None:
        """A server that cannot start makes `up` end with its last words, everything stopped."""
        cluster = self.cluster()
        cluster.layout.make()
        # In the way of a storage server's data directory.
        (cluster.layout.root / "storage-2").write_bytes(b"")
        first = free_block()
        ports = [f"--base-port={first}", f"--smtp-port={first + 9}"]
        up = ["up", "--detach", f"--data={cluster.layout.root}", *ports]
        failed = cluster.command(up, expect=1, timeout_s=PATIENCE_S * 2)
        text = (failed.stdout + failed.stderr).decode()
        self.assertIn("storage-2 cannot be started", text)
        self.assertIn("not writable", text)
        self.assertNotIn("Traceback", text)
        self.assertEqual(leftovers.find(cluster.layout), [])

"""Twin of `penncloud.cluster.examination`: what is found, how bad it is, and what to do about it."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from penncloud.client.directory import (
    ClusterView,
    CoordinatorInfo,
    NodeInfo,
    NodeState,
    TabletInfo,
)
from penncloud.cluster.examination import (
    Finding,
    NodeReport,
    highest,
    of_certificate,
    of_disk,
    of_nodes,
    of_port,
    of_replication,
    parse_metrics,
    version_in,
    worst,
)

DAY_S = 86400.0


def node(role: str, number: int, state: NodeState = "live") -> NodeInfo:
    return NodeInfo(role, f"{role}-{number}", "10.0.0.1", 8600 + number, 1, state)


def coordinator(number: int, leads: bool = False) -> CoordinatorInfo:
    role = "leader" if leads else "follower"
    return CoordinatorInfo(f"coordinator-{number}", "10.0.0.1", 8600 + number, 1, role, 3)  # type: ignore[arg-type]


def tablet(number: int, state: str = "ok", members: int = 3, lag: int = 0) -> TabletInfo:
    ids = [f"storage-{n}" for n in range(1, members + 1)]
    return TabletInfo(number, 0, 1, 1, ids[0], ids, {ids[-1]: lag}, state)  # type: ignore[arg-type]


def healthy() -> ClusterView:
    nodes = [node(role, n) for role in ("coordinator", "storage") for n in (1, 2, 3)]
    return ClusterView(nodes, [coordinator(n, n == 1) for n in (1, 2, 3)], [tablet(1), tablet(2)])


class ReplicationTests(SynchronousTestCase):
    def found(self, view: ClusterView) -> dict[str, Finding]:
        return {finding.subject: finding for finding in of_replication(view, 3)}

    def test_well(self) -> None:
        """Where nothing is wrong nothing is advised."""
        found = of_replication(healthy(), 3)
        self.assertEqual(worst(found), "ok")
        self.assertEqual([finding.advice for finding in found], [""] * len(found))

    def test_no_leader(self) -> None:
        view = healthy()
        view = ClusterView(view.nodes, [coordinator(n) for n in (1, 2, 3)], view.tablets)
        finding = self.found(view)["coordinators"]
        self.assertEqual(finding.level, "bad")
        self.assertIn("2 of 3", finding.advice)

    def test_one_coordinator_down(self) -> None:
        """With three, one more loss would stop every change: that is bad, not a warning."""
        view = healthy()
        nodes = [node("coordinator", 3, "dead"), *view.nodes[:2], *view.nodes[3:]]
        finding = self.found(ClusterView(nodes, view.coordinators, view.tablets))["coordinators"]
        self.assertEqual(finding.level, "bad")
        self.assertIn("penncloud node start coordinator-3", finding.advice)

    def test_dead_server(self) -> None:
        view = healthy()
        nodes = [*view.nodes, node("http", 1, "dead"), node("storage", 9, "dead")]
        found = self.found(ClusterView(nodes, view.coordinators, view.tablets))
        self.assertEqual(found["http-1"].level, "warn")
        self.assertEqual(found["storage-9"].level, "bad")

    def test_drained(self) -> None:
        """Who was emptied on purpose is no failure."""
        view = healthy()
        nodes = [*view.nodes, node("storage", 4, "drained")]
        self.assertEqual(
            worst(of_replication(ClusterView(nodes, view.coordinators, view.tablets), 3)), "ok"
        )

    def test_tablets(self) -> None:
        """Each state is told with its tablets; missing copies are a warning, missing data is not."""
        for state, level in (("unavailable", "bad"), ("damaged", "bad"), ("degraded", "warn")):
            view = healthy()
            view = ClusterView(view.nodes, view.coordinators, [tablet(1), tablet(7, state)])
            finding = self.found(view)["tablets"]
            self.assertEqual((finding.level, finding.text), (level, f"1 {state}: 7"))
            self.assertTrue(finding.advice)

    def test_few_copies_and_lag(self) -> None:
        view = healthy()
        tablets = [tablet(1, members=2), tablet(2, lag=50_000)]
        found = self.found(ClusterView(view.nodes, view.coordinators, tablets))
        self.assertIn("fewer than 3", found["copies"].text)
        self.assertEqual(found["lag"].level, "warn")

    def test_none_yet(self) -> None:
        view = healthy()
        found = self.found(ClusterView(view.nodes, view.coordinators, []))
        self.assertEqual(found["tablets"].level, "bad")


class NodeTests(SynchronousTestCase):
    def found(self, *reports: NodeReport) -> dict[str, Finding]:
        return {finding.subject: finding for finding in of_nodes(reports, "1.0")}

    def test_clocks(self) -> None:
        """The worst clock decides, in whatever direction it is off."""
        well = NodeReport("a", version="1.0", clock_offset_s=0.2)
        self.assertEqual(self.found(well)["clocks"].level, "ok")
        slow = NodeReport("b", version="1.0", clock_offset_s=-5)
        finding = self.found(well, slow)["clocks"]
        self.assertEqual(finding.level, "warn")
        self.assertIn("b", finding.text)
        wrong = NodeReport("c", version="1.0", clock_offset_s=3600)
        self.assertEqual(self.found(slow, wrong)["clocks"].level, "bad")

    def test_versions(self) -> None:
        old = NodeReport("old", version="0.9")
        self.assertIn("old: 0.9; here 1.0", self.found(old)["versions"].text)
        self.assertEqual(self.found(NodeReport("a", version="1.0"))["versions"].level, "ok")

    def test_unreachable(self) -> None:
        """A server that does not answer is bad; one that is not ready says why."""
        found = self.found(NodeReport("a", "http://x: refused"), NodeReport("b", ready="no leader"))
        self.assertEqual(found["a"].level, "bad")
        self.assertIn("no leader", found["b"].text)
        self.assertEqual(self.found()["metrics"].level, "warn")

    def test_descriptors(self) -> None:
        samples = parse_metrics(
            'process_open_fds 20.0\nprocess_open_fds{worker="1"} 900.0\nprocess_open_fds_x 5000.0\n'
        )
        open_files = highest(samples, "process_open_fds")
        self.assertEqual(open_files, 900)
        found = self.found(NodeReport("a", version="1.0", open_files=open_files, max_files=1000))
        self.assertIn("900 of 1000", found["a"].text)

    def test_metrics(self) -> None:
        """Prometheus's text format, as the servers give it."""
        text = '# TYPE x gauge\nx 1.5\npenncloud_build_info{version="1.2"} 1.0\nodd\n'
        samples = parse_metrics(text)
        self.assertEqual(samples["x"], 1.5)
        self.assertEqual(version_in(samples), "1.2")
        self.assertEqual(version_in({}), "")


class HostTests(SynchronousTestCase):
    def test_disk(self) -> None:
        """Little room is worse than a slow disk; no room at all is bad."""
        levels = [
            of_disk("/d", free, 100, sync_s).level
            for free, sync_s in ((50, 0.001), (50, 0.2), (10, 0.001), (3, 0.001))
        ]
        self.assertEqual(levels, ["ok", "warn", "warn", "bad"])

    def test_certificate(self) -> None:
        levels = [of_certificate("/c", days * DAY_S).level for days in (90, 10, 1, -5)]
        self.assertEqual(levels, ["ok", "warn", "bad", "bad"])
        self.assertIn("ended 5.0 days ago", of_certificate("/c", -5 * DAY_S).text)

    def test_port(self) -> None:
        self.assertIsNone(of_port("a", "::1", 80, ""))
        finding = of_port("a", "::1", 80, "refused")
        assert finding is not None
        self.assertEqual(finding.text, "[::1]:80: refused")

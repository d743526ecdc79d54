"""Servers that are added, drained, removed; splits; copies that are dropped: in simulated time."""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from penncloud.client.table import Refused
from penncloud.rpc.registration import Proposed
from tests.coordinator.fake_storage import FakeCluster


class MovingTests(SynchronousTestCase):
    def _cluster(self, seed: int = 1, coordinators: int = 1, **more: Any) -> FakeCluster:
        cluster = FakeCluster(seed, coordinators, **more)
        cluster.until(cluster.whole)
        return cluster

    def _held(self, cluster: FakeCluster) -> Counter[str]:
        return Counter(member for t in cluster.view().tablets for member in t.members)

    def _refused(self, code: str, cluster: FakeCluster, call: Any) -> None:
        with self.assertRaises(Refused) as caught:
            cluster.ask(call)
        self.assertEqual(caught.exception.code, code)

    def _states(self, cluster: FakeCluster) -> dict[str, str]:
        return {node.id: node.state for node in cluster.view().nodes}

    def test_a_server_is_added(self) -> None:
        """It gets its share of tablets and primaries; those who gave copies up drop them."""
        cluster = self._cluster(tablets=8)
        self.assertEqual(set(self._held(cluster).values()), {8})
        cluster.until(lambda: cluster.view().balanced)
        cluster.add("storage-4").start()
        cluster.until(lambda: "storage-4" in self._states(cluster))
        self.assertFalse(cluster.view().balanced)
        cluster.until(lambda: cluster.view().balanced, 120)
        self.assertEqual(set(self._held(cluster).values()), {6})
        cluster.until(lambda: set(self._held(cluster).values()) == {6} and cluster.whole(), 120)
        cluster.until(lambda: sum(len(shelf.held) for shelf in cluster.shelves.values()) == 24, 60)
        primaries = lambda: Counter(t.primary for t in cluster.view().tablets)  # noqa: E731
        cluster.until(lambda: set(primaries().values()) == {2} and len(primaries()) == 4, 300)

    def test_drain_and_remove(self) -> None:
        """A drained server holds nothing; stopped, it is forgotten; no tablet ever had fewer copies."""
        cluster = self._cluster(storages=4, tablets=8)
        cluster.ask(lambda directory: directory.drain_server("storage-2", True))
        fewest = 3

        def drained() -> bool:
            nonlocal fewest
            fewest = min(fewest, *(len(t.members) for t in cluster.view().tablets or ()), 3)
            return self._states(cluster)["storage-2"] == "drained"

        cluster.until(drained, 120)
        self.assertEqual(fewest, 3)
        self._refused("STILL_RUNS", cluster, lambda d: d.remove_server("storage-2"))
        cluster.storages["storage-2"].kill(power=False)
        cluster.until(lambda: self._states(cluster)["storage-2"] == "dead")
        cluster.ask(lambda directory: directory.remove_server("storage-2"))
        self.assertNotIn("storage-2", self._states(cluster))
        self._refused("NO_SUCH_NODE", cluster, lambda d: d.remove_server("storage-2"))
        cluster.until(cluster.whole)

    def test_drained_and_wanted_again(self) -> None:
        """Undone before it is complete, the server keeps and gets tablets again."""
        cluster = self._cluster(storages=4, tablets=8)
        cluster.ask(lambda directory: directory.drain_server("storage-2", True))
        cluster.until(lambda: self._held(cluster)["storage-2"] <= 4, 60)
        cluster.ask(lambda directory: directory.drain_server("storage-2", False))
        cluster.until(lambda: self._held(cluster)["storage-2"] == 6 and cluster.whole(), 200)

    def test_refusals(self) -> None:
        """What would lose data, or cannot be, is refused with the reason."""
        cluster = self._cluster()
        self._refused("TOO_FEW", cluster, lambda d: d.drain_server("storage-1", True))
        self._refused("NO_SUCH_NODE", cluster, lambda d: d.drain_server("storage-9", True))
        self._refused("WRONG_ROLE", cluster, lambda d: d.drain_server("coordinator-1", True))
        self._refused("NO_SUCH_TABLET", cluster, lambda d: d.force_primary(99, "storage-1"))
        self._refused("NOT_LIVE", cluster, lambda d: d.force_primary(1, "storage-9"))
        cluster.storages["storage-1"].kill(power=False)
        cluster.until(lambda: self._states(cluster)["storage-1"] == "dead")
        cluster.add("storage-4").start()
        cluster.until(lambda: self._states(cluster).get("storage-4") == "live")
        cluster.run(1)
        self._refused("NO_COPY", cluster, lambda d: d.force_primary(1, "storage-4"))

    def test_repair(self) -> None:
        """When a server stays away its copies are made elsewhere, after the time it was waited for; when
        it comes back later, what it has is dropped or evened out."""
        cluster = self._cluster(storages=4, tablets=8, repair_after_s=10.0)
        cluster.storages["storage-2"].kill(power=True)
        cluster.run(8)
        self.assertIn(2, {len(tablet.members) for tablet in cluster.view().tablets})
        took = 8 + cluster.until(cluster.whole, 60)
        self.assertGreater(took, 10)
        self.assertNotIn("storage-2", self._held(cluster))
        cluster.storages["storage-2"].start()
        cluster.until(lambda: self._held(cluster)["storage-2"] == 6 and cluster.whole(), 200)
        cluster.until(lambda: len(cluster.shelves["storage-2"].held) == 6)

    def test_the_last_copies_are_lost(self) -> None:
        """The operator decides: go on with an old copy, or begin anew; both are whole again later."""
        cluster = self._cluster(storages=2, tablets=2, copies=2)
        cluster.storages["storage-1"].kill(power=True)
        cluster.until(lambda: all(t.members == ["storage-2"] for t in cluster.view().tablets))
        cluster.run(1)
        cluster.storages["storage-2"].kill(power=True)
        cluster.storages["storage-1"].start()
        cluster.run(5)
        self.assertEqual({t.state for t in cluster.view().tablets}, {"unavailable"})
        cluster.ask(lambda directory: directory.force_primary(1, "storage-1"))
        cluster.until(lambda: cluster.served().get(1) == "storage-1")
        self._refused("HOLDS_TABLETS", cluster, lambda d: d.remove_server("storage-2"))
        cluster.shelves["storage-1"].held.pop(2)
        cluster.run(1)
        cluster.ask(lambda directory: directory.remove_server("storage-2", True))
        cluster.until(cluster.all_served)
        self.assertEqual(set(self._held(cluster)), {"storage-1"})
        del cluster.shelves["storage-2"], cluster.storages["storage-2"]
        cluster.add("storage-3").start()
        cluster.until(cluster.whole)

    def test_split(self) -> None:
        """Two tablets take the place of one, with its members, and go on from there."""
        cluster = self._cluster(tablets=2)
        [tablet] = [t for t in cluster.view().tablets if t.id == 1]
        host = cluster.storages[tablet.primary]
        storage = cluster.storage(tablet.primary)
        answer = cluster.do(host, lambda: storage.split(1))
        self.assertEqual(answer, Proposed(True, tablet.epoch + 1))
        cluster.until(cluster.whole)
        ranges = [(t.lo, t.hi) for t in sorted(cluster.view().tablets, key=lambda t: t.lo)]
        self.assertEqual(ranges, [(0, 2**30), (2**30, 2**31), (2**31, 2**32)])
        cluster.storages[tablet.primary].kill(power=False)
        cluster.until(
            lambda: cluster.all_served() and storage.name not in cluster.served().values()
        )

    def test_what_a_split_left_behind(self) -> None:
        """A server that was away keeps its copy of the tablet that is no more until it has the new ones."""
        cluster = self._cluster(tablets=1)
        away = next(one for one in cluster.storages if one != cluster.view().tablets[0].primary)
        cluster.storages[away].kill(power=False)
        cluster.until(lambda: len(cluster.view().tablets[0].members) == 2)
        cluster.until(cluster.all_served)
        primary = cluster.storage(cluster.view().tablets[0].primary)
        cluster.do(cluster.storages[primary.name], lambda: primary.split(1))
        self.assertIn(1, cluster.shelves[away].held)
        cluster.storages[away].start()
        cluster.until(cluster.whole)
        cluster.until(lambda: 1 not in cluster.shelves[away].held)
        self.assertEqual(cluster.shelves[away].dropped, [1])

    def test_moves_while_leaders_change(self) -> None:
        """A leader that takes over goes on where the last one stopped."""
        cluster = self._cluster(seed=9, coordinators=3, storages=4, tablets=8)
        cluster.ask(lambda directory: directory.drain_server("storage-3", True))
        for _ in range(4):
            cluster.run(2.5)
            leader = cluster.leader_host() if cluster.leader() is not None else None
            if leader is not None:
                leader.kill(power=False, back_in_s=0.5)
        cluster.until(lambda: self._states(cluster).get("storage-3") == "drained", 120)
        cluster.until(cluster.whole)

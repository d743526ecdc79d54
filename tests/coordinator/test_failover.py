"""Primaries that die, come back and are cut off: real coordinators, fake storage servers, simulated time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import gatherResults
from twisted.trial.unittest import SynchronousTestCase

from penncloud.coordinator.node import CoordinatorNode
from penncloud.rpc.registration import Propose, Proposed
from penncloud.simulation.host import Host
from tests.coordinator.fake_storage import FakeCluster

# Five missed pings at 100 ms, one more for the phase, and the way of the decision and of the news.
FAILOVER_S = 0.8


class FailoverTests(SynchronousTestCase):
    def _cluster(self, seed: int = 1, **more: Any) -> FakeCluster:
        cluster = FakeCluster(seed, **more)
        cluster.until(cluster.whole)
        return cluster

    def _primaries(self, cluster: FakeCluster) -> Counter[str]:
        return Counter(tablet.primary for tablet in cluster.view().tablets)

    def test_birth(self) -> None:
        """Every tablet has three members that made it first, and primaries are spread."""
        cluster = self._cluster()
        self.assertEqual(set(self._primaries(cluster).values()), {2})
        for tablet in cluster.view().tablets:
            self.assertEqual((tablet.epoch, len(tablet.members)), (1, 3))
            self.assertEqual(tablet.state, "ok")

    def test_succession(self) -> None:
        """When a primary is killed another member serves its tablets within the time it takes to notice."""
        cluster = self._cluster()
        before = {tablet.id: tablet for tablet in cluster.view().tablets}
        cluster.storages["storage-1"].kill(power=False)
        took = cluster.until(
            lambda: cluster.all_served() and "storage-1" not in cluster.served().values()
        )
        self.assertLess(took, FAILOVER_S)
        for tablet in cluster.view().tablets:
            moved = before[tablet.id].primary == "storage-1"
            self.assertGreaterEqual(tablet.epoch, before[tablet.id].epoch + moved)

    def test_leadership_that_is_lost_and_won_again_at_once(self) -> None:
        """A new term is a new beginning, also for who led two terms before: it waits like everybody."""
        cluster = self._cluster()
        cluster.world.run(3.0)
        first = cluster.leader()
        assert first is not None
        self.assertTrue(first._leader.is_settled)
        second = next(host for host in cluster.coordinators if host.node is not first)
        # Nothing of what the leader does by the clock falls between the two changes.
        beat, first._leader.work = first._leader.work, lambda: None  # type: ignore[method-assign]
        cluster.ask(lambda directory: directory.transfer_leadership(second.name))
        cluster.until(lambda: cluster.leader() is second.node)
        cluster.ask(lambda directory: directory.transfer_leadership(first.decisions.id))
        cluster.until(lambda: cluster.leader() is first)
        first._leader.work = beat  # type: ignore[method-assign]
        cluster.do(cluster.leader_host(), self._work(first))
        self.assertFalse(first._leader.is_settled)

    def _work(self, coordinator: CoordinatorNode) -> Callable[[], Any]:
        async def work() -> None:
            coordinator._leader.work()

        return work

    def test_nobody_is_sent_to_the_dead(self) -> None:
        """From the moment a primary counts as dead its address is not handed out."""
        cluster = self._cluster(storages=1, tablets=2)
        cluster.storages["storage-1"].kill(power=False)
        cluster.until(lambda: {t.state for t in cluster.view().tablets} == {"unavailable"})
        leader = cluster.leader()
        assert leader is not None
        self.assertEqual(leader._observer().address("storage-1"), "")

    def test_three_two_one_three(self) -> None:
        """The last one goes on alone; who comes back joins again, and gets primaries again."""
        cluster = self._cluster(coordinators=1)
        cluster.storages["storage-1"].kill(power=False)
        cluster.until(lambda: all(len(t.members) == 2 for t in cluster.view().tablets))
        self.assertEqual({t.state for t in cluster.view().tablets}, {"degraded"})
        cluster.storages["storage-2"].kill(power=True)
        cluster.until(lambda: all(t.members == ["storage-3"] for t in cluster.view().tablets))
        cluster.until(cluster.all_served)
        cluster.storages["storage-1"].start()
        cluster.storages["storage-2"].start()
        took = cluster.until(cluster.whole)
        self.assertLess(took, 10)
        cluster.until(lambda: set(self._primaries(cluster).values()) == {2}, 120)
        self.assertEqual({t.state for t in cluster.view().tablets}, {"ok"})

    def test_wiped(self) -> None:
        """A server that lost its disk counts for nothing until it has joined anew."""
        cluster = self._cluster()
        host = cluster.storages["storage-1"]
        host.kill(power=True)
        cluster.shelves["storage-1"].held.clear()
        host.start()
        cluster.until(lambda: all("storage-1" not in t.members for t in cluster.view().tablets))
        cluster.until(cluster.whole)

    def test_quick_restart(self) -> None:
        """A primary that is another process before anybody missed it needs a new epoch all the same."""
        cluster = self._cluster()
        old = cluster.storage("storage-2").registration.incarnation
        host = cluster.storages["storage-2"]
        host.kill(power=False)
        host.start()
        cluster.run(0.1)
        took = cluster.until(cluster.all_served)
        self.assertLess(took, 2.0)
        self.assertNotEqual(cluster.storage("storage-2").registration.incarnation, old)

    def test_clocks_that_were_set_back(self) -> None:
        """Who starts with an earlier clock than before is taken once its last process is known to have
        ended, coordinators too."""
        cluster = self._cluster()
        for host in (cluster.storages["storage-2"], cluster.coordinators[0]):
            host.kill(power=False)
            host.wall_skew_s -= 3600
            host.start()
        cluster.run(1)
        cluster.until(cluster.whole)
        states = lambda: {node.id: (node.state, node.pid) for node in cluster.view().nodes}  # noqa: E731
        for host in (cluster.storages["storage-2"], cluster.coordinators[0]):
            process = host.process
            assert process is not None
            expected = ("live", process.pid)
            cluster.until(lambda: states()[host.name] == expected)  # noqa: B023

    def test_orderly_stop(self) -> None:
        """A primary that takes leave is followed at once."""
        cluster = self._cluster()
        cluster.storages["storage-1"].restart()
        took = cluster.until(lambda: "storage-1" not in cluster.served().values())
        took += cluster.until(cluster.all_served)
        self.assertLess(took, 0.5)

    def test_leader_and_primary_die_together(self) -> None:
        """The next leader of the coordinators has heard the pings itself, and chooses."""
        cluster = self._cluster(seed=5)
        cluster.storages["storage-1"].kill(power=False)
        cluster.leader_host().kill(power=False)
        took = cluster.until(
            lambda: (
                cluster.leader() is not None
                and cluster.all_served()
                and "storage-1" not in cluster.served().values()
            )
        )
        self.assertLess(took, 2.5)

    def test_all_at_once(self) -> None:
        """After a power cut of everything the members' logs decide, once all that come back are heard."""
        cluster = self._cluster(seed=6)
        for host in cluster.world.hosts.values():
            host.kill(power=True)
        # One has missed the last writes, the others have them.
        cluster.run(1)
        for number, place in cluster.shelves["storage-1"].held.items():
            assert place is not None
            cluster.shelves["storage-1"].held[number] = (place[0], place[1] - 1)
        for host in cluster.world.hosts.values():
            host.start()
        cluster.until(cluster.all_served)
        self.assertNotIn("storage-1", set(cluster.served().values()))
        cluster.until(cluster.whole)

    def test_coordinators_restarted_before_a_primary_is_back(self) -> None:
        """Coordinators that come back wait for the servers they know of: one that has yet to find them is not
        dead, and keeps its tablets."""
        cluster = self._cluster()
        before = {tablet.id: (tablet.primary, tablet.epoch) for tablet in cluster.view().tablets}
        self._cut(cluster, cluster.storages["storage-1"])
        for host in cluster.coordinators:
            host.kill(power=False)
        for host in cluster.coordinators:
            host.start()
        cluster.until(lambda: cluster.leader() is not None)
        cluster.run(0.05)
        cluster.world.network.cut.clear()
        cluster.run(5)
        after = {tablet.id: (tablet.primary, tablet.epoch) for tablet in cluster.view().tablets}
        self.assertEqual(after, before)

    def test_cut_off_from_the_coordinators(self) -> None:
        """A primary that nobody hears is followed; what it proposes later comes too late."""
        cluster = self._cluster()
        primary = cluster.storage("storage-1")
        tablet = next(t for t in primary.assign.tablets if primary.serves(t))
        self._cut(cluster, cluster.storages["storage-1"])
        cluster.until(lambda: "storage-1" not in cluster.served().values())
        incarnation = primary.registration.incarnation
        stale = Propose(
            "storage-1",
            incarnation,
            tablet.id,
            tablet.epoch,
            "storage-1",
            incarnation,
            ["storage-1"],
        )
        cluster.world.network.cut.clear()
        answer = cluster.do(
            cluster.storages["storage-1"],
            lambda: primary.registration.ask(stale, Proposed, 30.0),
            60,
        )
        self.assertFalse(answer.applied)
        self.assertGreater(answer.epoch, tablet.epoch)
        cluster.until(cluster.whole)

    def _cut(self, cluster: FakeCluster, host: Host) -> None:
        for other in cluster.coordinators:
            cluster.world.network.cut |= {(host.name, other.name), (other.name, host.name)}

    def test_two_proposals_by_different_coordinators(self) -> None:
        """The same proposal sent over two followers is applied once; the other is told the epoch."""
        cluster = self._cluster()
        primary = cluster.storage("storage-1")
        tablet = next(t for t in primary.assign.tablets if primary.serves(t))
        incarnation = primary.registration.incarnation
        remaining = [one for one in tablet.members if one != "storage-3"]
        call = Propose(
            "storage-1", incarnation, tablet.id, tablet.epoch, "storage-1", incarnation, remaining
        )
        host = cluster.storages["storage-1"]

        async def both() -> list[Proposed]:
            asked = [
                client.connection.call(call, Proposed, 5.0)
                for client in primary.registration._clients
                if client.connection is not None
            ]
            return list(await gatherResults(asked))

        answers = cluster.do(host, both)
        self.assertEqual(sorted(one.applied for one in answers), [False, False, True])
        self.assertEqual({one.epoch for one in answers}, {tablet.epoch + 1})

    def test_random_troubles(self) -> None:
        """Whatever dies and is cut off, in the end every tablet is whole again; what servers were told
        is checked as it comes (`FakeCluster.check`)."""
        for seed in range(100, 104):
            cluster = self._cluster(seed)
            chance = random.Random(seed)
            for _ in range(12):
                hosts = [*cluster.storages.values(), *cluster.coordinators]
                host = chance.choice(hosts)
                what = chance.choice(("kill", "kill", "pause", "cut", "one-way", "wipe"))
                back_s = chance.uniform(0.05, 3.0)
                if what == "cut":
                    self._cut(cluster, host)
                elif what == "one-way":
                    other = chance.choice(hosts)
                    cluster.world.network.cut.add((host.name, other.name))
                elif what == "pause":
                    host.pause()
                else:
                    host.kill(power=what == "wipe", back_in_s=back_s)
                    others = [s for s in cluster.storages if s != host.name]
                    alone = any(not set(t.members) & set(others) for t in cluster.view().tablets)
                    if what == "wipe" and host.name in cluster.shelves and not alone:
                        cluster.shelves[host.name].held.clear()
                cluster.run(back_s + chance.uniform(0, 1.5))
                host.resume()
                cluster.world.network.cut.clear()
            for host in cluster.world.hosts.values():
                host.resume()
                host.start()
            cluster.until(cluster.whole, 120)

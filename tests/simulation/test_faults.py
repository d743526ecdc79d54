"""What faults must not do: take away what no system could give back."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from penncloud.judge.workloads import Access
from penncloud.replication.primary import Primary
from penncloud.simulation.cluster import Cluster, Settings
from penncloud.simulation.faults import Resets, can_be_spared
from penncloud.simulation.host import Host
from penncloud.simulation.replica_oracle import members_of
from penncloud.simulation.world import World


async def _idle(_access: Access) -> None:
    """A client without a wish."""


class WipeTests(SynchronousTestCase):
    """A disk is wiped only where another member keeps all it had."""

    def setUp(self) -> None:
        self.world = World("wipes")
        settings = Settings(coordinators=3, clients=1, tablets=1)
        self.cluster = Cluster(self.world, settings, _idle, _idle)
        self.cluster.start(0.0)
        self.assertTrue(self.world.run(10, self._spared))

    def _spared(self) -> bool:
        spared = all(can_be_spared(self.cluster, host) for host in self.cluster.storages)
        return bool(self._primaries()) and spared

    def _primaries(self) -> list[Host]:
        return [
            host
            for host in self.cluster.storages
            for member in members_of(host).values()
            if member.replica.role == "primary"
        ]

    def _run_until_spared(self) -> None:
        self.assertTrue(self.world.run(10, self._spared))

    def test_coordinators_that_know_nothing_yet(self) -> None:
        """Coordinators that have just started have applied nothing: that is not an empty map."""
        for host in self.cluster.coordinators:
            host.kill(power=True)
            host.start()
        self.world.run(0.1)
        self.assertFalse(any(can_be_spared(self.cluster, host) for host in self.cluster.storages))
        self._run_until_spared()

    def test_a_change_under_way(self) -> None:
        """While a primary has proposed to remove others nobody knows who will be left."""
        (primary,) = self._primaries()
        others = [host for host in self.cluster.storages if host is not primary]
        for host in self.cluster.coordinators:
            host.pause()
        others[0].kill(power=False)
        self.world.run(1.0)
        self.assertFalse(can_be_spared(self.cluster, others[1]))
        self.assertFalse(can_be_spared(self.cluster, primary))

    def test_a_learner_about_to_join(self) -> None:
        """Once its ACKs count it is as good as a member, whatever the coordinators have applied."""
        (primary,) = self._primaries()
        (learner, *_) = [host for host in self.cluster.storages if host is not primary]
        learner.kill(power=False)
        self.assertTrue(self.world.run(10, lambda: len(self._part(primary).config.members) == 2))
        learner.start()
        self.assertTrue(
            self.world.run(10, lambda: self._part(primary).membership.joint == learner.name)
        )
        self.assertFalse(can_be_spared(self.cluster, learner))
        self._run_until_spared()

    def _part(self, primary: Host) -> Primary:
        (member,) = members_of(primary).values()
        part = member.replica.part
        assert isinstance(part, Primary)
        return part


class CalmTests(SynchronousTestCase):
    """When the trouble ends, it ends."""

    def test_resets_end(self) -> None:
        """Connections break no more, however long they were meant to."""
        world = World("calm")
        cluster = Cluster(world, Settings(clients=1, tablets=1), _idle, _idle)
        cluster.start(0.0)
        world.run(5, lambda: False)
        Resets(at_s=0.0, for_s=60.0, host="storage-1", every_s=0.01).begin(cluster)
        world.run(1, lambda: False)
        cluster.calm()
        world.run(5, lambda: False)
        process = world.hosts["storage-1"].process
        assert process is not None
        held = set(process.sockets)
        world.run(5, lambda: False)
        self.assertTrue(held)
        self.assertEqual(held & set(process.sockets), held)

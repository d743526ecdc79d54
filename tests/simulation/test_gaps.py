"""How long a cluster takes to work again, once it can: the longest times without an answered write."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from penncloud.client.table import Unavailable
from penncloud.judge.workloads import Access
from penncloud.simulation.cluster import Cluster, Settings
from penncloud.simulation.world import World

_ROWS = 8


class _Writers:
    """One for each row, who never rest; the world's time of the last answer, by row."""

    def __init__(self, world: World) -> None:
        self.answered_s: dict[int, float] = {}
        self._world = world

    async def work(self, access: Access) -> None:
        for number in range(_ROWS):
            working = Deferred.fromCoroutine(self._write(access, number))
            working.addErrback(lambda failure: failure.printTraceback())

    async def _write(self, access: Access, number: int) -> None:
        row = b"row/%d" % number
        while True:
            await deferLater(access.environment.reactor, 0.1)
            try:
                await access.table.put(row, b"v", b"x", deadline_s=5)
            except Unavailable:
                continue
            self.answered_s[number] = self._world.timeline.now_s

    async def idle(self, _access: Access) -> None:
        """The auditor has nothing to do."""


class GapTests(SynchronousTestCase):
    """Tablets with three copies each on five servers, three coordinators, clocks that are off."""

    def setUp(self) -> None:
        self.world = World("gaps")
        self.writers = _Writers(self.world)
        settings = Settings(coordinators=3, storages=5, clients=1, tablets=4)
        self.cluster = Cluster(self.world, settings, self.writers.work, self.writers.idle)
        self.cluster.start(0.0)
        self.world.run(5)

    def all_answered_within(self, seconds: float) -> None:
        """Every row is written to within so many seconds from now."""
        now_s = self.world.timeline.now_s

        def answered() -> bool:
            times = self.writers.answered_s.values()
            return len(times) == _ROWS and min(times) > now_s

        done = self.world.run(seconds, answered)
        late = {n: s for n, s in self.writers.answered_s.items() if s <= now_s}
        self.assertTrue(done, f"{self.world.timeline.now_s}: {late}")

    def test_after_all_storage_servers_were_gone(self) -> None:
        """It takes a takeover's time, and no longer for a longer absence."""
        for absence_s in (1.0, 6.0):
            for host in self.cluster.storages:
                host.kill(power=False)
            self.world.run(absence_s)
            for host in self.cluster.storages:
                host.start()
            self.all_answered_within(2.5)
            self.world.run(2)

    def test_when_some_come_back_late(self) -> None:
        """Tablets one of whose members is back are served, before the others are."""
        for host in self.cluster.storages:
            host.kill(power=True)
        self.world.run(6)
        for host in self.cluster.storages[:3]:
            host.start()
        # Of three members on five servers one at least is among any three.
        self.all_answered_within(3.0)

    def test_while_one_after_the_other_is_cut_off(self) -> None:
        """A server that nobody reaches costs a takeover's time."""
        network = self.world.network
        for victim in self.cluster.storages[:3]:
            links = {(victim.name, name) for name in self.world.hosts if name != victim.name}
            links |= {(b, a) for a, b in links}
            network.cut |= links
            self.all_answered_within(3.0)
            network.cut -= links
            self.all_answered_within(3.0)
            self.world.run(1)

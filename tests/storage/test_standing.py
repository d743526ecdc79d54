"""What a replica has promised is remembered, all of it or the step before."""

from __future__ import annotations

import random

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.platform.errors import DiskFull
from penncloud.platform.memory_disk import Fault, MemoryDisk
from penncloud.storage.standing import FILE, BadStandings, Standing, Standings


class StandingTests(SynchronousTestCase):
    """The file `replicas`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.disk = MemoryDisk(self.clock, random.Random(1))
        self.standings = Standings(self.disk)

    def settle(self) -> None:
        for _ in range(10):
            self.clock.advance(1)

    def update(self, changes: dict[int, Standing | None]) -> None:
        done = self.standings.update(changes)
        self.settle()
        self.successResultOf(done)

    def after_crash(self) -> Standings:
        return Standings(self.disk.crash())

    def test_remembered(self) -> None:
        """What fired is there after a crash; what is not named is blank."""
        self.update({1: Standing(3, False), 2: Standing(4, True)})
        self.update({2: None})
        again = self.after_crash()
        self.assertEqual((again[1], again[2]), (Standing(3, False), Standing(0, True)))

    def test_seen_when_durable(self) -> None:
        """Nothing is said of an update before it is on the disk."""
        done = self.standings.update({1: Standing(3, False)})
        self.assertEqual(self.standings[1], Standing())
        self.settle()
        self.successResultOf(done)
        self.assertEqual(self.standings[1], Standing(3, False))

    def test_updates_share_a_write(self) -> None:
        """A failover of many tablets is one write more than that of one."""
        done = [self.standings.update({n: Standing(n, False)}) for n in range(1, 50)]
        before = self.disk.operations
        self.settle()
        for one in done:
            self.successResultOf(one)
        self.assertLess(self.disk.operations - before, 20)
        self.assertEqual(self.after_crash()[49], Standing(49, False))

    def test_a_full_disk(self) -> None:
        """An update that failed is not in the next one."""
        self.update({1: Standing(1, False)})
        self.disk.faults[self.disk.operations] = Fault.FULL
        refused = self.standings.update({1: Standing(2, False)})
        self.settle()
        self.failureResultOf(refused, DiskFull)
        self.update({2: Standing(9, False)})
        again = self.after_crash()
        self.assertEqual((again[1].sealed, again[2].sealed), (1, 9))

    def test_incarnations_grow(self) -> None:
        """Even where the clock went back, or stood."""
        seen = []
        for wanted in (100, 50, 100, 700):
            begun = Deferred.fromCoroutine(self.standings.begin(wanted))
            self.settle()
            seen.append(self.successResultOf(begun))
            self.disk = self.disk.crash()
            self.standings = Standings(self.disk)
        self.assertEqual(seen, [100, 101, 102, 700])

    def test_damage(self) -> None:
        """A file that is not what was written is told, not believed."""
        self.update({1: Standing(1, False)})
        whole = self.disk.read(FILE)
        for spoilt in (b"", b"{", whole[:-1], whole[:-1] + bytes((whole[-1] ^ 1,))):
            done = self.disk.replace(FILE, spoilt)
            self.settle()
            self.successResultOf(done)
            self.assertRaises(BadStandings, Standings, self.disk)

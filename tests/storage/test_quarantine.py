"""What is cut off a log is kept first, within bounds, and can be read by people."""

from __future__ import annotations

import random
from collections import Counter

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm.entry import Entry, PutEffect
from penncloud.lsm.errors import StoreDamaged
from penncloud.platform.errors import DiskFull
from penncloud.platform.memory_disk import Fault, MemoryDisk
from penncloud.storage.quarantine import (
    DIRECTORY,
    Quarantine,
    kept_cuts,
    kept_entries,
)


def entries(tablet: int, first: int, count: int = 3, cfg: int = 1) -> list[Entry]:
    effects = (PutEffect(b"row", b"col", b"value" * 20),)
    return [Entry(tablet, first + n, cfg, b"c", n, effects, b"r") for n in range(count)]


class QuarantineTests(SynchronousTestCase):
    """On a simulated disk."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.disk = MemoryDisk(self.clock, random.Random(1))
        self.quarantine = self._quarantine(1_000_000)

    def _quarantine(self, max_bytes: int) -> Quarantine:
        return Quarantine(self.disk, lambda: 1234.5, max_bytes)

    def _keep(self, kept: list[Entry]) -> None:
        done = Deferred.fromCoroutine(self.quarantine.keep(kept[0].tablet, kept, "a test"))
        for _ in range(50):
            self.clock.advance(0.1)
        self.successResultOf(done)

    def test_kept_and_read(self) -> None:
        """Entries come back as they were, with the reason and the time, after a power cut too."""
        self._keep(entries(1, 5))
        self._keep(entries(2, 9))
        self.disk = self.disk.crash()
        one, two = kept_cuts(self.disk)
        assert one.cut is not None
        self.assertEqual(
            (one.cut.tablet, one.cut.why, one.cut.at, one.cut.first, one.cut.last),
            (1, "a test", 1234.5, 5, 7),
        )
        self.assertEqual(list(kept_entries(self.disk, two.name)), entries(2, 9))

    def test_the_same_again(self) -> None:
        """A cut that comes again because the disk refused what came after it is kept once."""
        self._keep(entries(1, 5))
        self._keep(entries(1, 5))
        self._keep(entries(1, 5, cfg=2))
        self.assertEqual(len(kept_cuts(self.disk)), 2)

    def test_bounded(self) -> None:
        """The oldest cuts go; the newest stays, even if it alone is larger than the bound."""
        self.quarantine = self._quarantine(2000)
        for first in range(1, 40, 3):
            self._keep(entries(1, first))
        self.assertLessEqual(self.quarantine.size_bytes, 2000)
        self.assertEqual([kept.cut.first for kept in kept_cuts(self.disk) if kept.cut][-1], 37)
        self._keep(entries(1, 100, 50))
        self.assertEqual([kept.cut.first for kept in kept_cuts(self.disk) if kept.cut], [100])

    def test_full_disk(self) -> None:
        """Without room nothing is cut: the caller hears of it, and the next try works."""
        self._keep(entries(1, 1))
        self.disk.faults[self.disk.operations] = Fault.FULL
        refused = Deferred.fromCoroutine(self.quarantine.keep(1, entries(1, 5), "a test"))
        self.clock.advance(10)
        self.failureResultOf(refused, DiskFull)
        self._keep(entries(1, 5))
        self.assertEqual(len(kept_cuts(self.disk)), 2)

    def test_every_flipped_bit(self) -> None:
        """A damaged file is named as such; what it has is read as it was, or not at all."""
        kept = entries(1, 5, 2)
        self._keep(kept)
        intact: Counter[int] = Counter()
        name = kept_cuts(self.disk)[0].name
        path = f"{DIRECTORY}/{name}"
        for bit in range(8 * self.disk.size_bytes(path)):
            self.disk.flip_bit(path, bit)
            (found,) = kept_cuts(self.disk)
            self.assertIsNone(found.cut)
            self.assertIn(name, found.damaged)
            read = []
            with self.assertRaises(StoreDamaged):
                for entry in kept_entries(self.disk, name):
                    read.append(entry)
            self.assertEqual(read, [entry for entry in kept if entry in read])
            intact[len(read)] += 1
            self.disk.flip_bit(path, bit)

        # A bit of the first record costs no entry, and one of an entry only that one.
        self.assertEqual(set(intact), {len(kept) - 1, len(kept)})

    def test_no_such_file(self) -> None:
        """A name that is none of the quarantine's is not looked for elsewhere."""
        with self.assertRaises(FileNotFoundError):
            kept_entries(self.disk, "../assignment")

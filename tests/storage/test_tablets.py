"""Which tablet serves a row, and what becomes of requests for rows that are not here."""

from __future__ import annotations

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm.errors import TabletDamaged
from penncloud.placement.tablets import even_ranges, row_hash
from penncloud.rpc.registration import TabletAssignment, Tip
from penncloud.storage.tablets import STOP_WITHIN_S, Tablets
from penncloud.wire.messages import Busy, Get, Missing, Moved, Ok, Put, ScanTablet, Value, Watch
from tests.storage.memory_engine import MemoryEngine


def assigned(count: int, here: set[int], epoch: int = 1) -> list[TabletAssignment]:
    """`count` even tablets; those in `here` have storage-1 as their primary."""
    return [
        TabletAssignment(n, lo, hi, epoch, "storage-1" if n in here else "storage-2", [])
        for n, (lo, hi) in enumerate(even_ranges(count), 1)
    ]


class Deaf:
    """A watcher that is not told anything."""

    def changed(self, row: bytes, version: int) -> None:
        raise AssertionError("told of a row that is not here")


class TabletsTests(SynchronousTestCase):
    """The tablets of storage-1."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.engine = MemoryEngine(instant=True)
        self.tablets = Tablets("storage-1", self.clock, self.engine)
        self.successResultOf(Deferred.fromCoroutine(self.tablets.open()))

    def assign(self, tablets: list[TabletAssignment]) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.tablets.make(tablets)))
        self.tablets.serve(tablets)

    def put(self, row: bytes) -> object:
        answer = self.tablets.mutate(Put(row, b"c", row), None)
        self.clock.advance(0)
        return self.successResultOf(answer) if isinstance(answer, Deferred) else answer

    def test_nothing_assigned(self) -> None:
        """A server that knows of no tablet sends clients away."""
        self.assertEqual(self.put(b"row"), Moved("", 0))
        self.assertEqual(self.tablets.tips(), [])

    def test_each_row_in_its_tablet(self) -> None:
        """Rows are found by their hash; those of others are elsewhere, with their epoch."""
        self.assign(assigned(4, {1, 3}, epoch=5))
        for index in range(50):
            row = b"row-%d" % index
            number = row_hash(row) // 2**30 + 1
            if number in (1, 3):
                self.assertIsInstance(self.put(row), Ok)
                self.assertEqual(self.engine.tablets[number].cells[(row, b"c")].value, row)
            else:
                self.assertEqual(self.put(row), Moved("", 5))
        self.assertEqual(
            [(tip.tablet, tip.entry_cfg) for tip in self.tablets.tips()], [(1, 5), (3, 5)]
        )

    def test_only_some_of_the_hash_space(self) -> None:
        """A row behind or before the tablets here belongs to nobody known."""
        self.assign([a for a in assigned(4, {2}) if a.id == 2])
        answers = {type(self.put(b"row-%d" % index)) for index in range(50)}
        self.assertEqual(answers, {Ok, Moved})

    def test_a_tablet_that_leaves_and_comes_back(self) -> None:
        """Its cells and versions are as they were."""
        self.assign(assigned(1, {1}))
        self.put(b"row")
        self.assign(assigned(1, set(), epoch=2))
        self.assertEqual(self.tablets.get(Get(b"row", b"c")), Moved("", 2))
        self.assertEqual(self.tablets.scan_tablet(ScanTablet(1, b"", b"", 1, 0)), Moved("", 0))
        self.assign(assigned(1, {1}, epoch=3))
        self.assertEqual(self.tablets.get(Get(b"row", b"c")), Value(1, b"row"))
        self.assertEqual(self.tablets.tips(), [Tip(1, 3, 1)])

    def test_a_restart(self) -> None:
        """What the engine holds is served as soon as it is assigned."""
        self.assign(assigned(1, {1}))
        self.put(b"row")
        self.tablets = Tablets("storage-1", self.clock, self.engine.restarted())
        self.successResultOf(Deferred.fromCoroutine(self.tablets.open()))
        self.assertEqual(self.tablets.get(Get(b"row", b"c")), Moved("", 0))
        self.assign(assigned(1, {1}))
        self.assertEqual(self.tablets.get(Get(b"row", b"c")), Value(1, b"row"))

    def test_a_tablet_that_was_lost(self) -> None:
        """What was taken once and is not on the disk any more is refused, never begun anew."""
        whole = msgspec.structs.replace(assigned(1, {1})[0], taken=True)
        self.assign([whole])
        for request in (Get(b"row", b"c"), ScanTablet(1, b"", b"", 1, 0), Watch(b"row")):
            with self.assertRaisesRegex(TabletDamaged, "tablet 1 is damaged: .* gone"):
                match request:
                    case Get():
                        self.tablets.get(request)
                    case ScanTablet():
                        self.tablets.scan_tablet(request)
                    case Watch():
                        self.tablets.watch(request, Deaf())
        with self.assertRaises(TabletDamaged):
            self.put(b"row")
        self.assertEqual(self.engine.tablets, {})
        self.assertEqual(self.tablets.tips(), [Tip(1, 1, 0, damaged=True)])

    def test_a_lost_tablet_of_which_another_is_the_primary(self) -> None:
        """Clients are sent away as always; the coordinator is told."""
        whole = msgspec.structs.replace(assigned(1, set())[0], taken=True)
        self.assign([whole])
        self.assertEqual(self.tablets.get(Get(b"row", b"c")), Moved("", 1))
        self.assertEqual(self.tablets.tips(), [Tip(1, 1, 0, damaged=True)])

    def test_stopping(self) -> None:
        """What is under way is finished, what is new refused."""
        self.engine.instant = False
        self.assign(assigned(1, {1}))
        self.assertEqual(self.tablets.get(Get(b"row", b"c")), Missing())
        write = self.tablets.mutate(Put(b"row", b"c", b""), None)
        assert isinstance(write, Deferred)
        stopped = Deferred.fromCoroutine(self.tablets.stop())
        self.assertIsInstance(self.put(b"other"), Busy)
        self.assertNoResult(stopped)
        self.engine.sync()
        self.assertEqual(self.successResultOf(write), Ok(1))
        self.successResultOf(stopped)
        self.assertTrue(self.engine.closed)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_disk_that_hangs(self) -> None:
        """Does not keep the server from stopping."""
        self.engine.instant = False
        self.assign(assigned(1, {1}))
        self.tablets.mutate(Put(b"row", b"c", b""), None)
        stopped = Deferred.fromCoroutine(self.tablets.stop())
        self.clock.advance(0)
        self.assertNoResult(stopped)
        self.clock.advance(STOP_WITHIN_S)
        self.successResultOf(stopped)
        self.engine.sync()

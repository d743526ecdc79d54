"""Flushes and compactions: the same cells before and after, less log, few tables."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm import compaction
from penncloud.lsm.compaction import MAX_TABLES, pick
from penncloud.lsm.errors import Overloaded, StoreDamaged, TableDamaged, TabletDamaged
from penncloud.lsm.keys import HASH_SPACE
from penncloud.lsm.memtable import StoredCell
from penncloud.lsm.merge_job import MergeJob
from penncloud.platform.child import ChildFailed
from penncloud.platform.errors import DiskError, DiskFull
from penncloud.platform.memory_disk import Fault
from tests.lsm.machine import SMALL, Machine, Stuck, delete, put


def _machine(**changes: Any) -> Machine:
    machine = Machine(options=evolve(SMALL, **changes))
    machine.open()
    machine.run(machine.engine.create_tablet(1, 0, HASH_SPACE))
    return machine


class FlushTests(SynchronousTestCase):
    """Memtables become checkpoints."""

    def test_flush_by_size(self) -> None:
        """Far more data than memtables may hold passes through bounded memory, and all is there."""
        machine = _machine()
        value = "x" * 500
        for version in range(1, 401):
            machine.write(1, version, put(f"row{version % 40}", str(version), value))
            self.assertLess(machine.engine._store.memory_bytes, SMALL.stall_bytes + 2000)
        machine.settle()
        self.assertEqual(len(machine.cells(1)), 400)
        self.assertLess(machine.engine._store.wal.segments, 14)
        found = machine.reopen(crash=True)[1]
        self.assertGreater(found.checkpoint_no, 3)
        self.assertEqual(found.version + len(found.tail), 400)
        machine.engine.commit(1, 400)
        cells = machine.cells(1)
        for version in range(1, 401):
            key = (f"row{version % 40}".encode(), str(version).encode())
            self.assertEqual(cells[key], (version, value.encode()))
            self.assertEqual(machine.engine.get(1, *key), StoredCell(version, value.encode()))

    def test_flush_by_count(self) -> None:
        """An administrator may want a checkpoint every N writes."""
        machine = _machine(checkpoint_writes=10)
        for version in range(1, 36):
            machine.write(1, version, put("row", "col", str(version)))
            machine.settle(0.02)
        found = machine.reopen(crash=True)[1]
        self.assertEqual((found.checkpoint_no, found.version), (3, 30))

    def test_idle_tablet_keeps_no_log(self) -> None:
        """A tablet with one old entry is flushed so that the log behind it can go."""
        machine = _machine()
        machine.run(machine.engine.create_tablet(2, 0, HASH_SPACE))
        machine.write(2, 1, put("idle", "a", "x"))
        self._busy(machine, 1, 300)
        self.assertLess(machine.engine._store.wal.segments, 14)
        self.assertEqual(machine.engine.checkpoint_of(2).version, 1)

    def _busy(self, machine: Machine, first: int, last: int) -> None:
        for version in range(first, last + 1):
            machine.write(1, version, put(f"row{version % 40}", "c", "x" * 1000))
        machine.settle()

    def test_waiting_entries_keep_no_log(self) -> None:
        """Entries that nobody commits are carried on, however long it takes, and can be voided after."""
        for crash in (False, True):
            machine = _machine()
            engine = machine.engine
            machine.run(engine.create_tablet(2, 0, HASH_SPACE))
            machine.write(2, 1, put("stuck", "a", "one"))
            for version in (2, 3):
                machine.run(engine.append([machine.entry(2, version, put("stuck", "a", "more"))]))
                self._busy(machine, 1 + 150 * (version - 2), 150 * (version - 1))
            self._busy(machine, 301, 600)
            self.assertLess(engine._store.wal.segments, 14)
            # Others follow on them, and the last two are cut.
            machine.run(engine.append([machine.entry(2, 4), machine.entry(2, 5)]))
            machine.run(engine.void(2, 3))
            found = machine.reopen(crash)
            self.assertEqual(found[2].damaged, "")
            self.assertEqual([entry.version for entry in found[2].tail][-2:], [2, 3])
            machine.engine.commit(2, 3)
            self.assertEqual(machine.cells(2)[b"stuck", b"a"], (3, b"more"))

    def test_carrying_dies_at_every_operation(self) -> None:
        """A power cut or a full disk at any moment of it loses nothing, and makes nothing double."""
        for fault in (None, Fault.FULL):
            for operation in range(60):
                machine = _machine(segment_bytes=2000, memtable_bytes=2000)
                engine = machine.engine
                machine.run(engine.create_tablet(2, 0, HASH_SPACE))
                waiting = [machine.entry(2, n, put("stuck", str(n), "x")) for n in (1, 2, 3)]
                for entry in waiting:
                    machine.run(engine.append([entry]))
                version, begun = 0, False
                try:
                    while version < 12 or not begun:
                        if not begun and machine.engine._store.wal.segments >= 4:
                            begun = True
                            at = machine.disk.operations + operation
                            if fault is None:
                                machine.disk.unplug_at = at
                            else:
                                machine.disk.faults[at] = fault
                        version += 1
                        machine.write(1, version, put("row", str(version), "x" * 700))
                        machine.settle(0.2)
                except (Stuck, DiskFull):
                    pass
                found = machine.reopen(crash=True)
                self.assertEqual((found[2].damaged, found[2].tail), ("", waiting), operation)
                self.assertGreaterEqual(found[1].version + len(found[1].tail), version - 1)

    def test_explicit_checkpoint(self) -> None:
        """A checkpoint carries version, configuration and the owner's blob as of its commit."""
        machine = _machine()
        blobs = [b"", b"one", b"two"]
        machine.engine.set_meta(1, lambda: blobs[machine.engine._tablets[1].committed])
        machine.write(1, 1, put("row", "a", "one"))
        machine.run(machine.engine.checkpoint(1))
        machine.write(1, 2, put("row", "a", "two"))
        found = machine.reopen(crash=True)[1]
        self.assertEqual((found.version, found.entry_cfg, found.meta), (1, 1, b"one"))
        machine.engine.commit(1, 2)
        machine.engine.set_meta(1, lambda: b"two")
        machine.run(machine.engine.checkpoint(1))
        found = machine.reopen()[1]
        self.assertEqual((found.version, found.meta, found.tail), (2, b"two", []))
        self.assertEqual(len(machine.disk.listdir("lsm/tables")), 3)

    def test_no_cells(self) -> None:
        """Entries without effects make checkpoints without tables."""
        machine = _machine()
        for version in range(1, 4):
            machine.write(1, version)
        machine.run(machine.engine.checkpoint(1))
        found = machine.reopen()[1]
        self.assertEqual((found.version, found.tail), (3, []))
        self.assertEqual(machine.disk.listdir("lsm/tables"), [])

    def test_uncommitted_entries_stay(self) -> None:
        """A checkpoint does not take entries that are durable but not committed, nor lose them."""
        machine = _machine()
        entries = [machine.entry(1, n, put("row", str(n), "x")) for n in range(1, 6)]
        machine.run(machine.engine.append(entries))
        machine.engine.commit(1, 2)
        machine.run(machine.engine.checkpoint(1))
        for number in range(2, 200):
            # Another tablet's writes make the log roll over.
            if number == 2:
                machine.run(machine.engine.create_tablet(2, 0, 10))
            machine.write(2, number - 1, put("row", "a", "y" * 300))
        found = machine.reopen(crash=True)[1]
        self.assertEqual(found.version, 2)
        self.assertEqual([entry.version for entry in found.tail], [3, 4, 5])

    def test_quiet_tablet_does_not_keep_the_log(self) -> None:
        """A tablet with one old write is flushed when the log gets long because of it."""
        machine = _machine()
        machine.run(machine.engine.create_tablet(2, 0, 10))
        machine.write(2, 1, put("row", "a", "old"))
        for version in range(1, 500):
            machine.write(1, version, put("row", "a", "y" * 300))
        machine.settle()
        self.assertLess(machine.engine._store.wal.segments, 14)
        self.assertEqual(machine.engine.get(2, b"row", b"a"), StoredCell(1, b"old"))

    def test_back_pressure(self) -> None:
        """Appends wait, in order, while too much waits for a flush; beyond a bound they are refused."""
        machine = _machine()
        engine = machine.engine
        fired: list[int] = []

        def committed(_ignored: None, version: int) -> None:
            engine.commit(1, version)
            fired.append(version)

        waiting: list[Deferred[None]] = []
        most = 0
        for version in range(1, 200):
            entry = machine.entry(1, version, put("row", str(version), "x" * 5000))
            waiting.append(engine.append([entry]).addCallback(committed, version))
            if version % 20 == 0:
                machine.clock.advance(0.001)
                most = max(most, len(engine._appender._stalled))
        self.assertGreater(most, 50)
        machine.settle(10)
        self.assertEqual(fired, list(range(1, 200)))
        self.assertEqual(len(machine.cells(1)), 199)
        engine._appender._stalled.extend([None] * 10_000)  # type: ignore[list-item]
        with self.assertRaises(Overloaded):
            machine.run(engine.append([machine.entry(1, 200)]))
        engine._appender._stalled.clear()

    def test_closing(self) -> None:
        """A stop leaves nobody waiting: all that has not begun is refused, what has is finished."""
        machine = _machine()
        engine = machine.engine
        outcomes: list[Deferred[None]] = []
        for version in range(1, 60):
            entry = machine.entry(1, version, put("row", str(version), "x" * 5000))
            outcomes.append(engine.append([entry]))
        self.assertGreater(engine._appender.stalled, 10)
        outcomes += [engine.checkpoint(1), engine.compact(1)]
        closed = Deferred.fromCoroutine(engine.close())
        outcomes += [engine.append([machine.entry(1, 60)]), engine.checkpoint(1)]
        machine.run(closed)
        kinds = []
        for outcome in outcomes:
            try:
                machine.run(outcome)
                kinds.append("done")
            except Overloaded:
                kinds.append("refused")
        durable = kinds.count("done")
        self.assertEqual(kinds, ["done"] * durable + ["refused"] * (len(kinds) - durable))
        self.assertEqual(len(machine.reopen(crash=True)[1].tail), durable)

    def test_full_disk(self) -> None:
        """Without room for a flush reads go on, writes are refused in time, and it heals."""
        machine = _machine()
        machine.settle()
        version = 0
        machine.disk.capacity_bytes = 0
        refused = 0
        while refused < 3:
            entry = machine.entry(1, version + 1, put("row", str(version + 1), "x" * 800))
            try:
                machine.run(machine.engine.append([entry]))
            except DiskFull:
                refused += 1
                continue
            version += 1
            machine.engine.commit(1, version)
            machine.settle(0.01)
        self.assertGreater(version, 3)
        self.assertEqual(len(machine.cells(1)), version)
        machine.disk.capacity_bytes = 10**9
        machine.settle(20)
        machine.write(1, version + 1, put("row", "after", "x"))
        found = machine.reopen(crash=True)[1]
        self.assertEqual(found.version + len(found.tail), version + 1)

    def test_full_disk_that_nobody_writes_to(self) -> None:
        """Whatever a flush was for that found no room, it is tried again until there is some."""
        for write_something in (True, False):
            machine = _machine(checkpoint_writes=3)
            machine.settle()
            if write_something:
                machine.write(1, 1, put("row", "col", "x"))
            machine.disk.capacity_bytes = 0
            with self.assertRaises(DiskFull):
                machine.run(machine.engine.checkpoint(1))
            self.assertTrue(machine.engine.full)
            machine.settle(5)
            self.assertTrue(machine.engine.full)
            machine.disk.capacity_bytes = 10**9
            machine.settle(5)
            self.assertFalse(machine.engine.full)
            machine.run(machine.engine.drop_tablet(1))

    def test_full_disk_without_tablets(self) -> None:
        """A tablet that is dropped wants no room any more."""
        machine = _machine()
        machine.disk.capacity_bytes = 0
        with self.assertRaises(DiskFull):
            machine.run(machine.engine.checkpoint(1))
        machine.disk.capacity_bytes = 10**9
        machine.run(machine.engine.drop_tablet(1))
        self.assertFalse(machine.engine.full)

    def test_bad_writes(self) -> None:
        """Whatever a flush writes wrongly is written again, or reported when it is read."""
        outcomes = set()
        for ahead in range(16):
            machine = _machine()
            machine.engine.set_meta(1, lambda: b"blob")
            machine.write(1, 1, put("row", "a", "one"))
            machine.settle()
            machine.disk.faults[machine.disk.operations + ahead] = Fault.FLIP
            try:
                machine.run(machine.engine.checkpoint(1))
            except TableDamaged:
                outcomes.add("written again")
                machine.settle(5)
                machine.run(machine.engine.checkpoint(1))
                self.assertEqual(len(self.flushLoggedErrors(TableDamaged)), 1)
            try:
                found = machine.reopen()[1]
            except StoreDamaged:
                outcomes.add("manifest")
                continue
            try:
                self.assertEqual(machine.engine.get(1, b"row", b"a"), StoredCell(1, b"one"))
                self.assertEqual(found.meta, b"blob")
            except TabletDamaged:
                outcomes.add("damaged")
        self.assertLessEqual({"manifest", "damaged"}, outcomes)


class _SlowMerger:
    """Merges that end when the test says so, and do not find what they need."""

    def __init__(self) -> None:
        self.waiting: list[Deferred[bool]] = []

    def merge(self, job: MergeJob) -> Deferred[bool]:
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def stop(self) -> None:
        """Nothing is under way that would have to be ended."""


class CompactionPressureTests(SynchronousTestCase):
    """Compactions that do not keep up."""

    def setUp(self) -> None:
        self.patch(compaction, "_CHILD_BYTES", 0)
        self.patch(compaction, "STALL_TABLES", 6)
        self.merger = _SlowMerger()
        self.machine = Machine(merger=self.merger)
        self.machine.open()
        self.machine.run(self.machine.engine.create_tablet(1, 0, HASH_SPACE))
        self.version = 0

    def _write(self) -> Deferred[None]:
        self.version += 1
        machine, version = self.machine, self.version
        entry = machine.entry(1, version, put("row", str(version), "x" * 2000))
        appended = machine.engine.append([entry])
        return appended.addCallback(lambda _ignored: machine.engine.commit(1, version))

    def _fill(self) -> list[Deferred[None]]:
        """Write until the engine lets writes wait; those that do."""
        for _ in range(300):
            written = self._write()
            self.machine.settle(0.05)
            if not written.called:
                return [written, self._write(), self._write()]
        raise AssertionError("all writes were taken")

    def test_writes_wait(self) -> None:
        """With too many tables writes wait, metrics say so, reads go on; then all goes on in order."""
        waiting = self._fill()
        machine = self.machine
        self.assertEqual(len(machine.engine._tablets[1].tables), 6)
        self.assertLess(machine.engine._store.memory_bytes, SMALL.stall_bytes + 5000)
        self.assertEqual(machine.metric("most_tables"), 6)
        self.assertEqual(machine.metric("stalled_appends"), 3)
        self.assertGreaterEqual(machine.metric("stalls_total"), 3)
        self.assertEqual(len(machine.cells(1)), self.version - 3)
        self.assertEqual(len(self.merger.waiting), 1)
        machine.settle(60)
        self.assertFalse(waiting[0].called)
        # From here on they are done in the server.
        self.patch(compaction, "_CHILD_BYTES", 2**40)
        self.merger.waiting.pop().errback(ChildFailed("killed"))
        for one in waiting:
            machine.run(one)
        machine.settle(60)
        self.assertEqual(len(machine.cells(1)), self.version)
        self.assertLess(machine.metric("most_tables"), 6)
        self.assertEqual(machine.metric("stalled_appends"), 0)

    def test_failing_compactions(self) -> None:
        """While compactions fail, writes do not wait for them: tables are better than refusals."""
        waiting = self._fill()
        self.merger.waiting.pop().errback(DiskError("refused"))
        for one in waiting:
            self.machine.run(one)
        tables = len(self.machine.engine._tablets[1].tables)
        self.assertGreater(tables, 6)

    def test_no_processes(self) -> None:
        """Where no child can be had, merges are done in the server: slower, and not never."""
        self._fill()
        before = self.machine.cells(1)
        self.merger.waiting.pop().errback(ChildFailed("cannot fork"))
        self.machine.settle(5)
        self.assertLess(len(self.machine.engine._tablets[1].tables), 6)
        after = self.machine.cells(1)
        self.assertEqual({key: after[key] for key in before}, before)

    def test_dropped_meanwhile(self) -> None:
        """A child that no longer finds the files of a dropped tablet has found no damage."""
        machine = self.machine
        self._fill()
        machine.settle(1)
        while machine.engine._appender.stalled:
            # The drop waits for nobody: writes that wait are refused with it.
            machine.run(machine.engine.checkpoint(1))
        told: list[int] = []
        machine.engine.on_damage(lambda tablet, _why: told.append(tablet))
        machine.run(machine.engine.drop_tablet(1))
        self.merger.waiting.pop().errback(TableDamaged("lsm/tables/x.table", 0, "missing"))
        machine.settle(10)
        self.assertEqual(told, [])

    def test_asked_for(self) -> None:
        """A checkpoint that somebody asks for is made all the same: a split or a transfer needs it."""
        self._fill()
        self.machine.run(self.machine.engine.checkpoint(1))
        self.assertEqual(len(self.machine.engine._tablets[1].tables), 7)


class PickTests(SynchronousTestCase):
    """The policy of compaction."""

    def test_few_tables(self) -> None:
        """Few tables are left alone."""
        self.assertIsNone(pick([]))
        self.assertIsNone(pick([1, 1, 1]))

    def test_similar_tables(self) -> None:
        """Neighbours of similar size are merged, the large old one is not."""
        self.assertEqual(pick([1, 1, 1, 1, 100]), (0, 4))
        self.assertEqual(pick([1, 10, 10, 10, 10, 100]), (1, 5))

    def test_much_that_is_superseded(self) -> None:
        """Once the newer tables are as large as the oldest, all are merged."""
        self.assertEqual(pick([3, 3, 3, 9]), (0, 4))

    def test_bounds(self) -> None:
        """Flushing for ever leaves few tables and writes each byte a logarithmic number of times."""
        sizes: list[int] = []
        written = 0
        for _ in range(2000):
            sizes.insert(0, 1)
            while run := pick(sizes):
                start, end = run
                merged = sum(sizes[start:end])
                written += merged
                sizes[start:end] = [merged]
            self.assertLessEqual(len(sizes), MAX_TABLES)
        self.assertLess(written / 2000, 16)

    def test_never_stuck(self) -> None:
        """Any number of tables beyond the bound is reduced."""
        sizes = [2**n for n in range(30)]
        while len(sizes) > MAX_TABLES:
            run = pick(sizes)
            assert run is not None
            self.assertGreaterEqual(run[1] - run[0], 2)
            sizes[run[0] : run[1]] = [sum(sizes[run[0] : run[1]])]


class CompactionTests(SynchronousTestCase):
    """Tables become fewer."""

    def test_overwrites_and_deletions(self) -> None:
        """Only the newest cells are left, and no tombstone when everything was merged."""
        machine = _machine()
        for version in range(1, 61):
            col = str(version % 6)
            effect = delete("row", col) if version > 54 else put("row", col, f"v{version}")
            machine.write(1, version, effect, put("other", "x", str(version)))
            if version % 10 == 0:
                machine.run(machine.engine.checkpoint(1))
        machine.settle(10)
        machine.run(machine.engine.compact(1))
        self.assertEqual(machine.cells(1), {(b"other", b"x"): (60, b"60")})
        tables = machine.engine._tablets[1].tables
        self.assertEqual([table.properties.cells for table in tables], [1])
        machine.settle()
        self.assertEqual(len(machine.disk.listdir("lsm/tables")), 1)
        machine.reopen(crash=True)
        self.assertEqual(machine.cells(1), {(b"other", b"x"): (60, b"60")})

    def test_all_deleted(self) -> None:
        """A merge of nothing but deletions leaves no table."""
        machine = _machine()
        machine.write(1, 1, put("row", "a", "x"))
        machine.run(machine.engine.checkpoint(1))
        machine.write(1, 2, delete("row", "a"))
        machine.run(machine.engine.checkpoint(1))
        machine.run(machine.engine.compact(1))
        self.assertEqual(machine.engine._tablets[1].tables, [])
        self.assertEqual(machine.disk.listdir("lsm/tables"), [])

    def test_tombstones_stay_above_older_tables(self) -> None:
        """A partial merge keeps tombstones, so that nothing deleted comes back."""
        machine = _machine()
        machine.write(1, 1, *(put("row", str(n), "x" * 400) for n in range(40)))
        machine.run(machine.engine.checkpoint(1))
        for version in range(2, 7):
            machine.write(1, version, delete("row", str(version)))
            machine.run(machine.engine.checkpoint(1))
            machine.settle(1)
        self.assertLess(len(machine.engine._tablets[1].tables), 5)
        expected = {str(n).encode() for n in range(40) if not 2 <= n <= 6}
        self.assertEqual({col for _row, col in machine.cells(1)}, expected)

    def test_damaged_input(self) -> None:
        """A compaction that meets damage reports it instead of writing it elsewhere."""
        machine = _machine()
        for version in (1, 2):
            machine.write(1, version, put("row", str(version), "x" * 2000))
            machine.run(machine.engine.checkpoint(1))
        name = machine.disk.listdir("lsm/tables")[0]
        machine.disk.flip_bit(f"lsm/tables/{name}", 8 * 500)
        with self.assertRaises(TableDamaged):
            machine.run(machine.engine.compact(1))
        with self.assertRaises(TabletDamaged):
            machine.engine.get(1, b"row", b"1")
        # The block is remembered; what else there is can be read and written, also after a restart.
        for _ in range(2):
            self.assertIn("checksum", machine.engine.damage(1))
            stored = machine.engine.get(1, b"row", b"2")
            self.assertEqual(None if stored is None else stored.version, 2)
            with self.assertRaises(TabletDamaged):
                machine.run(machine.engine.compact(1))
            machine.settle()
            self.assertEqual(machine.reopen()[1].damaged, "")
        machine.write(1, 3, put("row", "1", "anew"))
        machine.run(machine.engine.checkpoint(1))
        stored = machine.engine.get(1, b"row", b"1")
        self.assertEqual(None if stored is None else stored.value, b"anew")

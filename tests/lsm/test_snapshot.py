"""Snapshots: what they show stays as it was, whatever happens to the tablet."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm.keys import HASH_SPACE
from penncloud.lsm.memtable import StoredCell
from penncloud.lsm.store import TABLES
from tests.lsm.machine import Machine, delete, put

_ROWS = [f"row{number}" for number in range(20)]


class SnapshotTests(SynchronousTestCase):
    """A snapshot over tables and memtable, with everything changing behind its back."""

    def setUp(self) -> None:
        self.machine = machine = Machine()
        machine.open()
        machine.run(machine.engine.create_tablet(1, 0, HASH_SPACE))
        version = 0
        for round_ in range(3):
            for row in _ROWS:
                version += 1
                cells = [put(row, f"c{n}", f"{round_} {n}" * 20) for n in range(round_, 6)]
                machine.write(1, version, *cells)
            if round_ < 2:
                machine.run(machine.engine.checkpoint(1))
        machine.write(1, version + 1, delete("row7", "c3"))
        self.version = version + 1
        self.before = machine.cells(1)

    def _change(self, step: int) -> None:
        machine, engine = self.machine, self.machine.engine
        version = self.version + 1 + step
        if step < 6:
            gone = delete(_ROWS[step], "c5")
            machine.write(1, version, gone, *(put(row, "c2", "new") for row in _ROWS))
        if step % 2:
            machine.run(engine.checkpoint(1))
        if step == 2:
            machine.run(engine.compact(1))
        if step == 6:
            machine.run(engine.split_tablet(1, HASH_SPACE // 2, 2, 3))
        if step == 8:
            for half in (2, 3):
                machine.run(engine.compact(half))
                machine.run(engine.drop_tablet(half))

    def test_consumed_slowly(self) -> None:
        """A scan that is consumed cell by cell shows the cells of one moment, down to a dropped tablet."""
        snapshot = self.machine.engine.snapshot(1)
        seen: dict[tuple[bytes, bytes], tuple[int, bytes]] = {}
        cells = snapshot.scan_tablet()
        steps = iter([0, 1, 2, 3, 4, 5, 6, 8])
        for number, cell in enumerate(cells):
            seen[cell.row, cell.col] = (cell.version, cell.value)
            if number % 12 == 5:
                step = next(steps, None)
                if (step is not None and step % 2 == 0) or (step is not None and step < 6):
                    self._change(step)
        self.assertEqual(seen, self.before)
        self.assertIsNone(next(steps, None), "not everything has happened")
        self.assertEqual(snapshot.version, self.version)
        for (row, col), (version, value) in self.before.items():
            self.assertEqual(snapshot.get(row, col), StoredCell(version, value))
        self.assertIsNone(snapshot.get(b"row7", b"c3"))
        cols = [cell.col for cell in snapshot.scan(b"row7", b"c1", b"c5", True)]
        self.assertEqual(cols, [b"c4", b"c2", b"c1"])
        snapshot.close()
        self.machine.settle()
        self.assertEqual(self.machine.disk.listdir(TABLES), [])

    def test_pages(self) -> None:
        """A scan can be gone on with at any cell, as a backup does that was interrupted."""
        snapshot = self.machine.engine.snapshot(1)
        whole = list(snapshot.scan_tablet())
        self._change(0)
        self._change(1)
        for index in range(0, len(whole), 7):
            last = whole[index]
            rest = list(snapshot.scan_tablet(last.row, last.col + b"\0"))
            self.assertEqual(rest, whole[index + 1 :])
        snapshot.close()

    def test_files_go_with_the_last_reader(self) -> None:
        """What was compacted away is closed when nobody reads it any more, and only then."""
        engine = self.machine.engine
        first, second = engine.snapshot(1), engine.snapshot(1)
        old = list(engine._tablets[1].tables)
        self.machine.run(engine.checkpoint(1))
        self.machine.run(engine.compact(1))
        first.close()
        self.assertTrue(all(table._references == 1 for table in old))
        self.assertEqual(len(list(second.scan_tablet())), len(self.before))
        second.close()
        self.assertTrue(all(table._references == 0 for table in old))

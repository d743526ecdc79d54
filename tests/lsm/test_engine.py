"""The engine: writes are visible once committed, and there after any restart."""

from __future__ import annotations

import google_crc32c
from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm.errors import NewerFormat, NoSuchTablet, StoreDamaged, TabletDamaged
from penncloud.lsm.keys import HASH_SPACE
from penncloud.lsm.memtable import StoredCell
from penncloud.lsm.record import encode
from penncloud.lsm.store import MANIFEST, TABLES
from penncloud.lsm.table import FOOTER_BYTES
from penncloud.platform.errors import DiskFailed, DiskFull
from penncloud.platform.memory_disk import Fault
from tests.lsm.machine import SMALL, Machine, delete, put


class EngineTests(SynchronousTestCase):
    """One tablet on a healthy disk."""

    def setUp(self) -> None:
        self.machine = Machine()
        self.assertEqual(self.machine.open(), {})
        self.engine = self.machine.engine
        self.machine.run(self.engine.create_tablet(1, 0, HASH_SPACE))

    def test_first_start_interrupted(self) -> None:
        """Whenever the power goes during the very first start, the next one succeeds."""
        for seed in range(20):
            for halves in range(12):
                machine = Machine(seed)
                Deferred.fromCoroutine(machine.engine.open())
                for _ in range(halves):
                    machine.clock.advance(0.0005)
                self.assertEqual(machine.reopen(crash=True), {}, f"{seed}, {halves} half ms")

    def test_get(self) -> None:
        """A committed cell has the value and version of its last write; others are missing."""
        self.machine.write(1, 1, put("row", "a", "one"), put("row", "b", b""))
        self.machine.write(1, 2, put("row", "a", "two"))
        self.assertEqual(self.engine.get(1, b"row", b"a"), StoredCell(2, b"two"))
        self.assertEqual(self.engine.get(1, b"row", b"b"), StoredCell(1, b""))
        self.assertIsNone(self.engine.get(1, b"row", b"c"))

    def test_delete(self) -> None:
        """A deleted cell is missing for reads and scans, and can be written again."""
        self.machine.write(1, 1, put("row", "a", "one"), put("row", "b", "two"))
        self.machine.write(1, 2, delete("row", "a"), delete("row", "never there"))
        self.assertIsNone(self.engine.get(1, b"row", b"a"))
        self.assertEqual([cell.col for cell in self.engine.scan(1, b"row")], [b"b"])
        self.machine.write(1, 3, put("row", "a", "again"))
        self.assertEqual(self.engine.get(1, b"row", b"a"), StoredCell(3, b"again"))

    def test_visible_when_committed(self) -> None:
        """A durable entry is not read before `commit`, and a commit cannot outrun the disk."""
        entries = [self.machine.entry(1, n, put("row", "a", str(n))) for n in (1, 2, 3)]
        appended = self.engine.append(entries)
        with self.assertRaises(ValueError):
            self.engine.commit(1, 1)
        self.machine.run(appended)
        self.assertIsNone(self.engine.get(1, b"row", b"a"))
        self.engine.commit(1, 2)
        self.assertEqual(self.engine.get(1, b"row", b"a"), StoredCell(2, b"2"))

    def test_versions_are_contiguous(self) -> None:
        """A gap or a repetition is an error of the caller and changes nothing."""
        for wrong in (0, 2, 7):
            with self.assertRaises(ValueError):
                self.engine.append([self.machine.entry(1, wrong)])
        with self.assertRaises(ValueError):
            self.engine.append([self.machine.entry(1, 1), self.machine.entry(1, 3)])
        self.machine.write(1, 1, put("row", "a", "one"))

    def test_scan(self) -> None:
        """A row is scanned in column order, within bounds, both ways, and nothing of other rows."""
        for number, col in enumerate(["b", "d", "a", "c"], 1):
            self.machine.write(1, number, put("row", col, col), put("row2", col, "x"))
        scan = self.engine.scan

        def cols(start: bytes, stop: bytes, reverse: bool) -> list[bytes]:
            return [cell.col for cell in scan(1, b"row", start, stop, reverse)]

        self.assertEqual(cols(b"", b"", False), [b"a", b"b", b"c", b"d"])
        self.assertEqual(cols(b"b", b"d", False), [b"b", b"c"])
        self.assertEqual(cols(b"b", b"", True), [b"d", b"c", b"b"])
        self.assertEqual(cols(b"c", b"b", False), [])
        self.assertEqual([cell.value for cell in scan(1, b"row", b"c")], [b"c", b"d"])

    def test_scan_tablet(self) -> None:
        """A tablet is scanned whole, each cell once, and can be continued anywhere."""
        for number in range(1, 31):
            self.machine.write(1, number, put(f"row{number % 10}", str(number), "x"))
        cells = list(self.engine.scan_tablet(1))
        self.assertEqual(len(cells), 30)
        self.assertEqual(len({cell.row for cell in cells}), 10)
        for index, cell in enumerate(cells):
            rest = list(self.engine.scan_tablet(1, cell.row, cell.col + b"\0"))
            self.assertEqual(rest, cells[index + 1 :])

    def test_restart(self) -> None:
        """Uncommitted and committed entries come back as the tail, for the owner to decide."""
        for crash in (False, True):
            machine = Machine()
            machine.open()
            machine.run(machine.engine.create_tablet(1, 5, 10))
            machine.write(1, 1, put("row", "a", "one"))
            last = machine.entry(1, 2, put("row", "a", "two"))
            machine.run(machine.engine.append([last]))
            found = machine.reopen(crash)[1]
            self.assertEqual((found.lo, found.hi, found.version, found.damaged), (5, 10, 0, ""))
            self.assertEqual([entry.version for entry in found.tail], [1, 2])
            self.assertEqual(found.tail[1], last)
            self.assertIsNone(machine.engine.get(1, b"row", b"a"))
            machine.engine.commit(1, 2)
            self.assertEqual(machine.engine.get(1, b"row", b"a"), StoredCell(2, b"two"))
            machine.write(1, 3, put("row", "a", "three"))

    def test_void(self) -> None:
        """Entries that were never committed can be taken back, durably."""
        entries = [self.machine.entry(1, n, put("row", "a", str(n))) for n in (1, 2, 3)]
        self.machine.run(self.engine.append(entries))
        self.engine.commit(1, 1)
        with self.assertRaises(ValueError):
            self.machine.run(self.engine.void(1, 0))
        self.machine.run(self.engine.void(1, 1))
        self.machine.run(self.engine.append([self.machine.entry(1, 2, put("row", "a", "new"))]))
        tail = self.machine.reopen(crash=True)[1].tail
        self.assertEqual([entry.effects for entry in tail[1:]], [(put("row", "a", "new"),)])

    def test_void_at_the_end_of_a_segment(self) -> None:
        """Wherever in its segment a log is cut, the next start does not take the cut for a loss."""
        for size in range(0, 500, 20):
            machine = Machine(options=evolve(SMALL, segment_bytes=600))
            machine.open()
            machine.run(machine.engine.create_tablet(1, 0, HASH_SPACE))
            machine.settle()
            entries = [machine.entry(1, n, put("row", "a", "x" * (n - 1) * size)) for n in (1, 2)]
            machine.run(machine.engine.append(entries))
            machine.run(machine.engine.void(1, 1))
            machine.settle()
            found = machine.reopen(crash=True)[1]
            self.assertEqual((found.damaged, len(found.tail)), ("", 1), size)

    def test_tablets(self) -> None:
        """Tablets are separate, share appends, and can be dropped and made anew."""
        engine = self.engine
        self.machine.run(engine.create_tablet(2, 0, HASH_SPACE))
        with self.assertRaises(ValueError):
            self.machine.run(engine.create_tablet(2, 0, 5))
        entries = [self.machine.entry(n, 1, put("row", "a", str(n))) for n in (1, 2)]
        self.machine.run(engine.append(entries))
        engine.commit(1, 1)
        engine.commit(2, 1)
        self.assertEqual(engine.get(2, b"row", b"a"), StoredCell(1, b"2"))
        self.machine.run(engine.drop_tablet(2))
        with self.assertRaises(NoSuchTablet):
            engine.get(2, b"row", b"a")
        with self.assertRaises(NoSuchTablet):
            self.machine.run(engine.append([self.machine.entry(2, 2)]))
        self.machine.run(engine.create_tablet(2, 0, HASH_SPACE))
        self.machine.write(2, 1, put("row", "b", "new"))
        found = self.machine.reopen(crash=True)
        self.assertEqual([entry.effects for entry in found[2].tail], [(put("row", "b", "new"),)])
        self.assertEqual(len(found[1].tail), 1)

    def test_large_values(self) -> None:
        """A value of 1 MiB and an empty one are values like others."""
        large = bytes(range(256)) * 4096
        self.machine.write(1, 1, put("row", "large", large), put("row", "empty", b""))
        self.machine.reopen(crash=True)
        engine = self.machine.engine
        engine.commit(1, 1)
        for work in (None, engine.checkpoint, engine.compact):
            if work is not None:
                self.machine.run(work(1))
            self.assertEqual(engine.get(1, b"row", b"large"), StoredCell(1, large))
            self.assertEqual(engine.get(1, b"row", b"empty"), StoredCell(1, b""))
            self.assertEqual([len(cell.value) for cell in engine.scan(1, b"row")], [0, 2**20])
        # Rather many small blocks than this one.
        self.assertLess(engine._store.cache.size_bytes, 20_000)


class EngineFaultTests(SynchronousTestCase):
    """Full, broken and damaged disks."""

    def setUp(self) -> None:
        self.machine = Machine()
        self.machine.open()
        self.machine.run(self.machine.engine.create_tablet(1, 0, HASH_SPACE))
        self.machine.run(self.machine.engine.create_tablet(2, 0, HASH_SPACE))
        self.machine.settle()

    def test_full(self) -> None:
        """On a full disk every write under way is refused, reads go on, and it heals."""
        machine, engine = self.machine, self.machine.engine
        machine.write(1, 1, put("row", "a", "kept"))
        machine.disk.faults[machine.disk.operations] = Fault.FULL
        refused = [
            engine.append([machine.entry(tablet, version, put("row", "a", "refused"))])
            for tablet, version in ((1, 2), (2, 1), (1, 3))
        ]
        for appended in refused:
            with self.assertRaises(DiskFull):
                machine.run(appended)
        self.assertEqual(engine.get(1, b"row", b"a"), StoredCell(1, b"kept"))
        machine.write(2, 1, put("row", "a", "taken"))
        machine.write(1, 2, put("row", "a", "taken"))
        found = machine.reopen(crash=True)
        self.assertEqual([entry.version for entry in found[1].tail], [1, 2])
        self.assertEqual(found[2].tail[0].effects, (put("row", "a", "taken"),))

    def test_failed(self) -> None:
        """After a failed sync writes fail for good; a restart has what was acknowledged."""
        machine = self.machine
        machine.write(1, 1, put("row", "a", "kept"))
        machine.disk.faults[machine.disk.operations] = Fault.FAIL
        for version in (2, 2):
            with self.assertRaises(DiskFailed):
                machine.run(machine.engine.append([machine.entry(1, version)]))
        self.assertEqual(machine.engine.get(1, b"row", b"a"), StoredCell(1, b"kept"))
        tail = machine.reopen(crash=True)[1].tail
        self.assertEqual(tail[0].effects, (put("row", "a", "kept"),))

    def test_lost_entry(self) -> None:
        """A corrupt entry damages its tablet, for good, and no tablet that provably lost nothing."""
        machine = self.machine
        machine.write(1, 1, put("row", "a", "first"))
        start = machine.disk.read("lsm/log/00000001.log").find(b"first")
        machine.write(1, 2, put("row", "a", "second"))
        machine.write(2, 1, put("row", "a", "other"))
        machine.settle()
        machine.disk = machine.disk.crash()
        machine.disk.flip_bit("lsm/log/00000001.log", start * 8)
        machine.engine = machine._engine()
        for _ in range(2):
            found = machine.open() if _ == 0 else machine.reopen(crash=True)
            self.assertIn("log", found[1].damaged)
            self.assertEqual((found[2].damaged, len(found[2].tail)), ("", 1))
            with self.assertRaises(TabletDamaged):
                machine.engine.get(1, b"row", b"a")
            with self.assertRaises(TabletDamaged):
                machine.run(machine.engine.append([machine.entry(1, 1)]))
        machine.run(machine.engine.drop_tablet(1))
        machine.run(machine.engine.create_tablet(1, 0, HASH_SPACE))
        machine.write(1, 1, put("row", "a", "fetched anew"))

    def test_damaged_manifest(self) -> None:
        """Without a whole manifest nothing is opened, and the message names the file."""
        machine = self.machine
        content = machine.disk.read(MANIFEST)
        machine.run(machine.disk.replace(MANIFEST, content[:-1]))
        with self.assertRaisesRegex(StoreDamaged, "MANIFEST"):
            machine.reopen()
        machine.disk.remove(MANIFEST)
        machine.engine = machine._engine()
        with self.assertRaisesRegex(StoreDamaged, "MANIFEST"):
            machine.open()

    def test_newer_table(self) -> None:
        """A table of a later version is no damage: the directory is refused, and nothing marked in it."""
        machine = self.machine
        machine.write(1, 1, put("row", "a", "kept"))
        machine.run(machine.engine.checkpoint(1))
        path = f"{TABLES}/{machine.disk.listdir(TABLES)[0]}"
        content = machine.disk.read(path)
        footer = bytearray(content[-FOOTER_BYTES:-4])
        footer[8] = 9
        crc = google_crc32c.value(bytes(footer)).to_bytes(4, "little")
        machine.run(machine.disk.replace(path, content[:-FOOTER_BYTES] + bytes(footer) + crc))
        with self.assertRaisesRegex(NewerFormat, "version 9"):
            machine.reopen(crash=True)
        machine.settle()
        machine.run(machine.disk.replace(path, content))
        self.assertEqual(machine.reopen(crash=True)[1].damaged, "")
        self.assertEqual(machine.engine.get(1, b"row", b"a"), StoredCell(1, b"kept"))

    def test_newer_manifest(self) -> None:
        """A directory of a later version is refused, and says so."""
        newer = b"".join(encode([b"\x09\x00", b"whatever"], 0, 0))
        self.machine.run(self.machine.disk.replace(MANIFEST, newer))
        with self.assertRaisesRegex(NewerFormat, "version 9"):
            self.machine.reopen()


class SplitTests(SynchronousTestCase):
    """A tablet becomes two at a place of its log."""

    def setUp(self) -> None:
        self.machine = machine = Machine()
        machine.open()
        machine.run(machine.engine.create_tablet(1, 0, HASH_SPACE))
        machine.engine.set_meta(1, lambda: b"blob")
        for version in (1, 2):
            machine.write(1, version, *(put(f"row{n}", str(version), "x") for n in range(20)))
        # What every takeover leaves behind the place, with nobody to commit it.
        machine.run(machine.engine.append([machine.entry(1, 3), machine.entry(1, 4)]))

    def test_place(self) -> None:
        """Children begin at the place, whatever without effects was behind it, also after a crash."""
        machine = self.machine
        cells = machine.cells(1)
        machine.engine.commit(1, 3)
        machine.run(machine.engine.split_tablet(1, HASH_SPACE // 2, 2, 3, (2, 1)))
        self.assertEqual({**machine.cells(2), **machine.cells(3)}, cells)
        machine.write(2, 3, put("new", "c", "v"))
        found = machine.reopen(crash=True)
        self.assertEqual(sorted(found), [2, 3])
        for tablet, tail in ((2, 1), (3, 0)):
            one = found[tablet]
            self.assertEqual(
                (one.version, one.entry_cfg, one.meta, len(one.tail)), (2, 1, b"blob", tail)
            )

    def test_one_large_row(self) -> None:
        """Where nearly all is one row there is no point to cut at, whatever stands beside it."""
        machine = self.machine
        machine.run(machine.engine.create_tablet(9, 0, HASH_SPACE))
        machine.write(9, 1, *(put("large", str(n), "x" * 200) for n in range(100)))
        machine.write(9, 2, *(put(f"row{n}", "c", "x") for n in range(20)))
        machine.run(machine.engine.checkpoint(9))
        self.assertIsNone(machine.engine.split_point(9))

    def test_refused(self) -> None:
        """Nothing with effects may be lost, and the place has to be committed."""
        engine = self.machine.engine
        with self.assertRaises(ValueError):
            self.machine.run(engine.split_tablet(1, HASH_SPACE // 2, 2, 3, (3, 1)))
        self.machine.run(engine.append([self.machine.entry(1, 5, put("row1", "5", "x"))]))
        with self.assertRaises(ValueError):
            self.machine.run(engine.split_tablet(1, HASH_SPACE // 2, 2, 3, (2, 1)))
        self.assertTrue(engine.has(1))

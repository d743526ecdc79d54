"""Looking into a directory from outside: sees what is there, changes nothing, names what is damaged."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm import tool
from penncloud.lsm.block import encode_cell
from penncloud.lsm.errors import TabletDamaged
from penncloud.lsm.keys import HASH_SPACE, pack
from penncloud.lsm.manifest import TableRef, decode_manifest, encode_manifest
from penncloud.lsm.memtable import Slot, StoredCell
from penncloud.lsm.options import EngineOptions
from penncloud.lsm.store import LOG, MANIFEST, TABLES, table_path
from penncloud.lsm.table_writer import TableWriter
from penncloud.platform.errors import ConfigurationError
from tests.lsm.machine import Machine, delete, put


class ToolTests(SynchronousTestCase):
    """A directory with a flushed tablet, entries in the log, and an empty tablet."""

    def setUp(self) -> None:
        self.machine = machine = Machine()
        machine.open()
        for tablet in (1, 2):
            machine.run(machine.engine.create_tablet(tablet, 0, HASH_SPACE))
        machine.engine.set_meta(1, lambda: b"blob")
        machine.write(1, 1, *(put("row", str(n), "x" * 100) for n in range(20)))
        machine.run(machine.engine.checkpoint(1))
        machine.write(1, 2, delete("row", "3"), put("row", "new", "y"))
        self.expected = machine.cells(1)
        machine.run(machine.engine.close())
        machine.settle()
        self.disk = machine.disk

    def test_inspect(self) -> None:
        """The overview has tablets, checkpoints, tables and the log's tail."""
        found = tool.inspect(self.disk)
        one, two = found.tablets
        self.assertEqual((one.tablet, one.checkpoint_no, one.version, one.tail), (1, 1, 1, 1))
        self.assertEqual([ref.cells for ref in one.tables], [20])
        self.assertGreater(one.meta_bytes, 4)
        self.assertEqual((two.checkpoint_no, two.tables, two.damaged), (0, (), ""))
        self.assertEqual(found.strays, ())
        self.machine.run(self.disk.replace(f"{TABLES}/00000099.table", b"left over"))
        self.assertEqual(tool.inspect(self.disk).strays, (f"{TABLES}/00000099.table",))

    def test_dump(self) -> None:
        """A dump has every cell, also those that only the log has, and no deleted one."""
        cells = {(c.row, c.col): (c.version, c.value) for _tablet, c in tool.dump(self.disk)}
        self.assertEqual(cells, self.expected)
        self.assertEqual(list(tool.dump(self.disk, 2)), [])
        with self.assertRaises(ConfigurationError):
            list(tool.dump(self.disk, 3))

    def test_verify(self) -> None:
        """A sound directory has no problems."""
        report = tool.verify(self.disk)
        self.assertEqual((report.problems, report.tables, report.cells), ([], 1, 20))
        self.assertGreater(report.records, 0)

    def test_verify_names_every_damage(self) -> None:
        """Each damaged file is named, whichever it is, and the others are still checked."""
        paths = [MANIFEST, f"{LOG}/ends", f"{LOG}/00000001.log"]
        paths += [f"{TABLES}/{name}" for name in self.disk.listdir(TABLES)]
        self.assertEqual(len(paths), 5)
        for path in paths:
            self.disk.flip_bit(path, 20 * 8)
            report = tool.verify(self.disk)
            self.assertEqual(len([p for p in report.problems if path in p]) > 0, True, path)
            self.disk.flip_bit(path, 20 * 8)
        self.assertEqual(tool.verify(self.disk).problems, [])

    def _table(self, cells: dict[bytes, Slot], **wrong: Any) -> None:
        """Put a table in the place of the only one, as a program with a mistake would write it."""
        manifest = decode_manifest(self.disk.read(MANIFEST), MANIFEST)
        state = manifest.tablets[1]
        parts: list[bytes] = []
        writer = TableWriter(parts.extend, len(cells), 5, EngineOptions(block_bytes=200))
        writer.add([(key, encode_cell(key, slot)) for key, slot in cells.items()])
        for name, difference in wrong.items():
            setattr(writer, name, getattr(writer, name) + difference)
        writer.finish()
        content = b"".join(parts)
        path = table_path(state.tables[0].file)
        self.machine.run(self.disk.replace(path, content))
        ref = TableRef(state.tables[0].file, len(content), writer._cells)
        changed = manifest.with_tablet(1, msgspec.structs.replace(state, tables=(ref,)))
        self.machine.run(self.disk.replace(MANIFEST, encode_manifest(changed)))

    def test_verify_checks_invariants(self) -> None:
        """What has all its checksums and is wrong all the same is named too."""
        cells: dict[bytes, Slot] = {
            key: StoredCell(1, b"x" * 50)
            for key in sorted(pack(b"r%d" % n, b"c") for n in range(9))
        }
        self._table(cells)
        self.assertEqual(tool.verify(self.disk).problems, [])
        first, last = min(cells), max(cells)
        below, above = b"\0" + first[1:], b"\xff" + last[1:]
        late: dict[bytes, Slot] = {**cells, last: StoredCell(7, b"later than the checkpoint")}
        cases: list[tuple[str, dict[bytes, Slot], dict[str, Any]]] = [
            ("tombstones", cells, {"_tombstones": 1}),
            ("number of cells", cells, {"_cells": 1}),
            ("size of the data", cells, {"_data_bytes": 1}),
            ("first or last key", cells, {"_last_key": b"x"}),
            ("version 7", late, {}),
            ("no key", {b"no key at all": StoredCell(1, b"")}, {}),
            ("no key", {below: StoredCell(1, b""), **cells}, {}),
            ("no key", {**cells, above: StoredCell(1, b"")}, {}),
        ]
        for expected, changed, wrong in cases:
            self._table(changed, **wrong)
            problems = tool.verify(self.disk).problems
            self.assertEqual(len(problems), 1, (expected, problems))
            self.assertIn(expected, problems[0])
            self.assertIn(".table", problems[0])

    def test_verify_checks_the_manifest(self) -> None:
        """A manifest that would lead to files being written over, or cells out of reach, is named."""
        manifest = decode_manifest(self.disk.read(MANIFEST), MANIFEST)
        state = manifest.tablets[1]
        replace = msgspec.structs.replace
        for expected, changed in (
            ("next_file", replace(manifest, next_file=1)),
            ("empty range", manifest.with_tablet(1, replace(state, lo=5, hi=5))),
            ("empty range", manifest.with_tablet(1, replace(state, hi=HASH_SPACE + 1))),
            ("twice", manifest.with_tablet(1, replace(state, tables=state.tables * 2))),
        ):
            self.machine.run(self.disk.replace(MANIFEST, encode_manifest(changed)))
            problems = tool.verify(self.disk).problems
            self.assertEqual(len(problems), 1, (expected, problems))
            self.assertIn(expected, problems[0])

    def test_missing_files(self) -> None:
        """So is a file that is not there, and a directory that is none of ours."""
        for name in self.disk.listdir(TABLES):
            self.disk.remove(f"{TABLES}/{name}")
        report = tool.verify(self.disk)
        self.assertEqual(len(report.problems), 2)
        with self.assertRaises(TabletDamaged):
            list(tool.dump(self.disk, 1))
        self.disk.remove(MANIFEST)
        with self.assertRaises(ConfigurationError):
            tool.verify(self.disk)

    def test_changes_nothing(self) -> None:
        """Looking writes nothing at all."""
        before = len(self.disk.trace)
        tool.inspect(self.disk)
        tool.verify(self.disk)
        list(tool.dump(self.disk))
        self.assertEqual({what.split()[0] for what in self.disk.trace[before:]}, {"read"})

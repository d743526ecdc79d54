"""Files of each format version, as they were written once, are still read; and today's are the same."""

from __future__ import annotations

import json
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm import tool
from penncloud.lsm.store import LOG, TABLES
from tests.lsm.golden.make import contents, golden_machine
from tests.lsm.machine import Machine

_GOLDEN = Path(__file__).parent / "golden"
# The first number is the format version; the second grows with what an earlier program may ignore.
_CURRENT = "v1.1"


def _loaded(version: str) -> Machine:
    machine = Machine()
    machine.disk.makedirs(LOG)
    machine.disk.makedirs(TABLES)
    for directory in ("", "lsm"):
        machine.run(machine.disk.sync_dir(directory))
    for path in sorted((_GOLDEN / version / "lsm").rglob("*")):
        if path.is_file():
            name = path.relative_to(_GOLDEN / version).as_posix()
            machine.run(machine.disk.replace(name, path.read_bytes()))
    return machine


class GoldenTests(SynchronousTestCase):
    """Every directory below `golden`."""

    def test_every_version_is_read(self) -> None:
        """All cells are there, tombstones, log and blob included, and verify finds nothing."""
        versions = [path.name for path in _GOLDEN.iterdir() if (path / "cells.json").exists()]
        self.assertIn(_CURRENT, versions)
        for version in versions:
            machine = _loaded(version)
            self.assertEqual(tool.verify(machine.disk).problems, [])
            expected = json.loads((_GOLDEN / version / "cells.json").read_text())
            self.assertEqual(contents(machine), expected)

    def test_found_state(self) -> None:
        """Versions, blobs and tails are those that were written."""
        found = _loaded(_CURRENT).open()
        self.assertEqual(sorted(found), [2, 3])
        for recovery in found.values():
            self.assertEqual((recovery.version, recovery.meta), (2, b"the owner's blob"))
            self.assertEqual([entry.version for entry in recovery.tail], [3])

    def test_today_writes_the_same(self) -> None:
        """The same operations give the same bytes: a change of format needs a new version."""
        machine = golden_machine()
        golden = _GOLDEN / _CURRENT
        paths = [f"{LOG}/{name}" for name in machine.disk.listdir(LOG)]
        # The other tables are compressed, and how well is for the library to choose.
        paths += [f"{TABLES}/00000001.table", f"{TABLES}/00000003.meta"]
        for path in paths:
            self.assertEqual(machine.disk.read(path), (golden / path).read_bytes(), path)

"""Writes the golden directory of the present format version:

    python -m tests.lsm.golden.make tests/lsm/golden/v1

To be run once for each new format version, into a new directory; what is there is never rewritten.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from attrs import evolve

from penncloud.lsm.keys import HASH_SPACE
from penncloud.lsm.store import LOG, MANIFEST, TABLES
from tests.lsm.machine import SMALL, Machine, delete, put


def golden_machine() -> Machine:
    """A machine that has used everything that leaves a trace in a file."""
    machine = Machine(7, evolve(SMALL, segment_bytes=600))
    machine.open()
    middle = HASH_SPACE // 2
    machine.run(machine.engine.create_tablet(1, 0, HASH_SPACE))
    machine.engine.set_meta(1, lambda: b"the owner's blob")
    rows = [f"row{number}" for number in range(12)]
    machine.write(1, 1, *(put(row, "a", f"value of {row}") for row in rows))
    machine.run(machine.engine.checkpoint(1))
    machine.run(machine.engine.split_tablet(1, middle, 2, 3))
    machine.options = evolve(machine.options, compression="zstd")
    machine.reopen()
    for tablet in (2, 3):
        row = next(c.row.decode() for c in machine.engine.scan_tablet(tablet))
        machine.write(
            tablet, 2, delete(row, "a"), put(row, "long", "text " * 300), put(row, "", "")
        )
        machine.run(machine.engine.checkpoint(tablet))
        machine.write(tablet, 3, put(row, "in the log", b"\x00\xff"))
        machine.run(machine.engine.append([machine.entry(tablet, 4, put(row, "void", "x"))]))
        machine.run(machine.engine.void(tablet, 3))
    machine.settle()
    machine.run(machine.engine.close())
    machine.settle()
    return machine


def contents(machine: Machine) -> list[dict[str, object]]:
    """All cells, as JSON can hold them."""
    machine.disk = machine.disk.crash()
    machine.engine = machine._engine()
    found = machine.open()
    for tablet, recovery in found.items():
        machine.engine.commit(tablet, recovery.version + len(recovery.tail))
    return [
        {
            "tablet": tablet,
            "row": cell.row.hex(),
            "col": cell.col.hex(),
            "version": cell.version,
            "value": cell.value.hex(),
        }
        for tablet in sorted(found)
        for cell in machine.engine.scan_tablet(tablet)
    ]


def main(target: str) -> None:
    machine = golden_machine()
    files = [MANIFEST] + [f"{d}/{name}" for d in (LOG, TABLES) for name in machine.disk.listdir(d)]
    for path in files:
        written = Path(target) / path
        written.parent.mkdir(parents=True, exist_ok=True)
        with written.open("xb") as file:
            file.write(machine.disk.read(path))
    cells = Path(target) / "cells.json"
    cells.write_text(json.dumps(contents(machine), indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])

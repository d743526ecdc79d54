"""`penncloud lsm`: look into the data directory of a storage server that is not running."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

import msgspec

from penncloud.cli._columns import columns
from penncloud.cli._exits import DONE, FAILED
from penncloud.lsm import tool
from penncloud.platform.disk import Disk
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.lockfile import DirectoryLock
from penncloud.platform.real_disk import RealDisk
from penncloud.wire.names import quote


def add_to(commands: Any) -> None:
    parser = commands.add_parser("lsm", help="look into a stopped storage server's directory")
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    def action(name: str, command: Callable[[Disk, argparse.Namespace], int], help_: str) -> Any:
        found = actions.add_parser(name, help=help_, description=help_)
        found.add_argument("path", metavar="PATH", help="e.g. penncloud-data/storage-1")
        found.set_defaults(run=lambda arguments: _run(command, arguments))
        return found

    action("inspect", inspect, "tablets, their checkpoints and tables, and the log")
    action(
        "verify", verify, "check every checksum and invariant; exit code 1 when one does not hold"
    )
    dumping = action("dump", dump, "every cell as one line of JSON, names percent-encoded")
    dumping.add_argument("--tablet", type=int, metavar="N", help="this tablet only")
    dumping.add_argument("--values", action="store_true", help="values too (base64)")


def _run(command: Callable[[Disk, argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    if not os.path.isdir(os.path.join(arguments.path, "lsm")):
        raise ConfigurationError(f"{arguments.path}: not the data directory of a storage server")
    lock = DirectoryLock(arguments.path)
    try:
        # Only reads, which need no thread and so no reactor.
        return command(RealDisk(arguments.path, None), arguments)
    finally:
        lock.release()


def inspect(disk: Disk, _arguments: argparse.Namespace) -> int:
    found = tool.inspect(disk)
    rows = [
        (
            str(line.tablet),
            f"{line.lo:08x}-{line.hi:08x}",
            str(line.checkpoint_no),
            str(line.version),
            str(line.tail),
            str(len(line.tables)),
            str(sum(ref.cells for ref in line.tables)),
            str(sum(ref.bytes for ref in line.tables)),
            line.damaged or "ok",
        )
        for line in found.tablets
    ]
    head = ("TABLET", "RANGE", "CHECKPOINT", "VERSION", "TAIL", "TABLES", "CELLS", "BYTES", "STATE")
    print(columns(head, rows))
    print(f"log: {len(found.segments)} segments, {found.log_bytes} bytes")
    for path in found.strays:
        print(f"left over: {path}")
    return DONE


def verify(disk: Disk, _arguments: argparse.Namespace) -> int:
    report = tool.verify(disk)
    for problem in report.problems:
        print(f"DAMAGED: {problem}")
    print(f"{report.tables} tables, {report.cells} cells, {report.records} log records checked")
    return FAILED if report.problems else DONE


def dump(disk: Disk, arguments: argparse.Namespace) -> int:
    for tablet, cell in tool.dump(disk, arguments.tablet):
        line: dict[str, object] = {
            "tablet": tablet,
            "row": quote(cell.row).decode(),
            "col": quote(cell.col).decode(),
            "version": cell.version,
            "size": len(cell.value),
        }
        if arguments.values:
            line["value"] = cell.value
        print(msgspec.json.encode(line).decode())
    return DONE

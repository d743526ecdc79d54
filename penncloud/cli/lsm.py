"""`penncloud lsm`: look into the data directory of a storage server that is not running."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from penncloud.cli._columns import columns
from penncloud.cli._exits import DONE, FAILED
from penncloud.lsm import tool
from penncloud.lsm.entry import PutEffect
from penncloud.platform.disk import Disk
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.lockfile import DirectoryLock
from penncloud.platform.real_disk import RealDisk
from penncloud.storage.quarantine import kept_cuts, kept_entries
from penncloud.wire.names import quote

_Command = Callable[[Disk, argparse.Namespace], int]


def add_to(commands: Any) -> None:
    parser = commands.add_parser("lsm", help="look into a stopped storage server's directory")
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    def action(name: str, command: _Command, help_: str, running: bool = False) -> Any:
        found = actions.add_parser(name, help=help_, description=help_)
        found.add_argument("path", metavar="PATH", help="e.g. penncloud-data/storage-1")
        found.set_defaults(run=lambda arguments: _run(command, arguments, running))
        return found

    cuts = action(
        "quarantine",
        quarantine,
        "entries that were cut off a log because they may not count; also of a running server",
        running=True,
    )
    cuts.add_argument("file", metavar="FILE", nargs="?", help="dump the entries of this one")
    cuts.add_argument("--values", action="store_true", help="values too (base64)")
    action("inspect", inspect, "tablets, their checkpoints and tables, and the log")
    action(
        "verify", verify, "check every checksum and invariant; exit code 1 when one does not hold"
    )
    dumping = action("dump", dump, "every cell as one line of JSON, names percent-encoded")
    dumping.add_argument("--tablet", type=int, metavar="N", help="this tablet only")
    dumping.add_argument("--values", action="store_true", help="values too (base64)")


def _run(command: _Command, arguments: argparse.Namespace, running: bool) -> int:
    if not os.path.isdir(os.path.join(arguments.path, "lsm")):
        raise ConfigurationError(f"{arguments.path}: not the data directory of a storage server")
    # Only reads, which need no thread and so no reactor.
    disk = RealDisk(arguments.path, None)
    if running:
        return command(disk, arguments)
    lock = DirectoryLock(arguments.path)
    try:
        return command(disk, arguments)
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
    for path, size, why in found.aside:
        print(f"set aside: {path}, {size} bytes: {why}")
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


def quarantine(disk: Disk, arguments: argparse.Namespace) -> int:
    if arguments.file is not None:
        return _dump_cut(disk, arguments.file, arguments.values)
    found = kept_cuts(disk)
    rows = []
    for kept in found:
        if kept.cut is None:
            rows.append((kept.name, "", "", "", str(kept.size_bytes), f"DAMAGED: {kept.damaged}"))
            continue
        at = datetime.fromtimestamp(kept.cut.at, UTC).isoformat(" ", "seconds")
        versions = f"{kept.cut.first}-{kept.cut.last}"
        place = kept.name, str(kept.cut.tablet), versions, at
        rows.append((*place, str(kept.size_bytes), kept.cut.why))
    print(columns(("FILE", "TABLET", "VERSIONS", "AT", "BYTES", "WHY"), rows))
    return FAILED if any(kept.cut is None for kept in found) else DONE


def _dump_cut(disk: Disk, name: str, values: bool) -> int:
    try:
        entries = kept_entries(disk, name)
    except FileNotFoundError:
        raise ConfigurationError(f"{name}: there is no such file in the quarantine") from None
    # What can be read is printed, even if it is not all.
    for entry in entries:
        effects = []
        for effect in entry.effects:
            change: dict[str, object] = {
                "row": quote(effect.row).decode(),
                "col": quote(effect.col).decode(),
            }
            if isinstance(effect, PutEffect):
                change["size"] = len(effect.value)
                if values:
                    change["value"] = effect.value
            effects.append(change)
        line = {
            "tablet": entry.tablet,
            "version": entry.version,
            "entry_cfg": entry.entry_cfg,
            "client": quote(entry.client).decode(),
            "seq": entry.seq,
            "effects": effects,
        }
        print(msgspec.json.encode(line).decode())
    return DONE

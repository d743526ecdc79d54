"""Looking into a stopped server's directory without changing anything: inspect, verify, dump.

What is damaged does not keep the rest from being looked at.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import define, field, frozen

from penncloud.lsm.aside import ASIDE, names_of, read_aside, size_of
from penncloud.lsm.block import version_of
from penncloud.lsm.cache import BlockCache
from penncloud.lsm.errors import NewerFormat, StoreDamaged, TableDamaged, TabletDamaged
from penncloud.lsm.keys import HASH_SPACE, hash_key, pack, unpack
from penncloud.lsm.manifest import Manifest, TableRef, decode_manifest
from penncloud.lsm.memtable import Memtable
from penncloud.lsm.record import Record
from penncloud.lsm.recovery import Replay, TabletTail
from penncloud.lsm.store import LOG, MANIFEST, TABLES, meta_path, read_blob, table_path
from penncloud.lsm.table import Table
from penncloud.lsm.tablet import ScannedCell, Source, TabletStore, scan_cells
from penncloud.lsm.wal_reader import LogReader, Survey
from penncloud.platform.disk import Disk
from penncloud.platform.errors import ConfigurationError, DiskError

# Enough for the index and filter of the table that is being read.
_CACHE_BYTES = 64 * 1024 * 1024


@frozen
class TabletLine:
    """A tablet as `inspect` shows it. `tail` is the number of entries that only the log has."""

    tablet: int
    lo: int
    hi: int
    checkpoint_no: int
    version: int
    entry_cfg: int
    tables: tuple[TableRef, ...]
    meta_bytes: int
    tail: int
    damaged: str


@frozen
class Inspection:
    """What is there. `strays`: files that nothing names, which the next start removes."""

    tablets: tuple[TabletLine, ...]
    segments: tuple[int, ...]
    log_bytes: int
    strays: tuple[str, ...]
    # Damaged tablets that were set aside: directory, bytes, and why.
    aside: tuple[tuple[str, int, str], ...]


@define
class Report:
    """What `verify` found. Without `problems`, every checksum and invariant holds."""

    tables: int = 0
    cells: int = 0
    records: int = 0
    problems: list[str] = field(factory=list)


@define
class _Log:
    survey: Survey
    replay: Replay
    records: int


def _manifest(disk: Disk) -> Manifest:
    try:
        return decode_manifest(disk.read(MANIFEST), MANIFEST)
    except FileNotFoundError:
        raise ConfigurationError(f"{MANIFEST}: not there: no server's data directory") from None


def _read_log(disk: Disk, manifest: Manifest) -> _Log:
    """The log as a start would read it. Raises StoreDamaged, NewerFormat, DiskError."""
    reader = LogReader(disk, LOG)
    reader.open()
    survey = reader.survey(manifest.log_from)
    replay, records = Replay(manifest.tablets), 0
    for number in survey.segments:
        for item in reader.items(number):
            if not isinstance(item, Record) or item.position >= survey.end:
                continue
            if item.payload[:1] == b"D":
                replay.visit(item.position, item.payload[1:])
                records += 1
            elif item.payload[:1] in (b"M", b"S") and len(item.payload) > 1:
                replay.noted(item.position, item.payload[1:])
    replay.finish(survey.damages)
    return _Log(survey, replay, records)


def inspect(disk: Disk) -> Inspection:
    """An overview. Raises ConfigurationError, StoreDamaged, NewerFormat, DiskError."""
    manifest = _manifest(disk)
    log = _read_log(disk, manifest)
    lines = []
    for tablet, tail in sorted(log.replay.tails.items()):
        state = tail.state
        meta = disk.size_bytes(meta_path(state.meta)) if state.meta else 0
        lines.append(
            TabletLine(
                tablet,
                state.lo,
                state.hi,
                state.checkpoint_no,
                state.version,
                state.entry_cfg,
                state.tables,
                meta,
                len(tail.entries),
                state.damaged or tail.damaged or state.spoiled,
            )
        )
    segments = tuple(log.survey.segments)
    reader = LogReader(disk, LOG)
    size = sum(disk.size_bytes(reader.path(number)) for number in segments)
    strays = tuple(_strays(disk, manifest))
    return Inspection(tuple(lines), segments, size, strays, tuple(_aside(disk)))


def _aside(disk: Disk) -> Iterator[tuple[str, int, str]]:
    for name in names_of(disk):
        found = read_aside(disk, name)
        why = "its description cannot be read" if found is None else found.why
        yield f"{ASIDE}/{name}", size_of(disk, name), why


def _strays(disk: Disk, manifest: Manifest) -> Iterator[str]:
    needed = {table_path(number) for number in manifest.tables()}
    needed |= {meta_path(number) for number in manifest.metas()}
    for name in disk.listdir(TABLES):
        if f"{TABLES}/{name}" not in needed:
            yield f"{TABLES}/{name}"


def verify(disk: Disk) -> Report:
    """Read everything and check every checksum and invariant. Raises ConfigurationError."""
    report = Report()
    try:
        manifest = _manifest(disk)
    except (StoreDamaged, NewerFormat, DiskError) as error:
        report.problems.append(str(error))
        return report
    try:
        log = _read_log(disk, manifest)
        report.records = log.records
        report.problems += [damage.reason for damage in log.survey.damages]
        for tablet, tail in log.replay.tails.items():
            if tail.damaged:
                report.problems.append(f"tablet {tablet}: {tail.damaged}")
    except (StoreDamaged, NewerFormat, DiskError) as error:
        report.problems.append(str(error))
    _verify_manifest(disk, manifest, report)
    # Siblings of a split share tables: the version of any of them will do as a bound.
    bounds: dict[TableRef, int] = {}
    for state in manifest.tablets.values():
        for ref in state.tables:
            bounds[ref] = max(bounds.get(ref, 0), state.version)
    for ref, version in bounds.items():
        _verify_table(disk, ref, version, report)
    return report


def _verify_manifest(disk: Disk, manifest: Manifest, report: Report) -> None:
    for tablet, state in manifest.tablets.items():
        for reason in filter(None, (state.damaged, state.spoiled)):
            report.problems.append(f"tablet {tablet}: marked as damaged: {reason}")
        if not 0 <= state.lo < state.hi <= HASH_SPACE:
            report.problems.append(f"tablet {tablet}: empty range, or none of hashes")
        if len({ref.file for ref in state.tables}) != len(state.tables):
            report.problems.append(f"tablet {tablet}: has a table twice")
        try:
            read_blob(disk, state.meta)
        except TableDamaged as error:
            report.problems.append(f"tablet {tablet}: {error}")
    highest = max(manifest.tables() | manifest.metas(), default=0)
    if manifest.next_file <= highest:
        report.problems.append(f"{MANIFEST}: next_file is not above file {highest}")


def _verify_table(disk: Disk, ref: TableRef, version: int, report: Report) -> None:
    """Check one table, whose cells are not newer than the checkpoint's `version`."""
    try:
        table = Table(disk, table_path(ref.file), ref.file, BlockCache(_CACHE_BYTES))
    except (TableDamaged, NewerFormat) as error:
        report.problems.append(str(error))
        return
    try:
        for cells in table.verified():
            for key, cell in cells:
                _verify_cell(table.path, key, version_of(cell), version)
        if (table.size_bytes, table.properties.cells) != (ref.bytes, ref.cells):
            report.problems.append(f"{table.path}: not the one that the manifest names")
        report.tables += 1
        report.cells += table.properties.cells
    except (TableDamaged, DiskError) as error:
        report.problems.append(str(error))
    finally:
        table.release()


def _verify_cell(path: str, key: bytes, version: int, newest: int) -> None:
    try:
        packed = pack(*unpack(key))
    except ValueError:
        packed = b""
    if packed != key:
        raise TableDamaged(path, 0, f"{key!r} is no key")
    if version > newest:
        raise TableDamaged(path, 0, f"a cell of version {version}, above the checkpoint's {newest}")


def dump(disk: Disk, tablet: int | None = None) -> Iterator[tuple[int, ScannedCell]]:
    """All cells of one tablet or of all, durable entries of the log included.

    Raises ConfigurationError for a tablet that is not there, TabletDamaged where reading cannot go
    on; StoreDamaged, NewerFormat, DiskError.
    """
    manifest = _manifest(disk)
    if tablet is not None and tablet not in manifest.tablets:
        raise ConfigurationError(f"there is no tablet {tablet} here")
    tails = _read_log(disk, manifest).replay.tails
    for number in sorted(tails) if tablet is None else [tablet]:
        yield from ((number, cell) for cell in _dump(disk, number, tails[number]))


def _dump(disk: Disk, tablet: int, tail: TabletTail) -> Iterator[ScannedCell]:
    store = TabletStore.of(tablet, tail.state, _told_by_the_error)
    memtable = Memtable(0)
    memtable.apply(pending.entry for pending in tail.entries)
    cache = BlockCache(_CACHE_BYTES)
    tables: list[Table] = []
    try:
        for ref in tail.state.tables:
            tables.append(Table(disk, table_path(ref.file), ref.file, cache))
        sources: list[Source] = [memtable, *tables]
        low, high = hash_key(tail.state.lo), hash_key(tail.state.hi)
        yield from scan_cells(sources, low, high, False, store)
    except (TableDamaged, NewerFormat) as error:
        raise TabletDamaged(tablet, str(error)) from error
    finally:
        for table in tables:
            table.release()


def _told_by_the_error(_store: TabletStore, _reason: str) -> None:
    """Nothing is remembered here."""

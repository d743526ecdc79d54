"""Entries that were cut off a replica's log before anybody knew whether they count: kept to be read.

Somebody may have been told of such a write (in async mode), or waits to know what became of it. So it never
goes silently: before a replica's log is cut, what is cut off is on the disk here.

Format: one file for each cut, `quarantine/TABLET-NUMBER.entries`, both in hexadecimal (8 digits), numbers
in the order of the cuts of the whole server. It is made of records (`lsm.record`) whose position is their
offset; synced is 0. Payloads:

    the first   msgpack map {format, tablet, why, at, first, last}: format version, 1; the reason as text;
                wall clock in Unix seconds; versions of the first and the last entry
    each other  one entry as the log has it (`lsm.entry`), in the order of versions

Bound: all files together take `max_bytes`; beyond that the oldest ones go, and the log says so. The
newest cut always stays whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec
from attrs import frozen
from twisted.logger import Logger

from penncloud.lsm.entry import Entry
from penncloud.lsm.errors import StoreDamaged
from penncloud.lsm.record import BadRange, encode, read_records
from penncloud.platform.disk import Disk
from penncloud.platform.exclusive import Exclusive

DIRECTORY: Final = "quarantine"
FORMAT_VERSION: Final = 1
_NAME: Final = re.compile(r"([0-9a-f]{8})-([0-9a-f]{8})\.entries")
_ENTRY: Final = msgspec.msgpack.Decoder(Entry)


class Cut(msgspec.Struct, frozen=True, rename={"version": "format"}):
    """What the first record says; see the module."""

    tablet: int
    why: str
    at: float
    first: int
    last: int
    version: int = FORMAT_VERSION


@frozen
class KeptCut:
    """One file of the quarantine. `damaged`: why it cannot be read; `cut` is None then."""

    name: str
    size_bytes: int
    cut: Cut | None
    damaged: str = ""


class Quarantine:
    """The quarantine of one server. `now` is the wall clock in Unix seconds."""

    _log = Logger()

    def __init__(self, disk: Disk, now: Callable[[], float], max_bytes: int) -> None:
        self._disk = disk
        self._now = now
        self._max_bytes = max_bytes
        self._one_at_a_time = Exclusive()
        # What was kept last of each tablet: a cut that a full disk refused comes again.
        self._last: dict[int, tuple[tuple[int, int], ...]] = {}
        # Since the start.
        self.entries_kept = 0

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(self._disk.size_bytes(f"{DIRECTORY}/{name}") for name in _names(self._disk))

    async def keep(self, tablet: int, entries: Sequence[Entry], why: str) -> None:
        """Keep the entries, durably on return; `why` is for people. Raises DiskFull, DiskFailed."""
        places = tuple((entry.version, entry.entry_cfg) for entry in entries)
        async with self._one_at_a_time:
            if not entries or self._last.get(tablet) == places:
                return
            disk = self._disk
            names = _names(disk)
            if not names:
                disk.makedirs(DIRECTORY)
                await disk.sync_dir("")
            number = 1 + max((_number(name) for name in names), default=0)
            path = f"{DIRECTORY}/{tablet:08x}-{number:08x}.entries"
            data = _encoded(Cut(tablet, why, self._now(), places[0][0], places[-1][0]), entries)
            self._make_room(names, len(data))
            await disk.replace(path, data)
            self._last[tablet] = places
            self.entries_kept += len(entries)
            self._log.warn(
                "tablet {tablet}: {count} entries that may not count are kept in {path}: {why}",
                tablet=tablet,
                count=len(entries),
                path=path,
                why=why,
            )

    def _make_room(self, names: list[str], size: int) -> None:
        sizes = {name: self._disk.size_bytes(f"{DIRECTORY}/{name}") for name in names}
        held = sum(sizes.values())
        for name in sorted(names, key=_number):
            if held + size <= self._max_bytes:
                return
            self._log.warn(
                "the quarantine is full ({size} bytes): the oldest cut goes: {name}",
                size=self._max_bytes,
                name=name,
            )
            self._disk.remove(f"{DIRECTORY}/{name}")
            held -= sizes[name]


def _names(disk: Disk) -> list[str]:
    return [name for name in disk.listdir(DIRECTORY) if _NAME.fullmatch(name)]


def _number(name: str) -> int:
    return int(name[9:17], 16)


def _encoded(cut: Cut, entries: Sequence[Entry]) -> bytes:
    parts: list[bytes] = []
    position = 0
    for payload in (cut, *entries):
        record = encode([msgspec.msgpack.encode(payload)], position, 0)
        position += sum(map(len, record))
        parts += record
    return b"".join(parts)


def kept_cuts(disk: Disk) -> list[KeptCut]:
    """What is there, the oldest cut first."""
    found = []
    for name in sorted(_names(disk), key=_number):
        size = disk.size_bytes(f"{DIRECTORY}/{name}")
        cut, _entries, why = _read(disk, name)
        found.append(KeptCut(name, size, None if why else cut, why))
    return found


def kept_entries(disk: Disk, name: str) -> Iterator[Entry]:
    """The entries of one file that can be read, in their order; where that is not all of them, StoreDamaged
    comes after the last. Raises FileNotFoundError, DiskError."""
    if not _NAME.fullmatch(name):
        raise FileNotFoundError(name)
    return _intact(*_read(disk, name)[1:])


def _intact(entries: list[Entry], why: str) -> Iterator[Entry]:
    yield from entries
    if why:
        raise StoreDamaged(why)


def _read(disk: Disk, name: str) -> tuple[Cut | None, list[Entry], str]:
    """What can be read of a file; and why, if not all of it can."""
    path = f"{DIRECTORY}/{name}"
    cut: Cut | None = None
    entries: list[Entry] = []
    bad: list[str] = []
    for record in read_records(disk.read(path), 0):
        if isinstance(record, BadRange):
            bad.append(f"bytes {record.start} to {record.end} are damaged")
            continue
        try:
            if record.position:
                entries.append(_ENTRY.decode(record.payload))
                continue
            cut = msgspec.msgpack.decode(record.payload, type=Cut)
        except msgspec.DecodeError as error:
            bad.append(str(error))
            continue
        if cut.version > FORMAT_VERSION:
            known = f"this program knows up to {FORMAT_VERSION}"
            return None, [], f"{path}: has format version {cut.version}, {known}"
    if not bad and (cut is None or len(entries) != cut.last - cut.first + 1):
        bad.append("entries are missing")
    return cut, entries, f"{path}: {', '.join(bad)}" if bad else ""

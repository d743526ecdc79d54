"""Reading a write-ahead log back: where it ends, what is proven to be durable, what is lost.

See `wal` for the files and `record` for how corruption is told from a torn end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from struct import Struct
from typing import Final

import msgspec
from attrs import define, field, frozen

from penncloud.lsm.errors import NewerFormat, StoreDamaged
from penncloud.lsm.record import BadRange, Record, decode, encode, read_records
from penncloud.platform.disk import Disk

FORMAT_VERSION: Final = 1
HEADER: Final = Struct("<cHI")
_NAME: Final = re.compile(r"([0-9a-f]{8})\.log")

# Segment -> (offset at which it ends, next segment), see `wal`.
Ends = dict[int, tuple[int, int]]


@frozen
class Damage:
    """Records at positions [start, end) were synced once and cannot be read."""

    start: int
    end: int
    reason: str


@define
class Survey:
    """Where the log ends, below which position it is proven durable, its segments, its damages."""

    end: int = 0
    synced: int = 0
    segments: list[int] = field(factory=list)
    damages: list[Damage] = field(factory=list)


@define
class _Segment:
    number: int
    bad: list[BadRange]
    end: int
    sealed: bool
    next: int


def segment_of(position: int) -> int:
    """Number of the segment that a position is in."""
    return position >> 32


def encode_ends(ends: Ends) -> bytes:
    return b"".join(encode([msgspec.msgpack.encode(ends)], 0, 0))


@define
class LogReader:
    """The files of a log that nobody appends to at the moment."""

    _disk: Disk
    _directory: str
    ends: Ends = field(factory=dict, init=False)
    present: list[int] = field(factory=list, init=False)

    def open(self) -> None:
        """Find the files. Raises StoreDamaged when `ends` is damaged."""
        names = (_NAME.fullmatch(name) for name in self._disk.listdir(self._directory))
        self.present = [int(match.group(1), 16) for match in names if match]
        path = f"{self._directory}/ends"
        if not self._disk.exists(path):
            return
        data = self._disk.read(path)
        record = decode(data, 0, 0)
        if record is None or record.end != len(data):
            raise StoreDamaged(f"{path}: the checksum does not match")
        self.ends = msgspec.msgpack.decode(record.payload, type=Ends)

    def path(self, number: int) -> str:
        return f"{self._directory}/{number:08x}.log"

    def items(self, number: int) -> Iterator[Record | BadRange]:
        """Records and bad ranges of one segment, up to its seal or its known end."""
        data = self._disk.read(self.path(number))
        if number in self.ends:
            data = data[: self.ends[number][0]]
        for item in read_records(data, number << 32):
            yield item
            if isinstance(item, Record) and item.payload[:1] == b"S":
                return

    def survey(self, first: int) -> Survey:
        """Read everything from segment `first` (0: the oldest) and find where the log ends.

        That is the first place where it stops and nothing proves that there was more. Raises
        StoreDamaged, NewerFormat, DiskError.
        """
        if first and first not in self.present:
            raise StoreDamaged(f"{self.path(first)}: missing, although the manifest needs it")
        found = Survey()
        chain: list[_Segment] = []
        number = first or min(self.present, default=0)
        while chain or number in self.present:
            later = min((one for one in self.present if one >= number), default=None)
            if later is None:
                break
            if later > number:
                gap = BadRange(number << 32, later << 32)
                chain.append(_Segment(number, [gap], gap.end, True, later))
            segment = self._segment(later, found)
            chain.append(segment)
            number = segment.next
        for segment in chain:
            if segment.number not in self.present:
                # The successor of a sealed segment was made durable before the seal was.
                self._damage(found, segment.bad[0].start, segment.end, "missing")
                continue
            found.segments.append(segment.number)
            for bad in segment.bad:
                if bad.start >= found.synced:
                    found.end = bad.start
                    return found
                self._damage(found, bad.start, bad.end, "bad record")
            if not segment.sealed:
                if segment.end >= found.synced:
                    found.end = segment.end
                    return found
                self._damage(found, segment.end, segment.next << 32, "ends too early")
        if chain:
            found.end = number + 1 << 32
            self._damage(found, number << 32, found.end, "missing")
        return found

    def _segment(self, number: int, found: Survey) -> _Segment:
        following = self.ends[number][1] if number in self.ends else number + 1
        segment = _Segment(number, [], number << 32, number in self.ends, following)
        for item in self.items(number):
            if isinstance(item, BadRange):
                segment.bad.append(item)
                continue
            if item.position == number << 32:
                self._check_header(number, item)
            found.synced = max(found.synced, item.synced)
            segment.end = item.end
            segment.sealed = segment.sealed or item.payload[:1] == b"S"
        return segment

    def _damage(self, found: Survey, start: int, end: int, what: str) -> None:
        path = self.path(segment_of(start))
        reason = f"{path}: {what} (offset {start & 0xFFFFFFFF})"
        found.damages.append(Damage(start, end, reason))

    def _check_header(self, number: int, record: Record) -> None:
        if record.payload[:1] != b"H" or len(record.payload) != HEADER.size:
            raise StoreDamaged(f"{self.path(number)}: does not begin with a header")
        version = HEADER.unpack(record.payload)[1]
        if version > FORMAT_VERSION:
            raise NewerFormat(
                f"{self.path(number)}: has format version {version}, "
                f"this program knows up to {FORMAT_VERSION}"
            )

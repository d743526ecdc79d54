"""Records of a log: framing that tells a torn tail from corruption.

Format (integers little-endian)

    offset  bytes  what
    0       4      b"PCR1"
    4       4      length of the payload, at least 1
    8       4      CRC32C of position (8 bytes), length (4), synced (8), payload
    12      8      synced: position below which the log was known to be on the disk
    20      length payload

A *position* is a 64-bit number that the log gives to each byte it ever writes, and never twice:
the number of the segment file times 2^32, plus the offset in it. As it goes into the checksum, a record
that is intact but stands elsewhere than it was written (a copy inside a value, a block that the disk
put in the wrong place) is no record.

Theory of operation
    A power cut leaves the unsynced end of a log in any state: cut off, or with sectors missing and
    later ones there. Such an end was acknowledged to nobody and has to be dropped. A bad record
    that *had* been synced is corruption: dropping it and what follows would silently lose
    acknowledged writes. The two look alike, so records say what was synced before them: where a
    valid record has `synced` above the position of a bad one, the bad one is corrupt. A log that
    falls idle writes a record for that purpose alone (see `wal`).

    Unwritten room at the end of a segment is zeros; that is the end of the records, not damage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final

import google_crc32c
from attrs import frozen

MAGIC: Final = b"PCR1"
HEADER_BYTES: Final = 20
_LENGTH_LIMIT: Final = 2**30

_HEADER: Final = Struct("<4sIIQ")
_SUMMED: Final = Struct("<QIQ")
_ZEROS: Final = bytes(64 * 1024)


@frozen
class Record:
    """One intact record; `end` is the position of the byte behind it."""

    position: int
    synced: int
    payload: bytes

    @property
    def end(self) -> int:
        return self.position + HEADER_BYTES + len(self.payload)


@frozen
class BadRange:
    """Positions [start, end) where something other than zeros and no intact record stands."""

    start: int
    end: int


def encode(payload: Sequence[bytes], position: int, synced: int) -> list[bytes]:
    """The record as buffers to append: its header, then the parts of `payload` as they are."""
    length = sum(map(len, payload))
    if not 0 < length < _LENGTH_LIMIT:
        raise ValueError(f"a payload of {length} bytes")
    crc = google_crc32c.value(_SUMMED.pack(position, length, synced))
    for part in payload:
        crc = google_crc32c.extend(crc, part)
    return [_HEADER.pack(MAGIC, length, crc, synced), *payload]


def decode(data: bytes, offset: int, position: int) -> Record | None:
    """The record at `offset` of `data`, whose position is `position`; None if there is no intact one."""
    start = offset + HEADER_BYTES
    if start > len(data):
        return None
    magic, length, crc, synced = _HEADER.unpack_from(data, offset)
    if magic != MAGIC or not 0 < length <= len(data) - start or synced > position:
        return None
    payload = data[start : start + length]
    summed = google_crc32c.value(_SUMMED.pack(position, length, synced))
    if google_crc32c.extend(summed, payload) != crc:
        return None
    return Record(position, synced, payload)


def read_records(data: bytes, base: int) -> Iterator[Record | BadRange]:
    """All records of a segment whose first byte has position `base`, and what is bad between them."""
    offset = 0
    while True:
        record = decode(data, offset, base + offset)
        if record is None:
            if _only_zeros(data, offset):
                return
            start, offset = offset, _next_record(data, offset + 1, base)
            yield BadRange(base + start, base + offset)
            if offset == len(data):
                return
            continue
        yield record
        offset = record.end - base


def _only_zeros(data: bytes, offset: int) -> bool:
    """Whether nothing else follows; compares large pieces, as segments mostly end so."""
    for start in range(offset, len(data), len(_ZEROS)):
        piece = data[start : start + len(_ZEROS)]
        if piece != _ZEROS[: len(piece)]:
            return False
    return True


def _next_record(data: bytes, offset: int, base: int) -> int:
    """Offset of the first intact record from `offset` on; the end of the data if there is none."""
    while (offset := data.find(MAGIC, offset)) >= 0:
        if decode(data, offset, base + offset) is not None:
            return offset
        offset += 1
    return len(data)

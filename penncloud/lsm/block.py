"""Blocks: what a table file is read and checked by.

Format of a block's content (integers little-endian)

    cells, in the order of their keys:
        2 bytes  length of the key
        4 bytes  length of the value; FFFFFFFF: a tombstone, there is no value
        8 bytes  version
        ...      key, value
    4 bytes each   offsets of the cells in the content
    4 bytes        number of cells

In the file, content is followed by a trailer

    1 byte   0: content as it is, 1: content compressed by zstd
    4 bytes  CRC32C of salt (8 bytes), offset of the block in the file (8), the byte before, and the
             content as it stands in the file

The salt is a random number of the table file: a block that belongs elsewhere is not taken for one of
this file.

A block is kept as the bytes that were read. A look-up searches these bytes for its key: a few calls
into C. In a block that is looked into again, the first keys of groups of cells are decoded, and only
the bytes of one group are searched. Merges take whole cells as they stand, without looking into them.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from struct import Struct
from typing import Final, TypeAlias

import google_crc32c
import zstandard

from penncloud.lsm.cache import Cached
from penncloud.lsm.errors import TableDamaged
from penncloud.lsm.memtable import Slot, StoredCell, Tombstone

# A key and its cell, encoded.
RawCell: TypeAlias = tuple[bytes, bytes]

TRAILER_BYTES: Final = 5
_TOMBSTONE: Final = 0xFFFFFFFF
_TOMBSTONE_MARK: Final = b"\xff\xff\xff\xff"
_TOMBSTONE_AT: Final = 2
_CELL: Final = Struct("<HIQ")
_TRAILER: Final = Struct("<BI")
_COUNT: Final = Struct("<I")
_SUMMED: Final = Struct("<QQB")
_CELL_BYTES: Final = _CELL.size
_PLAIN: Final = 0
_ZSTD: Final = 1
# Compression that saves less than an eighth is not worth the decompression.
_WORTH: Final = 7 / 8
# Cells in a group.
_GROUP: Final = 16
# Encoded at once by a flush.
_PIECE_BYTES: Final = 16 * 1024


def encode_cell(key: bytes, slot: Slot) -> bytes:
    """One cell as it stands in a block."""
    if isinstance(slot, StoredCell):
        value = slot.value
        return _CELL.pack(len(key), len(value), slot.version) + key + value
    return _CELL.pack(len(key), _TOMBSTONE, slot.version) + key


def encode_runs(runs: Iterable[list[tuple[bytes, Slot]]]) -> Iterator[list[RawCell]]:
    """The same for many, in pieces that take little time and memory, whatever the size of values."""
    cells: list[RawCell] = []
    size = 0
    pack = _CELL.pack
    for run in runs:
        for key, slot in run:
            if type(slot) is StoredCell:
                # As `encode_cell` does; this is where a flush spends its time.
                value = slot.value
                cell = pack(len(key), len(value), slot.version) + key + value
            else:
                cell = encode_cell(key, slot)
            cells.append((key, cell))
            size += len(cell)
            if size >= _PIECE_BYTES:
                yield cells
                cells, size = [], 0
    yield cells


def is_tombstone(cell: bytes) -> bool:
    """Whether an encoded cell is one."""
    return cell.startswith(_TOMBSTONE_MARK, _TOMBSTONE_AT)


def version_of(cell: bytes) -> int:
    """Version of an encoded cell."""
    version: int = _CELL.unpack_from(cell)[2]
    return version


def count_tombstones(content: bytes, cells: Sequence[bytes]) -> int:
    """How many of `cells` are tombstones; `content` is a block of them."""
    # One search mostly answers for all.
    return sum(map(is_tombstone, cells)) if _TOMBSTONE_MARK in content else 0


def encode_block(cells: Sequence[bytes]) -> bytes:
    """The content of a block; `cells` are encoded, in the order of keys."""
    offsets = array("I", accumulate(map(len, cells), initial=0))
    offsets.pop()
    return b"".join((*cells, _little_endian(offsets).tobytes(), _COUNT.pack(len(cells))))


def _little_endian(offsets: array[int]) -> array[int]:
    """The same in the file's byte order, and the other way round."""
    if sys.byteorder == "big":
        offsets.byteswap()
    return offsets


def seal(content: bytes, salt: int, offset: int, compress: bool) -> list[bytes]:
    """Content and trailer as they go into the file at `offset`."""
    kind = _PLAIN
    if compress:
        smaller = zstandard.ZstdCompressor(level=1).compress(content)
        if len(smaller) <= len(content) * _WORTH:
            content, kind = smaller, _ZSTD
    crc = google_crc32c.extend(google_crc32c.value(_SUMMED.pack(salt, offset, kind)), content)
    return [content, _TRAILER.pack(kind, crc)]


def checked(data: bytes, salt: int, offset: int, path: str) -> tuple[int, bytes]:
    """Kind and content of a block as it was read, still compressed. Raises TableDamaged."""
    if len(data) < TRAILER_BYTES:
        raise TableDamaged(path, offset, "the file is too short")
    kind, crc = _TRAILER.unpack_from(data, len(data) - TRAILER_BYTES)
    content = data[:-TRAILER_BYTES]
    if google_crc32c.extend(google_crc32c.value(_SUMMED.pack(salt, offset, kind)), content) != crc:
        raise TableDamaged(path, offset, "the checksum does not match")
    if kind not in (_PLAIN, _ZSTD):
        raise TableDamaged(path, offset, f"unknown compression {kind}")
    return kind, content


def unseal(data: bytes, salt: int, offset: int, path: str) -> bytes:
    """The content of a block as it was read. Raises TableDamaged."""
    kind, content = checked(data, salt, offset, path)
    return content if kind == _PLAIN else zstandard.ZstdDecompressor().decompress(content)


class Block(Cached):
    """Cells of one block's content."""

    __slots__ = ("_content", "_count", "_groups", "_offsets")

    def __init__(self, content: bytes) -> None:
        size = len(content)
        end = size - 4
        count = int.from_bytes(content[end:], "little")
        cells_end = end - 4 * count
        self._content = content
        self._count: int = count
        # Where each cell starts, and where the last one ends.
        self._offsets = _little_endian(array("I", content[cells_end:end]))
        self._offsets.append(cells_end)
        # First keys of the groups, once they are needed.
        self._groups: list[bytes] = []
        # About what it takes in memory, groups included.
        super().__init__(size + (4 + 100 // _GROUP) * count + 300)

    def __len__(self) -> int:
        return self._count

    def key(self, index: int) -> bytes:
        content = self._content
        offset = self._offsets[index]
        start = offset + _CELL_BYTES
        return content[start : start + content[offset] + (content[offset + 1] << 8)]

    def slot(self, index: int) -> Slot:
        content = self._content
        offset = self._offsets[index]
        key_bytes, value_bytes, version = _CELL.unpack_from(content, offset)
        if value_bytes == _TOMBSTONE:
            return Tombstone(version)
        start = offset + _CELL_BYTES + key_bytes
        return StoredCell(version, content[start : start + value_bytes])

    def _first_keys(self) -> list[bytes]:
        self._groups = [self.key(index) for index in range(0, self._count, _GROUP)]
        return self._groups

    def find(self, key: bytes) -> int:
        """Index of the first cell whose key is not below `key`."""
        if not self._groups:
            # Mostly `key` begins a row, and that row is here.
            start = self._content.find(key, _CELL_BYTES, self._offsets[-1])
            if start >= 0:
                index = bisect_left(self._offsets, start - _CELL_BYTES)
                if self._offsets[index] == start - _CELL_BYTES and len(self.key(index)) >= len(key):
                    return index
        low = bisect_right(self._groups or self._first_keys(), key) * _GROUP - _GROUP
        if low < 0:
            return 0
        high = min(low + _GROUP, self._count)
        return bisect_left(range(self._count), key, low, high, key=self.key)

    def get(self, key: bytes) -> Slot | None:
        content, offsets, groups = self._content, self._offsets, self._groups
        low, high = 0, self._count
        if groups:
            low = bisect_right(groups, key) * _GROUP - _GROUP
            if low < 0:
                return None
            high = min(low + _GROUP, high)
        elif self.used:
            self._first_keys()
        start = content.find(key, offsets[low] + _CELL_BYTES, offsets[high])
        if start < 0:
            return None
        offset = start - _CELL_BYTES
        if offsets[bisect_left(offsets, offset, low, high)] == offset:
            key_bytes, value_bytes, version = _CELL.unpack_from(content, offset)
            if key_bytes == len(key):
                if value_bytes == _TOMBSTONE:
                    return Tombstone(version)
                start += key_bytes
                return StoredCell(version, content[start : start + value_bytes])
        # The same bytes stand in a value, or begin a longer key.
        index = bisect_left(range(self._count), key, low, high, key=self.key)
        return self.slot(index) if index < high and self.key(index) == key else None

    def forward(self, index: int, last: bytes, most: int) -> list[tuple[bytes, Slot]]:
        """`most` cells from `index` on, fewer at the end or when `last` is reached, in order."""
        content = self._content
        unpack = _CELL.unpack_from
        cells: list[tuple[bytes, Slot]] = []
        for offset in self._offsets[index : min(index + most, self._count)]:
            key_bytes, value_bytes, version = unpack(content, offset)
            start = offset + _CELL_BYTES
            end = start + key_bytes
            key = content[start:end]
            if key >= last:
                break
            if value_bytes == _TOMBSTONE:
                cells.append((key, Tombstone(version)))
            else:
                cells.append((key, StoredCell(version, content[end : end + value_bytes])))
        return cells

    def backward(self, index: int, first: bytes, most: int) -> list[tuple[bytes, Slot]]:
        """`most` cells before `index`, fewer at the start or below `first`, in reverse order."""
        low = max(index - most, 0)
        if low < index and self.key(low) < first:
            low = bisect_left(range(self._count), first, low, index, key=self.key)
        return [(self.key(number), self.slot(number)) for number in range(index - 1, low - 1, -1)]

    def raw(self) -> list[RawCell]:
        """All cells as they stand, in order."""
        content = self._content
        raw: list[RawCell] = []
        for start, end in pairwise(self._offsets):
            key = start + _CELL_BYTES
            key_bytes = content[start] + (content[start + 1] << 8)
            raw.append((content[key : key + key_bytes], content[start:end]))
        return raw

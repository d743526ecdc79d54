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

A block is decoded lazily: a look-up touches the few cells that the bisection visits.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from struct import Struct
from typing import Final

import google_crc32c
import zstandard

from penncloud.lsm.errors import TableDamaged
from penncloud.lsm.memtable import Slot, StoredCell, Tombstone

TRAILER_BYTES: Final = 5
_TOMBSTONE: Final = 0xFFFFFFFF
_CELL: Final = Struct("<HIQ")
_TRAILER: Final = Struct("<BI")
_COUNT: Final = Struct("<I")
_SUMMED: Final = Struct("<QQB")
_CELL_BYTES: Final = _CELL.size
_PLAIN: Final = 0
_ZSTD: Final = 1
# Compression that saves less than an eighth is not worth the decompression.
_WORTH: Final = 7 / 8


class BlockBuilder:
    """Cells being gathered; `add` in the order of keys."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._offsets = array("I")
        self.size_bytes = 0
        self.first_key = b""
        self.last_key = b""

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, key: bytes, slot: Slot) -> None:
        if not self._offsets:
            self.first_key = key
        self.last_key = key
        self._offsets.append(self.size_bytes)
        if isinstance(slot, StoredCell):
            value = slot.value
            self._parts += (_CELL.pack(len(key), len(value), slot.version), key, value)
            self.size_bytes += _CELL_BYTES + len(key) + len(value)
        else:
            self._parts += (_CELL.pack(len(key), _TOMBSTONE, slot.version), key)
            self.size_bytes += _CELL_BYTES + len(key)

    def finish(self) -> bytes:
        """The content."""
        self._parts += (_little_endian(self._offsets).tobytes(), _COUNT.pack(len(self._offsets)))
        return b"".join(self._parts)


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


def unseal(data: bytes, salt: int, offset: int, path: str) -> bytes:
    """The content of a block as it was read. Raises TableDamaged."""
    if len(data) < TRAILER_BYTES:
        raise TableDamaged(path, offset, "the file is too short")
    kind, crc = _TRAILER.unpack_from(data, len(data) - TRAILER_BYTES)
    content = data[:-TRAILER_BYTES]
    if google_crc32c.extend(google_crc32c.value(_SUMMED.pack(salt, offset, kind)), content) != crc:
        raise TableDamaged(path, offset, "the checksum does not match")
    if kind == _PLAIN:
        return content
    if kind == _ZSTD:
        return zstandard.ZstdDecompressor().decompress(content)
    raise TableDamaged(path, offset, f"unknown compression {kind}")


class Block:
    """Cells of one block's content."""

    __slots__ = ("_content", "_count", "_offsets")

    def __init__(self, content: bytes) -> None:
        end = len(content) - _COUNT.size
        count = _COUNT.unpack_from(content, end)[0]
        self._content = content
        self._count: int = count
        self._offsets = _little_endian(array("I", content[end - 4 * count : end]))

    def __len__(self) -> int:
        return self._count

    @property
    def size_bytes(self) -> int:
        """About what it takes in memory."""
        return len(self._content) + 4 * self._count + 200

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

    def find(self, key: bytes) -> int:
        """Index of the first cell whose key is not below `key`."""
        return bisect_left(range(self._count), key, key=self.key)

    def get(self, key: bytes) -> Slot | None:
        index = self.find(key)
        if index < self._count and self.key(index) == key:
            return self.slot(index)
        return None

    def scan(self, first: bytes, last: bytes, reverse: bool) -> Iterator[tuple[bytes, Slot]]:
        """Slots with first <= key < last, in order or in reverse."""
        indexes = range(self.find(first), self.find(last))
        for index in reversed(indexes) if reverse else indexes:
            yield self.key(index), self.slot(index)

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

A block is decoded lazily: the first look-up touches the few cells that the bisection visits; the keys of
a block that is much used are decoded once.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
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
# Uses after which a block's keys are decoded.
_MUCH_USED: Final = 32


def encode_block(cells: Sequence[tuple[bytes, Slot]]) -> bytes:
    """The content of a block; `cells` in the order of keys."""
    parts: list[bytes] = []
    offsets = array("I")
    size = 0
    pack = _CELL.pack
    for key, slot in cells:
        offsets.append(size)
        if isinstance(slot, StoredCell):
            value = slot.value
            parts += (pack(len(key), len(value), slot.version), key, value)
            size += _CELL_BYTES + len(key) + len(value)
        else:
            parts += (pack(len(key), _TOMBSTONE, slot.version), key)
            size += _CELL_BYTES + len(key)
    parts += (_little_endian(offsets).tobytes(), _COUNT.pack(len(offsets)))
    return b"".join(parts)


def cell_bytes(key: bytes, slot: Slot) -> int:
    """What a cell adds to a block, its offset aside."""
    return _CELL_BYTES + len(key) + (len(slot.value) if isinstance(slot, StoredCell) else 0)


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


class Block:
    """Cells of one block's content."""

    __slots__ = ("_content", "_count", "_keys", "_offsets", "_uses", "size_bytes")

    def __init__(self, content: bytes) -> None:
        end = len(content) - _COUNT.size
        count = _COUNT.unpack_from(content, end)[0]
        self._content = content
        self._count: int = count
        self._offsets = _little_endian(array("I", content[end - 4 * count : end]))
        self._keys: list[bytes] | None = None
        self._uses = 0
        # About what it takes in memory.
        self.size_bytes = len(content) + 4 * count + 200

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

    def used(self) -> int:
        """To be called at each use from the cache; returns by how many bytes the block has grown.

        A block that is much used decodes its keys once, which makes look-ups in it a third cheaper, and
        the block half as large again: not worth it for one that will soon be pushed out.
        """
        self._uses += 1
        if self._uses != _MUCH_USED:
            return 0
        self._keys = [self.key(index) for index in range(self._count)]
        grown = sum(map(len, self._keys)) + 50 * self._count
        self.size_bytes += grown
        return grown

    def find(self, key: bytes) -> int:
        """Index of the first cell whose key is not below `key`."""
        if self._keys is not None:
            return bisect_left(self._keys, key)
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

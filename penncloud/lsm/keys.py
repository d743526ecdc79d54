"""Keys: (row, column) packed into bytes whose order is the order of everything in this room.

    4 bytes  hash of the row, big-endian (MurmurHash3, as tablets are cut, see `placement.tablets`)
    ...      the row, each 00 byte written as 00 FF
    2 bytes  00 01
    ...      the column, as it is

Comparing two keys as bytes compares (hash, row, column): the cells of a row stand together, in column
order; a tablet is one interval of keys; and a tablet is split by cutting that interval in two, however
its rows are named.
"""

from __future__ import annotations

from typing import Final

import mmh3

_END: Final = b"\x00\x01"
_AFTER_END: Final = b"\x00\x02"
HASH_SPACE: Final = 2**32
# A row or a column, in bytes: far above the limits of the wire, and a key's length fits two bytes.
MAX_NAME_BYTES: Final = 16 * 1024
# Above every key: as `last` it means to the end.
ABOVE_ALL: Final = b"\xff" * 2**16


def row_hash(row: bytes) -> int:
    """Where a row lies in [0, HASH_SPACE)."""
    return mmh3.hash(row, 0, signed=False)


def pack(row: bytes, col: bytes) -> bytes:
    """The key of a cell."""
    head = mmh3.hash(row, 0, False).to_bytes(4, "big")
    if b"\0" in row:
        row = row.replace(b"\0", b"\0\xff")
    return head + row + _END + col


def unpack(key: bytes) -> tuple[bytes, bytes]:
    """Row and column of a key. Raises ValueError for what `pack` never made."""
    end = key.find(_END, 4)
    # FF follows every other 00 of a row, so the first 00 01 is the end of the row.
    if end < 0:
        raise ValueError(f"not a key: {key!r}")
    row = key[4:end]
    return (row.replace(b"\0\xff", b"\0") if b"\0" in row else row), key[end + 2 :]


def row_interval(row: bytes, start: bytes, stop: bytes) -> tuple[bytes, bytes]:
    """Keys [first, last) of the cells of `row` with start <= column < stop (empty: to the end)."""
    prefix = pack(row, b"")
    return prefix + start, prefix + stop if stop else prefix[:-2] + _AFTER_END


def hash_key(value: int) -> bytes:
    """The smallest key of rows whose hash is at least `value`; for HASH_SPACE: above every key."""
    return value.to_bytes(4, "big") if value < HASH_SPACE else ABOVE_ALL


def hash_of(key: bytes) -> int:
    """Hash of the row of a key."""
    return int.from_bytes(key[:4], "big")

"""One number for a set of cells, whatever their order: two clusters with the same cells have the same one.

The digest is the sum of the SHA-256 of all cells, modulo 2**256. A cell is hashed as its row, its column
(each behind its length) and the SHA-256 of its value; its version is left out, as versions belong to a
cluster. The sum lets cells be hashed in any order, by tablet, and be taken out again.
"""

from __future__ import annotations

import hashlib
from typing import Final

_MODULUS: Final = 1 << 256


def value_hash(value: bytes) -> bytes:
    """What stands for a value in the hash of its cell."""
    return hashlib.sha256(value).digest()


class Digest:
    """Counts and sums cells."""

    def __init__(self) -> None:
        self.cells = 0
        self.bytes = 0
        self._sum = 0

    def add(self, row: bytes, col: bytes, size: int, hashed: bytes) -> None:
        """A cell whose value has `size` bytes and this `value_hash`."""
        named = len(row).to_bytes(4, "big") + row + len(col).to_bytes(4, "big") + col
        cell = hashlib.sha256(named + hashed).digest()
        self._sum = (self._sum + int.from_bytes(cell, "big")) % _MODULUS
        self.cells += 1
        self.bytes += size

    def hex(self) -> str:
        return f"{self._sum:064x}"

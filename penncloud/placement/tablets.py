"""Tablets as ranges of the hash space.

A row belongs to the tablet whose range contains the row's hash: MurmurHash3 (mmh3), the unsigned 32-bit
variant with seed 0. All cells of a row so stay together, and rows spread evenly whatever their names.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

import mmh3
from attrs import frozen

HASH_SPACE: Final = 2**32


def row_hash(row: bytes) -> int:
    """Where a row lies in [0, HASH_SPACE)."""
    return mmh3.hash(row, 0, signed=False)


@frozen
class Tablet:
    """One tablet: the rows with lo <= row_hash < hi, and who serves them.

    `epoch` (the design's `cfg`) grows with every change of `primary` or `members`, which are ids of
    storage servers; `primary` is empty while there is none.
    """

    id: int
    lo: int
    hi: int
    epoch: int
    primary: str
    members: tuple[str, ...]


class TabletMap:
    """All tablets of a cluster at one version of the map; immutable."""

    def __init__(self, version: int, tablets: Iterable[Tablet]) -> None:
        self.version = version
        self.tablets = tuple(sorted(tablets, key=lambda tablet: tablet.lo))
        self._starts = [tablet.lo for tablet in self.tablets]
        end = 0
        for tablet in self.tablets:
            if tablet.lo != end or tablet.hi <= tablet.lo:
                raise ValueError("tablets have to cover the hash space without gap or overlap")
            end = tablet.hi
        if self.tablets and end != HASH_SPACE:
            raise ValueError("tablets have to cover the whole hash space")

    def find(self, row: bytes) -> Tablet | None:
        """The tablet of a row; None only while the cluster has no tablets yet."""
        index = bisect_right(self._starts, row_hash(row)) - 1
        return self.tablets[index] if index >= 0 else None


def even_ranges(count: int) -> list[tuple[int, int]]:
    """The hash space cut into `count` ranges of equal size."""
    edges = [HASH_SPACE * i // count for i in range(count + 1)]
    return list(pairwise(edges))

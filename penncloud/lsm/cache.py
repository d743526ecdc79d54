"""A cache of decoded blocks with a bound in bytes; the least recently used go first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Protocol


class Sized(Protocol):
    @property
    def size_bytes(self) -> int: ...


class BlockCache:
    """Keys are (number of the table, offset in it)."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._items: OrderedDict[tuple[int, int], Sized] = OrderedDict()
        self.size_bytes = 0
        self.hits = 0
        self.misses = 0

    def get(self, key: tuple[int, int]) -> Any:
        """What was put under this key; None when it is not there (any more)."""
        item = self._items.get(key)
        if item is None:
            self.misses += 1
            return None
        self.hits += 1
        self._items.move_to_end(key)
        return item

    def grown(self, size_bytes: int) -> None:
        """An item that is kept has become larger; it was used last, and so stays."""
        if size_bytes:
            self.size_bytes += size_bytes
            self._shrink()

    def put(self, key: tuple[int, int], item: Sized) -> None:
        """Keep an item for as long as it is used; the last one put is always kept."""
        if key in self._items:
            return
        self._items[key] = item
        self.size_bytes += item.size_bytes
        self._shrink()

    def _shrink(self) -> None:
        while self.size_bytes > self._limit_bytes and len(self._items) > 1:
            _key, gone = self._items.popitem(last=False)
            self.size_bytes -= gone.size_bytes

    def worth(self, size_bytes: int) -> bool:
        """Whether a data block of this size should be kept.

        A large value is not: it would push out many small blocks, and the system caches the file.
        """
        return size_bytes * 64 <= self._limit_bytes

    def forget(self, table: int) -> None:
        """Drop everything of one table."""
        for key in [key for key in self._items if key[0] == table]:
            self.size_bytes -= self._items.pop(key).size_bytes

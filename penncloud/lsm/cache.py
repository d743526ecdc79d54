"""A cache of what was read of tables, with a bound in bytes.

Theory of operation
    An item lives in a dict of its table, its *home*: a look-up is one access to that dict and a mark on
    the item, which is what makes it cheap. The cache holds all items in the order in which they came.
    When there are too many, it takes the oldest; one that was used meanwhile is spared once and goes
    to the end, without its mark (the "clock" or second-chance approximation of least recently used).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

_NOWHERE: Final[dict[int, Any]] = {}


class Cached:
    """Something that can be kept. `used` is set at each use from the cache."""

    __slots__ = ("home", "place", "size_bytes", "used")

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.used = False
        # Set when it is put.
        self.home: dict[int, Any] = _NOWHERE
        self.place = 0


class BlockCache:
    """See the module. `hits` and `misses` are counted by the tables."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._items: OrderedDict[Cached, None] = OrderedDict()
        self.size_bytes = 0
        self.hits = 0
        self.misses = 0

    def put(self, home: dict[int, Any], place: int, item: Cached) -> None:
        """Keep an item in its home for as long as it is used; the last one put is always kept."""
        item.home, item.place = home, place
        home[place] = item
        self._items[item] = None
        self.size_bytes += item.size_bytes
        while self.size_bytes > self._limit_bytes and len(self._items) > 1:
            oldest, _ = self._items.popitem(last=False)
            if oldest.used or oldest is item:
                oldest.used = False
                self._items[oldest] = None
                continue
            del oldest.home[oldest.place]
            self.size_bytes -= oldest.size_bytes

    def worth(self, size_bytes: int) -> bool:
        """Whether a data block of this size should be kept.

        A large value is not: it would push out many small blocks, and the system caches the file.
        """
        return size_bytes * 64 <= self._limit_bytes

    def forget(self, home: dict[int, Any]) -> None:
        """Drop everything in one home."""
        for item in home.values():
            del self._items[item]
            self.size_bytes -= item.size_bytes
        home.clear()

"""The memtable: the newest committed cells of one tablet, in memory.

Theory of operation
    Most writes are never looked at in order before the memtable is flushed. So cells go into a dict, and
    new keys into a list; the sorted list of keys takes these in, all at once, when somebody asks for
    order. That costs a quarter of inserting each key into its place (1.1 instead of 4 us a cell). New
    keys are sorted in runs as they come, so that little is left to do in the moment of the question.

    A frozen memtable (the flush's source) is not changed any more, only read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any, Final, TypeAlias

import msgspec
from sortedcontainers import SortedList

from penncloud.lsm.entry import CELL_OVERHEAD_BYTES, Entry, PutEffect
from penncloud.lsm.keys import ABOVE_ALL, pack


class StoredCell(msgspec.Struct, frozen=True, gc=False):
    """A cell's value and the version of the tablet at which it was written."""

    version: int
    value: bytes


class Tombstone(msgspec.Struct, frozen=True, gc=False):
    """There is no such cell, whatever older tables say."""

    version: int


Slot: TypeAlias = StoredCell | Tombstone

# Keys that are sorted together (about a millisecond).
_SORTED: Final = 4096
# Keys of a memtable that is read as a whole that are sorted together, about.
_PIECE: Final = 512
# Cells that a scan gives at once: few at first, as many readers want but one.
FIRST_RUN: Final = 8
RUN: Final = 64


class Memtable:
    """Cells by key; see the module. `log_position`: no entry in it is below it in the log."""

    def __init__(self, log_position: int) -> None:
        self.log_position = log_position
        self.size_bytes = 0
        self.entries = 0
        self._slots: dict[bytes, Slot] = {}
        # The newest slot of a key, if this memtable has one; every read begins with it.
        self.get: Callable[[bytes], Slot | None] = self._slots.get
        self._order: Any = SortedList()
        # Keys that `_order` does not have yet: sorted runs, and the newest.
        self._sorted: list[list[bytes]] = []
        self._unordered: list[bytes] = []

    def __len__(self) -> int:
        return len(self._slots)

    def apply(self, entries: Iterable[Entry]) -> None:
        """Take in the effects of committed entries, in their order."""
        slots, get, new = self._slots, self.get, self._unordered
        known = len(new)
        grown = count = 0
        for entry in entries:
            version = entry.version
            count += 1
            for effect in entry.effects:
                key = pack(effect.row, effect.col)
                old = get(key)
                if type(effect) is PutEffect:
                    value = effect.value
                    slots[key] = StoredCell(version, value)
                    grown += len(value)
                else:
                    slots[key] = Tombstone(version)
                if old is None:
                    new.append(key)
                elif isinstance(old, StoredCell):
                    grown -= len(old.value)
        self.entries += count
        added = new[known:]
        self.size_bytes += grown + sum(map(len, added)) + CELL_OVERHEAD_BYTES * len(added)
        if len(new) >= _SORTED:
            self._end_run()

    def _end_run(self) -> None:
        if self._unordered:
            self._unordered.sort()
            self._sorted.append(self._unordered)
            self._unordered = []

    def runs(
        self, first: bytes, last: bytes, reverse: bool = False
    ) -> Iterator[list[tuple[bytes, Slot]]]:
        """Slots with first <= key < last, in order or in reverse, some at a time.

        The iterator must not be used any more once something has been applied.
        """
        self._end_run()
        if self._sorted:
            self._order.update(chain.from_iterable(self._sorted))
            self._sorted = []
        return self._some(self._order.irange(first, last, (True, False), reverse))

    def all_runs(self) -> Iterator[list[tuple[bytes, Slot]]]:
        """All slots in order, some at a time, without the work of a sort in one moment.

        The keys that lie between two keys of the longest sorted run are sorted together.
        """
        self._end_run()
        runs = [list(self._order), *self._sorted]
        slots = self._slots
        longest = max(runs, key=len)
        starts = [0] * len(runs)
        step = 1 + len(longest) * _PIECE // (1 + len(slots))
        for bound in [*longest[step::step], ABOVE_ALL]:
            keys: list[bytes] = []
            for number, run in enumerate(runs):
                stop = bisect_left(run, bound, starts[number])
                keys += run[starts[number] : stop]
                starts[number] = stop
            keys.sort()
            if keys:
                yield [(key, slots[key]) for key in keys]

    def _some(self, keys: Iterator[bytes]) -> Iterator[list[tuple[bytes, Slot]]]:
        slots = self._slots
        most = FIRST_RUN
        while run := [(key, slots[key]) for key in islice(keys, most)]:
            yield run
            most = min(2 * most, RUN)

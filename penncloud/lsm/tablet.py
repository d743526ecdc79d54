"""One tablet as the engine holds it: entries on their way, memtables, tables; reads over all of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from heapq import merge as heap_merge
from typing import Protocol

import msgspec
from attrs import define, field

from penncloud.lsm.entry import Entry
from penncloud.lsm.errors import TabletDamaged
from penncloud.lsm.keys import hash_key, pack, row_interval, unpack
from penncloud.lsm.manifest import TabletState
from penncloud.lsm.memtable import Memtable, Slot, StoredCell, Tombstone


class Source(Protocol):
    """Something with slots by key: a memtable or a table."""

    def get(self, key: bytes) -> Slot | None: ...

    def scan(
        self, first: bytes, last: bytes, reverse: bool = False
    ) -> Iterator[tuple[bytes, Slot]]:
        """Slots with first <= key < last, in order or in reverse."""
        ...


class ScannedCell(msgspec.Struct, frozen=True, gc=False):
    """A cell as a scan gives it."""

    row: bytes
    col: bytes
    version: int
    value: bytes


def merge(
    sources: Sequence[Source], first: bytes, last: bytes, reverse: bool = False
) -> Iterator[tuple[bytes, Slot]]:
    """The newest slot of every key in [first, last), tombstones included; sources newest first."""
    if len(sources) == 1:
        yield from sources[0].scan(first, last, reverse)
        return
    ranked = [
        _ranked(source.scan(first, last, reverse), -rank if reverse else rank)
        for rank, source in enumerate(sources)
    ]
    previous = None
    for key, _rank, slot in heap_merge(*ranked, reverse=reverse):
        if key != previous:
            previous = key
            yield key, slot


def _ranked(slots: Iterator[tuple[bytes, Slot]], rank: int) -> Iterator[tuple[bytes, int, Slot]]:
    for key, slot in slots:
        yield key, rank, slot


@define(eq=False)
class Pending:
    """A durable entry that is not committed, and a position at or below its place in the log."""

    entry: Entry
    position: int


@define(eq=False)
class TabletStore:
    """See the module. `state` is the tablet's part of the manifest as it is on the disk."""

    tablet: int
    state: TabletState
    active: Memtable
    # Version of the last committed entry, and the configuration it was decided in.
    committed: int
    committed_cfg: int
    # Versions of the last durable entry and of the last one handed to the log.
    durable: int
    prepared: int
    pending: deque[Pending] = field(factory=deque)
    # Being flushed, newest first.
    frozen: list[Memtable] = field(factory=list)
    tables: list[Source] = field(factory=list)

    def check(self) -> None:
        """Raise TabletDamaged unless the tablet can be trusted."""
        if self.state.damaged:
            raise TabletDamaged(self.tablet, self.state.damaged)

    @property
    def memory_bytes(self) -> int:
        """Memtables, active and frozen."""
        return self.active.size_bytes + sum(table.size_bytes for table in self.frozen)

    @property
    def needed_from(self) -> int | None:
        """Log position of the oldest entry that no table holds yet; None: there is none."""
        if self.frozen:
            return self.frozen[-1].log_position
        if self.active.entries:
            return self.active.log_position
        return self.pending[0].position if self.pending else None

    @property
    def sources(self) -> list[Source]:
        """Newest first."""
        return [self.active, *self.frozen, *self.tables]

    def add(self, entry: Entry, position: int) -> None:
        """An entry has become durable."""
        self.pending.append(Pending(entry, position))
        self.durable = entry.version

    def commit(self, version: int) -> int:
        """Let durable entries up to `version` into the memtable; returns how many."""
        if version > self.durable:
            raise ValueError(f"version {version} of tablet {self.tablet} is not durable")
        count = 0
        while self.pending and self.pending[0].entry.version <= version:
            pending = self.pending.popleft()
            if not self.active.entries:
                self.active.log_position = pending.position
            self.active.apply(pending.entry)
            self.committed = pending.entry.version
            self.committed_cfg = pending.entry.entry_cfg
            count += 1
        return count

    def get(self, row: bytes, col: bytes) -> StoredCell | None:
        """The committed cell."""
        key = pack(row, col)
        slot = self.active.get(key)
        if slot is None:
            for source in (*self.frozen, *self.tables):
                slot = source.get(key)
                if slot is not None:
                    break
        return slot if isinstance(slot, StoredCell) else None

    def scan(self, row: bytes, start: bytes, stop: bytes, reverse: bool) -> Iterator[ScannedCell]:
        """Cells of a row with start <= column < stop (empty: to the end)."""
        first, last = row_interval(row, start, stop)
        return self._cells(first, last, reverse)

    def scan_from(self, row: bytes, col: bytes) -> Iterator[ScannedCell]:
        """Cells of the tablet from (row, col) on, in the order of keys."""
        first = max(pack(row, col), hash_key(self.state.lo)) if row else hash_key(self.state.lo)
        return self._cells(first, hash_key(self.state.hi), False)

    def _cells(self, first: bytes, last: bytes, reverse: bool) -> Iterator[ScannedCell]:
        for key, slot in merge(self.sources, first, last, reverse):
            if not isinstance(slot, Tombstone):
                row, col = unpack(key)
                yield ScannedCell(row, col, slot.version, slot.value)

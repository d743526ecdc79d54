"""One tablet as the engine holds it: entries on their way, memtables, tables; reads over all of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Final, Protocol

import msgspec
from attrs import define, field

from penncloud.lsm.bloom import probe_of
from penncloud.lsm.entry import Entry
from penncloud.lsm.errors import TableDamaged, TabletDamaged
from penncloud.lsm.keys import ABOVE_ALL, hash_key, pack, row_interval, unpack
from penncloud.lsm.manifest import TabletState
from penncloud.lsm.memtable import Memtable, Slot, StoredCell
from penncloud.lsm.merging import merged_runs
from penncloud.lsm.table import Table
from penncloud.platform.errors import PennCloudError

# Blocks of a tablet whose damage is reported one by one.
_MAX_REPORTED: Final = 100


class Source(Protocol):
    """Something with slots by key: a memtable or a table."""

    def runs(
        self, first: bytes, last: bytes, reverse: bool = False
    ) -> Iterator[list[tuple[bytes, Slot]]]:
        """Slots with first <= key < last, in order or in reverse, some at a time (never none)."""
        ...


class ScannedCell(msgspec.Struct, frozen=True, gc=False):
    """A cell as a scan gives it."""

    row: bytes
    col: bytes
    version: int
    value: bytes


class Pending(msgspec.Struct, frozen=True, gc=False):
    """A durable entry that is not committed, and a position at or below its place in the log."""

    entry: Entry
    position: int


@define(eq=False)
class TabletStore:
    """See the module. `state` is the tablet's part of the manifest as it is on the disk."""

    tablet: int
    state: TabletState
    # Why the tablet is not to be used any more: something of it is gone, and nobody knows what.
    damaged: str
    # Why some blocks of its tables cannot be read. Each look into one of them fails, others are sound.
    spoiled: str
    # Who is told when either is found out, once for each reason.
    on_damage: Callable[[TabletStore, str], None]
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
    tables: list[Table] = field(factory=list)
    # Entries committed since the last flush began.
    unflushed: int = 0
    # Entries are being made void: what is in `pending` may not be any more.
    voiding: bool = False
    # Set while the tablet is being split: nothing is appended.
    sealed: bool = False
    # What `on_damage` was told of blocks.
    reported: set[str] = field(factory=set)

    @classmethod
    def of(
        cls, tablet: int, state: TabletState, on_damage: Callable[[TabletStore, str], None]
    ) -> TabletStore:
        """A tablet as its last checkpoint left it, without its tables."""
        version = state.version
        return cls(
            tablet,
            state,
            state.damaged,
            state.spoiled,
            on_damage,
            Memtable(state.log_position),
            version,
            state.entry_cfg,
            durable=version,
            prepared=version,
            reported={state.spoiled} if state.spoiled else set(),
        )

    def check(self) -> None:
        """Raise TabletDamaged unless what can be read of the tablet is right."""
        if self.damaged:
            raise TabletDamaged(self.tablet, self.damaged)

    def check_whole(self) -> None:
        """Raise TabletDamaged unless all of it can be read, as far as is known."""
        if self.damage:
            raise TabletDamaged(self.tablet, self.damage)

    @property
    def damage(self) -> str:
        """What is wrong with it, or empty."""
        return self.damaged or self.spoiled

    def spoil(self, error: PennCloudError) -> TabletDamaged:
        """A block of a table cannot be read: what to raise."""
        reason = str(error)
        if not self.spoiled:
            self.spoiled = reason
        if reason not in self.reported and len(self.reported) < _MAX_REPORTED:
            self.reported.add(reason)
            self.on_damage(self, reason)
        return TabletDamaged(self.tablet, reason)

    def condemn(self, reason: str) -> None:
        """Something of the tablet is gone: nothing of it may be used."""
        if not self.damaged:
            self.damaged = reason
            self.on_damage(self, reason)

    @property
    def memory_bytes(self) -> int:
        """Memtables, active and frozen."""
        return self.active.size_bytes + sum(table.size_bytes for table in self.frozen)

    @property
    def needed_from(self) -> int | None:
        """Log position of the oldest entry that no table holds yet; None: there is none."""
        return self.frozen[-1].log_position if self.frozen else self.needed_behind_frozen

    @property
    def needed_behind_frozen(self) -> int | None:
        """The same as if the frozen memtables had been flushed."""
        if self.active.entries:
            return self.active.log_position
        return self.pending[0].position if self.pending else None

    @property
    def busy(self) -> bool:
        """Whether entries are on their way that are not committed."""
        return self.prepared != self.committed

    @property
    def last_place(self) -> tuple[int, int]:
        """Version and configuration of the last durable entry."""
        if self.pending:
            last = self.pending[-1].entry
            return last.version, last.entry_cfg
        return self.committed, self.committed_cfg

    def freeze(self) -> None:
        """Begin a new memtable; the old one is not changed any more."""
        if self.active.entries:
            self.frozen.insert(0, self.active)
            self.active = Memtable(self.active.log_position)

    def add(self, entry: Entry, position: int) -> None:
        """An entry has become durable."""
        self.pending.append(Pending(entry, position))
        self.durable = entry.version

    @property
    def born(self) -> int:
        """No entry of this tablet is at a lower log position."""
        return self.state.log_position

    def commit(self, version: int) -> int:
        """Let durable entries up to `version` into the memtable; returns by how many bytes it grew."""
        if version > self.durable:
            raise ValueError(f"version {version} of tablet {self.tablet} is not durable")
        pending, active = self.pending, self.active
        # Versions are contiguous, and the first pending one follows the last committed one.
        taken = [pending.popleft() for _ in range(version - self.committed)]
        if not taken:
            return 0
        if not active.entries:
            active.log_position = taken[0].position
        before = active.size_bytes
        active.apply([one.entry for one in taken])
        last = taken[-1].entry
        assert last.version == version
        self.committed, self.committed_cfg = version, last.entry_cfg
        self.unflushed += len(taken)
        return active.size_bytes - before

    def get(self, row: bytes, col: bytes) -> StoredCell | None:
        """The committed cell."""
        if self.damaged:
            self.check()
        key = pack(row, col)
        slot = self.active.get(key)
        if slot is None:
            slot = get_slot(self.frozen, self.tables, key, self)
        return slot if isinstance(slot, StoredCell) else None

    def scan(self, row: bytes, start: bytes, stop: bytes, reverse: bool) -> Iterator[ScannedCell]:
        """Cells of a row with start <= column < stop (empty: to the end)."""
        self.check()
        return scan_cells(self.sources, *row_interval(row, start, stop), reverse, self)

    def scan_from(self, row: bytes, col: bytes) -> Iterator[ScannedCell]:
        """Cells of the tablet from (row, col) on, in the order of keys."""
        self.check()
        first = max(pack(row, col), hash_key(self.state.lo)) if row else hash_key(self.state.lo)
        return scan_cells(self.sources, first, hash_key(self.state.hi), False, self)

    @property
    def sources(self) -> list[Source]:
        """Newest first."""
        return [self.active, *self.frozen, *self.tables]


def get_slot(
    memtables: Sequence[Memtable], tables: Sequence[Table], key: bytes, owner: TabletStore
) -> Slot | None:
    """The newest slot of a key in memtables, then tables. Raises TabletDamaged."""
    for memtable in memtables:
        slot = memtable.get(key)
        if slot is not None:
            return slot
    if tables:
        probe = probe_of(key)
        try:
            for table in tables:
                slot = table.get(key, probe)
                if slot is not None:
                    return slot
        except TableDamaged as error:
            raise owner.spoil(error) from error
    return None


def scan_cells(
    sources: Sequence[Source], first: bytes, last: bytes, reverse: bool, owner: TabletStore
) -> Iterator[ScannedCell]:
    """Cells in [first, last). Raises TabletDamaged."""
    return chain.from_iterable(_scan_runs(sources, first, last, reverse, owner))


def _scan_runs(
    sources: Sequence[Source], first: bytes, last: bytes, reverse: bool, owner: TabletStore
) -> Iterator[list[ScannedCell]]:
    runs = merged_runs([source.runs(first, last, reverse) for source in sources], reverse)
    row, prefix, length = b"", ABOVE_ALL, 0
    try:
        for run in runs:
            cells: list[ScannedCell] = []
            for key, slot in run:
                if isinstance(slot, StoredCell):
                    if not key.startswith(prefix):
                        row, col = unpack(key)
                        length = len(key) - len(col)
                        prefix = key[:length]
                    cells.append(ScannedCell(row, key[length:], slot.version, slot.value))
            yield cells
    except TableDamaged as error:
        raise owner.spoil(error) from error

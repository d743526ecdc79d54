"""Snapshots: the cells of one tablet as they were, while writes and compactions go on.

Theory of operation
    Tables do not change and a frozen memtable does not either. So a snapshot freezes the memtable and
    keeps what the tablet consists of at that moment; files that are compacted away meanwhile stay
    readable, as they are open. No cell needs more than one version for that. The price is a memtable
    cut short, which is little as snapshots are few (checkpoints for other servers, backups, dumps).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from penncloud.lsm.keys import hash_key, pack, row_interval
from penncloud.lsm.memtable import StoredCell
from penncloud.lsm.table import Table
from penncloud.lsm.tablet import ScannedCell, Source, TabletStore, get_slot, scan_cells


class Snapshot:
    """See the module. `version` is the last one in it, `tables` its files. Reads raise TabletDamaged."""

    def __init__(self, store: TabletStore, release: Callable[[Table], None]) -> None:
        store.freeze()
        self.version = store.committed
        self._store = store
        self._low, self._high = hash_key(store.state.lo), hash_key(store.state.hi)
        self._memtables = list(store.frozen)
        self.tables = [table.retain() for table in store.tables]
        self._release = release

    def get(self, row: bytes, col: bytes) -> StoredCell | None:
        slot = get_slot(self._memtables, self.tables, pack(row, col), self._store)
        return slot if isinstance(slot, StoredCell) else None

    def scan(
        self, row: bytes, start: bytes = b"", stop: bytes = b"", reverse: bool = False
    ) -> Iterator[ScannedCell]:
        """Cells of a row with start <= column < stop (empty: to the end)."""
        first, last = row_interval(row, start, stop)
        return scan_cells(self._sources, first, last, reverse, self._store)

    def scan_tablet(self, row: bytes = b"", col: bytes = b"") -> Iterator[ScannedCell]:
        """Cells from (row, col) on, in the order of keys; may be consumed over any time."""
        first = max(pack(row, col), self._low) if row else self._low
        return scan_cells(self._sources, first, self._high, False, self._store)

    @property
    def _sources(self) -> list[Source]:
        return [*self._memtables, *self.tables]

    def close(self) -> None:
        """Let go of the files; the snapshot is not read any more."""
        for table in self.tables:
            self._release(table)
        self.tables = []
        self._memtables = []

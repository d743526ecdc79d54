"""Compaction: several tables of a tablet become one, so that reads have few to look into.

Theory of operation
    Size-tiered ("universal"): the tables of a tablet are ordered by age, and a run of neighbours of
    similar size is merged into one. A cell is so written again about once per doubling of its tablet,
    and a tablet has a number of tables that grows with the logarithm of its size. Levels would bound
    the space that superseded cells take more tightly, at several times the writing; but tablets are
    split at 50 MB, so that a whole one is merged in a second or two, and space is bounded by merging
    everything once the newer tables together are as large as the oldest.

    A tombstone may go when the merge includes the oldest table, as nothing below is left to hide.

    One compaction runs at a time: a small one in slices in the reactor, a large one, where there is a
    `merge_process.ProcessMerger`, in a child process. Its output is named by the manifest in one step with
    the removal of its inputs: killed at any point, it has either not happened, or happened. Reads and
    snapshots that began on the inputs keep them open.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

import msgspec
from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.lsm.background import Background
from penncloud.lsm.building import build_table
from penncloud.lsm.errors import NoSuchTablet, TableDamaged
from penncloud.lsm.keys import hash_key
from penncloud.lsm.manifest import Manifest
from penncloud.lsm.merge_job import MergeJob, surviving
from penncloud.lsm.store import TABLES, Store, reference, table_path
from penncloud.lsm.table import Table
from penncloud.lsm.tablet import TabletStore
from penncloud.platform.child import ChildFailed
from penncloud.platform.errors import DiskFailed, DiskFull

# Fewest tables worth merging, and how many a tablet may have before any are merged.
_RUN: Final = 4
MAX_TABLES: Final = 12
# Tables of a tablet at which its flushes wait for a compaction.
STALL_TABLES: Final = 2 * MAX_TABLES
# A table joins a run when it is at most so many times as large as all newer ones in it.
_RATIO: Final = 1.5
_RETRY_S: Final = 5.0
# Inputs from which on a child process is worth its start (about 0.1 s of CPU).
_CHILD_BYTES: Final = 8 * 1024 * 1024


def pick(sizes: Sequence[int]) -> tuple[int, int] | None:
    """Which tables to merge, as indexes [start, end); `sizes` in bytes, newest first."""
    count = len(sizes)
    if count < _RUN:
        return None
    if sum(sizes[:-1]) >= sizes[-1]:
        return 0, count
    for start in range(count - _RUN + 1):
        end, total = start + 1, sizes[start]
        while end < count and sizes[end] <= total * _RATIO:
            total += sizes[end]
            end += 1
        if end - start >= _RUN:
            return start, end
    if count <= MAX_TABLES:
        return None
    # No similar neighbours: the cheapest run of them.
    start = min(range(count - _RUN + 1), key=lambda first: sum(sizes[first : first + _RUN]))
    return start, start + _RUN


class Merger(Protocol):
    """Somebody who merges tables elsewhere."""

    def merge(self, job: MergeJob) -> Deferred[bool]:
        """Make the output, synced but for its name; false when no cells were left.

        Errors: TableDamaged, DiskError, ChildFailed; the output is then to be removed.
        """
        ...

    def stop(self) -> None:
        """Give up what is under way."""
        ...


@frozen
class _Job:
    """Merge tables [start, end) of a tablet."""

    tablet: TabletStore
    start: int
    end: int


class Compactor:
    """Compacts one tablet at a time, where `pick` says so or somebody asks."""

    _log = Logger()

    def __init__(self, store: Store, merger: Merger | None, done: Callable[[], None]) -> None:
        """`done()` is called after each compaction."""
        self._store = store
        self._merger = merger
        self._jobs = Background(
            store.clock,
            _RETRY_S,
            choose=self._choose,
            work=self._compact,
            ended=self._ended,
            after=done,
        )
        self.request = self._jobs.request
        self.forget = self._jobs.forget
        self.check = self._jobs.check

    @property
    def running(self) -> bool:
        """Whether a compaction is under way or due."""
        return self._jobs.running

    def behind(self, tablet: int) -> bool:
        """Whether a tablet has so many tables that its next one should wait for a compaction.

        Not when compactions fail at the moment: waiting for them would be in vain.
        """
        found = self._store.tablets[tablet]
        return len(found.tables) >= STALL_TABLES and not found.damage and not self._jobs.pausing

    def _choose(self, wanted: Collection[int]) -> tuple[int, _Job] | None:
        for tablet in wanted:
            asked = self._store.tablets[tablet]
            return tablet, _Job(asked, 0, len(asked.tables))
        best: _Job | None = None
        for found in self._store.tablets.values():
            if found.damage:
                continue
            run = pick([table.size_bytes for table in found.tables])
            if run and (best is None or len(found.tables) > len(best.tablet.tables)):
                best = _Job(found, *run)
        return None if best is None else (best.tablet.tablet, best)

    def _ended(self, job: _Job, failure: Failure | None) -> bool:
        tablet = job.tablet
        if failure is None or failure.check(DiskFailed, NoSuchTablet):
            return False
        if self._store.tablets.get(tablet.tablet) is not tablet:
            # Dropped meanwhile: that a child has not found its files is no damage.
            return False
        if isinstance(failure.value, TableDamaged):
            tablet.spoil(failure.value)
            return False
        self._log.warn(
            "Tablet {tablet} cannot be compacted now: {error}",
            tablet=tablet.tablet,
            error=failure.getErrorMessage(),
        )
        return True

    async def _compact(self, job: _Job) -> None:
        """Merge some tables of a tablet, which stay as they are until the manifest changes."""
        store, tablet, start, end = self._store, job.tablet, job.start, job.end
        inputs = [table.retain() for table in tablet.tables[start:end]]
        try:
            if not inputs:
                return
            oldest = end == len(tablet.tables)
            output = await self._merge(tablet, inputs, drop_tombstones=oldest)
            replaced = {table.number for table in inputs}

            def change(manifest: Manifest) -> Manifest:
                state = manifest.tablets.get(tablet.tablet)
                if state is None or not replaced <= {ref.file for ref in state.tables}:
                    raise NoSuchTablet(tablet.tablet)
                first = next(n for n, ref in enumerate(state.tables) if ref.file in replaced)
                kept = [ref for ref in state.tables if ref.file not in replaced]
                if output is not None:
                    kept.insert(first, reference(output))
                # The same entries in other files: a checkpoint of its own to whoever fetches it.
                number = state.checkpoint_no + 1
                new = msgspec.structs.replace(state, checkpoint_no=number, tables=tuple(kept))
                return manifest.with_tablet(tablet.tablet, new)

            try:
                await store.edit(change)
            except BaseException:
                if output is not None:
                    store.release_table(output)
                    store.discard(output.path)
                raise
            first = tablet.tables.index(inputs[0])
            tablet.tables[first : first + len(inputs)] = [] if output is None else [output]
            for table in inputs:
                store.release_table(table)
            if output is not None:
                store.metrics.compacted_bytes.inc(output.size_bytes)
            store.on_checkpoint(tablet.tablet, tablet.state)
        finally:
            for table in inputs:
                store.release_table(table)

    async def _merge(
        self, tablet: TabletStore, inputs: list[Table], drop_tombstones: bool
    ) -> Table | None:
        store = self._store
        low, high = hash_key(tablet.state.lo), hash_key(tablet.state.hi)
        size = sum(table.size_bytes for table in inputs)
        if store.disk.free_bytes() < size:
            # Flushes and the log need what is left more.
            raise DiskFull(f"no room for a merge of {size} bytes")
        if self._merger is not None and size >= _CHILD_BYTES:
            try:
                return await self._merge_elsewhere(self._merger, inputs, low, high, drop_tombstones)
            except ChildFailed as error:
                if self._jobs.closed:
                    raise
                # Where no process can be had, slow merges are better than none.
                self._log.warn("A merge is done in the server: {error}", error=error)
        at_most = sum(table.properties.cells for table in inputs)
        return await build_table(store, surviving(inputs, low, high, drop_tombstones), at_most)

    async def _merge_elsewhere(
        self, merger: Merger, inputs: list[Table], low: bytes, high: bytes, drop_tombstones: bool
    ) -> Table | None:
        store, options = self._store, self._store.options
        number = store.new_file()
        job = MergeJob(
            [table.path for table in inputs],
            table_path(number),
            low,
            high,
            drop_tombstones,
            store.salt(),
            options.block_bytes,
            options.bloom_bits_per_key,
            options.compression,
        )
        try:
            if await merger.merge(job):
                await store.disk.sync_dir(TABLES)
                return store.open_table(number)
        except BaseException:
            store.discard(job.output)
            raise
        store.discard(job.output)
        return None

    def close(self) -> Deferred[None]:
        """Begin no more compactions; fire when the one under way has ended."""
        ended = self._jobs.close()
        if self._merger is not None:
            self._merger.stop()
        return ended

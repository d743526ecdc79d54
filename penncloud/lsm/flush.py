"""Flushing: memtables become tables, each flush a numbered checkpoint of one tablet.

Theory of operation
    When all memtables together are full, the largest is frozen and written to a table while a new one
    takes the writes; likewise when a tablet has had so many entries as an administrator wants between
    checkpoints, and when the log has grown long, for the tablet that needs its oldest part. One flush
    runs at a time. The manifest then names the new table, the version and the owner's blob together:
    that is the checkpoint. The log below the oldest entry that no checkpoint holds is removed. (Where the
    log is long and there is nothing to flush, see `carrying`.)

    A tablet that has far more tables than it should, because compactions do not keep up, is not flushed:
    so memtables fill, and appends wait (see `appending`).

    On a full disk the frozen memtable stays, is read as before, and the flush is tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

import msgspec
from attrs import frozen
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.lsm.background import Background
from penncloud.lsm.block import encode_runs
from penncloud.lsm.building import build_table
from penncloud.lsm.carrying import carry, holds_old_log
from penncloud.lsm.errors import NoSuchTablet
from penncloud.lsm.manifest import Manifest, TabletState
from penncloud.lsm.merging import merged_runs
from penncloud.lsm.store import Store, reference
from penncloud.lsm.tablet import TabletStore
from penncloud.platform.errors import DiskFailed, DiskFull

# Pause before a flush is tried again on a full disk.
_RETRY_S: Final = 1.0


@frozen
class _Job:
    """A flush of a tablet, or (`carried`) its waiting entries are to be written again."""

    tablet: TabletStore
    carried: bool = False


class Flusher:
    """Flushes one tablet at a time. `done()` is called after each, and `full` is up to date then."""

    _log = Logger()

    def __init__(
        self, store: Store, done: Callable[[], None], waits: Callable[[int], bool]
    ) -> None:
        """`waits(tablet)`: its flushes have to wait for a compaction, unless asked for."""
        self._store = store
        self._done = done
        self._waits = waits
        self._providers: dict[int, Callable[[], bytes]] = {}
        self._jobs = Background(
            store.clock,
            _RETRY_S,
            choose=self._choose,
            work=self._work,
            ended=self._ended,
            after=done,
        )
        self.request = self._jobs.request
        self.check = self._jobs.check
        self.close = self._jobs.close
        # The last flush found no room.
        self.full = False

    def set_meta(self, tablet: int, provider: Callable[[], bytes]) -> None:
        self._providers[tablet] = provider

    def forget(self, tablet: int) -> None:
        """The tablet has been dropped."""
        self._providers.pop(tablet, None)
        self._jobs.forget(tablet)
        if self.full and not self._store.tablets:
            self.full = False
            self._done()

    def committed(self, tablet: TabletStore) -> None:
        """Entries of a tablet have been committed: look whether that was enough for a flush."""
        store, options = self._store, self._store.options
        if (
            store.memory_bytes >= options.memtable_bytes
            or (options.checkpoint_writes and tablet.unflushed >= options.checkpoint_writes)
            or self._log_is_long()
        ):
            self.check()

    def _log_is_long(self) -> bool:
        options = self._store.options
        return self._store.wal.segments * options.segment_bytes > options.log_bytes

    def _choose(self, wanted: Collection[int]) -> tuple[int, _Job] | None:
        for tablet in wanted:
            return tablet, _Job(self._store.tablets[tablet])
        due = self._due()
        if due is not None:
            return due.tablet, _Job(due)
        stuck = holds_old_log(self._store) if self._log_is_long() else None
        return None if stuck is None else (stuck.tablet, _Job(stuck, carried=True))

    def _due(self) -> TabletStore | None:
        store, options = self._store, self._store.options
        flushable = [
            one
            for one in store.tablets.values()
            if (one.frozen or one.active.entries) and not self._waits(one.tablet)
        ]
        if self.full:
            # Nothing else shows that there is room again, and until then writes are refused: so it is
            # tried, be it with a flush of nothing.
            return max(flushable or store.tablets.values(), key=_held_back, default=None)
        if not flushable:
            return None
        if store.memory_bytes >= options.memtable_bytes:
            return max(flushable, key=lambda one: one.memory_bytes)
        if options.checkpoint_writes:
            for one in flushable:
                if one.unflushed >= options.checkpoint_writes:
                    return one
        if self._log_is_long():
            oldest = min(flushable, key=lambda one: one.needed_from or 0)
            # Otherwise it is not this tablet that keeps the log.
            return oldest if (oldest.needed_from or 0) < store.wal.active_from else None
        return None

    def _ended(self, job: _Job, failure: Failure | None) -> bool:
        full = failure is not None and failure.check(DiskFull) is not None
        if full and not self.full:
            self._log.warn("No room for a flush: writes may be refused soon")
        self.full = full or (self.full and failure is not None)
        if failure is None or full or failure.check(DiskFailed, NoSuchTablet):
            return full
        self._log.failure("A flush of tablet {tablet}", failure, tablet=job.tablet.tablet)
        return True

    async def _work(self, job: _Job) -> None:
        if job.carried:
            await carry(self._store, job.tablet)
        else:
            await self._flush(job.tablet)

    async def _flush(self, tablet: TabletStore) -> None:
        """One checkpoint. Raises DiskError, NoSuchTablet when the tablet was dropped meanwhile."""
        store = self._store
        tablet.freeze()
        tablet.unflushed = 0
        flushed = list(tablet.frozen)
        version, cfg = tablet.committed, tablet.committed_cfg
        position = store.position_after(tablet)
        provider = self._providers.get(tablet.tablet)
        blob = None if provider is None else provider()
        cells = sum(map(len, flushed))
        table = None
        if cells:
            runs = merged_runs([memtable.all_runs() for memtable in flushed])
            table = await build_table(store, encode_runs(runs), cells)
        try:
            meta = None if blob is None else await store.write_meta(blob)

            def change(manifest: Manifest) -> Manifest:
                state = manifest.tablets.get(tablet.tablet)
                if state is None or not store.holds(tablet):
                    raise NoSuchTablet(tablet.tablet)
                new: TabletState = msgspec.structs.replace(
                    state,
                    checkpoint_no=state.checkpoint_no + 1,
                    version=version,
                    entry_cfg=cfg,
                    log_position=position,
                    meta=state.meta if meta is None else meta,
                    tables=state.tables if table is None else (reference(table), *state.tables),
                )
                return manifest.with_tablet(tablet.tablet, new)

            await store.edit(change, flushed=tablet)
        except BaseException:
            if table is not None:
                store.release_table(table)
                store.discard(table.path)
            raise
        if table is not None:
            tablet.tables.insert(0, table)
            store.metrics.flushed_bytes.inc(table.size_bytes)
        tablet.frozen = [one for one in tablet.frozen if one not in flushed]
        store.recount()
        store.on_checkpoint(tablet.tablet, tablet.state)


def _held_back(tablet: TabletStore) -> tuple[bool, int]:
    """What has waited for room comes first."""
    return bool(tablet.frozen), tablet.memory_bytes

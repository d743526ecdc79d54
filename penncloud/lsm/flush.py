"""Flushing: memtables become tables, each flush a numbered checkpoint of one tablet.

Theory of operation
    When all memtables together are full, the largest is frozen and written to a table while a new one
    takes the writes; likewise when a tablet has had so many entries as an administrator wants between
    checkpoints, and when the log has grown long, for the tablet that needs its oldest part. One flush
    runs at a time. The manifest then names the new table, the version and the owner's blob together:
    that is the checkpoint. The log below the oldest entry that no checkpoint holds is removed. (Where the
    log is long and there is nothing to flush, see `carrying`.)

    On a full disk the frozen memtable stays, is read as before, and the flush is tried again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.lsm.block import encode_runs
from penncloud.lsm.building import build_table
from penncloud.lsm.carrying import carry, holds_old_log
from penncloud.lsm.errors import NoSuchTablet, Overloaded
from penncloud.lsm.manifest import Manifest, TabletState
from penncloud.lsm.merging import merged_runs
from penncloud.lsm.store import Store, reference
from penncloud.lsm.tablet import TabletStore
from penncloud.platform.errors import DiskFailed, DiskFull

# Pause before a flush is tried again on a full disk.
_RETRY_S: Final = 1.0


class Flusher:
    """Flushes one tablet at a time. `done(store)` is called after each."""

    _log = Logger()

    def __init__(self, store: Store, done: Callable[[TabletStore], None]) -> None:
        self._store = store
        self._done = done
        self._providers: dict[int, Callable[[], bytes]] = {}
        self._running = False
        self._closed = False
        self._retry: IDelayedCall | None = None
        self._wanted: dict[int, list[Deferred[None]]] = {}
        self._idle: list[Deferred[None]] = []
        # The last flush found no room.
        self.full = False

    def set_meta(self, tablet: int, provider: Callable[[], bytes]) -> None:
        self._providers[tablet] = provider

    def forget(self, tablet: int) -> None:
        """The tablet has been dropped."""
        self._providers.pop(tablet, None)
        for waiter in self._wanted.pop(tablet, []):
            waiter.errback(NoSuchTablet(tablet))

    def request(self, tablet: int) -> Deferred[None]:
        """Fire after a flush that begins from now on; fails with DiskFull as that does."""
        if self._closed:
            return fail(Overloaded("the engine is closing"))
        waiter: Deferred[None] = Deferred()
        self._wanted.setdefault(tablet, []).append(waiter)
        self.check()
        return waiter

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

    def check(self) -> None:
        """Start a flush, in a turn of its own, if one is due."""
        if self._running or self._closed or self._retry is not None:
            return
        if self._choose() is not None or self._stuck() is not None:
            self._running = True
            self._store.clock.callLater(0, self._start)

    def _choose(self) -> TabletStore | None:
        store, options = self._store, self._store.options
        for tablet in self._wanted:
            return store.tablets[tablet]
        flushable = [one for one in store.tablets.values() if one.frozen or one.active.entries]
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

    def _stuck(self) -> TabletStore | None:
        return holds_old_log(self._store) if self._log_is_long() else None

    def _start(self) -> None:
        store = None if self._closed else self._choose()
        if store is None:
            self._carry()
            return
        waiters = self._wanted.pop(store.tablet, [])
        d = Deferred.fromCoroutine(self._flush(store))
        d.addCallbacks(
            self._flushed, self._failed, callbackArgs=(store, waiters), errbackArgs=(store, waiters)
        )

    def _carry(self) -> None:
        stuck = None if self._closed else self._stuck()
        if stuck is None:
            self._finish(None)
            return
        d = Deferred.fromCoroutine(carry(self._store, stuck))
        d.addCallbacks(
            self._flushed, self._failed, callbackArgs=(stuck, []), errbackArgs=(stuck, [])
        )

    def _flushed(self, _ignored: None, store: TabletStore, waiters: list[Deferred[None]]) -> None:
        self.full = False
        self._finish(store)
        for waiter in waiters:
            waiter.callback(None)

    def _failed(self, failure: Failure, store: TabletStore, waiters: list[Deferred[None]]) -> None:
        if failure.check(DiskFull):
            if not self.full:
                self._log.warn("No room for a flush: writes may be refused soon")
            self.full = True
            self._try_later()
        elif not failure.check(DiskFailed, NoSuchTablet):
            self._log.failure("A flush of tablet {tablet}", failure, tablet=store.tablet)
            self._try_later()
        self._finish(store)
        for waiter in waiters:
            waiter.errback(failure)

    def _try_later(self) -> None:
        if not self._closed:
            self._retry = self._store.clock.callLater(_RETRY_S, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self.check()

    def _finish(self, store: TabletStore | None) -> None:
        self._running = False
        if store is not None:
            self._done(store)
        self.check()
        if not self._running:
            idle, self._idle = self._idle, []
            for waiter in idle:
                waiter.callback(None)

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
                if state is None:
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

    def close(self) -> Deferred[None]:
        """Begin no more flushes; fire when the one under way has ended."""
        self._closed = True
        wanted, self._wanted = self._wanted, {}
        for waiter in (waiter for waiters in wanted.values() for waiter in waiters):
            waiter.errback(Overloaded("the engine is closing"))
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        ended: Deferred[None] = Deferred()
        self._idle.append(ended)
        if not self._running:
            self._finish(None)
        return ended

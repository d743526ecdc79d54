"""The lives of tablets: found at a start, created, split, dropped, replaced by another server's copy.

Theory of operation
    Each change is one replacement of the manifest; before it nothing has happened, after it everything.
    A tablet that is about to go is *sealed*: it takes no more entries, and none of it are on their way to
    the log. Its files go when no other tablet, snapshot or transfer needs them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
from attrs import frozen
from twisted.internet.defer import Deferred

from penncloud.lsm.aside import set_aside
from penncloud.lsm.entry import Entry
from penncloud.lsm.errors import Overloaded, TableDamaged
from penncloud.lsm.manifest import TabletState
from penncloud.lsm.recovery import TabletTail
from penncloud.lsm.store import Store, read_blob
from penncloud.lsm.tablet import TabletStore
from penncloud.lsm.transfer import CheckpointImport


@frozen
class TabletRecovery:
    """One tablet as it was found: a checkpoint, and the durable entries behind it in `tail`.

    The cells are those of the checkpoint until the owner calls `commit` for (part of) the tail.
    `damaged` says why the tablet cannot be used; empty: it can.
    """

    tablet: int
    lo: int
    hi: int
    checkpoint_no: int
    version: int
    entry_cfg: int
    meta: bytes
    tail: list[Entry]
    damaged: str


class TabletLives:
    """Changes which tablets there are in `store`; what the methods promise is said at `Engine`'s."""

    def __init__(
        self,
        store: Store,
        *,
        waits: Callable[[int], bool],
        flush: Callable[[int], Deferred[None]],
        gone: Callable[[int], None],
    ) -> None:
        """`waits(tablet)`: entries of it wait for a flush; `flush(tablet)` makes a checkpoint of it;
        `gone(tablet)` is told of each that is no more.
        """
        self._store = store
        self._waits = waits
        self._flush = flush
        self._gone = gone

    def found(self, tablet: int, tail: TabletTail) -> TabletRecovery:
        """Open a tablet that the manifest names, with what the log has of it."""
        store = self._store.add_tablet(tablet, tail.state)
        if tail.damaged:
            store.condemn(tail.damaged)
        for pending in tail.entries:
            store.add(pending.entry, pending.position)
        store.prepared = store.durable
        return self._recovery(store, [pending.entry for pending in tail.entries])

    def _recovery(self, store: TabletStore, tail: list[Entry]) -> TabletRecovery:
        state, meta = store.state, b""
        try:
            meta = read_blob(self._store.disk, state.meta)
        except TableDamaged as error:
            store.condemn(str(error))
        return TabletRecovery(
            store.tablet,
            state.lo,
            state.hi,
            state.checkpoint_no,
            state.version,
            state.entry_cfg,
            meta,
            tail,
            store.damaged,
        )

    @asynccontextmanager
    async def _sealed(self, tablet: int) -> AsyncIterator[TabletStore]:
        store = self._store.tablet(tablet)
        if store.sealed:
            raise Overloaded(f"tablet {tablet} is being split or dropped")
        store.sealed = True
        try:
            if self._waits(tablet):
                raise Overloaded(f"tablet {tablet} has writes that wait for a flush")
            await self._store.wal.sync()
            yield store
        finally:
            store.sealed = False

    def _forget(self, tablet: int) -> None:
        self._store.remove_tablet(tablet)
        self._gone(tablet)

    async def create(self, tablet: int, lo: int, hi: int) -> None:
        """See `Engine.create_tablet`."""
        store = self._store
        if tablet in store.manifest.tablets:
            raise ValueError(f"there is a tablet {tablet} already")
        state = TabletState(lo, hi, 0, 0, 0, log_position=store.wal.position)
        await store.edit(lambda manifest: manifest.with_tablet(tablet, state))
        store.add_tablet(tablet, state)

    async def drop(self, tablet: int) -> None:
        """See `Engine.drop_tablet`."""
        async with self._sealed(tablet) as store:
            if store.damage:
                await set_aside(self._store, store)
            await self._store.edit(lambda manifest: manifest.with_tablet(tablet, None))
            self._forget(tablet)

    async def split(
        self, tablet: int, at: int, left: int, right: int, place: tuple[int, int] | None
    ) -> tuple[TabletRecovery, TabletRecovery]:
        """See `Engine.split_tablet`."""
        tablets = self._store.tablets
        async with self._sealed(tablet) as parent:
            lo, hi = parent.state.lo, parent.state.hi
            if not lo < at < hi or {left, right} & set(tablets) or left == right:
                raise ValueError(f"tablet {tablet} cannot be split at {at} into {left} and {right}")
            version, entry_cfg = place or (parent.prepared, parent.committed_cfg)
            if parent.committed < version or any(one.entry.effects for one in parent.pending):
                raise ValueError(f"tablet {tablet} has entries that are not committed")
            parent.check()
            await self._flush(tablet)
            born = msgspec.structs.replace(
                parent.state,
                version=version,
                entry_cfg=entry_cfg,
                log_position=self._store.wal.position,
            )
            await self._store.edit(lambda manifest: manifest.split(tablet, at, left, right, born))
            for child in (left, right):
                self._store.add_tablet(child, self._store.manifest.tablets[child])
            self._forget(tablet)
        found = [self._recovery(tablets[child], []) for child in (left, right)]
        return found[0], found[1]

    async def replace(self, transfer: CheckpointImport) -> TabletRecovery:
        """See `Engine.finish_import`."""
        tablet = transfer.description.tablet
        if tablet in self._store.tablets:
            async with self._sealed(tablet) as store:
                if store.damage:
                    await set_aside(self._store, store)
                await transfer.finish(self._forget)
        else:
            await transfer.finish(lambda _tablet: None)
        return self._recovery(self._store.tablets[tablet], [])

"""The storage engine of one server: tablets on one disk, behind one log.

How to use it
    `await engine.open()` gives what was found. An `Entry` is a mutation whose effects the owner has
    decided. `append(entries)` makes entries durable, in the order of calls; `commit(tablet, version)`
    then lets those up to `version` into the cells. Reads see committed entries only. They are answered
    at once, not by a Deferred: from memory, or by a short read of a file that the system mostly has in
    its cache. The iterators of scans are to be consumed before the next call of `commit`.

    Versions of a tablet go up by one, from the version in its `TabletRecovery` (or 0). When an append
    fails with DiskFull, everything appended and not yet durable is void, in all tablets: the next
    append begins again behind the last durable version.

    The owner's own state per tablet (its table of request ids) is part of a checkpoint as an opaque
    blob: `set_meta(tablet, provider)`. The provider is called in a reactor turn of its own and has to
    give the state as of the last `commit` of that tablet.

Theory of operation
    See the modules: `wal` (log), `memtable`, `manifest`, `tablet` (reads over all of a tablet's parts),
    `recovery` (what a start makes of the log).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
from attrs import define, field, frozen
from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred, DeferredLock, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.lsm.entry import Entry, Void, encode, encode_entries
from penncloud.lsm.errors import NoSuchTablet, StoreDamaged
from penncloud.lsm.manifest import Manifest, TabletState, decode_manifest, encode_manifest
from penncloud.lsm.memtable import Memtable, StoredCell
from penncloud.lsm.options import EngineOptions
from penncloud.lsm.recovery import Replay, TabletTail
from penncloud.lsm.tablet import ScannedCell, TabletStore
from penncloud.lsm.wal import WriteAheadLog
from penncloud.platform.disk import Disk
from penncloud.platform.environment import Environment
from penncloud.platform.errors import PennCloudError

ROOT: Final = "lsm"
MANIFEST: Final = f"{ROOT}/MANIFEST"
LOG: Final = f"{ROOT}/log"
TABLES: Final = f"{ROOT}/tables"


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


@define(eq=False)
class _Batch:
    """Entries handed to the log together."""

    entries: Sequence[Entry]
    position: int
    done: Deferred[None] = field(factory=Deferred)


class Engine:
    """See the module. All paths on `disk` are below `lsm/`."""

    _log = Logger()

    def __init__(
        self,
        disk: Disk,
        environment: Environment,
        options: EngineOptions,
        registry: CollectorRegistry,
    ) -> None:
        self._disk = disk
        self._clock: Any = environment.reactor
        self._options = options
        self._wal = WriteAheadLog(disk, LOG, self._clock, options.segment_bytes)
        self._manifest = Manifest()
        self._manifest_lock = DeferredLock()
        self._tablets: dict[int, TabletStore] = {}
        self._in_flight: deque[_Batch] = deque()
        self._providers: dict[int, Callable[[], bytes]] = {}

    # -- opening and closing ------------------------------------------------------------------

    async def open(self) -> list[TabletRecovery]:
        """Read the manifest and the log; to be called once, before anything else.

        Raises StoreDamaged, NewerFormat, DiskError. A damaged tablet does not keep the others from
        being opened.
        """
        await self._read_manifest()
        replay = Replay(self._manifest.tablets)
        damages = await self._wal.open(self._manifest.log_from, replay.visit)
        for damage in damages:
            self._log.critical("The log is damaged: {reason}", reason=damage.reason)
        replay.finish(damages)
        await self._note_damages(replay.tails)
        return [self._open_tablet(tablet, tail) for tablet, tail in replay.tails.items()]

    async def _read_manifest(self) -> None:
        disk = self._disk
        if disk.exists(MANIFEST):
            self._manifest = decode_manifest(disk.read(MANIFEST), MANIFEST)
            return
        if disk.listdir(LOG) or disk.listdir(TABLES):
            raise StoreDamaged(f"{MANIFEST}: missing, although there are other files of the engine")
        disk.makedirs(LOG)
        disk.makedirs(TABLES)
        await disk.sync_dir("")
        await disk.replace(MANIFEST, encode_manifest(self._manifest))

    async def _note_damages(self, tails: dict[int, TabletTail]) -> None:
        """Remember damages in the manifest: the log in which they show may be removed one day."""
        for tablet, tail in tails.items():
            if tail.damaged and not tail.state.damaged:
                tail.state = msgspec.structs.replace(tail.state, damaged=tail.damaged)
                await self._edit(self._manifest.with_tablet(tablet, tail.state))

    def _open_tablet(self, tablet: int, tail: TabletTail) -> TabletRecovery:
        state = tail.state
        store = self._store_of(tablet, state)
        for pending in tail.entries:
            store.add(pending.entry, pending.position)
        store.prepared = store.durable
        return TabletRecovery(
            tablet,
            state.lo,
            state.hi,
            state.checkpoint_no,
            state.version,
            state.entry_cfg,
            b"",
            [pending.entry for pending in tail.entries],
            state.damaged,
        )

    def _store_of(self, tablet: int, state: TabletState) -> TabletStore:
        version = state.version
        memtable = Memtable(state.log_position)
        store = TabletStore(
            tablet, state, memtable, version, state.entry_cfg, durable=version, prepared=version
        )
        self._tablets[tablet] = store
        return store

    async def close(self) -> None:
        """Let what is being written finish. Raises DiskError when it cannot."""
        await self._wal.close()

    # -- tablets ------------------------------------------------------------------------------

    async def _edit(self, manifest: Manifest) -> None:
        await self._disk.replace(MANIFEST, encode_manifest(manifest))
        self._manifest = manifest

    async def create_tablet(self, tablet: int, lo: int, hi: int) -> None:
        """A new empty tablet for rows with lo <= hash < hi, durable on return.

        Raises ValueError when there is one of that number, DiskFull, DiskFailed.
        """
        await self._manifest_lock.run(Deferred.fromCoroutine, self._create_tablet(tablet, lo, hi))

    async def _create_tablet(self, tablet: int, lo: int, hi: int) -> None:
        if tablet in self._tablets:
            raise ValueError(f"there is a tablet {tablet} already")
        state = TabletState(lo, hi, 0, 0, 0, log_position=self._wal.position)
        await self._edit(self._manifest.with_tablet(tablet, state))
        self._store_of(tablet, state)

    async def drop_tablet(self, tablet: int) -> None:
        """Forget a tablet with all its cells, durably. Raises NoSuchTablet, DiskFull, DiskFailed."""
        await self._manifest_lock.run(Deferred.fromCoroutine, self._drop_tablet(tablet))

    async def _drop_tablet(self, tablet: int) -> None:
        self._tablet(tablet)
        await self._edit(self._manifest.with_tablet(tablet, None))
        del self._tablets[tablet]
        self._providers.pop(tablet, None)

    def set_meta(self, tablet: int, provider: Callable[[], bytes]) -> None:
        """Who gives the owner's blob for the checkpoints of `tablet`; see the module."""
        self._tablet(tablet)
        self._providers[tablet] = provider

    def _tablet(self, tablet: int) -> TabletStore:
        store = self._tablets.get(tablet)
        if store is None:
            raise NoSuchTablet(tablet)
        return store

    # -- writing ------------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> Deferred[None]:
        """Fire when the entries, of any tablets, are durable; they are not visible yet.

        Errors: NoSuchTablet, TabletDamaged; DiskFull (see the module); DiskFailed (nobody knows what
        was kept: the node has to stop). Raises ValueError for a version out of order.
        """
        expected: dict[int, int] = {}
        try:
            for entry in entries:
                store = self._tablet(entry.tablet)
                store.check()
                follows = expected.get(entry.tablet, store.prepared) + 1
                if entry.version != follows:
                    raise ValueError(
                        f"entry {entry.version} of tablet {entry.tablet} where {follows} follows"
                    )
                expected[entry.tablet] = follows
            batch = _Batch(entries, self._wal.append(encode_entries(entries)))
        except PennCloudError:
            return fail()
        for tablet, version in expected.items():
            self._tablets[tablet].prepared = version
        self._in_flight.append(batch)
        self._wal.sync().addCallbacks(
            self._written, self._refused, callbackArgs=(batch,), errbackArgs=(batch,)
        )
        return batch.done

    def _written(self, _ignored: None, batch: _Batch) -> None:
        self._in_flight.remove(batch)
        for entry in batch.entries:
            store = self._tablets.get(entry.tablet)
            if store is not None and entry.version == store.durable + 1:
                store.add(entry, batch.position)
        batch.done.callback(None)

    def _refused(self, failure: Failure, batch: _Batch) -> None:
        """All that is under way is void: later batches were built on this one."""
        if batch not in self._in_flight:
            return
        batches = list(self._in_flight)
        self._in_flight.clear()
        for store in self._tablets.values():
            store.prepared = store.durable
        for void in batches:
            void.done.errback(failure)

    async def void(self, tablet: int, version: int) -> None:
        """Durably forget the entries of a tablet above `version`, which were never committed.

        None may be on its way to the log (ValueError). Raises as `append` does.
        """
        store = self._tablet(tablet)
        if store.prepared != store.durable or version < store.committed:
            raise ValueError(f"entries of tablet {tablet} are being written or are committed")
        self._wal.append(encode(Void(tablet, version)))
        await self._wal.sync()
        while store.pending and store.pending[-1].entry.version > version:
            store.pending.pop()
        store.durable = store.prepared = min(store.durable, version)

    def commit(self, tablet: int, version: int) -> None:
        """Let the durable entries up to `version` become visible to reads.

        The owner's own state already includes them (`set_meta`). Raises NoSuchTablet, and ValueError
        when `version` is not durable.
        """
        self._tablet(tablet).commit(version)

    # -- reading ------------------------------------------------------------------------------

    def get(self, tablet: int, row: bytes, col: bytes) -> StoredCell | None:
        """The committed cell. Raises NoSuchTablet, TabletDamaged, as all reads do."""
        store = self._tablet(tablet)
        store.check()
        return store.get(row, col)

    def scan(
        self, tablet: int, row: bytes, start: bytes = b"", stop: bytes = b"", reverse: bool = False
    ) -> Iterator[ScannedCell]:
        """Cells of a row with start <= column < stop (empty: to the end), in order or in reverse."""
        store = self._tablet(tablet)
        store.check()
        return store.scan(row, start, stop, reverse)

    def scan_tablet(self, tablet: int, row: bytes = b"", col: bytes = b"") -> Iterator[ScannedCell]:
        """Cells from (row, col) on, in the order of `keys`: hash of the row, row, column.

        An empty row begins at the first cell. The next page starts at (row, col + b"\\0") of the last.
        """
        store = self._tablet(tablet)
        store.check()
        return store.scan_from(row, col)

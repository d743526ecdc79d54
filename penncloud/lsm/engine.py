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

    When writes come faster than they can be flushed, the Deferreds of `append` fire later (in order,
    as always); beyond a bound they fail with Overloaded, and on a full disk with DiskFull.

Theory of operation
    See the modules: `wal` (log), `memtable`, `table` (files), `manifest` (which files there are),
    `tablet` (reads over all parts of a tablet), `lives` (which tablets there are), `flush` and
    `compaction` (what happens in the background), `recovery` (what a start makes of the log), `store`
    (what they share).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger

from penncloud.lsm.appending import Appender
from penncloud.lsm.compaction import Compactor, Merger
from penncloud.lsm.entry import Entry, Void, encode
from penncloud.lsm.errors import TableDamaged
from penncloud.lsm.flush import Flusher
from penncloud.lsm.lives import TabletLives, TabletRecovery
from penncloud.lsm.manifest import TabletState
from penncloud.lsm.memtable import StoredCell
from penncloud.lsm.metrics import EngineMetrics
from penncloud.lsm.options import EngineOptions
from penncloud.lsm.recovery import Replay
from penncloud.lsm.scrub import Scrubber
from penncloud.lsm.sizes import Estimate, estimate, reaches_out, split_point
from penncloud.lsm.snapshot import Snapshot
from penncloud.lsm.store import Store, read_blob
from penncloud.lsm.tablet import ScannedCell
from penncloud.lsm.transfer import CheckpointExport, CheckpointImport, Description, discard
from penncloud.platform.disk import Disk
from penncloud.platform.environment import Environment
from penncloud.platform.errors import PennCloudError

__all__ = ["Engine", "TabletRecovery"]


class Engine:
    """See the module. All paths on `disk` are below `lsm/`."""

    _log = Logger()

    def __init__(
        self,
        disk: Disk,
        environment: Environment,
        options: EngineOptions,
        registry: CollectorRegistry,
        merger: Merger | None = None,
    ) -> None:
        """`merger` does large compactions (None: they are done in slices in the reactor)."""
        metrics = EngineMetrics(registry)
        self._store = Store(disk, environment, options, metrics)
        self._tablets = self._store.tablets
        self._appender = Appender(self._store)
        self._compactor = Compactor(self._store, merger, self._compacted)
        self._flusher = Flusher(self._store, self._flushed, self._must_compact)
        metrics.watch(self._store, self._appender)
        self._scrubber = Scrubber(self._store, self._flusher)
        self._lives = TabletLives(
            self._store,
            waits=self._appender.waits,
            flush=self._flusher.request,
            gone=self._gone,
        )

    # -- opening and closing ------------------------------------------------------------------

    async def open(self) -> list[TabletRecovery]:
        """Read the manifest and the log; to be called once, before anything else.

        Raises StoreDamaged, NewerFormat, DiskError. A damaged tablet does not keep the others from
        being opened.
        """
        store = self._store
        await store.read_manifest()
        replay = Replay(store.manifest.tablets)
        damages = await store.wal.open(store.manifest.log_from, replay.visit, replay.noted)
        for damage in damages:
            self._log.critical("The log is damaged: {reason}", reason=damage.reason)
        replay.finish(damages)
        found = [self._lives.found(tablet, tail) for tablet, tail in replay.tails.items()]
        self._compactor.check()
        self._scrubber.start()
        return found

    async def close(self) -> None:
        """Let what is being written finish; memtables stay in the log. Raises DiskError.

        Appends that still wait for a flush, and flushes and compactions that have not begun, are
        refused with Overloaded.
        """
        self._appender.close()
        self._scrubber.close()
        await self._flusher.close()
        await self._compactor.close()
        await self._store.wal.close()
        for tablet in list(self._tablets):
            self._store.remove_tablet(tablet)

    # -- tablets ------------------------------------------------------------------------------

    async def create_tablet(self, tablet: int, lo: int, hi: int) -> None:
        """A new empty tablet for rows with lo <= hash < hi, durable on return.

        Raises ValueError when there is one of that number, DiskFull, DiskFailed.
        """
        await self._lives.create(tablet, lo, hi)

    async def drop_tablet(self, tablet: int) -> None:
        """Forget a tablet with all its cells, durably; of a damaged one the files are kept aside.

        Raises NoSuchTablet, DiskFull, DiskFailed.
        """
        await self._lives.drop(tablet)

    async def split_tablet(
        self,
        tablet: int,
        at: int,
        left: int,
        right: int,
        place: tuple[int, int] | None = None,
    ) -> tuple[TabletRecovery, TabletRecovery]:
        """Replace a tablet by two: rows with hash below `at`, and the others, durably on return.

        The children have the parent's blob, and share its files until they are compacted. They begin at
        `place` (version and configuration of an entry), or where the parent is; what the parent has
        behind that place has no effects, and goes. Everything up to there has to be committed, and
        nothing is taken meanwhile (Overloaded). Returns what the two are. Raises ValueError for a point
        outside the tablet, numbers in use, or entries that would be lost; TabletDamaged, DiskFull,
        DiskFailed.
        """
        return await self._lives.split(tablet, at, left, right, place)

    def split_point(self, tablet: int) -> int | None:
        """The hash that cuts a tablet into two of about equal size; None where there is none.

        That is so when (nearly) all of it is one row.
        """
        store = self._store.tablet(tablet)
        store.check()
        return split_point(store)

    def reaches_out(self, tablet: int) -> bool:
        """Whether tables of a tablet have rows that are not its own: a compaction would trim them.

        So it is after a split. Such tables go whole to whoever fetches the tablet. Raises NoSuchTablet.
        """
        return reaches_out(self._store.tablet(tablet))

    def estimate(self, tablet: int) -> Estimate:
        """About how much a tablet holds, superseded cells included. Raises as reads do."""
        store = self._store.tablet(tablet)
        store.check()
        return estimate(store)

    def snapshot(self, tablet: int) -> Snapshot:
        """The committed cells of this moment, to be read for as long as it is not closed."""
        store = self._store.tablet(tablet)
        store.check()
        return Snapshot(store, self._store.release_table)

    @property
    def compacting(self) -> bool:
        """Whether a compaction is under way or due."""
        return self._compactor.running

    def set_meta(self, tablet: int, provider: Callable[[], bytes]) -> None:
        """Who gives the owner's blob for the checkpoints of `tablet`; see the module.

        Without one, each checkpoint keeps the blob of the one before.
        """
        self._store.tablet(tablet)
        self._flusher.set_meta(tablet, provider)

    def checkpoint(self, tablet: int) -> Deferred[None]:
        """Flush a tablet now; fires when its checkpoint is durable. Errors: DiskFull, DiskFailed."""
        try:
            self._store.tablet(tablet).check()
        except PennCloudError:
            return fail()
        return self._flusher.request(tablet)

    def compact(self, tablet: int) -> Deferred[None]:
        """Merge all tables of a tablet into one; fires when that is done."""
        try:
            self._store.tablet(tablet).check_whole()
        except PennCloudError:
            return fail()
        return self._compactor.request(tablet)

    async def export(self, tablet: int) -> tuple[CheckpointExport, Description]:
        """Make a checkpoint and hold it for another server; see `transfer`. The export is to be closed.

        Raises TabletDamaged, DiskError.
        """
        await self.checkpoint(tablet)
        exported = await self.export_checkpoint(tablet, self.checkpoint_of(tablet).checkpoint_no)
        assert exported is not None, "another checkpoint in the same turn"
        return exported

    async def export_checkpoint(
        self, tablet: int, number: int
    ) -> tuple[CheckpointExport, Description] | None:
        """Hold the checkpoint `number` as it is, without making one; None when it is not the latest.

        Where its blob is damaged it is as good as gone, and another one is made. Raises NoSuchTablet,
        TabletDamaged, DiskError.
        """
        store = self._store.tablet(tablet)
        store.check_whole()
        if store.state.checkpoint_no != number:
            return None
        try:
            read_blob(self._store.disk, store.state.meta)
        except TableDamaged as error:
            self._log.error("{error}: it is written anew", error=error)
            self._flusher.request(tablet).addErrback(lambda failure: failure.trap(PennCloudError))
            return None
        tables = [table.retain() for table in store.tables]
        export = CheckpointExport(self._store, tables, store.state, tablet)
        try:
            return export, await export.open()
        except TableDamaged as error:
            export.close()
            raise store.spoil(error) from error
        except BaseException:
            export.close()
            raise

    def report_damage(self, tablet: int, error: TableDamaged) -> None:
        """Somebody else has found a file of a tablet to be damaged."""
        store = self._tablets.get(tablet)
        if store is not None:
            store.spoil(error)

    def damage(self, tablet: int) -> str:
        """What is wrong with a tablet, be it a single block; empty: nothing. Raises NoSuchTablet.

        `TabletRecovery.damaged` is about tablets of which something is gone: they refuse everything. Where
        only blocks of tables cannot be read, look-ups into these raise TabletDamaged and the rest goes on.
        """
        return self._store.tablet(tablet).damage

    @property
    def scrubs(self) -> int:
        """How often all files have been checked since the start."""
        return self._scrubber.rounds

    def on_damage(self, told: Callable[[int, str], None]) -> None:
        """Call `told(tablet, reason)` whenever damage is found, in the turn that finds it."""
        self._store.on_damage = told

    def has(self, tablet: int) -> bool:
        """Whether the engine has a tablet of this number, damaged or not."""
        return tablet in self._tablets

    @property
    def full(self) -> bool:
        """Whether the last flush found no room on the disk."""
        return self._flusher.full

    def checkpoint_of(self, tablet: int) -> TabletState:
        """The latest checkpoint, as the manifest names it. Raises NoSuchTablet."""
        return self._store.tablet(tablet).state

    def on_checkpoint(self, told: Callable[[int, TabletState], None]) -> None:
        """Call `told(tablet, state)` after every flush and compaction, in the turn that ends it.

        Each gives the tablet's checkpoint a new number: a number names one set of files on this disk.
        """
        self._store.on_checkpoint = told

    async def begin_import(self, description: Description) -> CheckpointImport:
        """Begin to take a checkpoint from another server, or go on with it; see `transfer`."""
        transfer = CheckpointImport(self._store, description)
        await transfer.open()
        return transfer

    async def discard_import(self, name: str) -> None:
        """Throw away what there is of a transfer in `incoming/NAME`. Raises DiskError."""
        await discard(self._store, name)

    async def finish_import(self, transfer: CheckpointImport) -> TabletRecovery:
        """Let the tablet of a complete transfer take the place of the one of its number, if any.

        The owner has stopped writing to that one; if it is damaged its files are kept aside. Raises
        TableDamaged, DiskError.
        """
        return await self._lives.replace(transfer)

    # -- writing ------------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> Deferred[None]:
        """Fire when the entries, of any tablets, are durable; they are not visible yet.

        Errors: NoSuchTablet, TabletDamaged; DiskFull and Overloaded (see the module); DiskFailed
        (nobody knows what was kept: the node has to stop). Raises ValueError for a version out of
        order, and for a row or column of more than keys.MAX_NAME_BYTES.
        """
        return self._appender.append(entries)

    def _flushed(self) -> None:
        """A flush has ended, well or not."""
        self._appender.room_made(full=self._flusher.full)
        self._compactor.check()

    def _gone(self, tablet: int) -> None:
        """A tablet is no more."""
        self._flusher.forget(tablet)
        self._compactor.forget(tablet)

    def _must_compact(self, tablet: int) -> bool:
        """Whether flushes of a tablet have to wait for a compaction, which is then under way."""
        if not self._compactor.behind(tablet):
            return False
        self._compactor.check()
        return True

    def _compacted(self) -> None:
        """A compaction has ended, well or not."""
        self._flusher.check()

    # -- committing ---------------------------------------------------------------------------

    async def void(self, tablet: int, version: int) -> None:
        """Durably forget the entries of a tablet above `version`, which were never committed.

        None may be on its way to the log (ValueError). Raises as `append` does.
        """
        store = self._store.tablet(tablet)
        if store.prepared != store.durable or version < store.committed:
            raise ValueError(f"entries of tablet {tablet} are being written or are committed")
        store.voiding = True
        try:
            self._store.wal.append(encode(Void(tablet, version)))
            await self._store.wal.sync()
        finally:
            store.voiding = False
        while store.pending and store.pending[-1].entry.version > version:
            store.pending.pop()
        store.durable = store.prepared = min(store.durable, version)

    def commit(self, tablet: int, version: int) -> None:
        """Let the durable entries up to `version` become visible to reads.

        The owner's own state already includes them (`set_meta`). Raises NoSuchTablet, and ValueError
        when `version` is not durable.
        """
        store = self._store
        store.memory_bytes += self._store.tablet(tablet).commit(version)
        self._flusher.committed(self._tablets[tablet])

    # -- reading ------------------------------------------------------------------------------

    def get(self, tablet: int, row: bytes, col: bytes) -> StoredCell | None:
        """The committed cell. Raises NoSuchTablet, TabletDamaged, as all reads do."""
        return (self._tablets.get(tablet) or self._store.tablet(tablet)).get(row, col)

    def scan(
        self, tablet: int, row: bytes, start: bytes = b"", stop: bytes = b"", reverse: bool = False
    ) -> Iterator[ScannedCell]:
        """Cells of a row with start <= column < stop (empty: to the end), in order or in reverse."""
        return self._store.tablet(tablet).scan(row, start, stop, reverse)

    def scan_tablet(self, tablet: int, row: bytes = b"", col: bytes = b"") -> Iterator[ScannedCell]:
        """Cells from (row, col) on, in the order of `keys`: hash of the row, row, column.

        An empty row begins at the first cell. The next page starts at (row, col + b"\\0") of the last.
        """
        return self._store.tablet(tablet).scan_from(row, col)

"""What the parts of the engine share: the disk, the log, the manifest, the open tablets and tables."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from penncloud.lsm.cache import BlockCache
from penncloud.lsm.entry import Entry, encode_note
from penncloud.lsm.errors import NoSuchTablet, StoreDamaged, TableDamaged
from penncloud.lsm.manifest import Manifest, TableRef, TabletState, decode_manifest, encode_manifest
from penncloud.lsm.metrics import EngineMetrics
from penncloud.lsm.options import EngineOptions
from penncloud.lsm.record import decode, encode
from penncloud.lsm.table import Table
from penncloud.lsm.tablet import TabletStore
from penncloud.lsm.wal import WriteAheadLog
from penncloud.platform.disk import Disk
from penncloud.platform.environment import Environment
from penncloud.platform.errors import DiskError
from penncloud.platform.exclusive import Exclusive

ROOT: Final = "lsm"
MANIFEST: Final = f"{ROOT}/MANIFEST"
LOG: Final = f"{ROOT}/log"
TABLES: Final = f"{ROOT}/tables"


@define(eq=False)
class Batch:
    """Entries handed to the log together; nothing of them is below `position` in it."""

    entries: Sequence[Entry]
    position: int
    size_bytes: int
    done: Deferred[None] = field(factory=Deferred)


def table_path(number: int) -> str:
    return f"{TABLES}/{number:08x}.table"


def meta_path(number: int) -> str:
    return f"{TABLES}/{number:08x}.meta"


def read_blob(disk: Disk, number: int) -> bytes:
    """The owner's blob of a checkpoint. Raises TableDamaged."""
    if not number:
        return b""
    path = meta_path(number)
    try:
        data = disk.read(path)
    except FileNotFoundError:
        raise TableDamaged(path, 0, "missing") from None
    except DiskError as error:
        raise TableDamaged(path, 0, str(error)) from error
    record = decode(data, 0, 0)
    if record is None or record.end != len(data):
        raise TableDamaged(path, 0, "the checksum does not match")
    return record.payload


class Store:
    """One server's engine directory, opened."""

    log = Logger()

    def __init__(
        self, disk: Disk, environment: Environment, options: EngineOptions, metrics: EngineMetrics
    ) -> None:
        self.disk = disk
        self.clock: Any = environment.reactor
        self.options = options
        self.metrics = metrics
        self.wal = WriteAheadLog(disk, LOG, self.clock, options.segment_bytes, self._note)
        self.manifest = Manifest()
        self.tablets: dict[int, TabletStore] = {}
        self.tables: dict[int, Table] = {}
        self.cache = BlockCache(options.block_cache_bytes)
        self.in_flight: deque[Batch] = deque()
        # All memtables, active and frozen.
        self.memory_bytes = 0
        # Who is told of every new checkpoint.
        self.on_checkpoint: Callable[[int, TabletState], None] = lambda _tablet, _state: None
        # Who is told of damage: tablet and reason.
        self.on_damage: Callable[[int, str], None] = lambda _tablet, _reason: None
        self._entropy = environment.entropy
        self._lock = Exclusive()
        self._next_file = 1

    # -- manifest -----------------------------------------------------------------------------

    async def read_manifest(self) -> None:
        """Read it, or begin with an empty one in an empty directory. Raises StoreDamaged."""
        disk = self.disk
        if disk.exists(MANIFEST):
            self.manifest = decode_manifest(disk.read(MANIFEST), MANIFEST)
            self._next_file = self.manifest.next_file
            self._remove_strays()
            return
        if disk.listdir(LOG) or disk.listdir(TABLES):
            raise StoreDamaged(f"{MANIFEST}: missing, although there are other files of the engine")
        disk.makedirs(LOG)
        disk.makedirs(TABLES)
        await disk.sync_dir("")
        # The manifest says that the directories are there: they have to be on the disk before it.
        await disk.sync_dir(ROOT)
        await disk.replace(MANIFEST, encode_manifest(self.manifest))

    def _remove_strays(self) -> None:
        """Remove what an interrupted flush or compaction left."""
        needed = {table_path(ref) for ref in self.manifest.tables()}
        needed |= {meta_path(number) for number in self.manifest.metas()}
        for name in self.disk.listdir(TABLES):
            if f"{TABLES}/{name}" not in needed:
                self.discard(f"{TABLES}/{name}")

    async def edit(
        self,
        change: Callable[[Manifest], Manifest],
        flushed: TabletStore | None = None,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """Durably change the manifest; then tablets have their new states and old files are gone.

        `change` gets the newest manifest, and may raise. `flushed` is the tablet whose frozen memtables
        the change makes superfluous. `then()` is called before the next change looks. Raises DiskFull
        (nothing has changed), DiskFailed.
        """
        async with self._lock:
            await self._edit(change, flushed)
            then()

    async def _edit(
        self, change: Callable[[Manifest], Manifest], flushed: TabletStore | None
    ) -> None:
        old = self.manifest
        new = msgspec.structs.replace(
            self._with_damage(old, change(old)),
            next_file=self._next_file,
            log_from=self.wal.floor(self._needed_from(flushed)),
        )
        await self.disk.replace(MANIFEST, encode_manifest(new))
        self.manifest = new
        for tablet, store in self.tablets.items():
            store.state = new.tablets.get(tablet, store.state)
        self.wal.remove_before(new.log_from << 32)
        for number in old.tables() - new.tables():
            self.discard(table_path(number))
        for number in old.metas() - new.metas():
            self.discard(meta_path(number))

    def _with_damage(self, old: Manifest, new: Manifest) -> Manifest:
        """With what a full disk did not let it remember: the log that shows it may go by this change."""
        for tablet, store in self.tablets.items():
            state = new.tablets.get(tablet)
            if store.damaged and state is old.tablets.get(tablet) and state and not state.damaged:
                state = msgspec.structs.replace(state, damaged=store.damaged)
                new = new.with_tablet(tablet, state)
        return new

    def _needed_from(self, flushed: TabletStore | None) -> int:
        """Log position below which no tablet needs anything."""
        needed = [self.wal.position]
        if self.in_flight:
            needed.append(self.in_flight[0].position)
        for store in self.tablets.values():
            if store.damaged:
                # What is left of it is of no use to anybody, and must not keep the log for ever.
                continue
            position = store.needed_behind_frozen if store is flushed else store.needed_from
            if position is not None:
                needed.append(position)
        for tablet, state in self.manifest.tablets.items():
            if tablet not in self.tablets and not state.damaged:
                # A start has yet to open it: what it has behind its checkpoint is nowhere else.
                needed.append(state.log_position)
        return min(needed)

    def position_after(self, store: TabletStore) -> int:
        """Log position at or above which all entries of a tablet stand that are not committed yet."""
        if store.pending:
            return store.pending[0].position
        return self.in_flight[0].position if self.in_flight else self.wal.position

    def _note(self) -> bytes:
        """How far each tablet reaches in the log: from it a start sees who lost something to damage."""
        note = {
            tablet: store.last_place
            for tablet, store in self.tablets.items()
            # Of one whose end is being made void the log says something else than `pending` still does.
            if not store.damaged and not store.voiding
        }
        for batch in self.in_flight:
            for entry in batch.entries:
                if entry.tablet in note:
                    note[entry.tablet] = (entry.version, entry.entry_cfg)
        return encode_note(note)

    # -- files --------------------------------------------------------------------------------

    def discard(self, path: str) -> None:
        """Remove a file that nothing needs; if that fails, the next start does it."""
        try:
            self.disk.remove(path)
        except DiskError as error:
            self.log.warn("{path} is left over: {error}", path=path, error=error)

    def new_file(self) -> int:
        """A number for a new table or meta file."""
        number, self._next_file = self._next_file, self._next_file + 1
        return number

    def salt(self) -> int:
        return int.from_bytes(self._entropy(8), "little")

    def open_table(self, number: int) -> Table:
        """A table, opened once and shared. Raises TableDamaged, NewerFormat."""
        table = self.tables.get(number)
        if table is None:
            table = Table(self.disk, table_path(number), number, self.cache)
            self.tables[number] = table
            return table
        return table.retain()

    def release_table(self, table: Table) -> None:
        if table.release():
            self.tables.pop(table.number, None)

    async def write_meta(self, blob: bytes) -> int:
        """Store the owner's blob, durably with its name; returns the number of the file."""
        if not blob:
            return 0
        number = self.new_file()
        file = self.disk.create(meta_path(number))
        try:
            file.append(encode([blob], 0, 0))
            await file.sync()
            await self.disk.sync_dir(TABLES)
        except BaseException:
            self.discard(meta_path(number))
            raise
        finally:
            file.close().addErrback(lambda failure: failure.trap(DiskError))
        return number

    # -- tablets ------------------------------------------------------------------------------

    def tablet(self, tablet: int) -> TabletStore:
        """Raises NoSuchTablet."""
        store = self.tablets.get(tablet)
        if store is None:
            raise NoSuchTablet(tablet)
        return store

    def holds(self, tablet: TabletStore) -> bool:
        """Whether a tablet is still there, and not another one of its number in its place."""
        return self.tablets.get(tablet.tablet) is tablet

    def add_tablet(self, tablet: int, state: TabletState) -> TabletStore:
        """Open a tablet of the manifest. Where a file is damaged, so is the tablet. Raises NewerFormat."""
        store = TabletStore.of(tablet, state, self._on_damage)
        self.tablets[tablet] = store
        try:
            for ref in state.tables:
                store.tables.append(self.open_table(ref.file))
        except TableDamaged as error:
            store.condemn(str(error))
        return store

    def remove_tablet(self, tablet: int) -> None:
        """Forget a tablet that the manifest no longer has."""
        for table in self.tablets.pop(tablet).tables:
            self.release_table(table)
        self.recount()

    def _on_damage(self, store: TabletStore, reason: str) -> None:
        """Report damage, and remember in the manifest that there is some."""
        self.log.critical(
            "Tablet {tablet} is damaged: {reason}", tablet=store.tablet, reason=reason
        )
        if reason != store.damage:
            # Another block: what is remembered stands.
            return
        self.on_damage(store.tablet, reason)

        def note(manifest: Manifest) -> Manifest:
            state = manifest.tablets.get(store.tablet)
            if state is None or not self.holds(store):
                return manifest
            known = msgspec.structs.replace(state, damaged=store.damaged, spoiled=store.spoiled)
            return manifest.with_tablet(store.tablet, known)

        # On a full disk the next change remembers what is gone; a block will be found again.
        Deferred.fromCoroutine(self.edit(note)).addErrback(lambda failure: failure.trap(DiskError))

    def recount(self) -> None:
        """Add up the memtables anew; commits only add to `memory_bytes`."""
        self.memory_bytes = sum(store.memory_bytes for store in self.tablets.values())


def reference(table: Table) -> TableRef:
    return TableRef(table.number, table.size_bytes, table.properties.cells)

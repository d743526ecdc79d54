"""A plain engine in memory whose appends become durable when the test says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from attrs import define, field
from sortedcontainers import SortedDict
from twisted.internet.defer import Deferred, succeed

from penncloud.lsm.engine import TabletRecovery
from penncloud.lsm.entry import Entry, PutEffect
from penncloud.lsm.manifest import TabletState
from penncloud.lsm.memtable import StoredCell
from penncloud.lsm.sizes import Estimate
from penncloud.lsm.tablet import ScannedCell


@define
class _Store:
    """One tablet. `meta` is the owner's blob as of the last commit: of the checkpoint."""

    lo: int
    hi: int
    committed: int = 0
    meta: bytes = b""
    tail: list[Entry] = field(factory=list)
    cells: SortedDict = field(factory=SortedDict)
    provider: Callable[[], bytes] | None = None


@define
class MemoryEngine:
    """Every append waits in `waiting` until `sync()`, unless `instant`.

    `restarted()` is the engine after a crash at this moment, with its checkpoint as of the last commit.
    """

    instant: bool = False
    waiting: list[tuple[list[Entry], Deferred[None]]] = field(factory=list)
    # Entries of each append so far.
    appends: list[int] = field(factory=list)
    # Raised by reads.
    unreadable: Exception | None = None
    closed: bool = False
    tablets: dict[int, _Store] = field(factory=dict)

    async def open(self) -> list[TabletRecovery]:
        return [
            TabletRecovery(n, s.lo, s.hi, 0, s.committed, 0, s.meta, list(s.tail), "")
            for n, s in self.tablets.items()
        ]

    async def close(self) -> None:
        self.closed = True

    def has(self, tablet: int) -> bool:
        return tablet in self.tablets

    full = False

    def damage(self, tablet: int) -> str:
        return "" if tablet in self.tablets else "gone"

    def on_checkpoint(self, told: Callable[[int, TabletState], None]) -> None:
        """There are none."""

    def estimate(self, tablet: int) -> Estimate:
        return Estimate(0, len(self.tablets[tablet].cells))

    async def drop_tablet(self, tablet: int) -> None:
        del self.tablets[tablet]

    async def void(self, tablet: int, version: int) -> None:
        tail = self.tablets[tablet].tail
        while tail and tail[-1].version > version:
            tail.pop()

    async def create_tablet(self, tablet: int, lo: int, hi: int) -> None:
        if tablet in self.tablets:
            raise ValueError(f"there is a tablet {tablet} already")
        self.tablets[tablet] = _Store(lo, hi)

    def set_meta(self, tablet: int, provider: Callable[[], bytes]) -> None:
        self.tablets[tablet].provider = provider

    def append(self, entries: Sequence[Entry]) -> Deferred[None]:
        self.appends.append(len(entries))
        if self.instant:
            self.keep(entries)
            return succeed(None)
        done: Deferred[None] = Deferred()
        self.waiting.append((list(entries), done))
        return done

    async def split_tablet(
        self,
        tablet: int,
        at: int,
        left: int,
        right: int,
        place: tuple[int, int] | None = None,
    ) -> tuple[TabletRecovery, TabletRecovery]:
        raise NotImplementedError("the tests of splits have the real engine")

    def split_point(self, tablet: int) -> int | None:
        return None

    def checkpoint(self, tablet: int) -> Deferred[None]:
        return succeed(None)

    def reaches_out(self, tablet: int) -> bool:
        return False

    def compact(self, tablet: int) -> Deferred[None]:
        return succeed(None)

    def keep(self, entries: Sequence[Entry]) -> None:
        """Make entries durable, whether or not anybody hears of it."""
        for entry in entries:
            store = self.tablets[entry.tablet]
            last = store.tail[-1].version if store.tail else store.committed
            if entry.version != last + 1:
                raise ValueError(f"version {entry.version} after {last}")
            store.tail.append(entry)

    def sync(self) -> None:
        """Let the oldest append become durable."""
        entries, done = self.waiting.pop(0)
        self.keep(entries)
        done.callback(None)

    def fail(self, error: Exception) -> None:
        """Let the oldest append fail; nothing of it is kept."""
        _, done = self.waiting.pop(0)
        done.errback(error)

    def commit(self, tablet: int, version: int) -> None:
        store = self.tablets[tablet]
        while store.tail and store.tail[0].version <= version:
            entry = store.tail.pop(0)
            for effect in entry.effects:
                key = (effect.row, effect.col)
                if isinstance(effect, PutEffect):
                    store.cells[key] = StoredCell(entry.version, effect.value)
                else:
                    store.cells.pop(key, None)
            store.committed = entry.version
        if store.committed != version:
            raise ValueError(f"version {version} is not durable")
        if store.provider is not None:
            store.meta = store.provider()

    def get(self, tablet: int, row: bytes, col: bytes) -> StoredCell | None:
        self._check()
        found: StoredCell | None = self.tablets[tablet].cells.get((row, col))
        return found

    def scan(
        self, tablet: int, row: bytes, start: bytes = b"", stop: bytes = b"", reverse: bool = False
    ) -> Iterator[ScannedCell]:
        self._check()
        end = (row, stop) if stop else (row + b"\x00", b"")
        cells = self.tablets[tablet].cells
        for key in cells.irange((row, start), end, (True, False), reverse):
            yield _scanned(key, cells[key])

    def scan_tablet(self, tablet: int, row: bytes = b"", col: bytes = b"") -> Iterator[ScannedCell]:
        self._check()
        cells = self.tablets[tablet].cells
        for key in cells.irange((row, col)):
            yield _scanned(key, cells[key])

    def _check(self) -> None:
        if self.unreadable is not None:
            raise self.unreadable

    def restarted(self) -> MemoryEngine:
        """What a new process finds: what was durable, and nothing else."""
        after = MemoryEngine(self.instant)
        for number, store in self.tablets.items():
            after.tablets[number] = _Store(
                store.lo,
                store.hi,
                store.committed,
                store.meta,
                list(store.tail),
                store.cells.copy(),
            )
        return after


def _scanned(key: tuple[bytes, bytes], cell: StoredCell) -> ScannedCell:
    return ScannedCell(key[0], key[1], cell.version, cell.value)

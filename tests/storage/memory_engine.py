"""A plain engine in memory whose appends become durable when the test says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import define, field
from sortedcontainers import SortedDict
from twisted.internet.defer import Deferred, succeed

from penncloud.storage.engine import Entry, Recovered, RequestIdsOf, Stored


@define
class MemoryEngine:
    """Every append waits in `waiting` until `sync()`, unless `instant`.

    `log` holds what is durable and not committed; `restarted()` is the engine after a crash at this
    moment, with its checkpoint as of the last commit.
    """

    instant: bool = False
    waiting: list[tuple[list[Entry], Deferred[None]]] = field(factory=list)
    appends: list[int] = field(factory=list)
    request_ids_of: RequestIdsOf | None = None
    closed: bool = False
    _log: dict[int, list[Entry]] = field(factory=dict)
    _cells: dict[int, SortedDict] = field(factory=dict)
    _committed: dict[int, int] = field(factory=dict)
    _request_ids: dict[int, bytes] = field(factory=dict)

    def open_tablet(self, tablet: int) -> Recovered:
        self._cells.setdefault(tablet, SortedDict())
        log = self._log.setdefault(tablet, [])
        meta = self._request_ids.get(tablet, b"")
        return Recovered(self._committed.setdefault(tablet, 0), meta, list(log))

    def append(self, entries: Sequence[Entry]) -> Deferred[None]:
        self.appends.append(len(entries))
        if self.instant:
            self._keep(entries)
            return succeed(None)
        done: Deferred[None] = Deferred()
        self.waiting.append((list(entries), done))
        return done

    def _keep(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._log[entry.tablet].append(entry)

    def sync(self) -> None:
        """Let the oldest append become durable."""
        entries, done = self.waiting.pop(0)
        self._keep(entries)
        done.callback(None)

    def fail(self, error: Exception) -> None:
        """Let the oldest append fail; nothing of it is kept."""
        _, done = self.waiting.pop(0)
        done.errback(error)

    def commit(self, tablet: int, version: int) -> None:
        log, cells = self._log[tablet], self._cells[tablet]
        while log and log[0].version <= version:
            entry = log.pop(0)
            for effect in entry.effects:
                key = (entry.row, effect.col)
                if effect.value is None:
                    cells.pop(key, None)
                else:
                    cells[key] = Stored(entry.row, effect.col, entry.version, effect.value)
            self._committed[tablet] = entry.version
        if self._committed[tablet] != version:
            raise AssertionError(f"commit of {version} which is not durable")
        if self.request_ids_of is not None:
            self._request_ids[tablet] = self.request_ids_of(tablet)

    def get(self, tablet: int, row: bytes, col: bytes) -> Stored | None:
        found: Stored | None = self._cells[tablet].get((row, col))
        return found

    def scan_row(
        self, tablet: int, row: bytes, start: bytes, stop: bytes, reverse: bool
    ) -> Iterator[Stored]:
        cells = self._cells[tablet]
        end = (row, stop) if stop else (row + b"\x00", b"")
        for key in cells.irange((row, start), end, (True, False), reverse):
            yield cells[key]

    def scan_tablet(self, tablet: int, row: bytes, col: bytes) -> Iterator[Stored]:
        cells = self._cells[tablet]
        for key in cells.irange((row, col)):
            yield cells[key]

    def close(self) -> Deferred[None]:
        self.closed = True
        return succeed(None)

    def restarted(self) -> MemoryEngine:
        """What a new process finds: what was durable, and nothing else."""
        after = MemoryEngine(self.instant)
        after._log = {tablet: list(log) for tablet, log in self._log.items()}
        after._cells = {tablet: cells.copy() for tablet, cells in self._cells.items()}
        after._committed = dict(self._committed)
        after._request_ids = dict(self._request_ids)
        return after

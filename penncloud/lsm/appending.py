"""Appending: entries on their way to the log, and those that have to wait for a flush first.

Theory of operation
    An append is one record of the log. Its entries are *prepared* when they are handed over, and *durable*
    when the log has synced them, in the order of appends. Entries build on each other; so when the disk
    has no room for one append, everything behind it is void as well.

    Memory is bounded: while memtables and what is on its way to the log are together too large, appends
    wait, first come first served. They are let through as flushes end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from attrs import define, field
from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from penncloud.lsm.entry import Entry, encode_entries
from penncloud.lsm.errors import Overloaded
from penncloud.lsm.keys import MAX_NAME_BYTES
from penncloud.lsm.store import Batch, Store
from penncloud.platform.errors import DiskFull, PennCloudError

# Appends that may wait for a flush.
_MAX_STALLED: Final = 10_000


@define(eq=False)
class _Stalled:
    """An append that waits for a flush to end."""

    entries: Sequence[Entry]
    done: Deferred[None] = field(factory=Deferred)


class Appender:
    """Appends to the log of `store`; see the module."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tablets = store.tablets
        self._in_flight = store.in_flight
        self._in_flight_bytes = 0
        self._stalled: deque[_Stalled] = deque()
        # The last flush found no room: waiting for the next one would be in vain.
        self._full = False
        self._closed = False

    @property
    def stalled(self) -> int:
        """Appends that wait for a flush."""
        return len(self._stalled)

    def waits(self, tablet: int) -> bool:
        """Whether entries of a tablet wait for a flush."""
        return any(entry.tablet == tablet for one in self._stalled for entry in one.entries)

    def append(self, entries: Sequence[Entry]) -> Deferred[None]:
        """See `Engine.append`."""
        try:
            if self._closed:
                raise Overloaded("the engine is closing")
            expected = self._check(entries)
            if self._stalled or self._must_wait():
                return self._stall(entries, expected)
            return self._write(entries, expected)
        except PennCloudError:
            return fail()

    def _check(self, entries: Sequence[Entry]) -> dict[int, int]:
        """The last version of each tablet among the entries."""
        last: dict[int, int] = {}
        for entry in entries:
            tablet = entry.tablet
            version = last[tablet] if tablet in last else self._prepared(tablet)
            version += 1
            if entry.version != version:
                raise ValueError(
                    f"entry {entry.version} of tablet {tablet} where {version} follows"
                )
            for effect in entry.effects:
                if len(effect.row) > MAX_NAME_BYTES or len(effect.col) > MAX_NAME_BYTES:
                    raise ValueError(f"a row or column of more than {MAX_NAME_BYTES} bytes")
            last[tablet] = version
        return last

    def _prepared(self, tablet: int) -> int:
        """The version of the last entry of a tablet that takes entries."""
        store = self._store.tablet(tablet)
        store.check()
        if store.sealed:
            raise Overloaded(f"tablet {tablet} is being split or dropped")
        return store.prepared

    def _write(self, entries: Sequence[Entry], last: dict[int, int]) -> Deferred[None]:
        data = encode_entries(entries)
        size = sum(map(len, data))
        batch = Batch(entries, self._store.wal.append(data), size)
        self._in_flight_bytes += size
        self._store.metrics.logged_bytes.inc(size)
        for tablet, version in last.items():
            store = self._tablets[tablet]
            store.prepared = max(store.prepared, version)
        self._in_flight.append(batch)
        self._store.wal.sync().addCallbacks(
            self._written, self._refused, callbackArgs=(batch,), errbackArgs=(batch,)
        )
        return batch.done

    def _written(self, _ignored: None, batch: Batch) -> None:
        self._in_flight.remove(batch)
        self._in_flight_bytes -= batch.size_bytes
        position = batch.position
        tablet, store = -1, None
        for entry in batch.entries:
            if entry.tablet != tablet:
                # It may be gone, or be a new one of the same number.
                tablet = entry.tablet
                store = self._tablets.get(tablet)
                if store is not None and position < store.born:
                    store = None
            if store is not None:
                store.add(entry, position)
        batch.done.callback(None)
        self._resume_stalled()

    def _refused(self, failure: Failure, batch: Batch) -> None:
        """All that is under way is void: later batches were built on this one."""
        if batch not in self._in_flight:
            return
        void = [batch.done for batch in self._in_flight]
        self._in_flight.clear()
        self._in_flight_bytes = 0
        self._refuse(void, failure)

    def _refuse(self, void: list[Deferred[None]], failure: Failure) -> None:
        """Fail `void` and everything that waits behind it for a flush."""
        void += [stalled.done for stalled in self._stalled]
        self._stalled.clear()
        for store in self._tablets.values():
            store.prepared = store.durable
        for batch in self._in_flight:
            for entry in batch.entries:
                if (found := self._tablets.get(entry.tablet)) is not None:
                    found.prepared = entry.version
        for done in void:
            done.errback(failure)

    # -- back-pressure ------------------------------------------------------------------------

    def _must_wait(self) -> bool:
        """Whether memtables have to be flushed before more is taken."""
        held = self._store.memory_bytes + self._in_flight_bytes
        return held >= self._store.options.stall_bytes

    def _stall(self, entries: Sequence[Entry], last: dict[int, int]) -> Deferred[None]:
        if self._full:
            raise DiskFull("no space left, and too much in memory that has to be flushed")
        if len(self._stalled) >= _MAX_STALLED:
            raise Overloaded("too many writes wait for a flush")
        for tablet, version in last.items():
            self._tablets[tablet].prepared = version
        stalled = _Stalled(entries)
        self._stalled.append(stalled)
        self._store.metrics.stalls.inc()
        return stalled.done

    def room_made(self, full: bool) -> None:
        """A flush has ended; `full`: it found no room on the disk."""
        self._full = full
        if full and self._must_wait():
            self._refuse([], Failure(DiskFull("no space left for a flush")))
        self._resume_stalled()

    def _resume_stalled(self) -> None:
        while self._stalled and not self._must_wait():
            stalled = self._stalled.popleft()
            last = {entry.tablet: entry.version for entry in stalled.entries}
            try:
                self._write(stalled.entries, last).chainDeferred(stalled.done)
            except PennCloudError:
                stalled.done.errback(Failure())

    def close(self) -> None:
        """Take nothing more; what waits for a flush, which will not come, is refused."""
        self._closed = True
        self._refuse([], Failure(Overloaded("the engine is closing")))

"""Group commit: one append to the log in flight for all tablets, with everything that waits in the next.

The first entry of a reactor turn starts an append at the end of the turn, so that all requests which
arrived together share it; what comes while an append runs shares the one after it. Nothing lingers for
company: under load batches form by themselves.

What is on its way is bounded for the whole server, however many tablets it has, and so is one append: on
the way to the disk its bytes exist several times.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.lsm.entry import Entry
from penncloud.lsm.errors import Overloaded, TabletDamaged
from penncloud.platform.errors import DiskFull
from penncloud.storage.engine import Engine

# What writers are told to wait when the disk is full, and when the engine has to catch up.
DISK_FULL_RETRY_MS: Final = 1000
OVERLOADED_RETRY_MS: Final = 50
# Entries that are queued or being written, of all tablets: about as much as a memtable.
MAX_HELD_BYTES: Final = 16 * 1024 * 1024
# Entries of one append, unless a single one is larger.
MAX_APPEND_BYTES: Final = 2 * 1024 * 1024


class Author(Protocol):
    """Whose entries the journal writes: a tablet."""

    id: int

    def durable(self, version: int) -> None:
        """Every entry up to `version` is on the disk."""
        ...

    def refused(self, version: int, retry_ms: int) -> None:
        """None of the entries from `version` on was kept; there may be room after `retry_ms`."""
        ...

    def damaged(self, reason: str) -> None:
        """The engine cannot keep this tablet any more."""
        ...

    def lost(self, version: int) -> None:
        """The disk failed: what became of the entries from `version` on is not known."""
        ...


class Journal:
    """The log of one server as its tablets write it. `clock` has IReactorTime.

    Tablets bound how many of their own entries wait, and decide nothing more while it is `full`.
    """

    log = Logger()

    def __init__(
        self,
        clock: Any,
        engine: Engine,
        max_held_bytes: int = MAX_HELD_BYTES,
        max_append_bytes: int = MAX_APPEND_BYTES,
    ) -> None:
        self._clock = clock
        self._engine = engine
        self._max_held_bytes = max_held_bytes
        self._max_append_bytes = max_append_bytes
        self._held_bytes = 0
        self._queue: deque[tuple[Author, Entry]] = deque()
        self._writing: list[tuple[Author, Entry]] = []
        self._turn: Any = None
        self._failed = False
        self._idle: list[Deferred[None]] = []

    @property
    def failed(self) -> bool:
        """The disk failed: nothing is written any more."""
        return self._failed

    @property
    def full(self) -> bool:
        """So much is on its way that writers have to come back later."""
        return self._held_bytes >= self._max_held_bytes

    def write(self, author: Author, entry: Entry) -> None:
        """Queue an entry; its author is told what became of it."""
        self._queue.append((author, entry))
        self._held_bytes += entry.size_bytes
        if self._turn is None and not self._writing:
            self._turn = self._clock.callLater(0, self._append)

    def when_idle(self) -> Deferred[None]:
        """Fires when nothing is queued or being written."""
        waiting: Deferred[None] = Deferred()
        self._idle.append(waiting)
        self._tell_idle()
        return waiting

    def _append(self) -> None:
        self._turn = None
        self._writing = [self._queue.popleft()]
        size = self._writing[0][1].size_bytes
        while (
            self._queue and (size := size + self._queue[0][1].size_bytes) <= self._max_append_bytes
        ):
            self._writing.append(self._queue.popleft())
        done = maybeDeferred(self._engine.append, [entry for _, entry in self._writing])
        done.addCallbacks(self._written, self._not_written)
        done.addErrback(lambda failure: self.log.failure("after an append to the log", failure))

    def _written(self, _: None) -> None:
        written, self._writing = self._writing, []
        self._held_bytes -= sum(entry.size_bytes for _, entry in written)
        # The next append starts before anybody is told of this one: the disk need not wait for that.
        if self._queue and self._turn is None:
            self._append()
        last = {author: entry.version for author, entry in written}
        for author, version in last.items():
            author.durable(version)
        self._tell_idle()

    def _not_written(self, failure: Failure) -> None:
        # Later entries were decided on top of those that failed: they go with them.
        first: dict[Author, int] = {}
        for author, entry in (*self._writing, *self._queue):
            first.setdefault(author, entry.version)
        self._writing = []
        self._queue.clear()
        self._held_bytes = 0
        if failure.check(DiskFull):
            self.log.warn("no room on the disk: writes are refused")
            self._refuse(first, DISK_FULL_RETRY_MS)
        elif failure.check(Overloaded):
            self._refuse(first, OVERLOADED_RETRY_MS)
        elif isinstance(failure.value, TabletDamaged):
            self.log.error("{error}", error=failure.value)
            self._refuse(first, OVERLOADED_RETRY_MS)
            for author in first:
                if author.id == failure.value.tablet:
                    author.damaged(failure.value.reason)
        else:
            self._failed = True
            self.log.failure("the log cannot be written", failure)
            for author, version in first.items():
                author.lost(version)
        self._tell_idle()

    @staticmethod
    def _refuse(first: dict[Author, int], retry_ms: int) -> None:
        for author, version in first.items():
            author.refused(version, retry_ms)

    def _tell_idle(self) -> None:
        if self._queue or self._writing:
            return
        waiting, self._idle = self._idle, []
        for idle in waiting:
            if not idle.called:  # its waiter may have given up
                idle.callback(None)

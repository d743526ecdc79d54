"""Group commit: one append to the log in flight for all tablets, with everything that waits in the next.

The first entry of a reactor turn starts an append at the end of the turn, so that all requests which
arrived together share it; what comes while an append runs shares the one after it. Nothing lingers for
company: under load batches form by themselves.
"""

from __future__ import annotations

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

    Entries that wait are bounded by the tablets, each of which bounds its own.
    """

    log = Logger()

    def __init__(self, clock: Any, engine: Engine) -> None:
        self._clock = clock
        self._engine = engine
        self._queue: list[tuple[Author, Entry]] = []
        self._writing: list[tuple[Author, Entry]] = []
        self._turn: Any = None
        self._failed = False
        self._idle: list[Deferred[None]] = []

    @property
    def failed(self) -> bool:
        """The disk failed: nothing is written any more."""
        return self._failed

    def write(self, author: Author, entry: Entry) -> None:
        """Queue an entry; its author is told what became of it."""
        self._queue.append((author, entry))
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
        self._writing, self._queue = self._queue, []
        done = maybeDeferred(self._engine.append, [entry for _, entry in self._writing])
        done.addCallbacks(self._written, self._not_written)
        done.addErrback(lambda failure: self.log.failure("after an append to the log", failure))

    def _written(self, _: None) -> None:
        written, self._writing = self._writing, []
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
        self._writing, self._queue = [], []
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

"""The disk's side of all replicas of a server: their Readys are persisted in order, with one sync for all.

Theory of operation
    Each replica has a *lane*. What it hands over goes, in its order, into the next append to the log;
    only one append is in flight, and all that comes meanwhile shares the next one (group commit).
    Nothing lingers for company: the driver hands over at the end of a turn of the reactor, and under load
    batches form by themselves. What primaries have prepared meanwhile is asked for (`freed`) right before
    the next append, as their PREPs leave with it.

    What is rare (a new configuration, a cut, a checkpoint) is persisted *apart*, by the author, once its
    lane has nothing in the log any more; the lane waits meanwhile, the other lanes do not.

    What is on its way is bounded for the whole server, however many tablets it has, and so is one append:
    on the way to the disk its bytes exist several times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.lsm.entry import Entry
from penncloud.lsm.errors import NoSuchTablet, Overloaded, TabletDamaged
from penncloud.platform.errors import DiskFailed, DiskFull
from penncloud.replication.messages import Ready
from penncloud.storage.engine import Engine

# Entries that are queued or being written, of all tablets: about as much as a memtable.
MAX_HELD_BYTES: Final = 16 * 1024 * 1024
# Entries of one append, unless a single one is larger.
MAX_APPEND_BYTES: Final = 2 * 1024 * 1024


class Author(Protocol):
    """Whose Readys the journal persists: a tablet's replica."""

    id: int

    def needs_apart(self, ready: Ready) -> bool:
        """Whether there is more to persist than entries."""
        ...

    def persist_apart(self, ready: Ready) -> Coroutine[Deferred[Any], Any, bool]:
        """Persist what is rare in it; true when its entries are persisted too. Raises DiskError,
        TabletDamaged."""
        ...

    def persisted(self, ready: Ready) -> None:
        """All of it is on the disk."""
        ...

    def refused(self) -> None:
        """Nothing of what is under way was kept."""
        ...

    def damaged(self, reason: str) -> None:
        """The tablet cannot be kept any more; nothing that is under way was."""
        ...

    def lost(self) -> None:
        """The disk failed: nobody knows what was kept."""
        ...

    def fail(self, reason: str) -> None:
        """Nothing more can be kept of it, though the disk is sound."""
        ...


@define(eq=False)
class Lane:
    """The order of one author."""

    author: Author
    waiting: deque[Ready] = field(factory=deque, init=False)
    # How many of its Readys are in the queue for the log or being written.
    logged: int = field(default=0, init=False)
    # The first of `waiting` is being persisted apart.
    apart: bool = field(default=False, init=False)
    # Grows when all that is under way is void.
    life: int = field(default=0, init=False)

    @property
    def busy(self) -> bool:
        """Whether something of it is on its way to the disk."""
        return bool(self.waiting or self.logged or self.apart)

    def void(self) -> None:
        """Nobody wants to hear any more of what is under way."""
        self.life += 1
        self.waiting.clear()
        self.logged = 0


@define(eq=False)
class _Logged:
    """A Ready on its way through the log."""

    lane: Lane
    life: int
    ready: Ready
    size_bytes: int


class Journal:
    """See the module. `turn` is given what tells authors something, to call it and do what comes of that.
    `freed` is called when an append has ended and the next one begins: what is submitted then belongs to
    it."""

    log = Logger()

    def __init__(
        self,
        engine: Engine,
        turn: Callable[[Callable[[], None]], None],
        max_held_bytes: int = MAX_HELD_BYTES,
        max_append_bytes: int = MAX_APPEND_BYTES,
        freed: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._turn = turn
        self._freed = freed
        self._max_held_bytes = max_held_bytes
        self._max_append_bytes = max_append_bytes
        self._held_bytes = 0
        self._queue: deque[_Logged] = deque()
        self._writing: list[_Logged] = []
        # On the disk, and their authors are being told so, in order.
        self._told: deque[_Logged] = deque()
        self._aparts = 0
        self._failed = False
        self._idle: list[Deferred[None]] = []

    @property
    def failed(self) -> bool:
        """The disk failed: nothing is written any more."""
        return self._failed

    @property
    def writing(self) -> bool:
        """Whether an append is under way; what is submitted now waits for the next one."""
        return bool(self._writing)

    @property
    def full(self) -> bool:
        """So much is on its way that writers have to come back later."""
        return self._held_bytes >= self._max_held_bytes

    def submit(self, lane: Lane, ready: Ready) -> None:
        """Persist a Ready behind those of its lane; `write` starts with what was submitted."""
        if not self._failed:
            lane.waiting.append(ready)
            self._advance(lane)

    def write(self) -> None:
        """Give what is queued to the log, unless an append is under way: then it follows that one."""
        if self._queue and not self._writing:
            self._append()

    def when_idle(self) -> Deferred[None]:
        """Fires when nothing is queued or being persisted."""
        waiting: Deferred[None] = Deferred()
        self._idle.append(waiting)
        self._tell_idle()
        return waiting

    # -- lanes -----------------------------------------------------------------------------------

    def _advance(self, lane: Lane) -> None:
        """Let the Readys of a lane go where they have to."""
        while lane.waiting and not lane.apart:
            ready = lane.waiting[0]
            if lane.author.needs_apart(ready):
                if not lane.logged:
                    self._set_apart(lane, ready)
                return
            lane.waiting.popleft()
            if ready.entries or lane.logged:
                self._enqueue(lane, ready)
            else:
                lane.author.persisted(ready)

    def _enqueue(self, lane: Lane, ready: Ready) -> None:
        self._held_bytes += ready.entries_bytes
        lane.logged += 1
        self._queue.append(_Logged(lane, lane.life, ready, ready.entries_bytes))

    def _set_apart(self, lane: Lane, ready: Ready) -> None:
        lane.apart = True
        self._aparts += 1
        done = Deferred.fromCoroutine(lane.author.persist_apart(ready))
        done.addBoth(self._was_apart, lane, lane.life, ready)
        done.addErrback(lambda failure: self.log.failure("after persisting apart", failure))

    def _was_apart(self, result: Any, lane: Lane, life: int, ready: Ready) -> None:
        self._turn(lambda: self._end_apart(result, lane, life, ready))
        self.write()
        self._tell_idle()

    def _end_apart(self, result: Any, lane: Lane, life: int, ready: Ready) -> None:
        lane.apart = False
        self._aparts -= 1
        if lane.life != life:
            pass
        elif not isinstance(result, Failure):
            lane.waiting.popleft()
            if result or not ready.entries:
                lane.author.persisted(ready)
            else:
                self._enqueue(lane, ready)
        elif isinstance(result.value, TabletDamaged):
            self._damage(lane, result.value.reason)
        elif result.check(DiskFull, Overloaded):
            self._refuse([lane])
        elif result.check(DiskFailed):
            self._lose(result, [lane])
        else:
            self._give_up(result, [lane])
        self._advance(lane)

    # -- the log ---------------------------------------------------------------------------------

    def _append(self) -> None:
        """One append of what waits, in pieces where a single Ready is larger than one should be."""
        size = 0
        while self._queue and (
            not self._writing or size + self._queue[0].size_bytes <= self._max_append_bytes
        ):
            written = self._queue.popleft()
            if written.life == written.lane.life:
                size += written.size_bytes
                self._writing.append(written)
            else:
                self._held_bytes -= written.size_bytes
        if not self._writing:
            return
        done: Deferred[None] | None = None
        for piece in self._pieces():
            if done is not None:
                # It fails as the one behind it does, which is listened to.
                done.addErrback(lambda _failure: None)
            done = self._engine.append(piece)
        if done is None:
            self._written(None)
        else:
            done.addCallbacks(self._written, self._not_written)
            done.addErrback(lambda failure: self.log.failure("after an append", failure))

    def _pieces(self) -> list[Sequence[Entry]]:
        entries: list[Any] = [entry for w in self._writing for entry in w.ready.entries]
        total = sum(written.size_bytes for written in self._writing)
        if total <= self._max_append_bytes:
            return [entries] if entries else []
        pieces: list[Sequence[Entry]] = []
        piece: list[Entry] = []
        held = 0
        for entry in entries:
            if piece and held + entry.size_bytes > self._max_append_bytes:
                pieces.append(piece)
                piece, held = [], 0
            piece.append(entry)
            held += entry.size_bytes
        return [*pieces, piece]

    def _written(self, _: None) -> None:
        self._told.extend(self._writing)
        self._held_bytes -= sum(one.size_bytes for one in self._writing)
        self._writing = []
        # The next append starts before anybody is told of this one: the disk need not wait for that.
        self._freed()
        if self._queue and not self._writing:
            self._append()
        self._turn(self._tell)
        self.write()
        self._tell_idle()

    def _tell(self) -> None:
        while self._told:
            one = self._told.popleft()
            lane = one.lane
            if lane.life == one.life:
                lane.logged -= 1
                lane.author.persisted(one.ready)
                if lane.waiting:
                    self._advance(lane)

    def _not_written(self, failure: Failure) -> None:
        self._turn(lambda: self._fail(failure))
        self.write()
        self._tell_idle()

    def _fail(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, TabletDamaged | NoSuchTablet):
            # Nothing of the append was done, and the others can do without that tablet.
            self._without(error)
        else:
            under_way = [*self._writing, *self._queue]
            self._writing = []
            self._queue.clear()
            self._held_bytes = 0
            # Later entries were decided on top of those that failed: they go with them.
            lanes = list(dict.fromkeys(one.lane for one in under_way if one.life == one.lane.life))
            if failure.check(DiskFull, Overloaded):
                self.log.warn("not written: {why}", why=str(error))
                self._refuse(lanes)
            elif failure.check(DiskFailed):
                self._lose(failure, lanes)
            else:
                self._give_up(failure, lanes)

    def _without(self, error: TabletDamaged | NoSuchTablet) -> None:
        again, self._writing = self._writing, []
        self._queue.extendleft(reversed(again))
        for one in again:
            # The next append leaves out what is void by then.
            if one.lane.author.id == error.tablet and one.life == one.lane.life:
                self._damage(one.lane, str(error))

    def _damage(self, lane: Lane, reason: str) -> None:
        lane.void()
        lane.author.damaged(reason)

    def _refuse(self, lanes: list[Lane]) -> None:
        for lane in lanes:
            lane.void()
            lane.author.refused()

    def _lose(self, failure: Failure, lanes: list[Lane]) -> None:
        if not self._failed:
            self._failed = True
            self.log.failure("the log cannot be written", failure)
        for lane in lanes:
            lane.void()
            lane.author.lost()

    def _give_up(self, failure: Failure, lanes: list[Lane]) -> None:
        """A fault of ours: these replicas cannot go on, the others can."""
        self.log.failure("what replicas wanted to keep was not written", failure)
        for lane in lanes:
            lane.void()
            lane.author.fail("an internal error, see the server's log")

    def _tell_idle(self) -> None:
        if self._queue or self._writing or self._aparts:
            return
        waiting, self._idle = self._idle, []
        for idle in waiting:
            if not idle.called:  # its waiter may have given up
                idle.callback(None)

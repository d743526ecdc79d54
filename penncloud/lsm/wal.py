"""The write-ahead log: records in numbered segment files, appended by one node for all its tablets.

Files, in the log's directory
    `%08x.log`  segment files, numbered from 1 without gaps; see `record` for the framing. The first
                byte of a record's payload says what it is:
                H  first record of each segment: format version (2 bytes), segment number (4)
                D  data of the log's user
                S  nothing follows in this segment; the log goes on in the next one
                M  nothing: it is there to carry `synced`
                S and M go on with a note: what the user has appended so far, in its own words
    `ends`      replaced as a whole: one record at position 0 whose payload is a msgpack map
                {segment: [offset, next segment]}. Such a segment ends at `offset`, whatever stands
                behind it, and the log goes on in `next segment`, whatever lies in between.

Theory of operation
    Appending collects records in the active segment's file; `sync` makes them durable together.
    A full segment is sealed (S, synced) before the first record goes to its successor, which has
    been made and zero-filled ahead of time; what is appended meanwhile is held back. So only the
    last segment ever has a torn end, and a segment that ends without a seal although later
    records prove it synced has lost something.

    When the log has been idle for a moment, an M record notes that all is synced. From then on, the
    slightest damage to what was acknowledged is seen for what it is.

    Opening never continues an old file: after a failed sync, or a crash, the kernel may show bytes
    that are not on the platter. What is not proven to be synced is copied to a new segment, and
    replacing `ends` then switches to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.lsm.record import Record, encode
from penncloud.lsm.wal_reader import (
    FORMAT_VERSION,
    HEADER,
    Damage,
    LogReader,
    Survey,
    encode_ends,
    segment_of,
)
from penncloud.platform.disk import AppendFile, Disk
from penncloud.platform.errors import DiskError, DiskFailed

__all__ = ["Damage", "WriteAheadLog", "segment_of"]

# Quiet time after which an M record is worth an fdatasync.
_IDLE_S: Final = 0.05
# Pause before another try to make the next segment on a full disk.
_RETRY_S: Final = 5.0


@define(eq=False)
class WriteAheadLog:
    """One log in one directory. Positions grow; see `record`."""

    _disk: Disk
    _directory: str
    _clock: IReactorTime
    _segment_bytes: int
    # The user's note on what it has appended up to now; see the module.
    _note: Callable[[], bytes] = bytes
    _log: Logger = field(factory=Logger, init=False)
    # Numbers of the segments in use; the last one is the active one.
    _segments: list[int] = field(factory=list, init=False)
    _active: AppendFile = field(init=False)
    _synced: int = field(default=0, init=False)
    _spare: AppendFile | None = field(default=None, init=False)
    _sealing: bool = field(default=False, init=False)
    # Held back while a segment is sealed: payloads to append, and whoever waits for a sync.
    _held: list[list[bytes]] = field(factory=list, init=False)
    _held_syncs: list[Deferred[None]] = field(factory=list, init=False)
    _idle: IDelayedCall | None = field(default=None, init=False)
    _retry: IDelayedCall | None = field(default=None, init=False)
    _closed: bool = field(default=False, init=False)

    # -- opening ------------------------------------------------------------------------------

    async def open(
        self,
        first: int,
        visit: Callable[[int, bytes], None],
        noted: Callable[[int, bytes], None] = lambda _position, _note: None,
    ) -> list[Damage]:
        """Read the log from segment `first` on (0: all there is) and make it ready for appending.

        The directory has to exist, durably.
        `visit(position, data)` gets every record's data, `noted(position, note)` every note, in order;
        they must not append. Memory is bounded by one segment. Damages are returned in order of
        position; data on both sides of one is visited. Raises StoreDamaged, NewerFormat, DiskError.
        """
        reader = LogReader(self._disk, self._directory)
        reader.open()
        found = reader.survey(first)
        unproven: list[bytes] = []
        for number in found.segments:
            for item in reader.items(number):
                if not isinstance(item, Record) or item.payload[:1] == b"H":
                    continue
                if item.position >= found.end:
                    break
                if item.payload[:1] != b"D":
                    if len(item.payload) > 1:
                        noted(item.position, item.payload[1:])
                    continue
                visit(item.position, item.payload[1:])
                if item.position >= found.synced:
                    unproven.append(item.payload)
        await self._begin(reader, found, unproven)
        return found.damages

    async def _begin(self, reader: LogReader, found: Survey, unproven: list[bytes]) -> None:
        """Begin a new segment with a copy of what is unproven, and make it the log's end."""
        number = max([*reader.present, segment_of(found.end)], default=0) + 1
        self._synced = found.synced
        self._segments = [number]
        self._active = self._create(number)
        for payload in unproven:
            self._append([payload])
        await self._active.sync()
        await self._disk.sync_dir(self._directory)
        kept = [old for old in found.segments if old <= segment_of(found.synced)]
        ends = {old: end for old, end in reader.ends.items() if old in kept}
        if kept:
            ends[kept[-1]] = (found.synced & 0xFFFFFFFF, number)
        elif found.segments:
            # Nothing of the old log is proven, but its first file is where reading starts.
            kept = found.segments[:1]
            ends[kept[0]] = (0, number)
        await self._disk.replace(f"{self._directory}/ends", encode_ends(ends))
        for old in reader.present:
            if old not in kept:
                self._discard(old)
        self._segments = [*kept, number]
        self._synced = self._end()
        self._prepare_spare()

    # -- segments -----------------------------------------------------------------------------

    def _path(self, number: int) -> str:
        return f"{self._directory}/{number:08x}.log"

    def _create(self, number: int) -> AppendFile:
        file = self._disk.create(self._path(number), self._segment_bytes)
        header = HEADER.pack(b"H", FORMAT_VERSION, number)
        file.append(encode([header], number << 32, self._synced))
        return file

    def _prepare_spare(self) -> None:
        """Make the next segment before it is needed; on a full disk try again later."""
        self._retry = None
        d = Deferred.fromCoroutine(self._make_spare())
        d.addErrback(
            lambda failure: self._log.failure("The next log segment cannot be made", failure)
        )

    async def _make_spare(self) -> None:
        number = self._segments[-1] + 1
        file: AppendFile | None = None
        try:
            file = self._create(number)
            await file.sync()
            await self._disk.sync_dir(self._directory)
        except DiskFailed:
            # The node is about to stop.
            return
        except (DiskError, FileExistsError):
            if file is not None:
                _close_quietly(file)
            self._discard(number)
            if not self._closed:
                self._retry = self._clock.callLater(_RETRY_S, self._prepare_spare)
            return
        if self._closed:
            _close_quietly(file)
        else:
            self._spare = file

    def _end(self) -> int:
        return (self._segments[-1] << 32) + self._active.size_bytes

    @property
    def position(self) -> int:
        """Where the next record goes, or before that: nothing appended from now on is below."""
        return self._end()

    @property
    def active_from(self) -> int:
        """The first position of the segment that is appended to."""
        return self._segments[-1] << 32

    @property
    def segments(self) -> int:
        """Number of segment files in use."""
        return len(self._segments)

    def floor(self, position: int) -> int:
        """The segment with which reading has to begin to find everything at or above `position`."""
        return max(
            (number for number in self._segments if number <= segment_of(position)),
            default=self._segments[0],
        )

    def remove_before(self, position: int) -> None:
        """Remove the segments in which nothing at or above `position` can be.

        The caller has made durable (in its manifest) that the log is read from `position` on.
        """
        first = self.floor(position)
        while self._segments[0] < first:
            self._discard(self._segments.pop(0))

    def _discard(self, number: int) -> None:
        """Remove a segment that nothing needs; one that stays is in nobody's way, and goes later."""
        try:
            self._disk.remove(self._path(number))
        except DiskError as error:
            self._log.warn("{path} is left over: {error}", path=self._path(number), error=error)

    # -- appending ----------------------------------------------------------------------------

    def append(self, data: list[bytes]) -> int:
        """Append one record, given in parts; returns a position at or below the record's.

        It is durable when a `sync` called later fires. Raises DiskFailed.
        """
        if self._sealing:
            self._held.append([b"D", *data])
            return self._segments[-1] + 1 << 32
        return self._append([b"D", *data])

    def _append(self, payload: list[bytes]) -> int:
        position = self._end()
        self._active.append(encode(payload, position, self._synced))
        return position

    def sync(self) -> Deferred[None]:
        """Fire when all that was appended before is durable.

        To be called in the same turn of the reactor as `append`. On DiskFull everything appended and
        not yet synced is gone, and every sync under way fails; the log may be appended to again.
        """
        if self._sealing:
            waiter: Deferred[None] = Deferred()
            self._held_syncs.append(waiter)
            return waiter
        synced = self._sync()
        if self._active.size_bytes >= self._segment_bytes and self._spare is not None:
            self._seal()
        return synced

    def _sync(self) -> Deferred[None]:
        end = self._end()

        def note(_ignored: None) -> None:
            self._synced = max(self._synced, end)
            self._watch_idle()

        return self._active.sync().addCallback(note)

    def _watch_idle(self) -> None:
        if self._idle is None and not self._closed:
            self._idle = self._clock.callLater(_IDLE_S, self._mark, self._end())

    def _mark(self, end: int) -> None:
        """Note durably that all is synced, if nothing has been appended for a while."""
        self._idle = None
        if self._sealing or self._closed:
            return
        if self._end() != end or self._synced != end:
            self._watch_idle()
            return
        try:
            self._append([b"M", self._note()])
        except DiskFailed:
            return
        # Whether it succeeds matters to nobody now, and who appends next hears of a failure.
        self._active.sync().addErrback(lambda failure: failure.trap(DiskError))

    def _seal(self) -> None:
        self._sealing = True
        self._append([b"S", self._note()])
        self._sync().addCallbacks(self._sealed, self._not_sealed)

    def _sealed(self, _ignored: Any) -> None:
        old, spare = self._active, self._spare
        assert spare is not None
        self._active, self._spare = spare, None
        self._segments.append(self._segments[-1] + 1)
        # The spare was synced when it was made, and the seal has just been.
        self._synced = self._end()
        _close_quietly(old)
        self._release()
        self._prepare_spare()

    def _not_sealed(self, failure: Failure) -> None:
        """The old segment goes on; what was held back fails like everything else unsynced."""
        self._sealing = False
        waiters, self._held_syncs = self._held_syncs, []
        self._held = []
        _fail_all(waiters, failure)

    def _release(self) -> None:
        self._sealing = False
        held, self._held = self._held, []
        waiters, self._held_syncs = self._held_syncs, []
        try:
            for payload in held:
                self._append(payload)
        except DiskFailed:
            _fail_all(waiters, Failure())
            return
        if waiters:
            # One sync for all of them; it fires them in order.
            self.sync().addCallbacks(
                lambda _ignored: _succeed_all(waiters), lambda failure: _fail_all(waiters, failure)
            )

    async def close(self) -> None:
        """Sync and note that all is synced; raises what that raises, closed all the same."""
        while self._sealing:
            await self.sync()
        self._closed = True
        for call in (self._idle, self._retry):
            if call is not None:
                call.cancel()
        self._idle = self._retry = None
        spare, self._spare = self._spare, None
        if spare is not None:
            self._discard(self._segments[-1] + 1)
            _close_quietly(spare)
        try:
            await self._sync()
            self._append([b"M", self._note()])
        except DiskError:
            _close_quietly(self._active)
            raise
        await self._active.close()


def _close_quietly(file: AppendFile) -> None:
    """Close a file whose content nobody waits for; a failure of the disk is told by the disk."""
    file.close().addErrback(lambda failure: failure.trap(DiskError))


def _succeed_all(waiters: list[Deferred[None]]) -> None:
    for waiter in waiters:
        waiter.callback(None)


def _fail_all(waiters: list[Deferred[None]], failure: Failure) -> None:
    for waiter in waiters:
        waiter.errback(failure)

"""What a Raft node keeps on its disk: term and vote, the log, the last snapshot.

Files (paths relative to the node's disk)
    raft/log/       A write-ahead log in the format of the storage engine (`lsm.wal`, `lsm.record`). Its
                    records are MessagePack arrays that begin with a tag:
                        ["hard", term, vote]
                        ["base", index, term]   the log begins behind this entry; all before is void
                        ["put", [entry, ...]]   entries in order; the first takes the place of the entry
                                                of its index and of all behind it
    raft/snapshot   Replaced as a whole: one record at position 0, whose payload is an array of index,
                    term, voters, learners and the application's state.

Theory of operation
    `save` returns when all is durable, and only then may anything that depends on it be said. A torn end
    was never acknowledged and is cut off by the write-ahead log, which tells it from corruption; what was
    synced and cannot be read is reported, and the coordinator does not start: it would forget votes and
    entries that others count on.

    A new snapshot is written first, then a "base" record with what stays behind it; then the segments
    before that go. Whatever of this a crash prevents, the snapshot tells how to read the log: entries up
    to its index are in it, and those behind it count if the log holds the snapshot's own entry. If it has
    another one there, or ends before, the snapshot came from a leader and replaced the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
from attrs import define, field, frozen

from penncloud.lsm.errors import NewerFormat, StoreDamaged
from penncloud.lsm.record import Record, decode, encode
from penncloud.lsm.wal import WriteAheadLog
from penncloud.lsm.wal_reader import LogReader
from penncloud.platform.disk import Disk
from penncloud.platform.errors import PennCloudError
from penncloud.raft.messages import Entry, HardState, Membership, Snapshot

DIRECTORY: Final = "raft"
LOG: Final = "raft/log"
SNAPSHOT: Final = "raft/snapshot"
# Zero-filled ahead of time, twice: small, for what coordinators decide is small.
SEGMENT_BYTES: Final = 1024 * 1024


class RaftStoreDamaged(PennCloudError):
    """Something that was durable cannot be read back; nothing was changed.

    The coordinator has to be removed from its group and to join again with an empty directory.
    """


# -- records -------------------------------------------------------------------------------------


class _Entry(msgspec.Struct, array_like=True, frozen=True):
    index: int
    term: int
    kind: Literal["noop", "command", "membership"]
    data: bytes
    voters: list[str] = []
    learners: list[str] = []


class _Hard(msgspec.Struct, tag="hard", array_like=True, frozen=True):
    term: int
    vote: str


class _Base(msgspec.Struct, tag="base", array_like=True, frozen=True):
    index: int
    term: int


class _Put(msgspec.Struct, tag="put", array_like=True, frozen=True):
    entries: list[_Entry]


class _Snapshot(msgspec.Struct, array_like=True, frozen=True):
    index: int
    term: int
    voters: list[str]
    learners: list[str]
    data: bytes


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final[msgspec.msgpack.Decoder[_Hard | _Base | _Put]] = msgspec.msgpack.Decoder(
    _Hard | _Base | _Put
)
_SNAPSHOT_DECODER: Final = msgspec.msgpack.Decoder(_Snapshot)


def _to_record(entry: Entry) -> _Entry:
    members = entry.membership or Membership(frozenset())
    voters, learners = sorted(members.voters), sorted(members.learners)
    return _Entry(entry.index, entry.term, entry.kind, entry.data, voters, learners)


def _to_entry(found: _Entry) -> Entry:
    membership = None
    if found.kind == "membership":
        membership = Membership(frozenset(found.voters), frozenset(found.learners))
    return Entry(found.index, found.term, found.kind, found.data, membership)


@frozen
class Kept:
    """What was found: `entries` are those behind `snapshot`."""

    hard_state: HardState
    snapshot: Snapshot
    entries: tuple[Entry, ...]


@define
class _Replay:
    """Reads the records in their order."""

    hard_state: HardState = field(factory=HardState)
    # The entry before the first of `entries`; None until a record says where the log begins.
    base: _Base | None = None
    entries: list[Entry] = field(factory=list)

    def take(self, data: bytes) -> None:
        """Raises RaftStoreDamaged."""
        try:
            record = _DECODER.decode(data)
        except msgspec.MsgspecError as error:
            raise RaftStoreDamaged(f"{LOG}: a record of another kind: {error}") from error
        if isinstance(record, _Hard):
            self.hard_state = HardState(record.term, record.vote)
        elif isinstance(record, _Base):
            self.base = record
            self.entries.clear()
        else:
            for found in record.entries:
                self._put(_to_entry(found))

    def _put(self, entry: Entry) -> None:
        first = self.entries[0].index if self.entries else None
        if self.base is not None:
            first = self.base.index + 1
        if first is None or (self.base is None and not first <= entry.index <= self._last() + 1):
            # The segments before were removed: a "base" record follows that voids this.
            self.entries = [entry]
            return
        if not first <= entry.index <= self._last() + 1:
            raise RaftStoreDamaged(
                f"{LOG}: entry {entry.index} cannot follow entry {self._last()}; entries are missing"
            )
        del self.entries[entry.index - first :]
        self.entries.append(entry)

    def _last(self) -> int:
        if self.entries:
            return self.entries[-1].index
        return self.base.index if self.base is not None else 0

    def kept(self, snapshot: Snapshot) -> Kept:
        """Raises RaftStoreDamaged."""
        entries = self._behind(snapshot)
        term = max(snapshot.term, *(entry.term for entry in entries), 0)
        hard_state = self.hard_state
        if hard_state.term < term:
            # The snapshot is durable before the term that came with it; nothing was answered in it.
            hard_state = HardState(term, "")
        return Kept(hard_state, snapshot, entries)

    def _behind(self, snapshot: Snapshot) -> tuple[Entry, ...]:
        if snapshot.index > self._last():
            return ()
        first = self.entries[0].index if self.entries else self._last() + 1
        base = self.base.index if self.base is not None else first - 1
        if snapshot.index < base:
            raise RaftStoreDamaged(
                f"{SNAPSHOT}: ends with entry {snapshot.index}, and the log begins behind {base}"
            )
        if snapshot.index >= first:
            term = self.entries[snapshot.index - first].term
        else:
            term = self.base.term if self.base is not None else snapshot.term
        if term != snapshot.term:
            return ()
        return tuple(entry for entry in self.entries if entry.index > snapshot.index)


def _encode_snapshot(snapshot: Snapshot) -> bytes:
    members = snapshot.membership
    voters, learners = sorted(members.voters), sorted(members.learners)
    content = _Snapshot(snapshot.index, snapshot.term, voters, learners, snapshot.data)
    return b"".join(encode([_ENCODER.encode(content)], 0, 0))


def read_snapshot(disk: Disk) -> Snapshot | None:
    """None when nothing was ever kept here. Raises RaftStoreDamaged, DiskError."""
    if not disk.exists(SNAPSHOT):
        return None
    content = disk.read(SNAPSHOT)
    record = decode(content, 0, 0)
    if record is None or record.end != len(content):
        raise RaftStoreDamaged(f"{SNAPSHOT}: its checksum does not match its content")
    try:
        found = _SNAPSHOT_DECODER.decode(record.payload)
    except msgspec.MsgspecError as error:
        raise RaftStoreDamaged(f"{SNAPSHOT}: {error}") from error
    membership = Membership(frozenset(found.voters), frozenset(found.learners))
    return Snapshot(found.index, found.term, membership, found.data)


def inspect(disk: Disk) -> tuple[Kept | None, list[str]]:
    """What is kept, and what is damaged, without changing anything. Raises RaftStoreDamaged, DiskError."""
    snapshot = read_snapshot(disk)
    if snapshot is None:
        return None, []
    reader = LogReader(disk, LOG)
    replay = _Replay()
    damages = []
    try:
        reader.open()
        found = reader.survey(0)
        damages = [damage.reason for damage in found.damages]
        for number in found.segments:
            for item in reader.items(number):
                if isinstance(item, Record) and item.payload[:1] == b"D":
                    if item.position >= found.end:
                        break
                    replay.take(item.payload[1:])
        return replay.kept(snapshot), damages
    except (StoreDamaged, NewerFormat, RaftStoreDamaged) as error:
        return Kept(replay.hard_state, snapshot, ()), [*damages, str(error)]


# -- the store -----------------------------------------------------------------------------------


class RaftStore:
    """The files of one node. `clock` is IReactorTime. One call at a time."""

    def __init__(self, disk: Disk, clock: Any, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._disk = disk
        self._wal = WriteAheadLog(disk, LOG, clock, segment_bytes)
        self._open = False
        self._hard_state = HardState()
        self._compacted_at = 0

    async def open(self) -> Kept | None:
        """Read what is kept and be ready for `save`; None when the node never belonged to a group.

        Raises RaftStoreDamaged, DiskError.
        """
        snapshot = read_snapshot(self._disk)
        if snapshot is None:
            return None
        kept = await self._open_log(snapshot)
        self._hard_state = kept.hard_state
        return kept

    async def found(self, membership: Membership, state: bytes) -> Kept:
        """Begin with an empty log in a group of `membership`. Raises DiskError."""
        self._disk.makedirs(LOG)
        await self._disk.sync_dir(DIRECTORY)
        await self._disk.sync_dir("")
        snapshot = Snapshot(0, 0, membership, state)
        await self._disk.replace(SNAPSHOT, _encode_snapshot(snapshot))
        return await self._open_log(snapshot)

    async def _open_log(self, snapshot: Snapshot) -> Kept:
        records: list[bytes] = []
        try:
            damages = await self._wal.open(0, lambda _, data: records.append(data))
        except (StoreDamaged, NewerFormat) as error:
            raise RaftStoreDamaged(str(error)) from error
        self._open = True
        if damages:
            raise RaftStoreDamaged("; ".join(damage.reason for damage in damages))
        replay = _Replay()
        for data in records:
            replay.take(data)
        kept = replay.kept(snapshot)
        self._compacted_at = self._wal.active_from
        return kept

    @property
    def log_bytes(self) -> int:
        """Bytes of the log since the last snapshot, segment boundaries not counted."""
        begun, now = self._compacted_at, self._wal.position
        segments = (now >> 32) - (begun >> 32)
        return segments * SEGMENT_BYTES + (now & 0xFFFFFFFF) - (begun & 0xFFFFFFFF)

    async def save(
        self,
        hard_state: HardState | None,
        snapshot: Snapshot | None,
        entries: Sequence[Entry],
    ) -> None:
        """Make durable what is given (None, none: as it was).

        `snapshot` comes from a leader and replaces the log before `entries`. Raises DiskFull (call it
        again with the same) and DiskFailed.
        """
        new = hard_state or self._hard_state
        if snapshot is not None:
            await self._rebase(snapshot, new, entries)
            return
        if hard_state is not None:
            self._append(_Hard(new.term, new.vote))
        if entries:
            self._append(_Put([_to_record(entry) for entry in entries]))
        await self._wal.sync()
        self._hard_state = new

    async def compact(self, snapshot: Snapshot, behind: Sequence[Entry]) -> None:
        """Keep `snapshot` instead of the entries up to it; `behind` are those that stay.

        Raises DiskFull (nothing is lost; try again later) and DiskFailed.
        """
        await self._rebase(snapshot, self._hard_state, behind)

    async def _rebase(
        self, snapshot: Snapshot, hard_state: HardState, behind: Sequence[Entry]
    ) -> None:
        await self._disk.replace(SNAPSHOT, _encode_snapshot(snapshot))
        position = self._wal.position
        self._append(_Base(snapshot.index, snapshot.term))
        self._append(_Hard(hard_state.term, hard_state.vote))
        if behind:
            self._append(_Put([_to_record(entry) for entry in behind]))
        await self._wal.sync()
        self._hard_state = hard_state
        self._compacted_at = position
        self._wal.remove_before(position)

    def _append(self, record: _Hard | _Base | _Put) -> None:
        self._wal.append([_ENCODER.encode(record)])

    async def close(self) -> None:
        """Raises DiskError; closed all the same."""
        if self._open:
            self._open = False
            await self._wal.close()

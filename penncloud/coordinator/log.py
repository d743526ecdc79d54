"""The coordinator's commands on disk, each durable before anybody is told its result.

Files (paths relative to the node's disk)
    log-INDEX   Records of the commands from INDEX (16 hex digits) on, in order. One record holds the
                commands that were written together:

                    magic "PCL1", length (4 bytes, big-endian), CRC32C of length and payload (4 bytes),
                    payload = MessagePack of [index of the first command, [commands]]

    snapshot    Replaced as a whole: the same record, once, with payload [index, state]; `index` is the
                number of commands in the state.

Theory of operation
    Records are written one at a time, the next only when the one before is durable. So after a crash
    at most the last one can be torn: a record that cannot be read and has nothing but zeros (reserved
    room) or rubbish without a readable record behind it is cut off; it was never acknowledged. With a
    readable record behind it, or in a snapshot, it is corruption, and the coordinator does not start.
    (Damage done later to the very last record cannot be told from a torn one. A copy of the log on other
    machines can tell; a single disk cannot.)

    When the log has grown beyond a bound the state is written as snapshot, a new log begins, and the
    old one is removed, in this order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar

import google_crc32c
import msgspec
from attrs import frozen

from penncloud.platform.disk import AppendFile, Disk
from penncloud.platform.errors import DiskFull, PennCloudError

_T = TypeVar("_T")

MAGIC: Final = b"PCL1"
_HEAD_BYTES: Final = len(MAGIC) + 8
_SNAPSHOT: Final = "snapshot"
_PREFIX: Final = "log-"
_ENCODER: Final = msgspec.msgpack.Encoder()


class LogCorrupt(PennCloudError):
    """The log or the snapshot holds something that was never written so; nothing was changed.

    The coordinator must not start on it: it would forget decisions that others act upon.
    """


@frozen
class Recovered(Generic[_T]):
    """What was found: the snapshot (None: none yet) and the commands after it."""

    snapshot: msgspec.Raw | None
    commands: list[_T]


class CommandLog(Generic[_T]):
    """An append-only sequence of commands of type `kind` (a msgspec Struct or a union of them)."""

    def __init__(self, disk: Disk, kind: Any, rotate_bytes: int = 1024 * 1024) -> None:
        self._disk = disk
        self._decoder: msgspec.msgpack.Decoder[tuple[int, list[_T]]] = msgspec.msgpack.Decoder(
            tuple[int, list[kind]]
        )
        self._rotate_bytes = rotate_bytes
        self._file: AppendFile | None = None
        # Index of the next command.
        self.next_index = 0

    async def open(self) -> Recovered[_T]:
        """Read what is there and make the log ready for `append`. Raises LogCorrupt, DiskError."""
        snapshot = self._read_snapshot()
        names = self._logs()
        # All but the last were complete before the next began, and are in the snapshot.
        if names and _index(names[-1]) > self.next_index:
            raise LogCorrupt(f"{names[-1]}: the commands before it are missing")
        if not names:
            await self._begin()
            return Recovered(snapshot, [])
        commands, size_bytes = self._read_log(names[-1])
        self._file = self._disk.open_append(names[-1], size_bytes)
        # What is read back may not have been durable before the crash.
        await self._file.sync()
        await self._remove(names[:-1])
        return Recovered(snapshot, commands)

    async def append(self, commands: Sequence[_T]) -> None:
        """Make commands durable as the next ones. One call at a time.

        Raises DiskFull (nothing was written) and DiskFailed (the node has to stop).
        """
        file = self._open_file()
        file.append(_record([self.next_index, commands]))
        await file.sync()
        self.next_index += len(commands)

    @property
    def wants_snapshot(self) -> bool:
        return self._open_file().size_bytes >= self._rotate_bytes

    async def rotate(self, snapshot: bytes) -> None:
        """Replace the log by `snapshot` (MessagePack), the state after all that was appended."""
        content = _record([self.next_index, msgspec.Raw(snapshot)])
        await self._disk.replace(_SNAPSHOT, content)
        if _name(self.next_index) in self._logs():  # nothing was appended since the last one
            return
        old_names, old_file = self._logs(), self._open_file()
        await self._begin()
        await old_file.close()
        await self._remove(old_names)

    async def close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            await file.close()

    # -- files -----------------------------------------------------------------------------------

    def _open_file(self) -> AppendFile:
        if self._file is None:
            raise RuntimeError("the log is not open")
        return self._file

    def _logs(self) -> list[str]:
        return [name for name in self._disk.listdir("") if name.startswith(_PREFIX)]

    async def _begin(self) -> None:
        name = _name(self.next_index)
        try:
            file = self._disk.create(name)
            await self._disk.sync_dir("")
        except DiskFull:
            self._disk.remove(name)
            raise
        self._file = file

    async def _remove(self, names: Sequence[str]) -> None:
        for name in names:
            self._disk.remove(name)
        if names:
            await self._disk.sync_dir("")

    def _read_snapshot(self) -> msgspec.Raw | None:
        if not self._disk.exists(_SNAPSHOT):
            return None
        content = self._disk.read(_SNAPSHOT)
        payload = _payload(content, 0)
        if payload is None or _HEAD_BYTES + len(payload) != len(content):
            raise LogCorrupt(f"{_SNAPSHOT}: its checksum does not match its content")
        try:
            index, state = msgspec.msgpack.decode(payload, type=tuple[int, msgspec.Raw])
        except msgspec.MsgspecError as error:
            raise LogCorrupt(f"{_SNAPSHOT}: {error}") from error
        self.next_index = index
        return state

    def _read_log(self, name: str) -> tuple[list[_T], int]:
        """The commands of a log file that are not in the snapshot, and the size of its good part."""
        content = self._disk.read(name)
        expected = _index(name)
        skip_below = self.next_index
        commands: list[_T] = []
        offset = 0
        while (payload := _payload(content, offset)) is not None:
            try:
                first, batch = self._decoder.decode(payload)
            except msgspec.MsgspecError as error:
                raise LogCorrupt(f"{name}: at byte {offset}: {error}") from error
            if first != expected:
                raise LogCorrupt(f"{name}: at byte {offset}: command {first}, not {expected}")
            commands += batch[max(0, skip_below - first) :]
            expected += len(batch)
            offset += _HEAD_BYTES + len(payload)
        _check_tail(name, content, offset)
        if expected < skip_below:
            raise LogCorrupt(
                f"{name}: ends at command {expected}, before the snapshot's {skip_below}"
            )
        self.next_index = expected
        return commands, offset


def _name(index: int) -> str:
    return f"{_PREFIX}{index:016x}"


def _index(name: str) -> int:
    try:
        return int(name.removeprefix(_PREFIX), 16)
    except ValueError as error:
        raise LogCorrupt(f"{name}: not the name of a log") from error


def _checksum(length: bytes, payload: bytes) -> bytes:
    crc = google_crc32c.extend(google_crc32c.value(length), payload)
    return int(crc).to_bytes(4, "big")


def _record(value: Any) -> bytes:
    payload = _ENCODER.encode(value)
    length = len(payload).to_bytes(4, "big")
    return MAGIC + length + _checksum(length, payload) + payload


def _payload(content: bytes, offset: int) -> bytes | None:
    """The payload of the record at `offset`; None where there is no readable one."""
    head = content[offset : offset + _HEAD_BYTES]
    if len(head) < _HEAD_BYTES or not head.startswith(MAGIC):
        return None
    length, crc = head[4:8], head[8:12]
    start = offset + _HEAD_BYTES
    payload = content[start : start + int.from_bytes(length, "big")]
    if len(payload) != int.from_bytes(length, "big") or _checksum(length, payload) != crc:
        return None
    return payload


def _check_tail(name: str, content: bytes, offset: int) -> None:
    """Raise LogCorrupt if a readable record follows the unreadable bytes at `offset`."""
    following = content.find(MAGIC, offset + 1)
    while following >= 0:
        if _payload(content, following) is not None:
            raise LogCorrupt(
                f"{name}: the record at byte {offset} is damaged, and a good one follows it at"
                f" byte {following}: this is no torn end but corruption"
            )
        following = content.find(MAGIC, following + 1)

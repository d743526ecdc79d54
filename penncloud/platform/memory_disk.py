"""The simulated disk: the verified fake of `real_disk`, with crashes and faults to order.

Theory of operation
    What a reader sees of a file are its synced bytes. Appended bytes wait in the file's `unsynced`
    list until a sync completes, which takes `sync_s` of the passed clock (group commit as in the real
    disk: one sync of a file at a time, what comes meanwhile shares the next).

    Names are kept twice: as the running node sees them, and as they would be after a power cut.
    `sync_dir` makes the two equal for one directory.

    `crash()` gives the disk that a restarted node finds: of what was not synced, an arbitrary part
    is there. Bytes are cut anywhere, or single sectors of them are missing; names may be lost or
    be back. The old disk is dead then: nothing that still runs on it has any effect.

    Everything that touches the platter has a number, counted in `operations`. `faults` says what
    goes wrong at which, and `unplug_at` at which the power goes. Chance comes from the passed
    `random`, so that a run can be repeated.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime

from penncloud.platform.errors import DiskError, DiskFailed, DiskFull

_SECTOR_BYTES: Final = 512


class Fault(enum.Enum):
    """What can go wrong with one operation."""

    FULL = "no space left"
    FAIL = "input/output error"
    SLOW = "a thousand times slower"
    FLIP = "one bit of what is written is flipped"


@define(eq=False)
class _Inode:
    data: bytearray = field(factory=bytearray)
    # Bytes appended and not yet synced, in order; they begin at len(data).
    unsynced: list[bytes] = field(factory=list)
    # What open_append cut off while that is not yet durable.
    cut: bytes = b""
    # Room that holds zeros behind the data.
    reserved: int = 0

    def content(self) -> bytes:
        return bytes(self.data).ljust(self.reserved, b"\0")

    def after_crash(self, chance: random.Random) -> _Inode:
        data = bytearray(self.data)
        if self.cut and chance.random() < 0.5:
            return _Inode(data + self.cut)
        tail = bytearray(b"".join(self.unsynced))
        if tail and chance.random() < 0.5:
            for start in range(0, len(tail), _SECTOR_BYTES):
                if chance.random() < 0.3:
                    lost = tail[start : start + _SECTOR_BYTES]
                    tail[start : start + _SECTOR_BYTES] = bytes(len(lost))
        kept = chance.choice((0, len(tail), chance.randint(0, len(tail))))
        data += tail[:kept]
        return _Inode(data, reserved=self.reserved if chance.random() < 0.8 else 0)


@define
class _Name:
    """A change of a directory: names that get an inode (None: a directory) or lose it."""

    directory: str
    added: dict[str, _Inode | None]
    removed: tuple[str, ...] = ()

    def apply(self, names: dict[str, _Inode | None]) -> None:
        for path in self.removed:
            names.pop(path, None)
        names.update(self.added)


@define(eq=False)
class _MemoryAppendFile:
    """See `platform.disk.AppendFile`."""

    path: str
    _disk: MemoryDisk
    _inode: _Inode
    _flight: list[Deferred[None]] | None = None
    _waiting: list[Deferred[None]] = field(factory=list)
    _uncovered: bool = False
    _lost: bool = False
    _closed: bool = False

    @property
    def size_bytes(self) -> int:
        return len(self._inode.data) + sum(map(len, self._inode.unsynced))

    def append(self, data: bytes | Sequence[bytes]) -> int:
        self._disk.check()
        if self._closed:
            raise ValueError(f"{self.path} is closed")
        offset = self.size_bytes
        if not self._disk.dead:
            self._inode.unsynced.append(data if isinstance(data, bytes) else b"".join(data))
        self._uncovered = True
        return offset

    def sync(self) -> Deferred[None]:
        if self._closed:
            raise ValueError(f"{self.path} is closed")
        return self._sync()

    def _sync(self) -> Deferred[None]:
        if (failure := self._disk.failure) is not None:
            return fail(failure)
        self._uncovered = False
        if self._lost:
            self._lost = False
            return fail(DiskFull(f"{self.path}: no space left"))
        waiter: Deferred[None] = Deferred()
        self._waiting.append(waiter)
        if self._flight is None:
            self._start()
        return waiter

    def close(self) -> Deferred[None]:
        synced = self.sync()
        self._closed = True

        def closed(result: object) -> object:
            self._inode.reserved = 0
            return result

        return synced.addBoth(closed)

    def _start(self) -> None:
        self._flight, self._waiting = self._waiting, []
        chunks = len(self._inode.unsynced)
        fault = self._disk.begin(f"sync {self.path}")
        self._disk.later(fault, lambda: self._complete(chunks, fault))

    def _complete(self, chunks: int, fault: Fault | None) -> None:
        inode, flight = self._inode, self._flight or []
        written = bytearray(b"".join(inode.unsynced[:chunks]))
        grows = len(inode.data) + len(written) - max(len(inode.data), inode.reserved)
        if fault is Fault.FAIL or self._disk.failure is not None:
            failed = self._disk.fail(self.path)
            waiters, self._waiting = flight + self._waiting, []
            for waiter in waiters:
                waiter.errback(failed)
            return
        if fault is Fault.FULL or (grows > 0 and grows > self._disk.free_bytes()):
            inode.unsynced.clear()
            self._lost = self._uncovered
            waiters, self._waiting = flight + self._waiting, []
            self._flight = None
            for waiter in waiters:
                waiter.errback(DiskFull(f"{self.path}: no space left"))
            return
        if fault is Fault.FLIP:
            self._disk.flip(written)
        del inode.unsynced[:chunks]
        inode.data += written
        inode.cut = b""
        self._flight = None
        if self._waiting:
            self._start()
        for waiter in flight:
            waiter.callback(None)


@define(eq=False)
class _MemoryReadFile:
    _path: str
    _disk: MemoryDisk
    _inode: _Inode
    size_bytes: int

    def pread(self, offset: int, size: int) -> bytes:
        if self._disk.begin(f"read {self._path}") is Fault.FAIL:
            raise DiskError(f"{self._path}: cannot be read: {Fault.FAIL.value}")
        if offset + size <= len(self._inode.data):
            return bytes(self._inode.data[offset : offset + size])
        return self._inode.content()[offset : offset + size]

    def close(self) -> None:
        pass


_DiskT = TypeVar("_DiskT", bound="MemoryDisk")


class MemoryDisk:
    """See `platform.disk.Disk`, and the module for what it can simulate."""

    def __init__(
        self,
        clock: IReactorTime,
        chance: random.Random,
        sync_s: float = 0.001,
        capacity_bytes: int = 2**40,
    ) -> None:
        self.operations = 0
        self.faults: dict[int, Fault] = {}
        # Number of the operation that does not happen any more, as the power is gone.
        self.unplug_at: int | None = None
        # What each operation was, for tests that print where they failed.
        self.trace: list[str] = []
        self.capacity_bytes = capacity_bytes
        self.dead = False
        self.failure: DiskFailed | None = None
        self._clock = clock
        self._chance = chance
        self._sync_s = sync_s
        self._names: dict[str, _Inode | None] = {"": None}
        self._durable: dict[str, _Inode | None] = {"": None}
        self._changes: list[_Name] = []
        # Replacements under way: the content that is or is not there after a crash.
        self._replacing: dict[str, bytes] = {}
        self._callbacks: list[Callable[[BaseException], None]] = []

    # -- the simulation -----------------------------------------------------------------------

    def crash(self) -> MemoryDisk:
        """Cut the power; the result is what the restarted node finds."""
        return self._crash_into(
            MemoryDisk(self._clock, self._chance, self._sync_s, self.capacity_bytes)
        )

    def _crash_into(self, after: _DiskT) -> _DiskT:
        """Cut the power; `after`, an empty disk, becomes what the restarted node finds."""
        self.dead = True
        chance = self._chance
        names = dict(self._durable)
        lossy = {
            change.directory: chance.randint(0, len(self._changes)) for change in self._changes
        }
        for number, change in enumerate(self._changes):
            if number < lossy[change.directory]:
                change.apply(names)
        for path, data in self._replacing.items():
            if chance.random() < 0.5:
                names[path] = _Inode(bytearray(data))
            elif chance.random() < 0.5:
                names[path + ".tmp"] = _Inode(unsynced=[data])
        inodes: dict[int, _Inode] = {}
        for path in sorted(names):
            if path and names.get(_directory(path), path) is not None:
                continue  # Its directory was lost.
            inode = names[path]
            if inode is not None:
                inode = inodes.setdefault(id(inode), inode.after_crash(chance))
            after._names[path] = inode
        after._durable = dict(after._names)
        return after

    def flip_bit(self, path: str, bit: int) -> None:
        """Flip one bit of a file as it lies on the platter."""
        inode = self._names[path]
        assert inode is not None
        inode.data[bit // 8] ^= 1 << bit % 8

    def flip(self, data: bytearray) -> None:
        if data:
            data[self._chance.randrange(len(data))] ^= 1 << self._chance.randrange(8)

    def begin(self, what: str) -> Fault | None:
        """Count one operation; the fault planned for it, if any."""
        if self.unplug_at is not None and self.operations >= self.unplug_at:
            self.dead = True
        self.trace.append(what)
        self.operations += 1
        return None if self.dead else self.faults.get(self.operations - 1)

    def later(self, fault: Fault | None, f: Callable[[], None]) -> None:
        """Do the second half of a slow operation, unless the power is gone by then."""
        delay = self._sync_s * (1000 if fault is Fault.SLOW else 1)
        self._clock.callLater(delay, lambda: None if self.dead else f())

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure

    def fail(self, path: str) -> DiskFailed:
        failed = DiskFailed(f"{path}: {Fault.FAIL.value}")
        if self.failure is None:
            self.failure = failed
            for callback in self._callbacks:
                callback(failed)
        return failed

    def _change(self, what: str, change: _Name) -> None:
        self.check()
        fault = self.begin(what)
        if fault is Fault.FULL:
            raise DiskFull(f"{what}: no space left")
        if fault is Fault.FAIL:
            raise self.fail(what)
        change.apply(self._names)
        if not self.dead:
            self._changes.append(change)

    def _file(self, path: str) -> _Inode:
        inode = self._names.get(path)
        if inode is None:
            raise FileNotFoundError(path)
        return inode

    # -- the interface ------------------------------------------------------------------------

    def makedirs(self, path: str) -> None:
        parts = path.split("/")
        for end in range(1, len(parts) + 1):
            part = "/".join(parts[:end])
            if part not in self._names:
                self._change(f"makedirs {part}", _Name(_directory(part), {part: None}))

    def listdir(self, path: str) -> list[str]:
        return sorted(
            name.rpartition("/")[2] for name in self._names if name and _directory(name) == path
        )

    def exists(self, path: str) -> bool:
        return path in self._names

    def size_bytes(self, path: str) -> int:
        inode = self._file(path)
        return max(len(inode.data), inode.reserved)

    def free_bytes(self) -> int:
        inodes = {id(inode): inode for inode in self._names.values() if inode is not None}
        used = sum(max(len(inode.data), inode.reserved) for inode in inodes.values())
        return max(0, self.capacity_bytes - used)

    def create(
        self, path: str, preallocate_bytes: int = 0, background: bool = False
    ) -> _MemoryAppendFile:
        self.check()
        if path in self._names:
            raise FileExistsError(path)
        if _directory(path) not in self._names:
            raise FileNotFoundError(_directory(path))
        if self.free_bytes() == 0:
            raise DiskFull(f"{path}: no space left")
        inode = _Inode(reserved=min(preallocate_bytes, self.free_bytes()))
        self._change(f"create {path}", _Name(_directory(path), {path: inode}))
        return _MemoryAppendFile(path, self, inode)

    def open_append(self, path: str, truncate_to: int) -> _MemoryAppendFile:
        inode = self._file(path)
        self._change(f"open_append {path}", _Name(_directory(path), {path: inode}))
        if not self.dead:
            content = inode.content()
            inode.cut = content[truncate_to:].rstrip(b"\0")
            inode.data = bytearray(content[:truncate_to])
            inode.reserved = 0
        return _MemoryAppendFile(path, self, inode)

    def open_read(self, path: str) -> _MemoryReadFile:
        inode = self._file(path)
        return _MemoryReadFile(path, self, inode, max(len(inode.data), inode.reserved))

    def read(self, path: str) -> bytes:
        file = self.open_read(path)
        return file.pread(0, file.size_bytes)

    def replace(self, path: str, data: bytes) -> Deferred[None]:
        if self.failure is not None:
            return fail(self.failure)
        done: Deferred[None] = Deferred()
        fault = self.begin(f"replace {path}")
        changes = self._changes_of(_directory(path))
        if not self.dead:
            self._replacing[path] = data

        def complete() -> None:
            if fault is Fault.FAIL or self.failure is not None:
                # Left in `_replacing`: nobody knows which content stands.
                done.errback(self.fail(path))
                return
            self._replacing.pop(path, None)
            if fault is Fault.FULL or len(data) > self.free_bytes():
                done.errback(DiskFull(f"{path}: no space left"))
                return
            content = bytearray(data)
            if fault is Fault.FLIP:
                self.flip(content)
            self._make_durable(changes)
            self._names[path] = self._durable[path] = _Inode(content)
            done.callback(None)

        self.later(fault, complete)
        return done

    def rename(self, old: str, new: str) -> None:
        inode = self._file(old)
        self._change(f"rename {old} {new}", _Name(_directory(new), {new: inode}, (old,)))

    def link(self, old: str, new: str) -> None:
        inode = self._file(old)
        if new in self._names:
            raise FileExistsError(new)
        self._change(f"link {old} {new}", _Name(_directory(new), {new: inode}))

    def remove(self, path: str) -> None:
        if path not in self._names:
            return
        if self._names[path] is None and self.listdir(path):
            raise DiskError(f"{path}: directory not empty")
        self._change(f"remove {path}", _Name(_directory(path), {}, (path,)))

    def sync_dir(self, path: str) -> Deferred[None]:
        if self.failure is not None:
            return fail(self.failure)
        done: Deferred[None] = Deferred()
        fault = self.begin(f"sync_dir {path}")
        changes = self._changes_of(path)

        def complete() -> None:
            if fault is Fault.FAIL or self.failure is not None:
                done.errback(self.fail(path))
                return
            if fault is Fault.FULL:
                done.errback(DiskFull(f"{path}: no space left"))
                return
            self._make_durable(changes)
            done.callback(None)

        self.later(fault, complete)
        return done

    def _changes_of(self, directory: str) -> list[_Name]:
        return [change for change in self._changes if change.directory == directory]

    def _make_durable(self, changes: list[_Name]) -> None:
        for change in changes:
            change.apply(self._durable)
        gone = {id(change) for change in changes}
        self._changes = [change for change in self._changes if id(change) not in gone]

    def on_failure(self, callback: Callable[[BaseException], None]) -> None:
        self._callbacks.append(callback)

    def close(self) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        # Behind whatever is under way.
        self._clock.callLater(self._sync_s, done.callback, None)
        return done


def _directory(path: str) -> str:
    return path.rpartition("/")[0]

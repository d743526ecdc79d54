"""The disk of a real node: a directory, and one thread that writes and syncs.

Theory of operation
    The reactor appends to lists in memory; the thread takes whatever has gathered for a file, writes
    it with one system call and makes one fdatasync for all that wait. While it does, the next
    batch gathers: that is the whole group commit, there is no timer and only one batch in flight.

    The thread has two lanes. Logs, small files and directories go first; tables (`background`
    files) and the zero-filling of reserved room are cut into pieces so that a log never waits for
    more than one of them.

    Zero-filling: an fdatasync over blocks that exist and have been written before need not touch
    the file system's own log, which halves its cost. Mere allocation (fallocate) does not do that.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger

from penncloud.platform.errors import DiskError, DiskFailed, DiskFull
from penncloud.platform.plain_files import NO_ROOM, PlainReadFile

_T = TypeVar("_T")
# What the thread does: it returns what the reactor has to be told, if anything.
_Work = Callable[[], Callable[[], None] | None]

# Bytes gathered in memory at which they are written without waiting for a sync.
_WRITE_EARLY_BYTES: Final = 1024 * 1024
# Zero-filled and synced at once: a log waits for at most one such piece.
_FILL_BYTES: Final = 1024 * 1024
# Written at once: the system keeps what one call wrote in large units, and takes all of a unit for written
# anew whenever a little of it is.
_ZEROS: Final = bytes(16 * 1024)
# Buffers of one writev (IOV_MAX on Linux).
_MAX_BUFFERS: Final = 1024


class SystemCalls:
    """The calls that can fail for lack of room or a broken disk; tests replace them."""

    def write(self, fd: int, chunks: Sequence[bytes], offset: int) -> int:
        """Write some of `chunks` at `offset` and return how many bytes."""
        return os.pwritev(fd, chunks, offset)

    def sync(self, fd: int) -> None:
        os.fdatasync(fd)

    def sync_directory(self, fd: int) -> None:
        os.fsync(fd)


class _RealAppendFile:
    """See `platform.disk.AppendFile`. Fields under "thread" are touched by the disk thread only."""

    def __init__(self, disk: RealDisk, path: str, fd: int, size: int, background: bool) -> None:
        self.path = path
        self.background = background
        self._disk = disk
        self._size = size
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._waiters: list[Deferred[None]] = []
        self._queued = False
        # Bytes were appended since the last call of `sync`; bytes of that kind were taken back.
        self._uncovered = False
        self._lost = False
        self._closed = False
        # Set by the thread when it took bytes back, cleared by the reactor when it has noticed:
        # in between nothing is written, as what gathers was meant to follow the lost bytes.
        self._refused = False
        # thread:
        self._fd = fd
        self._written = size
        self._synced = size
        self._filled = size
        self._fill_to = 0

    @property
    def size_bytes(self) -> int:
        return self._size

    def append(self, data: bytes | Sequence[bytes]) -> int:
        self._disk.check()
        if self._closed:
            raise ValueError(f"{self.path} is closed")
        chunks = (data,) if isinstance(data, bytes) else data
        offset = self._size
        added = sum(map(len, chunks))
        with self._disk.lock:
            self._pending.extend(chunks)
            self._pending_bytes += added
        self._size += added
        self._uncovered = True
        if self._pending_bytes >= _WRITE_EARLY_BYTES:
            self._enqueue()
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
        with self._disk.lock:
            self._waiters.append(waiter)
        self._enqueue()
        return waiter

    def close(self) -> Deferred[None]:
        if self._closed:
            raise ValueError(f"{self.path} is closed")
        self._closed = True
        synced = self._sync()
        self._disk.enqueue(self._close_file, self.background)
        return synced

    def _enqueue(self) -> None:
        with self._disk.lock:
            if self._queued:
                return
            self._queued = True
        self._disk.enqueue(self._write_out, self.background)

    # -- in the thread ------------------------------------------------------------------------

    def _write_out(self) -> Callable[[], None] | None:
        """Write what has gathered; sync if anybody waits for it."""
        with self._disk.lock:
            self._queued = False
            if self._refused:
                return None
            chunks, self._pending = self._pending, []
            waiters, self._waiters = self._waiters, []
            self._pending_bytes = 0
        if (failure := self._disk.failure) is not None:
            return lambda: _fail_all(waiters, failure)
        try:
            self._write(chunks)
        except OSError as error:
            if error.errno in NO_ROOM and self._take_back():
                self._refused = True
                return lambda: self._notice_refusal(waiters)
            failed = self._disk.fail(self.path, error)
            return lambda: _fail_all(waiters, failed)
        if not waiters:
            return None
        try:
            self._disk.calls.sync(self._fd)
        except OSError as error:
            failed = self._disk.fail(self.path, error)
            return lambda: _fail_all(waiters, failed)
        self._synced = self._written
        return lambda: _succeed_all(waiters)

    def _write(self, chunks: list[bytes]) -> None:
        position = 0
        while position < len(chunks):
            buffers = chunks[position : position + _MAX_BUFFERS]
            wanted = sum(map(len, buffers))
            done = self._disk.calls.write(self._fd, buffers, self._written)
            self._written += done
            if done < wanted:
                # Rare (nearly full, or a signal): the next call tells the reason.
                rest = b"".join(buffers)[done:]
                chunks[position : position + _MAX_BUFFERS] = [rest]
            else:
                position += len(buffers)

    def _take_back(self) -> bool:
        """Cut the file to its last synced state, durably; false when even that fails."""
        try:
            os.ftruncate(self._fd, self._synced)
            self._disk.calls.sync(self._fd)
        except OSError:
            return False
        self._written = self._filled = self._synced
        self._fill_to = 0
        return True

    def fill(self, fill_to: int) -> None:
        self._fill_to = fill_to
        self._disk.enqueue(self._fill_piece, True)

    def _fill_piece(self) -> Callable[[], None] | None:
        start = max(self._filled, self._written)
        if self._fd < 0 or start >= self._fill_to or self._disk.failure is not None:
            return None
        stop = min(start + _FILL_BYTES, self._fill_to)
        self._filled = start
        try:
            while self._filled < stop:
                piece = memoryview(_ZEROS)[: stop - self._filled]
                self._filled += os.pwrite(self._fd, piece, self._filled)
            self._disk.calls.sync(self._fd)
        except OSError as error:
            if error.errno not in NO_ROOM:
                self._disk.fail(self.path, error)
            # No room to reserve is no failure: an append that finds none will say so.
            return None
        self._disk.enqueue(self._fill_piece, True)
        return None

    def _close_file(self) -> Callable[[], None] | None:
        told = self._write_out()
        if self._filled > self._written:
            os.ftruncate(self._fd, self._written)
        os.close(self._fd)
        self._fd = -1
        return told

    # -- back in the reactor ------------------------------------------------------------------

    def _notice_refusal(self, waiters: list[Deferred[None]]) -> None:
        with self._disk.lock:
            waiters = waiters + self._waiters
            self._waiters = []
            self._pending = []
            self._pending_bytes = 0
            self._size = self._synced
            self._lost = self._uncovered
            self._refused = False
        _fail_all(waiters, DiskFull(f"{self.path}: no space left"))


class _RealReadFile(PlainReadFile):
    """Closed in the thread: the last one to close a removed file waits for its blocks to be freed."""

    def __init__(self, disk: RealDisk, path: str, fd: int) -> None:
        super().__init__(path, fd)
        self._disk = disk

    def close(self) -> None:
        if self._disk.has_thread:
            self._disk.enqueue(super().close, True)
        else:
            super().close()


class RealDisk:
    """See `platform.disk.Disk`. `reactor` needs callFromThread only."""

    _log = Logger()

    def __init__(self, directory: str, reactor: Any, calls: SystemCalls | None = None) -> None:
        """`directory` has to exist. The thread starts with the first thing there is to do."""
        self.directory = directory
        self.calls = SystemCalls() if calls is None else calls
        self.lock = threading.Lock()
        self.failure: DiskFailed | None = None
        # An item for each thing to do, and one for the end. To wait for one takes no Python code, and no
        # more system calls than a lock.
        self._due: SimpleQueue[None] = SimpleQueue()
        self._urgent: deque[_Work] = deque()
        self._background: deque[_Work] = deque()
        self._reactor = reactor
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._callbacks: list[Callable[[BaseException], None]] = []

    # -- queue and thread ---------------------------------------------------------------------

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure

    @property
    def has_thread(self) -> bool:
        """Whether what is queued now is going to be done (by a thread that needs no start)."""
        return self._thread is not None and not self._stopping

    def enqueue(self, work: _Work, background: bool) -> None:
        (self._background if background else self._urgent).append(work)
        self._due.put(None)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="disk", daemon=True)
            self._thread.start()

    def fail(self, path: str, error: OSError) -> DiskFailed:
        """Remember that the disk is not to be trusted any more, and tell the node (any thread)."""
        failed = DiskFailed(f"{path}: {error.strerror}")
        if self.failure is None:
            self.failure = failed
            self._reactor.callFromThread(self._report_failure)
        return failed

    def _report_failure(self) -> None:
        assert self.failure is not None
        self._log.critical("The disk has failed: {error}", error=str(self.failure))
        for callback in self._callbacks:
            callback(self.failure)

    def _run(self) -> None:
        while True:
            self._due.get()
            waiting = self._urgent or self._background
            if not waiting:
                return
            told = waiting.popleft()()
            if told is not None:
                self._reactor.callFromThread(told)

    def _in_thread(self, path: str, f: Callable[[], None]) -> Deferred[None]:
        """Run `f` in the thread; no room fails the call, any other error fails the disk."""
        done: Deferred[None] = Deferred()

        def work() -> Callable[[], None]:
            error: DiskError | None = self.failure
            if error is None:
                try:
                    f()
                except OSError as reason:
                    if reason.errno in NO_ROOM:
                        error = DiskFull(f"{path}: no space left")
                    else:
                        error = self.fail(path, reason)
            if error is None:
                return lambda: done.callback(None)
            failed = error
            return lambda: done.errback(failed)

        self.enqueue(work, False)
        return done

    @contextmanager
    def _changing(self, path: str) -> Iterator[str]:
        """The real path; errors of changes to directories become what `Disk` promises."""
        self.check()
        try:
            yield os.path.join(self.directory, path)
        except (FileNotFoundError, FileExistsError):
            raise
        except OSError as error:
            if error.errno in NO_ROOM:
                raise DiskFull(f"{path}: no space left") from error
            if error.errno == errno.EIO:
                raise self.fail(path, error) from error
            raise DiskError(f"{path}: {error.strerror}") from error

    # -- the interface ------------------------------------------------------------------------

    def makedirs(self, path: str) -> None:
        with self._changing(path) as real:
            os.makedirs(real, mode=0o700, exist_ok=True)

    def listdir(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(os.path.join(self.directory, path)))
        except FileNotFoundError:
            return []

    def exists(self, path: str) -> bool:
        return os.path.exists(os.path.join(self.directory, path))

    def size_bytes(self, path: str) -> int:
        return os.stat(os.path.join(self.directory, path)).st_size

    def free_bytes(self) -> int:
        found = os.statvfs(self.directory)
        return found.f_bavail * found.f_frsize

    def create(
        self, path: str, preallocate_bytes: int = 0, background: bool = False
    ) -> _RealAppendFile:
        with self._changing(path) as real:
            fd = os.open(real, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        file = _RealAppendFile(self, path, fd, 0, background)
        if preallocate_bytes:
            file.fill(preallocate_bytes)
        return file

    def open_append(self, path: str, truncate_to: int) -> _RealAppendFile:
        with self._changing(path) as real:
            fd = os.open(real, os.O_WRONLY | os.O_CLOEXEC)
            os.ftruncate(fd, truncate_to)
        return _RealAppendFile(self, path, fd, truncate_to, False)

    def open_read(self, path: str) -> _RealReadFile:
        real = os.path.join(self.directory, path)
        try:
            return _RealReadFile(self, path, os.open(real, os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DiskError(f"{path}: cannot be opened: {error.strerror}") from error

    def read(self, path: str) -> bytes:
        file = self.open_read(path)
        try:
            return file.pread(0, file.size_bytes)
        finally:
            file.close()

    def replace(self, path: str, data: bytes) -> Deferred[None]:
        real = os.path.join(self.directory, path)
        temporary = real + ".tmp"

        def work() -> None:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                written = 0
                while written < len(data):
                    written += self.calls.write(fd, [data[written:]], written)
                self.calls.sync(fd)
            except OSError:
                os.unlink(temporary)
                raise
            finally:
                os.close(fd)
            os.rename(temporary, real)
            self._sync_directory(os.path.dirname(real))

        return self._in_thread(path, work)

    def rename(self, old: str, new: str) -> None:
        with self._changing(old) as real:
            os.rename(real, os.path.join(self.directory, new))

    def link(self, old: str, new: str) -> None:
        with self._changing(old) as real:
            os.link(real, os.path.join(self.directory, new))

    def remove(self, path: str) -> None:
        try:
            with self._changing(path) as real:
                if os.path.isdir(real):
                    os.rmdir(real)
                    return
                # Freeing a large file's blocks takes milliseconds: it happens when the last
                # descriptor is closed, so let the thread do that.
                fd = os.open(real, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.unlink(real)
                finally:
                    self.enqueue(lambda: os.close(fd), True)
        except FileNotFoundError:
            return

    def sync_dir(self, path: str) -> Deferred[None]:
        real = os.path.join(self.directory, path)
        return self._in_thread(path, lambda: self._sync_directory(real))

    def _sync_directory(self, real: str) -> None:
        fd = os.open(real, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.calls.sync_directory(fd)
        finally:
            os.close(fd)

    def on_failure(self, callback: Callable[[BaseException], None]) -> None:
        self._callbacks.append(callback)

    def close(self) -> Deferred[None]:
        done: Deferred[None] = Deferred()

        def last() -> Callable[[], None]:
            return lambda: done.callback(None)

        # In the background lane, so that both lanes are empty when it runs.
        self.enqueue(last, True)
        self._stopping = True
        self._due.put(None)
        return done


def _succeed_all(waiters: list[Deferred[None]]) -> None:
    for waiter in waiters:
        waiter.callback(None)


def _fail_all(waiters: list[Deferred[None]], error: DiskError) -> None:
    for waiter in waiters:
        waiter.errback(error)

"""The disk thread: the contract, and what only the real one has."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from penncloud.platform.errors import DiskError, DiskFull
from penncloud.platform.real_disk import RealDisk, SystemCalls
from tests.platform import disk_contract

_T = TypeVar("_T")


class Broken(SystemCalls):
    """System calls that count, and fail or wait when they are told to."""

    def __init__(self) -> None:
        self.write_error: int | None = None
        self.sync_error: int | None = None
        self.short_writes = False
        self.syncs = 0
        self.gate = threading.Event()
        self.gate.set()

    def write(self, fd: int, chunks: Sequence[bytes], offset: int) -> int:
        if self.write_error is not None:
            error, self.write_error = self.write_error, None
            os.pwrite(fd, b"partly", offset)
            raise OSError(error, os.strerror(error))
        if self.short_writes:
            return os.pwrite(fd, b"".join(chunks)[:7], offset)
        return super().write(fd, chunks, offset)

    def sync(self, fd: int) -> None:
        self.gate.wait()
        self.syncs += 1
        if self.sync_error is not None:
            error, self.sync_error = self.sync_error, None
            raise OSError(error, os.strerror(error))
        super().sync(fd)


class RealDiskTests(disk_contract.DiskContract):
    """RealDisk passes the contract, groups its syncs, and survives odd system calls."""

    def setUp(self) -> None:
        directory = self.mktemp()
        os.mkdir(directory)
        self.calls = Broken()
        self.disk: RealDisk = RealDisk(directory, reactor, self.calls)
        self.addCleanup(self.disk.close)

    def settle(self, result: Deferred[_T]) -> Awaitable[_T]:
        return result

    def fail_next_write(self) -> None:
        self.calls.write_error = errno.ENOSPC

    def fail_next_sync(self) -> None:
        self.calls.sync_error = errno.EIO

    async def test_group_commit(self) -> None:
        """What gathers while one sync runs shares the next one."""
        file = self.disk.create("log")
        self.calls.gate.clear()
        file.append(b"first")
        waiting = [file.sync()]
        for _ in range(100):
            file.append(b"gathered")
            waiting.append(file.sync())
        self.calls.gate.set()
        await gatherResults(waiting)
        # One for what the thread took first, one for the rest.
        self.assertLessEqual(self.calls.syncs, 2)
        await file.close()

    async def test_short_writes(self) -> None:
        """A write that takes only a part is continued."""
        self.calls.short_writes = True
        file = self.disk.create("log")
        file.append([b"0123456789", b"abcdefghij"])
        await file.close()
        await self.disk.replace("small", b"0123456789")
        self.assertEqual(self.disk.read("log"), b"0123456789abcdefghij")
        self.assertEqual(self.disk.read("small"), b"0123456789")

    async def test_reserved_room_is_filled(self) -> None:
        """Preallocation writes zeros to the end of the reserve, and no further."""
        file = self.disk.create("log", preallocate_bytes=3_000_000)
        for _ in range(6):
            await file.sync()
            await self.disk.create(f"x{_}", background=True).close()
        self.assertEqual(self.disk.size_bytes("log"), 3_000_000)
        await file.close()

    async def test_no_room_for_the_reserve(self) -> None:
        """A refused batch gives up the reserve; the file still works."""
        file = self.disk.create("log", preallocate_bytes=2_000_000)
        self.calls.write_error = errno.EDQUOT
        file.append(b"refused")
        with self.assertRaises(DiskFull):
            await file.sync()
        file.append(b"taken")
        await file.close()
        self.assertEqual(self.disk.read("log"), b"taken")

    async def test_early_write(self) -> None:
        """Bytes that nobody syncs do not pile up in memory."""
        file = self.disk.create("table", background=True)
        file.append(b"x" * 2_000_000)
        # Same lane: when this is done, the early write is.
        await self.disk.create("marker", background=True).close()
        self.assertEqual(self.disk.size_bytes("table"), 2_000_000)
        self.assertEqual(file._pending, [])
        await file.close()

    def test_not_readable(self) -> None:
        """What the system refuses becomes a DiskError that names the path."""
        self.disk.makedirs("directory/inner")
        with self.assertRaisesRegex(DiskError, "directory"):
            self.disk.read("directory")
        with self.assertRaisesRegex(DiskError, "directory"):
            self.disk.remove("directory")

"""Files of a directory without a reactor: for child processes, which may wait for their disk.

Errors are those of `platform.disk`. There is nothing here about a failed disk: a child that meets one
says so and ends, and what it wrote is thrown away.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from penncloud.platform.errors import DiskError, DiskFull

# Without room on the disk, or in the administrator's quota.
NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
# Bytes after which a file is written and synced: bounds memory, and what another file's sync waits for.
_SYNC_BYTES: Final = 1024 * 1024


def _refused(path: str, error: OSError) -> DiskError:
    if error.errno in NO_ROOM:
        return DiskFull(f"{path}: no space left")
    return DiskError(f"{path}: {error.strerror}")


class PlainReadFile:
    """See `platform.disk.ReadFile`."""

    def __init__(self, path: str, fd: int) -> None:
        self._path = path
        self._fd = fd
        self.size_bytes = os.fstat(fd).st_size

    def pread(self, offset: int, size: int) -> bytes:
        try:
            return os.pread(self._fd, size, offset)
        except OSError as error:
            raise DiskError(f"{self._path}: cannot be read: {error.strerror}") from error

    def close(self) -> None:
        os.close(self._fd)


class PlainNewFile:
    """A file being written from its beginning."""

    def __init__(self, path: str, fd: int) -> None:
        self._path = path
        self._fd = fd
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0

    def write(self, parts: list[bytes]) -> None:
        """Add to the file; raises DiskFull, DiskError."""
        self._gathered += parts
        self._gathered_bytes += sum(map(len, parts))
        if self._gathered_bytes >= _SYNC_BYTES:
            self.sync()

    def sync(self) -> None:
        """Return when all of it is on the disk, but for its name. Raises DiskFull, DiskError."""
        rest = memoryview(b"".join(self._gathered))
        self._gathered, self._gathered_bytes = [], 0
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            os.fdatasync(self._fd)
        except OSError as error:
            raise _refused(self._path, error) from error

    def close(self) -> None:
        os.close(self._fd)


class PlainFiles:
    """Paths are relative to `directory`, as those of a `Disk`."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def open_read(self, path: str) -> PlainReadFile:
        """Raises FileNotFoundError, DiskError."""
        real = os.path.join(self._directory, path)
        try:
            return PlainReadFile(path, os.open(real, os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DiskError(f"{path}: cannot be opened: {error.strerror}") from error

    def create(self, path: str) -> PlainNewFile:
        """A new file; one that exists is an error. Raises DiskFull, DiskError."""
        real = os.path.join(self._directory, path)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            return PlainNewFile(path, os.open(real, flags, 0o600))
        except OSError as error:
            raise _refused(path, error) from error

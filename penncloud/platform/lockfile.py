"""One process per data directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from penncloud.platform.errors import ConfigurationError, DirectoryLocked


class DirectoryLock:
    """An advisory lock on DIR/LOCK, held until released or until the process ends, however it ends.

    The file holds the pid of the holder, for the error message of the one who comes too late.
    """

    def __init__(self, directory: str) -> None:
        """Make the directory if need be and take the lock.

        Raises ConfigurationError when the directory cannot be written, DirectoryLocked when another
        process holds it.
        """
        path = Path(directory) / "LOCK"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"data directory {directory}: not writable: {error.strerror}"
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise DirectoryLocked(
                f"data directory {directory}: in use by another process (pid {holder})"
            ) from None
        # On a full disk the lock has to do without.
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._fd)

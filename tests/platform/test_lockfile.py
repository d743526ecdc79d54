"""One process per data directory, also where the disk has no room."""

from __future__ import annotations

import errno
import os

from twisted.trial.unittest import SynchronousTestCase

from penncloud.platform.errors import DirectoryLocked
from penncloud.platform.lockfile import DirectoryLock


class LockTests(SynchronousTestCase):
    """Two in one directory."""

    def test_the_second_is_refused(self) -> None:
        """It is told who holds it; once that one has let go, it may."""
        directory = self.mktemp()
        first = DirectoryLock(directory)
        refused = self.assertRaises(DirectoryLocked, DirectoryLock, directory)
        self.assertIn(f"pid {os.getpid()}", str(refused))
        first.release()
        DirectoryLock(directory).release()

    def test_a_full_disk(self) -> None:
        """There is no room for the holder's pid: the lock holds without."""

        def no_room(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        self.patch(os, "pwrite", no_room)
        directory = self.mktemp()
        lock = DirectoryLock(directory)
        refused = self.assertRaises(DirectoryLocked, DirectoryLock, directory)
        self.assertIn("pid unknown", str(refused))
        lock.release()

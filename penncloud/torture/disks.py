"""Data directories that can be made full: each a small file system in memory, mounted over it.

A mount that a killed run has left behind is over a directory of its own data directory; the next run on that
directory removes it.
"""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import Final

from attrs import define, field

from penncloud.platform.errors import PennCloudError

_COMMAND_S: Final = 20.0
# What one server may store in a run. It is memory only as far as it is used.
DISK_BYTES: Final = 2 * 2**30
_BALLAST: Final = "ballast"


class NoMounts(PennCloudError):
    """A file system cannot be mounted here; the text says why."""


@define
class SmallDisks:
    """One for each server's data directory, by the directory's path."""

    _mounted: list[Path] = field(factory=list)

    def add(self, directory: Path) -> None:
        """Mount an empty file system over the directory. Raises NoMounts."""
        unmount(directory)
        options = f"size={DISK_BYTES},mode=0700"
        _run("mount", "-t", "tmpfs", "-o", options, "penncloud-torture", str(directory))
        self._mounted.append(directory)

    def try_out(self, directory: Path) -> None:
        """Mount one and unmount it. Raises NoMounts."""
        probe = directory / "probe"
        probe.mkdir(exist_ok=True)
        try:
            self.add(probe)
            self.remove()
        finally:
            probe.rmdir()

    def fill(self, directory: Path) -> None:
        """Leave no room at all."""
        descriptor = os.open(directory / _BALLAST, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Others write and remove meanwhile: take what is left until nothing is.
            for _ in range(100):
                free = os.statvfs(directory)
                room = free.f_bavail * free.f_frsize
                if room == 0:
                    return
                try:
                    os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, room)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
        finally:
            os.close(descriptor)

    def make_room(self, directory: Path) -> None:
        (directory / _BALLAST).unlink(missing_ok=True)

    def remove(self) -> None:
        """Unmount all; to be called when no process has a file open there any more."""
        while self._mounted:
            unmount(self._mounted.pop())


def unmount(directory: Path) -> None:
    """Unmount what is mounted over the directory; nothing happens when nothing is."""
    while directory.is_mount():
        _run("umount", str(directory))


def _run(*command: str) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_COMMAND_S, check=False, text=True
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoMounts(f"{' '.join(command)}: {error}") from error
    if done.returncode != 0:
        raise NoMounts(f"{' '.join(command)}: {done.stderr.strip()}")

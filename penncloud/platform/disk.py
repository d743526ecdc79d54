"""The disk as the rest of PennCloud sees it: a seam with a real and a simulated side.

Theory of operation
    Files come in two sorts. An *append file* is written at its end only and read back by offset;
    logs and tables are such files. A *small file* (manifest, term and vote) is replaced as a whole:
    `replace` writes a temporary file, syncs it, renames it over the old one and syncs the directory.

    `AppendFile.append` takes bytes at once and gives their offset; they are on the disk when the
    Deferred of a later `sync` fires. Everything appended while one sync runs shares the next one
    (group commit). Nothing that was appended but not synced may be assumed to exist after a crash;
    nor may a new directory entry before `sync_dir`.

    When there is no room, all that the file holds unsynced is taken back: the file is as the last
    successful sync left it, every sync under way fails with `DiskFull`, and so does one called
    later for bytes that were taken back. After that the file may be appended to again.

    After a failed sync the whole disk is dead (`DiskFailed`): the node stops, see `platform.errors`.

    Creating, renaming, linking, removing and reading are done at once, in the caller's thread: they
    are short. Writing and syncing never are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.internet.defer import Deferred


class AppendFile(Protocol):
    """One file that grows at its end."""

    @property
    def path(self) -> str: ...

    @property
    def size_bytes(self) -> int:
        """Length including what was appended but not yet synced."""
        ...

    def append(self, data: bytes | Sequence[bytes]) -> int:
        """Queue bytes for the end of the file and return the offset of the first of them.

        The bytes must not change afterwards. Raises DiskFailed at once when the disk has failed.
        """
        ...

    def sync(self) -> Deferred[None]:
        """Fire when all that was appended before this call survives a power cut.

        Errors: DiskFull when there was no room (nothing unsynced remains in the file, and the file
        may be appended to again), DiskFailed when the disk must not be used again.
        """
        ...

    def close(self) -> Deferred[None]:
        """Sync what is left, give unused reserved room back and close; later calls are errors.

        Fails as `sync` does; the file is closed all the same.
        """
        ...


class ReadFile(Protocol):
    """One file opened for reading at any offset; it stays readable when the file is removed."""

    @property
    def size_bytes(self) -> int:
        """Length when it was opened, with reserved room that was never written (zeros)."""
        ...

    def pread(self, offset: int, size: int) -> bytes:
        """Bytes [offset, offset + size), fewer at the end of the file. Raises DiskError."""
        ...

    def close(self) -> None: ...


class Disk(Protocol):
    """A directory tree that belongs to one node. Paths are relative, with `/` between parts.

    Methods that work at once raise FileNotFoundError or FileExistsError where that is the reason,
    DiskFull when there is no room, DiskFailed after a failure, and DiskError for the rest.
    """

    def makedirs(self, path: str) -> None: ...

    def listdir(self, path: str) -> list[str]:
        """Names in a directory, sorted; empty when there is no such directory."""
        ...

    def exists(self, path: str) -> bool: ...

    def size_bytes(self, path: str) -> int: ...

    def free_bytes(self) -> int:
        """Space that a file of this node could still take."""
        ...

    def create(self, path: str, preallocate_bytes: int = 0, background: bool = False) -> AppendFile:
        """A new empty append file (an existing one is an error), with room reserved if asked.

        Reserved room is filled with zeros in the background, which makes later syncs cheaper. A
        `background` file lets the writes and syncs of other files go first (tables, beside a log).
        """
        ...

    def open_append(self, path: str, truncate_to: int) -> AppendFile:
        """An existing file, cut to `truncate_to` bytes, to be continued at its end.

        The cut is durable with the next sync.
        """
        ...

    def open_read(self, path: str) -> ReadFile: ...

    def read(self, path: str) -> bytes:
        """A whole small file. Raises FileNotFoundError when it does not exist, else DiskError."""
        ...

    def replace(self, path: str, data: bytes) -> Deferred[None]:
        """Atomically and durably make `data` the content of a small file.

        Errors: DiskFull (the old content stands), DiskFailed (either content may stand).
        """
        ...

    def rename(self, old: str, new: str) -> None:
        """Durable after the next `sync_dir` of the directory."""
        ...

    def link(self, old: str, new: str) -> None:
        """A second name for the same (immutable) file."""
        ...

    def remove(self, path: str) -> None:
        """Forget a file (open readers keep it) or an empty directory; absent is no error."""
        ...

    def sync_dir(self, path: str) -> Deferred[None]: ...

    def on_failure(self, callback: Callable[[BaseException], None]) -> None:
        """Call back once when a write or sync has failed for good: the node must stop."""
        ...

    def close(self) -> Deferred[None]:
        """Let what is queued finish; the disk is not used afterwards."""
        ...

"""The directory that holds backups.

    FORMAT                     "penncloud backup 1"
    LOCK                       held by the program that writes
    backups/NAME/ID.cells      the cells of one tablet: frames of at most FRAME_CELLS cells; a hard link
                               to that of the backup before where nothing has changed
    backups/NAME/manifest.json written last: without it the backup is not there
    packs/NAME.pack            values of LARGE bytes and more, one after the other

A frame is the length of its payload and its CRC-32C (4 bytes each, big-endian), and the payload: zstd of a
msgpack list of `SavedCell`. A small value stands in its cell. A large one lies in a pack, as its CRC-32C
(4 bytes) and its bytes; its cell says where. The next backup names it there again if the cell is
unchanged: so a backup holds only what is new, yet each can be restored, verified and removed without
looking at another one's list of cells. A pack lives as long as a backup names it.

Everything is synced before the manifest is written, and the manifest appears at once (rename).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import google_crc32c
import msgspec
import zstandard

from penncloud.platform.errors import ConfigurationError, PennCloudError
from penncloud.platform.lockfile import DirectoryLock

FORMAT: Final = "penncloud backup 1\n"
LARGE: Final = 4096
FRAME_CELLS: Final = 1000
_MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
_HEADER: Final = 8


class BackupDamaged(PennCloudError):
    """A file of the backup does not hold what was written; the text names it."""


class NoSuchBackup(PennCloudError):
    """The directory has no (such) backup."""


class Place(msgspec.Struct, array_like=True, frozen=True):
    """Where a large value lies: the pack's name and the offset of its checksum."""

    pack: str
    offset: int


class SavedCell(msgspec.Struct, array_like=True, frozen=True):
    """`value` or `place`, not both. `hashed` (of large values): `_digest.value_hash`."""

    row: bytes
    col: bytes
    version: int
    size: int
    value: bytes = b""
    place: Place | None = None
    hashed: bytes = b""


class SavedTablet(msgspec.Struct, frozen=True):
    """`version`: the last mutation in it; no version in it is greater."""

    id: int
    lo: int
    hi: int
    epoch: int
    version: int


class Manifest(msgspec.Struct, frozen=True):
    """`at` in Unix seconds: when the snapshot was taken. `cluster` tells one cluster from another: only
    within one do equal versions mean equal values. `packs` are those that its cells name."""

    name: str
    at: float
    cluster: str
    tablets: list[SavedTablet]
    cells: int
    bytes: int
    digest: str
    packs: list[str]
    new_bytes: int


class Repository:
    """The backups of one directory."""

    def __init__(self, directory: Path) -> None:
        self.root = directory
        self._lock: DirectoryLock | None = None

    # -- the directory ---------------------------------------------------------------------------

    def open_to_write(self) -> None:
        """Make the directory if need be, and keep other writers out.

        Raises ConfigurationError for one that cannot be written or holds something else.
        """
        if self.root.is_dir() and any(self.root.iterdir()):
            self.check()
        self._lock = DirectoryLock(str(self.root))
        try:
            (self.root / "backups").mkdir(exist_ok=True)
            (self.root / "packs").mkdir(exist_ok=True)
            if not (self.root / "FORMAT").exists():
                write_synced(self.root / "FORMAT", FORMAT.encode())
        except OSError as error:
            raise ConfigurationError(f"{self.root}: not writable: {error.strerror}") from error
        self.remove_unfinished()

    def close(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def check(self) -> None:
        """Raises ConfigurationError unless this is a directory of backups."""
        try:
            found = (self.root / "FORMAT").read_text("ascii", "replace")
        except OSError:
            found = ""
        if found != FORMAT:
            raise ConfigurationError(f"{self.root} is no directory of PennCloud backups")

    def remove_unfinished(self) -> None:
        """What backups that were cut off left, and packs that no backup names."""
        kept: set[str] = set()
        for path in (self.root / "backups").iterdir():
            if (path / "manifest.json").exists():
                kept.update(self.manifest(path.name).packs)
            else:
                shutil.rmtree(path)
        for pack in (self.root / "packs").iterdir():
            if pack.stem not in kept:
                pack.unlink()

    def remove(self, name: str) -> None:
        """Forget a backup, and what only it has. The directory has to be open to write."""
        (self._path(name) / "manifest.json").unlink()
        self.remove_unfinished()

    # -- backups ---------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """All complete backups, the oldest first."""
        with contextlib.suppress(OSError):
            found = (self.root / "backups").iterdir()
            return sorted(path.name for path in found if (path / "manifest.json").exists())
        return []

    def latest(self) -> Manifest:
        """Raises NoSuchBackup."""
        names = self.names()
        if not names:
            raise NoSuchBackup(f"{self.root} has no complete backup")
        return self.manifest(names[-1])

    def manifest(self, name: str) -> Manifest:
        """Raises NoSuchBackup, BackupDamaged."""
        path = self._path(name) / "manifest.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Manifest)
        except FileNotFoundError as error:
            raise NoSuchBackup(f"{self.root} has no complete backup {name}") from error
        except OSError as error:
            raise BackupDamaged(f"{path}: {error.strerror}") from error
        except msgspec.MsgspecError as error:
            raise BackupDamaged(f"{path}: {error}") from error

    def _path(self, name: str) -> Path:
        if not name.isalnum():
            raise NoSuchBackup(f"{name} is no name of a backup")
        return self.root / "backups" / name

    def cells(self, name: str, tablet: int) -> Iterator[list[SavedCell]]:
        """The cells of a tablet, frame by frame. Raises BackupDamaged."""
        path = self._path(name) / f"{tablet}.cells"
        decoder = msgspec.msgpack.Decoder(list[SavedCell])
        unpack = zstandard.ZstdDecompressor()
        try:
            with path.open("rb") as file:
                while header := file.read(_HEADER):
                    size = int.from_bytes(header[:4], "big")
                    payload = file.read(size) if size <= _MAX_FRAME_BYTES else b""
                    if len(header) < _HEADER or len(payload) != size:
                        raise BackupDamaged(f"{path}: cut off")
                    if google_crc32c.value(payload) != int.from_bytes(header[4:], "big"):
                        raise BackupDamaged(f"{path}: a checksum is wrong")
                    yield decoder.decode(
                        unpack.decompress(payload, max_output_size=_MAX_FRAME_BYTES)
                    )
        except OSError as error:
            raise BackupDamaged(f"{path}: {error.strerror}") from error
        except (zstandard.ZstdError, msgspec.MsgspecError) as error:
            raise BackupDamaged(f"{path}: {error}") from error

    def value(self, cell: SavedCell) -> bytes:
        """The value of a cell, checked. Raises BackupDamaged."""
        if cell.place is None:
            return cell.value
        path = self.root / "packs" / f"{cell.place.pack}.pack"
        try:
            with path.open("rb") as file:
                file.seek(cell.place.offset)
                found = file.read(4 + cell.size)
        except OSError as error:
            raise BackupDamaged(f"{path}: {error.strerror}") from error
        value = found[4:]
        if len(value) != cell.size or google_crc32c.value(value) != int.from_bytes(
            found[:4], "big"
        ):
            raise BackupDamaged(f"{path}: the value at {cell.place.offset} is damaged")
        return value

    def begin(self, name: str) -> BackupWriter:
        """Write a new backup; the directory has to be open to write."""
        path = self._path(name)
        path.mkdir()
        return BackupWriter(self.root, path)


class BackupWriter:
    """One backup being written. Raises OSError when the disk does not take it."""

    def __init__(self, root: Path, path: Path) -> None:
        self._root = root
        self._path = path
        self._packs_path = root / "packs" / f"{path.name}.pack"
        self._pack: BinaryIO = self._packs_path.open("xb")
        self._pack_bytes = 0
        self._packs: set[str] = set()
        self._cells: BinaryIO | None = None
        self._frame: list[SavedCell] = []
        self._compress = zstandard.ZstdCompressor(level=3)
        self.new_bytes = 0

    def begin_tablet(self, tablet: int) -> None:
        self._cells = (self._path / f"{tablet}.cells").open("xb")

    def end_tablet(self) -> None:
        assert self._cells is not None
        self._write_frame()
        _sync_and_close(self._cells)
        self._cells = None

    def add(self, cell: SavedCell) -> None:
        """The next cell of the tablet; its value is in it, or in a pack already."""
        self._frame.append(cell)
        self.names(cell)
        if len(self._frame) >= FRAME_CELLS:
            self._write_frame()

    def names(self, cell: SavedCell) -> None:
        """The backup needs the pack that the cell's value is in."""
        if cell.place is not None:
            self._packs.add(cell.place.pack)

    def keep_tablet(self, earlier: str, tablet: int) -> None:
        """The tablet's cells are those of an earlier backup, in the same file if the disk can do that."""
        file = f"{tablet}.cells"
        source = self._path.parent / earlier / file
        try:
            os.link(source, self._path / file)
        except OSError:
            with source.open("rb") as old, (self._path / file).open("xb") as new:
                shutil.copyfileobj(old, new)
                self.new_bytes += new.tell()
                _sync(new)

    def pack(self, value: bytes) -> Place:
        """Write a large value."""
        place = Place(self._path.name, self._pack_bytes)
        checksum: int = google_crc32c.value(value)
        self._pack.write(checksum.to_bytes(4, "big") + value)
        self._pack_bytes += 4 + len(value)
        self.new_bytes += len(value)
        return place

    def _write_frame(self) -> None:
        assert self._cells is not None
        frame, self._frame = self._frame, []
        if frame:
            payload = self._compress.compress(msgspec.msgpack.encode(frame))
            checksum: int = google_crc32c.value(payload)
            self._cells.write(len(payload).to_bytes(4, "big") + checksum.to_bytes(4, "big"))
            self._cells.write(payload)
            self.new_bytes += len(payload)

    def finish(self, manifest: Manifest) -> Manifest:
        """Everything is written: let the backup be there."""
        _sync_and_close(self._pack)
        if not self._pack_bytes:
            self._packs_path.unlink()
        complete = msgspec.structs.replace(
            manifest, packs=sorted(self._packs), new_bytes=self.new_bytes
        )
        for directory in (self._root / "packs", self._path, self._root / "backups"):
            sync_directory(directory)
        text = msgspec.json.format(msgspec.json.encode(complete), indent=2)
        write_synced(self._path / "manifest.json", text + b"\n")
        return complete

    def give_up(self) -> None:
        """Remove what there is of it."""
        for file in (self._pack, self._cells):
            if file is not None:
                file.close()
        self._packs_path.unlink(missing_ok=True)
        shutil.rmtree(self._path)


def _sync_and_close(file: BinaryIO) -> None:
    with file:
        _sync(file)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, content: bytes) -> None:
    """A small file that is there whole or not at all."""
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)

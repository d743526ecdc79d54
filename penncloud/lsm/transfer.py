"""Checkpoints on their way to another server: described, cut into chunks, checked, resumed.

Theory of operation
    The sender holds on to the files of a checkpoint by keeping them open, and checks all that is in
    them, so that damage does not travel. A description names them with a CRC32C for every chunk. The receiver
    asks for chunk after chunk; each is checked and synced before the next is asked for. It keeps them in
    `lsm/incoming/TABLET/` beside the description, so that a transfer that was cut off, or a receiver that
    was restarted, goes on behind the last chunk whose checksum is right; another description begins
    anew. At last the files move to the tables, every block of them is verified, and the manifest takes
    the tablet in, in place of an older one of its number.

Format of a description: one record of `record` at position 0 whose payload is a msgpack map of
`Description`; the file `description` in the receiver's directory is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import google_crc32c
import msgspec

from penncloud.lsm.errors import StoreDamaged, TableDamaged
from penncloud.lsm.manifest import TabletState
from penncloud.lsm.pacing import Pacer
from penncloud.lsm.record import decode, encode
from penncloud.lsm.store import ROOT, Store, meta_path, read_blob, reference, table_path
from penncloud.lsm.table import Table
from penncloud.platform.disk import AppendFile, ReadFile
from penncloud.platform.errors import DiskError, DiskFull, PennCloudError

# Small enough that a few on their way at a time do not hold up anything else.
CHUNK_BYTES: Final = 256 * 1024
INCOMING: Final = f"{ROOT}/incoming"


class FileDescription(msgspec.Struct, frozen=True):
    """One file: a table, or (the last one, where there is one) the owner's blob as a meta file."""

    is_meta: bool
    size_bytes: int
    # CRC32C of each chunk, the last one shorter.
    chunks: tuple[int, ...]


class Description(msgspec.Struct, frozen=True):
    """A checkpoint; tables newest first."""

    tablet: int
    lo: int
    hi: int
    checkpoint_no: int
    version: int
    entry_cfg: int
    chunk_bytes: int
    files: tuple[FileDescription, ...]

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(file.size_bytes for file in self.files)


def encode_description(description: Description) -> bytes:
    return b"".join(encode([msgspec.msgpack.encode(description)], 0, 0))


def decode_description(data: bytes) -> Description:
    """The reverse. Raises StoreDamaged."""
    record = decode(data, 0, 0)
    if record is None or record.end != len(data):
        raise StoreDamaged("the description of a checkpoint is damaged")
    try:
        description = msgspec.msgpack.decode(record.payload, type=Description)
    except msgspec.DecodeError as error:
        raise StoreDamaged(f"the description of a checkpoint is none: {error}") from error
    if description.chunk_bytes < 1 or any(
        file.size_bytes < 1 or len(file.chunks) != -(-file.size_bytes // description.chunk_bytes)
        for file in description.files
    ):
        raise StoreDamaged("the description of a checkpoint contradicts itself")
    return description


class CheckpointExport:
    """The sender's side; to be closed when the receiver is done, or is given up."""

    def __init__(self, store: Store, tables: list[Table], state: TabletState, tablet: int) -> None:
        """`state` is the tablet's checkpoint, `tables` its tables, of which each is released once."""
        self._store = store
        self._tables = tables
        self._state = state
        self._tablet = tablet
        self._files: list[tuple[bool, ReadFile]] = []
        self._description: Description | None = None

    async def open(self) -> Description:
        """Check and describe the files. Raises TableDamaged, DiskError."""
        state = self._state
        self._files = [(False, table.file) for table in self._tables]
        if state.meta:
            self._files.append((True, self._store.disk.open_read(meta_path(state.meta))))
        pacer = Pacer(self._store.clock)
        for table in self._tables:
            await table.check_in_slices(pacer)
        described = []
        for is_meta, file in self._files:
            chunks = []
            for offset in range(0, file.size_bytes, CHUNK_BYTES):
                chunks.append(google_crc32c.value(file.pread(offset, CHUNK_BYTES)))
                if pacer.due():
                    await pacer.rest()
            described.append(FileDescription(is_meta, file.size_bytes, tuple(chunks)))
        self._description = Description(
            self._tablet,
            state.lo,
            state.hi,
            state.checkpoint_no,
            state.version,
            state.entry_cfg,
            CHUNK_BYTES,
            tuple(described),
        )
        return self._description

    def read(self, file: int, offset: int) -> bytes:
        """The chunk at `offset` (a multiple of the chunk's size) of one file.

        Raises TableDamaged when it is not any more what was described, DiskError.
        """
        assert self._description is not None
        size = self._description.chunk_bytes
        data = self._files[file][1].pread(offset, size)
        if google_crc32c.value(data) != self._description.files[file].chunks[offset // size]:
            path = self._tables[file].path if file < len(self._tables) else "the owner's blob"
            raise TableDamaged(path, offset, "changed while it was being sent")
        return data

    def close(self) -> None:
        """Let go of the files."""
        for is_meta, file in self._files:
            if is_meta:
                file.close()
        self._files = []
        tables, self._tables = self._tables, []
        for table in tables:
            self._store.release_table(table)


class CheckpointImport:
    """The receiver's side: `write` what `wanted` says until that is None, then `finish`."""

    def __init__(self, store: Store, description: Description) -> None:
        self._store = store
        self.description = description
        self._directory = f"{INCOMING}/{description.tablet}"
        # What is wanted next: index of a file, and of a chunk in it.
        self._file = 0
        self._chunk = 0
        self._open: AppendFile | None = None

    async def open(self) -> None:
        """Find out what an earlier attempt has left. Raises DiskError."""
        disk, directory = self._store.disk, self._directory
        data = encode_description(self.description)
        disk.makedirs(directory)
        await disk.sync_dir(ROOT)
        await disk.sync_dir(INCOMING)
        present = disk.listdir(directory)
        if "description" not in present or disk.read(f"{directory}/description") != data:
            for name in present:
                disk.remove(f"{directory}/{name}")
            # What the tables already hold has to fit beside it, and the log goes first.
            if disk.free_bytes() < self.description.size_bytes:
                raise DiskFull(f"no room for a checkpoint of {self.description.size_bytes} bytes")
            await disk.replace(f"{directory}/description", data)
        self._file = self._chunk = 0
        while self._file < len(self.description.files):
            if not await self._resume():
                break
            self._file, self._chunk = self._file + 1, 0
        for index in range(self._file + 1, len(self.description.files)):
            # It came before what has to come again, and the stream has one end.
            if disk.exists(self._path(index)):
                disk.remove(self._path(index))

    async def _resume(self) -> bool:
        """Whether the whole file is there; else it is continued behind its last good chunk."""
        disk, path = self._store.disk, self._path(self._file)
        described, size = self.description.files[self._file], self.description.chunk_bytes
        if disk.exists(path):
            reader = disk.open_read(path)
            pacer = Pacer(self._store.clock)
            try:
                for number, crc in enumerate(described.chunks):
                    if google_crc32c.value(reader.pread(number * size, size)) != crc:
                        break
                    self._chunk = number + 1
                    if pacer.due():
                        await pacer.rest()
            finally:
                reader.close()
            self._open = disk.open_append(path, min(self._chunk * size, described.size_bytes))
        else:
            self._open = disk.create(path, background=True)
        if self._chunk < len(described.chunks):
            return False
        file, self._open = self._open, None
        await file.close()
        return True

    def _path(self, file: int) -> str:
        return f"{self._directory}/{file}"

    def wanted(self) -> tuple[int, int] | None:
        """File and offset of the next chunk to get; None when all are here."""
        if self._file == len(self.description.files):
            return None
        return self._file, self._chunk * self.description.chunk_bytes

    @property
    def have_bytes(self) -> int:
        """How much of the files, one behind the other, is here."""
        files = self.description.files
        return sum(file.size_bytes for file in files[: self._file]) + (
            self._chunk * self.description.chunk_bytes
        )

    async def write(self, data: bytes) -> None:
        """Take the chunk that was wanted. Raises StoreDamaged when it is not that one, DiskError."""
        if self._open is None:
            # There was no room for the file when the one before it was complete.
            await self._resume()
        described = self.description.files[self._file]
        if google_crc32c.value(data) != described.chunks[self._chunk]:
            raise StoreDamaged(f"chunk {self._chunk} of file {self._file} came damaged")
        assert self._open is not None
        self._open.append(data)
        await self._open.sync()
        self._chunk += 1
        if self._chunk == len(described.chunks):
            file, self._open = self._open, None
            self._file, self._chunk = self._file + 1, 0
            await file.close()
            if self._file < len(self.description.files):
                await self._resume()

    async def finish(self, replace: Callable[[int], None]) -> None:
        """Take the tablet in; `replace(tablet)` forgets the present one of that number, if any.

        Raises TableDamaged when a file is not sound after all, DiskError.
        """
        if self.wanted() is not None:
            raise ValueError("the checkpoint is not complete")
        store, description = self._store, self.description
        await store.disk.sync_dir(self._directory)
        moved: list[str] = []
        tables: list[Table] = []
        meta = 0
        try:
            for index, described in enumerate(description.files):
                number = store.new_file()
                path = meta_path(number) if described.is_meta else table_path(number)
                store.disk.link(self._path(index), path)
                moved.append(path)
                if described.is_meta:
                    read_blob(store.disk, meta := number)
                    continue
                table = store.open_table(number)
                tables.append(table)
                await table.verify_in_slices(Pacer(store.clock))
            await store.disk.sync_dir(f"{ROOT}/tables")
            state = TabletState(
                description.lo,
                description.hi,
                description.checkpoint_no,
                description.version,
                description.entry_cfg,
                log_position=store.wal.position,
                meta=meta,
                tables=tuple(map(reference, tables)),
            )

            def take_in() -> None:
                replace(description.tablet)
                # While the tables are open: they need not be read again.
                store.add_tablet(description.tablet, state)

            await store.edit(
                lambda manifest: manifest.with_tablet(description.tablet, state), then=take_in
            )
        except PennCloudError:
            for path in moved:
                store.discard(path)
            raise
        finally:
            for table in tables:
                store.release_table(table)
        try:
            await self.discard()
        except DiskError as error:
            # The tablet is in; what is left over goes with the next transfer.
            store.log.warn("{path} is left over: {error}", path=self._directory, error=error)

    async def discard(self) -> None:
        """Give the transfer up for good, or tidy up behind a finished one."""
        self.close()
        await discard(self._store, str(self.description.tablet))

    def close(self) -> None:
        """Stop; what has come stays for another attempt."""
        file, self._open = self._open, None
        if file is not None:
            file.close().addErrback(lambda failure: failure.trap(DiskError))


async def discard(store: Store, name: str) -> None:
    """Throw away what there is below `incoming/NAME`. Raises DiskError."""
    path = f"{INCOMING}/{name}"
    if name not in store.disk.listdir(INCOMING):
        return
    for inner in store.disk.listdir(path):
        store.discard(f"{path}/{inner}")
    store.discard(path)
    await store.disk.sync_dir(INCOMING)

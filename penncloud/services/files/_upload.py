"""An upload: chunks first, then one mutation that makes the file visible whole, or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from attrs import evolve

from penncloud.client.table import IfVersion, SubOperation, Table
from penncloud.services.blobs import BlobOwner, BlobRef, OwnedWriter, UploadExpired
from penncloud.services.files._changes import Plan, attempt, if_free, put_entry
from penncloud.services.files._errors import Changed, FilesError, NameTaken
from penncloud.services.files._layout import TREE, Entry, Record
from penncloud.services.files._names import numbered
from penncloud.services.files._tree import Tree
from penncloud.services.files._uploaded import Uploaded

# "report (2).pdf" to "report (100).pdf"; then the name counts as taken.
MAX_NUMBER: Final = 100


class Upload:
    """The contents of one file on their way. Ends with `finish`, or with `abort` after any failure."""

    def __init__(
        self,
        table: Table,
        row: bytes,
        owner: BlobOwner,
        writer: OwnedWriter,
        *,
        upload_id: str,
        folder: str,
        name: str,
        replace: int | None,
        keep_both: bool,
        now: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self._table = table
        self._row = row
        self._tree = Tree(table, row)
        self._owner = owner
        self._writer = writer
        self._uploaded = Uploaded(table, row, now)
        self._id = upload_id
        self._ref: BlobRef | None = None
        self._folder = folder
        self._name = name
        self._replace = replace
        self._keep_both = keep_both
        self._now = now
        self._new_id = new_id

    @property
    def size(self) -> int:
        """Bytes taken so far."""
        return self._writer.size

    @property
    def buffered_bytes(self) -> int:
        """Bytes taken that the store has not yet confirmed; bounded."""
        return self._writer.buffered_bytes

    async def write(self, data: bytes) -> None:
        """Take the next bytes; awaiting it is the back-pressure. Raises Unavailable, UploadExpired."""
        await self._writer.write(data)

    async def finish(self, form: str = "") -> Entry:
        """Make the file visible. Durable when this returns.

        Finishing once more, this upload or another one of the same id, wherever, makes no other file: it
        gives the first one as it was made. With `form`, which names a form that may be sent again as it
        is, the id is made of it, the file's name and its content.

        Raises NameTaken or Changed when somebody else was faster, NoSuchEntry when the folder was
        deleted meanwhile, Busy, Unavailable, UploadExpired.
        """
        if self._ref is None:
            self._ref = await self._writer.finish()
        ref = self._ref
        if form:
            parts = "\0".join((form, self._name, ref.sha256))
            self._id = hashlib.sha256(parts.encode()).hexdigest()[:32]

        async def plan() -> Plan[Entry]:
            before = await self._uploaded.find(self._id)
            if before is None:
                try:
                    return await self._plan(ref)
                except (FilesError, UploadExpired):
                    # The name may be taken by this very upload, finished elsewhere since we looked.
                    before = await self._uploaded.find(self._id)
                    if before is None:
                        raise
            found = before
            return [], lambda _: found

        entry = await attempt(self._table, self._row, plan)
        if entry.blob.id != ref.id:
            await self._writer.abort()
        return entry

    async def _plan(self, ref: BlobRef) -> Plan[Entry]:
        await self._writer.check()
        tree = await self._tree.version()
        await self._tree.folder(self._folder)
        name, replaced = await free_name(
            self._tree, self._folder, self._name, self._replace, self._keep_both
        )
        made = self._entry(name, ref, replaced)
        operations: list[SubOperation] = [IfVersion(TREE, tree), *self._writer.adopt()]
        operations += self._uploaded.once(self._id, made)
        if replaced is None:
            operations += if_free(self._folder, name)
        else:
            operations.append(IfVersion(replaced.col, replaced.version))
            operations += self._owner.discard(replaced.blob)
        return [*operations, put_entry(made)], lambda version: evolve(made, version=version)

    async def abort(self) -> None:
        """Give up: nothing of it was ever visible. Safe in every state, even after `finish`."""
        await self._writer.abort()

    def _entry(self, name: str, ref: BlobRef, replaced: Entry | None) -> Entry:
        file_id = self._new_id() if replaced is None else replaced.id
        record = Record(file_id, name, "file", self._now(), ref.size, ref)
        return Entry(self._folder, record, 0)


async def free_name(
    tree: Tree, folder: str, name: str, replace: int | None, keep_both: bool
) -> tuple[str, Entry | None]:
    """Under which name a new file may be stored, and the entry that it replaces, if any.

    `replace` is the version of the entry that the caller agreed to overwrite.
    """
    taken = await tree.find(folder, name)
    if taken is None:
        return name, None
    if keep_both:
        for number in range(2, MAX_NUMBER + 1):
            other = numbered(name, number)
            if await tree.find(folder, other) is None:
                return other, None
        raise NameTaken(taken)
    if replace is None or taken.is_folder:
        raise NameTaken(taken)
    if replace != taken.version:
        raise Changed(taken)
    return name, taken

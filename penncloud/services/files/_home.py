"""The service's face: `Files` for all users, `Home` for one of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from penncloud.client.table import Table
from penncloud.platform.environment import Environment
from penncloud.services.blobs import BlobCollector, BlobOwner, Blobs
from penncloud.services.files._changes import Changes, Item, Outcome
from penncloud.services.files._clearing import clear_detached
from penncloud.services.files._errors import AlreadyStored, FilesError
from penncloud.services.files._layout import Entry, row_of
from penncloud.services.files._names import clean_name
from penncloud.services.files._tree import Folder, Listing, Tree
from penncloud.services.files._upload import Upload, free_name
from penncloud.services.files._uploaded import Uploaded


class Files:
    """Every user's files in a store."""

    def __init__(self, table: Table, blobs: Blobs, environment: Environment) -> None:
        self._table = table
        self._blobs = blobs
        self._environment = environment
        self._collector = BlobCollector(table, environment.now)

    def home(self, user: str) -> Home:
        """The files of one user (an account's name, which is checked elsewhere)."""
        return Home(self._table, self._blobs, self._environment, user)

    async def collect(self, user: str) -> None:
        """Clear away what this user deleted and what broken uploads left. See `blobs.Sweeper`."""
        home = self.home(user)
        await home.clear()
        await home.forget_uploads()
        await self._collector.collect(row_of(user))


class Home:
    """One user's tree. Folders are named by their ids (`ROOT` and those that are handed out).

    Every method raises Unavailable when the store does, and subclasses of FilesError.
    """

    def __init__(self, table: Table, blobs: Blobs, environment: Environment, user: str) -> None:
        self._table = table
        self._blobs = blobs
        self._row = row_of(user)
        self._now = environment.now
        self._entropy = environment.entropy
        self._tree = Tree(table, self._row)
        self._owner = BlobOwner(table, blobs, self._row, environment.now)
        self._uploaded = Uploaded(table, self._row, environment.now)
        self._changes = Changes(table, self._row, self._owner, self._now, self._new_id)

    def _new_id(self) -> str:
        return self._entropy(12).hex()

    async def folder(self, folder: str) -> Folder:
        """The folder of this id and where it is now, or NoSuchEntry."""
        return await self._tree.folder(folder)

    async def resolve(self, names: Sequence[str]) -> Folder | Entry:
        """What a path from the root leads to, or NoSuchEntry."""
        return await self._tree.resolve(names)

    async def find(self, folder: str, name: str) -> Entry | None:
        """The entry of this name in a folder, or None."""
        return await self._tree.find(folder, clean_name(name))

    async def list(self, folder: str, cursor: str | None = None, limit: int = 200) -> Listing:
        """Entries of a folder, folders first, then by name without regard to case."""
        return await self._tree.list(folder, cursor, limit)

    async def create_folder(self, folder: str, name: str) -> Entry:
        """Make an empty folder. Raises BadName, NameTaken, NoSuchEntry, TooDeep, Busy."""
        return await self._changes.create_folder(folder, name)

    async def move(self, items: Sequence[Item], target: str) -> Outcome:
        """Move files and folders into a folder: each whole or not at all."""
        return await self._changes.move(items, target)

    async def rename(self, item: Item, new_name: str, target: str | None = None) -> Entry:
        """Give an entry another name, and, with `target`, another folder.

        Raises BadName, NameTaken, NoSuchEntry, Changed, IntoItself, Busy.
        """
        into = item.folder if target is None else target
        return (await self._changes.move([item], into, new_name)).only()

    async def delete(self, items: Sequence[Item]) -> Outcome:
        """Delete files and whole folders: gone for every reader at once."""
        return await self._changes.delete(items)

    async def upload(
        self,
        folder: str,
        name: str,
        *,
        replace: int | None = None,
        keep_both: bool = False,
        upload_id: str = "",
    ) -> Upload:
        """Begin to store a file. It becomes visible with `Upload.finish`.

        `replace`: the version of the file of that name that may be overwritten. `keep_both`: where
        the name is taken, store under a numbered one. Without either a taken name is refused.
        `upload_id`, at most 64 letters and digits, not used for another file in the last days: by it an
        upload is known that is begun again. Without it this upload is one of its own.

        Raises AlreadyStored, BadName, NameTaken, Changed, NoSuchEntry before anything is written.
        """
        await self._check_not_stored(upload_id)
        name = clean_name(name)
        try:
            await self._tree.folder(folder)
            await free_name(self._tree, folder, name, replace, keep_both)
        except FilesError:
            # The name may be taken by this very upload, finished elsewhere since we looked.
            await self._check_not_stored(upload_id)
            raise
        return Upload(
            self._table,
            self._row,
            self._owner,
            await self._owner.create(),
            upload_id=upload_id or self._new_id(),
            folder=folder,
            name=name,
            replace=replace,
            keep_both=keep_both,
            now=self._now,
            new_id=self._new_id,
        )

    async def uploaded(self, upload_id: str) -> Entry | None:
        """The file that the upload of this id made in the last days, as it was then; or None."""
        return await self._uploaded.find(upload_id)

    async def _check_not_stored(self, upload_id: str) -> None:
        entry = await self._uploaded.find(upload_id) if upload_id else None
        if entry is not None:
            raise AlreadyStored(entry)

    def read(
        self, entry: Entry, offset: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """A file's bytes; see `Blobs.read`."""
        return self._blobs.read(entry.blob, offset, length)

    async def clear(self) -> bool:
        """Clear away the contents of deleted folders; False when more is left to do."""
        return await clear_detached(self._table, self._row, self._changes)

    async def forget_uploads(self) -> None:
        """Forget finished uploads that nobody sends again any more."""
        await self._uploaded.forget()

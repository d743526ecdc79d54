"""Looking at a tree: find, list, follow a folder up to the root or a path down from it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Final

import msgspec
from attrs import frozen

from penncloud.client.table import Table, after, prefix_stop
from penncloud.services.blobs import together
from penncloud.services.files._errors import BadName, NoSuchEntry, TooDeep
from penncloud.services.files._layout import (
    ROOT,
    TREE,
    Entry,
    Node,
    entries_prefix,
    entry_col,
    entry_of,
    node_col,
)
from penncloud.services.files._names import clean_name

# Folders are created no deeper than this. Moving can nest them deeper: those are followed up to
# MAX_FOLLOWED parents, so that no tree, however odd, makes a request endless.
MAX_DEPTH: Final = 64
MAX_FOLLOWED: Final = 512


@frozen
class Folder:
    """A folder that is in the tree. `path`: id and name of each folder from below the root to it."""

    id: str
    path: tuple[tuple[str, str], ...]

    @property
    def depth(self) -> int:
        """0 for the root."""
        return len(self.path)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for _, name in self.path)

    def is_within(self, folder: str) -> bool:
        """Whether it is the folder of this id or below it."""
        return folder == ROOT or any(folder == each for each, _ in self.path)


@frozen
class Listing:
    """Some entries of a folder; `cursor` gives the next ones, None when there are no more."""

    entries: tuple[Entry, ...]
    cursor: str | None


class Tree:
    """One user's tree, read only."""

    def __init__(self, table: Table, row: bytes) -> None:
        self._table = table
        self._row = row

    async def version(self) -> int:
        """The version of the tree's shape; 0 before the first folder was moved or deleted."""
        cell = await self._table.get(self._row, TREE)
        return 0 if cell is None else cell.version

    async def folder(self, folder: str) -> Folder:
        """The folder of this id. NoSuchEntry when it, or a folder above it, was deleted."""
        path: list[tuple[str, str]] = []
        at = folder
        while at != ROOT:
            if len(path) == MAX_FOLLOWED:
                raise TooDeep("these folders are nested too deeply")
            if not (at.isascii() and at.isalnum() and len(at) <= 64):
                raise NoSuchEntry("there is no such folder")
            cell = await self._table.get(self._row, node_col(at))
            if cell is None:
                raise NoSuchEntry("this folder does not exist any more")
            node = msgspec.json.decode(cell.value, type=Node)
            path.append((at, node.name))
            at = node.parent
        return Folder(folder, tuple(reversed(path)))

    async def resolve(self, names: Sequence[str]) -> Folder | Entry:
        """What a path leads to: a folder, or a file's entry. Empty: the root."""
        path: list[tuple[str, str]] = []
        at = ROOT
        for position, text in enumerate(names):
            if position == MAX_FOLLOWED:
                raise TooDeep("these folders are nested too deeply")
            try:
                entry = await self.find(at, clean_name(text))
            except BadName as error:
                raise NoSuchEntry("there is no such file or folder") from error
            if entry is None or not (entry.is_folder or position == len(names) - 1):
                raise NoSuchEntry("there is no such file or folder")
            if not entry.is_folder:
                return entry
            at = entry.id
            path.append((at, entry.name))
        return Folder(at, tuple(path))

    async def find(self, folder: str, name: str) -> Entry | None:
        """The file or folder of this (clean) name."""
        cells = await together(
            self._table.get(self._row, entry_col(folder, kind, name)) for kind in ("folder", "file")
        )
        found = [entry_of(folder, cell) for cell in cells if cell is not None]
        # Read one after the other, so both are there when one was just replaced by the other.
        return found[-1] if found else None

    async def list(self, folder: str, cursor: str | None = None, limit: int = 200) -> Listing:
        """At most `limit` entries in order, from the start or from a cursor."""
        prefix = entries_prefix(folder)
        start = prefix if cursor is None else after(prefix + _read_cursor(cursor))
        page = await self._table.scan(self._row, start, prefix_stop(prefix), limit=limit)
        entries = tuple(entry_of(folder, cell) for cell in page.cells)
        more = page.more and page.cells
        return Listing(entries, _cursor(page.cells[-1].col[len(prefix) :]) if more else None)


def _cursor(col: bytes) -> str:
    return base64.urlsafe_b64encode(col).decode().rstrip("=")


def _read_cursor(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))[:1000]
    except (ValueError, binascii.Error) as error:
        raise NoSuchEntry("there is no such page of the listing") from error

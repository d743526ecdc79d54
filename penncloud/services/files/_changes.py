"""Changing a tree: make a folder, move, rename, delete.

A change is planned from what is read, and made by one mutation that is conditional on all of it. When a
condition fails somebody else was faster, and the change is planned anew; after `ATTEMPTS` times Busy.
Several entries are changed together, `BATCH` in one mutation: what cannot be done (a name is taken, an
entry was changed meanwhile) is left out and reported, the rest is done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import msgspec
from attrs import evolve, field, frozen, mutable

from penncloud.client.table import (
    Conflict,
    DeleteCell,
    IfVersion,
    PutCell,
    SubOperation,
    Table,
)
from penncloud.services.blobs import BlobOwner
from penncloud.services.files._errors import (
    Busy,
    Changed,
    FilesError,
    IntoItself,
    NameTaken,
    NoSuchEntry,
    TooDeep,
)
from penncloud.services.files._layout import (
    TREE,
    Entry,
    Node,
    Record,
    detached_col,
    entry_col,
    node_col,
)
from penncloud.services.files._names import clean_name
from penncloud.services.files._tree import MAX_DEPTH, Folder, Tree

ATTEMPTS: Final = 8
# A moved folder takes 6 sub-operations, and a mutation may have 256.
BATCH: Final = 40

_T = TypeVar("_T")
# The sub-operations of a planned change, and its result once its version is known.
Plan = tuple[list[SubOperation], Callable[[int], _T]]


@frozen
class Item:
    """An entry that somebody wants to change. `version`: only if it is still that one."""

    folder: str
    name: str
    version: int | None = None


@mutable
class Outcome:
    """What became of several items: the entries as they are now (or were, when deleted)."""

    done: list[Entry] = field(factory=list)
    refused: list[tuple[Item, FilesError]] = field(factory=list)

    def only(self) -> Entry:
        """The one entry, or raise why not."""
        if self.refused:
            raise self.refused[0][1]
        return self.done[0]

    def add(self, other: Outcome) -> None:
        self.done += other.done
        self.refused += other.refused


async def attempt(table: Table, row: bytes, plan: Callable[[], Awaitable[Plan[_T]]]) -> _T:
    """Plan and mutate until no condition fails. An empty plan needs no mutation."""
    for _ in range(ATTEMPTS):
        operations, result = await plan()
        if not operations:
            return result(0)
        try:
            return result(await table.mutate(row, operations))
        except Conflict:
            continue
    raise Busy("others are changing the same folder; please try again")


def put_entry(entry: Entry) -> PutCell:
    return PutCell(entry.col, msgspec.json.encode(entry.record))


def if_free(folder: str, name: str) -> list[SubOperation]:
    """The condition that a folder has nothing of this name."""
    return [
        IfVersion(entry_col(folder, "folder", name), 0),
        IfVersion(entry_col(folder, "file", name), 0),
    ]


class Changes:
    """Changes of one user's tree. `now` gives Unix seconds, `new_id` an id never used before."""

    def __init__(
        self,
        table: Table,
        row: bytes,
        owner: BlobOwner,
        now: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self._table = table
        self._row = row
        self._tree = Tree(table, row)
        self._owner = owner
        self._now = now
        self._new_id = new_id

    async def create_folder(self, folder: str, name: str) -> Entry:
        """A new, empty folder. Raises BadName, NameTaken, NoSuchEntry, TooDeep, Busy."""
        name = clean_name(name)
        made = Entry(folder, Record(self._new_id(), name, "folder", self._now()), 0)

        async def plan() -> Plan[Entry]:
            tree = await self._tree.version()
            if (await self._tree.folder(folder)).depth >= MAX_DEPTH:
                raise TooDeep(f"folders can be nested {MAX_DEPTH} deep")
            taken = await self._tree.find(folder, name)
            if taken is not None:
                raise NameTaken(taken)
            operations = [IfVersion(TREE, tree), *if_free(folder, name)]
            operations += [put_entry(made), _put_node(made)]
            return operations, lambda version: evolve(made, version=version)

        return await attempt(self._table, self._row, plan)

    async def move(
        self, items: Sequence[Item], target: str, new_name: str | None = None
    ) -> Outcome:
        """Move entries into the folder `target`; `new_name` only with a single item.

        Raises NoSuchEntry when the target is gone; what is wrong with an item stands in the outcome.
        """
        if new_name is not None:
            new_name = clean_name(new_name)
        outcome = Outcome()
        for batch in _batches(items):

            async def plan(batch: Sequence[Item] = batch) -> Plan[Outcome]:
                return await self._plan_move(batch, target, new_name)

            outcome.add(await attempt(self._table, self._row, plan))
        return outcome

    async def delete(self, items: Sequence[Item]) -> Outcome:
        """Take entries out of the tree; what folders contain is cleared away later.

        What is wrong with an item stands in the outcome.
        """
        outcome = Outcome()
        for batch in _batches(items):

            async def plan(batch: Sequence[Item] = batch) -> Plan[Outcome]:
                return await self._plan_delete(batch)

            outcome.add(await attempt(self._table, self._row, plan))
        return outcome

    async def _plan_move(
        self, items: Sequence[Item], target: str, new_name: str | None
    ) -> Plan[Outcome]:
        tree = await self._tree.version()
        into = await self._tree.folder(target)
        present, outcome = await self._present(items)
        operations: list[SubOperation] = [IfVersion(TREE, tree)]
        moved: list[Entry] = []
        for item, entry in present:
            record = msgspec.structs.replace(entry.record, name=new_name or entry.name)
            after = Entry(target, record, 0)
            try:
                if after.col == entry.col:
                    outcome.done.append(entry)
                    continue
                _check_nesting(entry, into)
                await self._check_free(after, moved)
            except FilesError as error:
                outcome.refused.append((item, error))
                continue
            moved.append(after)
            operations += [IfVersion(entry.col, entry.version), *if_free(target, after.name)]
            operations += [DeleteCell(entry.col), put_entry(after)]
            if entry.is_folder:
                operations.append(_put_node(after))
        if any(entry.is_folder for entry in moved):
            operations.append(PutCell(TREE, b"moved"))

        def result(version: int) -> Outcome:
            outcome.done += [evolve(entry, version=version) for entry in moved]
            return outcome

        return operations if moved else [], result

    async def _plan_delete(self, items: Sequence[Item]) -> Plan[Outcome]:
        tree = await self._tree.version()
        present, outcome = await self._present(items)
        operations: list[SubOperation] = [IfVersion(TREE, tree)]
        for _, entry in present:
            operations += [IfVersion(entry.col, entry.version), *self.drop(entry)]
        if any(entry.is_folder for _, entry in present):
            operations.append(PutCell(TREE, b"deleted"))

        def result(_version: int) -> Outcome:
            outcome.done += [entry for _, entry in present]
            return outcome

        return operations if present else [], result

    def drop(self, entry: Entry) -> list[SubOperation]:
        """Take an entry away and mark what is left of it for collection."""
        if not entry.is_folder:
            return [DeleteCell(entry.col), *self._owner.discard(entry.blob)]
        return [
            DeleteCell(entry.col),
            DeleteCell(node_col(entry.id)),
            PutCell(detached_col(entry.id), b"deleted"),
        ]

    async def _present(self, items: Sequence[Item]) -> tuple[list[tuple[Item, Entry]], Outcome]:
        """The items that exist as the caller saw them, each once, and an outcome with the others."""
        present: list[tuple[Item, Entry]] = []
        outcome = Outcome()
        folders: dict[str, FilesError | None] = {}
        for item in dict.fromkeys(items):
            try:
                if item.folder not in folders:
                    folders[item.folder] = await self._folder_error(item.folder)
                error = folders[item.folder]
                if error is not None:
                    raise error
                entry = await self._tree.find(item.folder, clean_name(item.name))
                if entry is None:
                    raise NoSuchEntry(f"“{item.name}” does not exist any more")
                if item.version is not None and item.version != entry.version:
                    raise Changed(entry)
            except FilesError as error:
                outcome.refused.append((item, error))
            else:
                if all(entry.col != other.col for _, other in present):
                    present.append((item, entry))
        return present, outcome

    async def _folder_error(self, folder: str) -> FilesError | None:
        try:
            await self._tree.folder(folder)
        except FilesError as error:
            return error
        return None

    async def _check_free(self, entry: Entry, others: Sequence[Entry]) -> None:
        taken = next((each for each in others if each.name == entry.name), None)
        taken = taken or await self._tree.find(entry.folder, entry.name)
        if taken is not None:
            raise NameTaken(taken)


def _check_nesting(entry: Entry, into: Folder) -> None:
    if not entry.is_folder or into.id == entry.folder:
        return
    if into.is_within(entry.id):
        raise IntoItself(f"“{entry.name}” cannot be moved into itself")
    if into.depth >= MAX_DEPTH:
        raise TooDeep(f"folders can be nested {MAX_DEPTH} deep")


def _put_node(entry: Entry) -> PutCell:
    return PutCell(node_col(entry.id), msgspec.json.encode(Node(entry.folder, entry.name)))


def _batches(items: Sequence[Item]) -> list[Sequence[Item]]:
    return [items[start : start + BATCH] for start in range(0, len(items), BATCH)]

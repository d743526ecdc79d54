"""What a mutation does, decided from the state before it. Pure.

Theory of operation
    A mutation is decided once, when its version is given out, against the *prepared* state of its row:
    what is committed, overlaid with every decided mutation that still waits for the disk (or, with
    replication, for the other members). The decision is what the log holds, and what every replica
    applies: nobody decides a second time. The semantics are those of `client.table.Table`; a property
    test holds them equal to `client.memory.MemoryTable`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec

from penncloud.lsm.entry import DeleteEffect, Effect, PutEffect
from penncloud.wire.messages import (
    AppendCell,
    CompareAndPut,
    CompareVersionAndPut,
    Delete,
    DeleteCell,
    IfValue,
    IfVersion,
    Mismatch,
    Missing,
    Mutate,
    Mutation,
    Ok,
    Put,
    PutCell,
    SubOperation,
    appended,
)

# The version of a cell and its value; (0, None) where there is no such cell.
Seen: TypeAlias = tuple[int, bytes | None]
View: TypeAlias = Callable[[bytes], Seen]

NOTHING: Final[Seen] = (0, None)


class RowView:
    """The cells of a row as a decision sees them; `newest` is the highest version among them."""

    __slots__ = ("_cell", "_row", "newest")

    def __init__(self, cell: Callable[[bytes, bytes], Seen], row: bytes) -> None:
        self._cell = cell
        self._row = row
        self.newest = 0

    def __call__(self, col: bytes) -> Seen:
        seen = self._cell(self._row, col)
        self.newest = max(self.newest, seen[0])
        return NOTHING if seen[1] is None else seen


class Decision(msgspec.Struct, frozen=True):
    """The outcome of one mutation.

    `effects` has at most one entry per column and is empty when a comparison failed or there was
    nothing to delete; `failed_at` is then the column that made it so.
    """

    reply: Ok | Missing | Mismatch
    effects: tuple[Effect, ...]
    failed_at: bytes | None = None


def decide(mutation: Mutation, view: View, version: int) -> Decision:
    """Decide `mutation`, which is to have `version`, on a row whose cells `view` gives by column."""
    row = mutation.row
    match mutation:
        case Put(_, col, value):
            return Decision(Ok(version), (PutEffect(row, col, value),))
        case CompareAndPut(_, col, expected, value):
            return _mutate(row, (IfValue(col, expected), PutCell(col, value)), view, version)
        case CompareVersionAndPut(_, col, compared, value):
            return _mutate(row, (IfVersion(col, compared), PutCell(col, value)), view, version)
        case Delete(_, col):
            if view(col)[1] is None:
                return Decision(Missing(), (), col)
            return Decision(Ok(version), (DeleteEffect(row, col),))
        case Mutate(_, operations):
            return _mutate(row, operations, view, version)


def _mutate(row: bytes, operations: tuple[SubOperation, ...], view: View, version: int) -> Decision:
    """Every condition first, then every change; of several changes to a column the last stays."""
    after: dict[bytes, Effect] = {}
    for operation in operations:
        match operation:
            case IfVersion(col, compared):
                found = view(col)
                if found[0] != compared:
                    return Decision(Mismatch(*found), (), col)
            case IfValue(col, expected):
                found = view(col)
                if found[1] != expected:
                    return Decision(Mismatch(*found), (), col)
            case PutCell(col, value):
                after[col] = PutEffect(row, col, value)
            case AppendCell(prefix, value):
                col = appended(prefix, version)
                after[col] = PutEffect(row, col, value)
            case DeleteCell(col):
                after[col] = DeleteEffect(row, col)
    return Decision(Ok(version), tuple(after.values()))

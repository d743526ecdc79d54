"""The table: what services see of the key-value store.

Two implementations pass the same tests (`tests/client/table_contract.py`): `router.RoutedTable`, the
client of a real cluster, and `memory.MemoryTable`, the verified fake.

Every method either returns what the store promised (a write is then durable), or raises: `Conflict`
when a comparison failed (nothing was done), `Unavailable` when nothing was done or the outcome could
not be learnt within the deadline. Retries with request ids happen below this interface: a mutation
is executed once, however often the network fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Final, Protocol

from attrs import frozen

from penncloud.platform.errors import PennCloudError
from penncloud.wire.messages import (
    AppendCell,
    DeleteCell,
    IfValue,
    IfVersion,
    PutCell,
    SubOperation,
    appended,
)

__all__ = [
    "AppendCell",
    "Cell",
    "Conflict",
    "DeleteCell",
    "IfValue",
    "IfVersion",
    "Page",
    "PutCell",
    "Refused",
    "SubOperation",
    "Table",
    "Unavailable",
    "Watching",
    "after",
    "appended",
    "delete_all",
    "prefix_stop",
    "scan_all",
]

# Cells that `delete_all` deletes by one mutation.
_DELETED_AT_ONCE: Final = 200


@frozen
class Cell:
    """One cell as it was read. `size` is the value's full size where `value` was cut."""

    col: bytes
    version: int
    value: bytes
    size: int


@frozen
class Page:
    """Cells of a scan, and whether there are more beyond them."""

    cells: tuple[Cell, ...]
    more: bool


class Conflict(PennCloudError):
    """A comparison failed; `version` and `value` are what stands there (0 and None: nothing)."""

    def __init__(self, version: int, value: bytes | None) -> None:
        super().__init__(f"the cell has version {version}")
        self.version = version
        self.value = value


class Refused(PennCloudError):
    """The store says the request is wrong (too large, bad name); the same again will fail again."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Unavailable(PennCloudError):
    """The store could not be reached, or not learn the outcome, before the deadline."""

    retryable: ClassVar[bool] = True


class Watching(Protocol):
    """A watch under way."""

    def stop(self) -> None:
        """No more callbacks; stopping twice is no error."""
        ...


class Table(Protocol):
    """The store. Rows, columns and values are bytes; limits are those of `wire.limits`.

    `deadline_s` bounds a call (None: the table's default); then it raises Unavailable.
    """

    async def get(self, row: bytes, col: bytes, *, deadline_s: float | None = None) -> Cell | None:
        """The cell, or None. Linearizable: sees every write answered before the call."""
        ...

    async def put(
        self, row: bytes, col: bytes, value: bytes, *, deadline_s: float | None = None
    ) -> int:
        """Write, whatever is there; returns the version."""
        ...

    async def compare_and_put(
        self,
        row: bytes,
        col: bytes,
        expected: bytes,
        value: bytes,
        *,
        deadline_s: float | None = None,
    ) -> int:
        """Write if the cell holds exactly `expected`, else Conflict."""
        ...

    async def put_if_version(
        self, row: bytes, col: bytes, version: int, value: bytes, *, deadline_s: float | None = None
    ) -> int:
        """Write if the cell has this version (0: is missing), else Conflict."""
        ...

    async def delete(self, row: bytes, col: bytes, *, deadline_s: float | None = None) -> bool:
        """Delete; False when there was nothing."""
        ...

    async def mutate(
        self, row: bytes, operations: Sequence[SubOperation], *, deadline_s: float | None = None
    ) -> int:
        """All or nothing on one row; every condition is checked first (else Conflict).

        Returns the mutation's version; an AppendCell's column is `appended(prefix, version)`.
        """
        ...

    async def scan(
        self,
        row: bytes,
        start: bytes = b"",
        stop: bytes = b"",
        *,
        limit: int = 100,
        reverse: bool = False,
        max_value: int | None = None,
        deadline_s: float | None = None,
    ) -> Page:
        """Cells with start <= col < stop (stop empty: to the end) in column order.

        `reverse`: the last ones first. `max_value` cuts long values. A page may hold fewer cells
        than `limit` although there are more (`Page.more`), as its bytes are bounded too; the next
        one starts at `after(last.col)` (reverse: ends at `last.col`).
        """
        ...

    def watch(self, row: bytes, callback: Callable[[int], None]) -> Watching:
        """Call back with a version at every commit to `row`, until stopped.

        A hint to read again: it may come more often than needed (always after a reconnect, and
        once when the watch begins to hold), never not at all.
        """
        ...


def after(col: bytes) -> bytes:
    """The smallest column behind `col`: where the next page of a scan starts."""
    return col + b"\x00"


def prefix_stop(prefix: bytes) -> bytes:
    """The `stop` of a scan over all columns that begin with `prefix` (empty: to the end)."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes((trimmed[-1] + 1,)) if trimmed else b""


async def scan_all(
    table: Table, row: bytes, prefix: bytes = b"", *, page: int = 500, at_most: int = 100_000
) -> list[Cell]:
    """Every cell of a row under `prefix`, page by page. Raises Refused beyond `at_most` cells."""
    cells: list[Cell] = []
    start, stop = prefix, prefix_stop(prefix)
    while True:
        found = await table.scan(row, start, stop, limit=page)
        cells.extend(found.cells)
        if not found.more:
            return cells
        if len(cells) > at_most:
            raise Refused("LIMIT", f"more than {at_most} cells")
        start = after(found.cells[-1].col)


async def delete_all(table: Table, row: bytes, start: bytes, stop: bytes) -> None:
    """Delete the cells of a row with start <= column < stop, page by page."""
    while True:
        found = await table.scan(row, start, stop, limit=_DELETED_AT_ONCE)
        if found.cells:
            await table.mutate(row, [DeleteCell(cell.col) for cell in found.cells])
        if not found.more:
            return

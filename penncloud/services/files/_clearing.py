"""Clearing away what deleted folders contained.

Deleting a folder only detaches it. Page by page, one mutation takes entries of a detached folder away:
files leave the garbage mark of their blob, folders become detached themselves; the last page takes the
folder's own mark. Whatever is interrupted is found again by its mark.
"""

from __future__ import annotations

from typing import Final

from penncloud.client.table import (
    Conflict,
    DeleteCell,
    IfVersion,
    SubOperation,
    Table,
    prefix_stop,
)
from penncloud.services.files._changes import Changes
from penncloud.services.files._layout import (
    DETACHED,
    detached_col,
    entries_prefix,
    entry_of,
)

# Sub-operations of a mutation are limited: each entry takes up to four.
_ENTRIES: Final = 50
# One call ends after so many mutations; the next round goes on.
_MAX_STEPS: Final = 1000


async def clear_detached(table: Table, row: bytes, changes: Changes) -> bool:
    """Clear detached folders; False when some are left for another call."""
    for _ in range(_MAX_STEPS):
        page = await table.scan(row, DETACHED, prefix_stop(DETACHED), limit=1)
        if not page.cells:
            return True
        mark = page.cells[0]
        folder = mark.col[len(DETACHED) :].decode()
        prefix = entries_prefix(folder)
        inside = await table.scan(row, prefix, prefix_stop(prefix), limit=_ENTRIES)
        operations: list[SubOperation] = [IfVersion(mark.col, mark.version)]
        for cell in inside.cells:
            operations.append(IfVersion(cell.col, cell.version))
            operations += changes.drop(entry_of(folder, cell))
        if not inside.more:
            operations.append(DeleteCell(detached_col(folder)))
        try:
            await table.mutate(row, operations)
        except Conflict:
            return False  # Another frontend's sweeper is clearing the same folder.
    return False

"""Collection: removes the chunks that a row's marks declare unused. The marks: see `_ownership.py`.

Every step may be cut off and done again, by this or another process: an intent becomes garbage in one
conditional mutation, deleting a chunk twice is no error, and the mark goes last.

The chunks of a blob lie all over the store. One that cannot be removed now keeps the mark of its blob,
for a later round; it does not keep the other blobs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from penncloud.client.table import (
    Cell,
    Conflict,
    DeleteCell,
    IfVersion,
    PutCell,
    Table,
    after,
    prefix_stop,
)
from penncloud.platform.errors import PennCloudError
from penncloud.services.blobs._chunks import remove_chunks
from penncloud.services.blobs._ownership import GARBAGE, PENDING, STALE_S, Garbage, Intent

# Content that was deleted stays so long for those who are just reading it (seconds).
GRACE_S: Final = 600.0
# After so many removed chunks the mark records how far it went, for whoever takes over.
REMOVALS_PER_NOTE: Final = 512
_PAGE: Final = 100


class BlobCollector:
    """Collects row by row. `now` gives Unix seconds, the other arguments are in seconds."""

    def __init__(
        self,
        table: Table,
        now: Callable[[], float],
        *,
        grace_s: float = GRACE_S,
        stale_s: float = STALE_S,
    ) -> None:
        self._table = table
        self._now = now
        self._grace_s = grace_s
        self._stale_s = stale_s

    async def collect(self, row: bytes) -> int:
        """Give up stale intents and remove old garbage of a row; returns how many blobs went.

        Where some have to stay, it raises the first reason (Unavailable, as a rule), after the others.
        """
        await self._give_up_intents(row)
        removed, start = 0, GARBAGE
        reasons: list[Exception] = []
        while True:
            page = await self._table.scan(row, start, prefix_stop(GARBAGE), limit=_PAGE)
            for cell in page.cells:
                try:
                    removed += await self._remove(row, cell)
                except (PennCloudError, msgspec.MsgspecError) as error:
                    reasons.append(error)
            if not page.more:
                break
            start = after(page.cells[-1].col)
        if reasons:
            raise reasons[0]
        return removed

    async def _give_up_intents(self, row: bytes) -> None:
        start = PENDING
        while True:
            page = await self._table.scan(row, start, prefix_stop(PENDING), limit=_PAGE)
            for cell in page.cells:
                intent = msgspec.json.decode(cell.value, type=Intent)
                if self._now() - intent.touched < self._stale_s:
                    continue
                # Nobody ever read this blob: no grace is needed.
                mark = msgspec.json.encode(Garbage(0.0, intent.chunks))
                garbage = GARBAGE + cell.col[len(PENDING) :]
                try:
                    await self._table.mutate(
                        row,
                        [
                            IfVersion(cell.col, cell.version),
                            DeleteCell(cell.col),
                            PutCell(garbage, mark),
                        ],
                    )
                except Conflict:
                    continue  # Its writer came back, or another collector was first.
            if not page.more:
                return
            start = after(page.cells[-1].col)

    async def _remove(self, row: bytes, cell: Cell) -> bool:
        garbage = msgspec.json.decode(cell.value, type=Garbage)
        if self._now() - garbage.since < self._grace_s:
            return False
        blob_id = cell.col[len(GARBAGE) :].decode()
        version, done = cell.version, garbage.removed
        while done < garbage.chunks:
            step = min(garbage.chunks, done + REMOVALS_PER_NOTE)
            await remove_chunks(self._table, blob_id, done, step)
            done = step
            if done < garbage.chunks:
                note = msgspec.json.encode(Garbage(garbage.since, garbage.chunks, done))
                try:
                    version = await self._table.put_if_version(row, cell.col, version, note)
                except Conflict:
                    return False  # Another collector is at it.
        return await self._table.delete(row, cell.col)

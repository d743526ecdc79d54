"""Collecting what crashes left: bodies whose referrers never came to be, releases that were cut off.

Rows of the queue, intents and messages lie in different tablets. What cannot be reached keeps its intent
or mark, and is looked at again in the next round; the others do not wait for it.
"""

from __future__ import annotations

from collections.abc import Awaitable

import msgspec
from attrs import define, field
from twisted.logger import Logger

from penncloud.client.table import Cell, Table, after
from penncloud.platform.environment import Environment
from penncloud.platform.errors import PennCloudError
from penncloud.services.mail.bodies import INTENT_SHARDS, Bodies
from penncloud.services.mail.post import PostOffice
from penncloud.services.mail.queue import SHARDS, Done, Queue, item_holder

# An intent of this age (seconds) belongs to a message whose writer is certainly gone.
STALE_S = 24 * 3600.0
# Intents, or finished queue items, read at a time.
_PER_PAGE = 100


@define
class Reclaimer:
    """One round at a time; several nodes may do it at once."""

    _table: Table
    _environment: Environment
    _bodies: Bodies
    _post: PostOffice
    _queue: Queue
    _settled: int = field(default=0, init=False)
    # Why something was put off.
    _reasons: list[Exception] = field(factory=list, init=False)

    _log = Logger()

    async def round(self) -> int:
        """Reclaim what is old; returns how many intents were settled."""
        self._settled = 0
        self._reasons.clear()
        for shard in range(INTENT_SHARDS):
            await self._unless_away(self._intents(b"mail-intents/%d" % shard))
        for shard in range(SHARDS):
            await self._unless_away(self._finished(shard))
        if self._reasons:
            self._log.info(
                "put off {count} of what is to be reclaimed: {error}",
                count=len(self._reasons),
                error=str(self._reasons[0]),
            )
        return self._settled

    async def _unless_away(self, step: Awaitable[None]) -> None:
        """Do it, or note why it has to wait for the next round."""
        try:
            await step
        except (PennCloudError, msgspec.MsgspecError) as error:
            self._reasons.append(error)

    async def _finished(self, shard: int) -> None:
        behind = b""
        while marks := await self._queue.old_done(shard, _PER_PAGE, behind):
            for col, item_id, done in marks:
                await self._unless_away(self._forget(shard, col, item_id, done))
            behind = marks[-1][0]

    async def _forget(self, shard: int, col: bytes, item_id: str, done: Done) -> None:
        await self._bodies.release(done.message_id, item_holder(item_id))
        await self._queue.forget(shard, col)

    async def _intents(self, row: bytes) -> None:
        oldest = b"%010x" % max(0, int(self._environment.now() - STALE_S))
        start = b""
        while True:
            page = await self._table.scan(row, start, oldest, limit=_PER_PAGE)
            for cell in page.cells:
                await self._unless_away(self._settle(row, cell))
            if not page.more:
                return
            start = after(page.cells[-1].col)

    async def _settle(self, row: bytes, cell: Cell) -> None:
        message_id = cell.col.decode().partition("/")[2]
        intended = msgspec.json.decode(cell.value, type=list[str])
        if await self._is_queued(intended):
            return
        await self._bodies.sweep_marks(message_id)
        for holder in {*intended, *await self._bodies.holders(message_id)}:
            if not await self._refers(holder, message_id):
                await self._bodies.release(message_id, holder)
        await self._table.delete(row, cell.col)
        self._settled += 1

    async def _is_queued(self, intended: list[str]) -> bool:
        """Whether some of it is still to be done: others may get the message only by that."""
        for holder in intended:
            kind, _, name = holder.partition("/")
            if kind == "queue" and await self._queue.has(name):
                return True
        return False

    async def _refers(self, holder: str, message_id: str) -> bool:
        kind, _, name = holder.partition("/")
        if kind == "queue":
            return await self._queue.has(name)
        return await self._post.mailbox(name).has("sent" if kind == "sent" else "inbox", message_id)

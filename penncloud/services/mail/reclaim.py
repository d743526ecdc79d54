"""Collecting what crashes left: bodies whose referrers never came to be, releases that were cut off."""

from __future__ import annotations

import msgspec
from attrs import define

from penncloud.client.table import Cell, Table, after
from penncloud.platform.environment import Environment
from penncloud.services.mail.bodies import INTENT_SHARDS, Bodies
from penncloud.services.mail.post import PostOffice
from penncloud.services.mail.queue import SHARDS, Queue

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

    async def round(self) -> int:
        """Reclaim what is old; returns how many intents were settled."""
        settled = 0
        for shard in range(INTENT_SHARDS):
            settled += await self._intents(b"mail-intents/%d" % shard)
        for shard in range(SHARDS):
            while marks := await self._queue.old_done(shard, _PER_PAGE):
                for col, item_id, done in marks:
                    await self._bodies.release(done.message_id, f"queue/{item_id}")
                    await self._queue.forget(shard, col)
        return settled

    async def _intents(self, row: bytes) -> int:
        oldest = b"%010x" % max(0, int(self._environment.now() - STALE_S))
        settled, start = 0, b""
        while True:
            page = await self._table.scan(row, start, oldest, limit=_PER_PAGE)
            for cell in page.cells:
                settled += await self._settle(row, cell)
            if not page.more:
                return settled
            start = after(page.cells[-1].col)

    async def _settle(self, row: bytes, cell: Cell) -> bool:
        message_id = cell.col.decode().partition("/")[2]
        intended = msgspec.json.decode(cell.value, type=list[str])
        if await self._is_queued(intended):
            return False
        await self._bodies.sweep_marks(message_id)
        for holder in {*intended, *await self._bodies.holders(message_id)}:
            if not await self._refers(holder, message_id):
                await self._bodies.release(message_id, holder)
        await self._table.delete(row, cell.col)
        return True

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

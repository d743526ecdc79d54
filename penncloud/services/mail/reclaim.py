"""Collecting what crashes left: bodies whose referrers never came to be, releases that were cut off."""

from __future__ import annotations

import msgspec
from attrs import define

from penncloud.client.table import Table
from penncloud.platform.environment import Environment
from penncloud.services.mail.bodies import INTENT_SHARDS, Bodies
from penncloud.services.mail.post import PostOffice
from penncloud.services.mail.queue import SHARDS, Queue

# An intent of this age (seconds) belongs to a message whose writer is certainly gone.
STALE_S = 24 * 3600.0
# Intents and finished queue items looked at per round and shard.
_PER_ROUND = 100


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
            for col, item_id, done in await self._queue.old_done(shard, _PER_ROUND):
                await self._bodies.release(done.message_id, f"queue/{item_id}")
                await self._queue.forget(shard, col)
        return settled

    async def _intents(self, row: bytes) -> int:
        oldest = b"%010x" % max(0, int(self._environment.now() - STALE_S))
        page = await self._table.scan(row, b"", oldest, limit=_PER_ROUND)
        for cell in page.cells:
            message_id = cell.col.decode().partition("/")[2]
            await self._bodies.sweep_marks(message_id)
            intended = msgspec.json.decode(cell.value, type=list[str])
            for holder in {*intended, *await self._bodies.holders(message_id)}:
                if not await self._refers(holder, message_id):
                    await self._bodies.release(message_id, holder)
            await self._table.delete(row, cell.col)
        return len(page.cells)

    async def _refers(self, holder: str, message_id: str) -> bool:
        kind, _, name = holder.partition("/")
        if kind == "queue":
            return await self._queue.has(name)
        return await self._post.mailbox(name).has("sent" if kind == "sent" else "inbox", message_id)

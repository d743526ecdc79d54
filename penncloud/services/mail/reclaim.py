"""Collecting what crashes left: bodies whose referrers never came to be, releases that were cut off.

Rows of the queue, intents and messages lie in different tablets. What cannot be reached keeps its intent
or mark, and is looked at again in the next round; the others do not wait for it.

What is protected, and by what. A body that somebody refers to stays: a mailbox that lists it, a queue item,
a submission that is still to be carried out, however old. `STALE_S` protects nothing of that; it only leaves
in peace those who are probably still writing. Who was slower all the same (a sender at a crawl, a machine
that was asleep, clocks that differ by a day) finds the message given up when it would come to be referred
to, and has it sent again: see `given_up`.
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

# An intent of this age (seconds) belongs to a message whose writer is gone, as a rule.
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
        await self._queue.forget_given_up(shard)

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
        # First the queue: what is queued is still to be filed in the mailboxes.
        for submission in sorted({each.partition(".")[0] for each in _item_ids(intended)}):
            await self._queue.give_up(submission, message_id)
        if await self._is_queued(intended):
            return
        await self._bodies.sweep_marks(message_id)
        holders = sorted({*intended, *await self._bodies.holders(message_id)})
        # All before the first release: where there is no holder yet it takes the bytes, just as they come.
        unwanted = [each for each in holders if not await self._ever_refers(each, message_id)]
        for holder in unwanted:
            await self._bodies.release(message_id, holder)
        await self._table.delete(row, cell.col)
        self._settled += 1

    async def _is_queued(self, intended: list[str]) -> bool:
        """Whether some of it is still to be done: others may get the message only by that."""
        for item_id in _item_ids(intended):
            if await self._queue.has(item_id):
                return True
        return False

    async def _ever_refers(self, holder: str, message_id: str) -> bool:
        """Whether it refers to the message; if not, from now on it cannot come to do so."""
        if await self._refers(holder, message_id):
            return True
        kind, _, name = holder.partition("/")
        if kind == "queue":
            return False  # the queue has given it up before
        await self._post.mailbox(name).give_up(message_id)
        return await self._refers(holder, message_id)

    async def _refers(self, holder: str, message_id: str) -> bool:
        kind, _, name = holder.partition("/")
        if kind == "queue":
            return await self._queue.has(name)
        return await self._post.mailbox(name).has("sent" if kind == "sent" else "inbox", message_id)


def _item_ids(holders: list[str]) -> list[str]:
    """The queue items among them."""
    parts = [holder.partition("/") for holder in holders]
    return [name for kind, _, name in parts if kind == "queue"]

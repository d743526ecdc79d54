"""Message bodies: each message is stored once, however many mailboxes and queue items refer to it.

    row message/ID
      body           JSON `Body`: size, digest, and where the bytes are
      raw            the bytes, where they are at most `INLINE_BYTES`
      holder/HOLDER  one per referrer: `inbox/NAME`, `sent/NAME`, `queue/ITEM`
      guard          rewritten by every release, so that two at once see each other
      pending/, garbage/   marks of a bigger body's blob (see services.blobs)

    row mail-intents/SHARD
      TIME/ID        JSON list of the holders that a message under way is written for

Order makes this safe at any crash. Writing: intent, then the bytes, then in one mutation body and
holders, then the referrers themselves, then the intent goes. So a referrer never lacks its body, and an
intent that stays behind names what may have to be removed (`reclaim`). Releasing: the referrer goes
first, leaving a mark of its own; then the holder; without holders the bytes; then the mark. Every step
can be done again. That a writer who is slower than the reclaimer is patient makes no referrer without a
body: see `given_up`.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import msgspec
from twisted.logger import Logger

from penncloud.client.table import (
    Conflict,
    DeleteCell,
    IfVersion,
    PutCell,
    SubOperation,
    Table,
    Unavailable,
    scan_all,
)
from penncloud.platform.environment import Environment
from penncloud.platform.errors import PennCloudError
from penncloud.services.blobs import (
    BlobCollector,
    BlobOwner,
    BlobRef,
    Blobs,
    OwnedWriter,
    UploadExpired,
)
from penncloud.services.mail.given_up import GivenUp

# Bodies up to this size are one cell; bigger ones are blobs.
INLINE_BYTES = 64 * 1024
# Holders put by one mutation (the table allows 256 sub-operations).
HOLDERS_PER_MUTATION = 200
# Rows over which intents are spread.
INTENT_SHARDS = 8
# Attempts to release while others release the same message.
_ATTEMPTS = 20

_BODY, _RAW, _GUARD, _HOLDER = b"body", b"raw", b"guard", b"holder/"


class Body(msgspec.Struct, frozen=True):
    """What is known of a stored body: `size` in bytes, `blob` where it is not inline."""

    size: int
    sha256: str
    blob: BlobRef | None = None


class NoSuchMessage(PennCloudError):
    """No body is stored under this id."""


class Bodies:
    """All message bodies of a store."""

    log = Logger()

    def __init__(self, table: Table, blobs: Blobs, environment: Environment) -> None:
        self._table = table
        self._blobs = blobs
        self._environment = environment

    def new_id(self) -> str:
        """An id for a new message: sorts by time, cannot be guessed."""
        return f"{int(self._environment.now() * 1000):011x}{self._environment.entropy(12).hex()}"

    async def open(self, message_id: str, holders: Sequence[str]) -> BodyWriter:
        """Record the intent to write a body for these holders, and give its writer."""
        intent = intent_cell(message_id, self._environment.now())
        await self._table.put(*intent, msgspec.json.encode(list(holders)))
        return BodyWriter(self._table, self._blobs, self._environment.now, message_id, intent)

    async def find(self, message_id: str) -> Body:
        """Raises NoSuchMessage."""
        cell = await self._table.get(_row(message_id), _BODY)
        if cell is None:
            raise NoSuchMessage(f"there is no message {message_id}")
        return msgspec.json.decode(cell.value, type=Body)

    async def read(
        self, message_id: str, offset: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The bytes in pieces. Raises NoSuchMessage, or BlobDamaged. Close it when it is left early."""
        body = await self.find(message_id)
        if body.blob is not None:
            async with aclosing(self._blobs.read(body.blob, offset, length)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        cell = await self._table.get(_row(message_id), _RAW)
        if cell is None:
            raise NoSuchMessage(f"there is no message {message_id}")
        stop = None if length is None else offset + length
        if cell.value[offset:stop]:
            yield cell.value[offset:stop]

    async def read_all(self, message_id: str, at_most: int) -> bytes:
        """The first `at_most` bytes (all of them, if there are no more)."""
        async with aclosing(self.read(message_id, 0, at_most)) as pieces:
            return b"".join([piece async for piece in pieces])

    async def release(self, message_id: str, holder: str) -> None:
        """A referrer is gone; the last one takes the bytes with it. Doing it again is no error."""
        row = _row(message_id)
        for _ in range(_ATTEMPTS):
            guard = await self._table.get(row, _GUARD)
            holders = await self._table.scan(row, _HOLDER, _HOLDER + b"\xff", limit=2)
            mine = _HOLDER + holder.encode()
            is_last = all(cell.col == mine for cell in holders.cells)
            condition = IfVersion(_GUARD, guard.version if guard else 0)
            try:
                if not is_last:
                    await self._table.mutate(
                        row, [condition, PutCell(_GUARD, b""), DeleteCell(mine)]
                    )
                    return
                await self._table.mutate(row, [condition, PutCell(_GUARD, b"")])
                await self._remove(message_id, mine)
                return
            except Conflict:
                continue
        raise Unavailable(f"message {message_id} is being released by too many at once")

    async def _remove(self, message_id: str, last_holder: bytes) -> None:
        row = _row(message_id)
        body = await self._table.get(row, _BODY)
        if body is not None:
            ref = msgspec.json.decode(body.value, type=Body).blob
            if ref is not None:
                await self._blobs.remove(ref)
        gone = (_BODY, _RAW, last_holder, _GUARD)
        await self._table.mutate(row, [DeleteCell(col) for col in gone])

    async def release_done(self, message_id: str, item_holder: str) -> None:
        """Release for a finished queue item. Never fails: its mark lets the reclaimer do it again."""
        try:
            await self.release(message_id, item_holder)
        except PennCloudError as error:
            self.log.info("{id} not released yet: {error}", id=message_id, error=str(error))

    async def holders(self, message_id: str) -> list[str]:
        """Who refers to a message."""
        cells = await scan_all(self._table, _row(message_id), _HOLDER)
        return [cell.col[len(_HOLDER) :].decode() for cell in cells]

    async def sweep_marks(self, message_id: str) -> None:
        """Remove chunks of a body whose writer died before it finished."""
        collector = BlobCollector(self._table, self._environment.now, grace_s=0.0, stale_s=0.0)
        await collector.collect(_row(message_id))


class BodyWriter:
    """Takes the bytes of one message in order; memory holds `INLINE_BYTES` or a few chunks at most."""

    log = Logger()

    def __init__(
        self,
        table: Table,
        blobs: Blobs,
        now: Callable[[], float],
        message_id: str,
        intent: tuple[bytes, bytes],
    ) -> None:
        self.message_id = message_id
        self.size = 0
        self._table = table
        self._owner = BlobOwner(table, blobs, _row(message_id), now)
        self._intent = intent
        self._held = bytearray()
        self._digest = hashlib.sha256()
        self._blob: OwnedWriter | None = None

    async def write(self, data: bytes) -> None:
        """Take more bytes; returns when there is room for the next ones. Raises GivenUp, Unavailable."""
        try:
            await self._write(data)
        except UploadExpired as error:
            raise GivenUp("the message took too long and was given up") from error

    async def _write(self, data: bytes) -> None:
        self.size += len(data)
        self._digest.update(data)
        if self._blob is None and self.size <= INLINE_BYTES:
            self._held += data
            return
        if self._blob is None:
            self._blob = await self._owner.create()
            await self._blob.write(bytes(self._held))
            self._held.clear()
        await self._blob.write(data)

    async def finish(self, holders: Sequence[str]) -> Body:
        """Make the body durable, held by all of `holders`. Raises GivenUp, Unavailable."""
        try:
            return await self._finish(holders)
        except (Conflict, UploadExpired) as error:
            raise GivenUp("the message took too long and was given up") from error

    async def _finish(self, holders: Sequence[str]) -> Body:
        row = _row(self.message_id)
        puts: list[SubOperation] = [PutCell(_HOLDER + h.encode(), b"") for h in holders]
        first, rest = puts[:HOLDERS_PER_MUTATION], puts[HOLDERS_PER_MUTATION:]
        # Holders of a body that is not there yet do no harm; a body without its holders would.
        for start in range(0, len(rest), HOLDERS_PER_MUTATION):
            await self._table.mutate(row, rest[start : start + HOLDERS_PER_MUTATION])
        digest = self._digest.hexdigest()
        if self._blob is None:
            body = Body(self.size, digest)
            bytes_there: list[SubOperation] = [PutCell(_RAW, bytes(self._held))]
        else:
            body = Body(self.size, digest, await self._blob.finish())
            bytes_there = self._blob.adopt()
        cell = PutCell(_BODY, msgspec.json.encode(body))
        await self._table.mutate(row, [IfVersion(_BODY, 0), *bytes_there, cell, *first])
        return body

    async def settle(self) -> None:
        """All referrers stand (or all are released): the intent has done its service.

        Never fails: an intent that stays is looked into later, and found to be fulfilled.
        """
        try:
            await self._table.delete(*self._intent)
        except PennCloudError as error:
            self.log.info("an intent stays: {error}", error=str(error))

    async def abort(self) -> None:
        """Give up before `finish`. Never fails: what cannot be removed now is reclaimed later."""
        self._held.clear()
        if self._blob is None or await self._blob.abort():
            await self.settle()
        # Otherwise the intent stays: it is what leads the reclaimer to the chunks that are left.


def _row(message_id: str) -> bytes:
    return b"message/" + message_id.encode()


def intent_cell(message_id: str, now: float) -> tuple[bytes, bytes]:
    """Row and column of a message's intent."""
    shard = int(message_id[-2:], 16) % INTENT_SHARDS
    return b"mail-intents/%d" % shard, b"%010x/" % int(now) + message_id.encode()

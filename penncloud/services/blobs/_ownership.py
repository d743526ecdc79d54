"""Who owns a blob: marks in the owner's row, so that no crash leaks a chunk or loses one in use.

Chunks and the reference to them lie in different rows, so nothing writes both at once. The owner's row
(`files/NAME`, `mail/NAME`) therefore carries marks, and each step changes them in one atomic mutation:

    pending/ID   intent: a blob is being written, at most `chunks` chunks so far, alive at `touched`
    garbage/ID   nobody refers to the blob any more: its `chunks` chunks are to be removed

    create       put pending/ID, before the first chunk; extended before every 64th further one
    adopt        [if pending/ID is as we left it: delete it] + the owner's own cells, one mutation
    abort        [if pending/ID is as we left it: delete it, put garbage/ID], then remove
    discard      the owner's own cells go + put garbage/ID, one mutation
    sweep        an intent that was not touched for `STALE_S`: [if it is unchanged] becomes garbage
    collect      remove the chunks that garbage/ID names, then the mark

Adopting is conditional on the intent, so a writer that was silent for so long that the sweeper gave it
up cannot publish a blob whose chunks are going away; and aborting is safe even when the outcome of the
adopting mutation was never learnt. A writer touches its intent at least every `TOUCH_S` while it writes:
chunks that appear after the sweep would need a write that takes longer than `STALE_S` - `TOUCH_S`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from twisted.logger import Logger

from penncloud.client.table import (
    Conflict,
    DeleteCell,
    IfVersion,
    PutCell,
    SubOperation,
    Table,
)
from penncloud.platform.errors import PennCloudError
from penncloud.services.blobs._chunks import BlobRef, Blobs, BlobWriter, remove_chunks

PENDING: Final = b"pending/"
GARBAGE: Final = b"garbage/"
# Chunks that one intent allows before it is extended: 32 MiB of contents per extra write.
INTENT_CHUNKS: Final = 64
# A writer at work shows itself at least so often (seconds).
TOUCH_S: Final = 600.0
# An intent untouched for so long belongs to a process that died (seconds).
STALE_S: Final = 24 * 3600.0


class Intent(msgspec.Struct, frozen=True):
    """Value of `pending/ID`. `touched` in Unix seconds; chunks with number >= `chunks` do not exist."""

    touched: float
    chunks: int


class Garbage(msgspec.Struct, frozen=True):
    """Value of `garbage/ID`. `since` in Unix seconds; chunks with number < `removed` are gone."""

    since: float
    chunks: int
    removed: int = 0


class UploadExpired(PennCloudError):
    """The writer was silent for so long that its blob was given up; it has to start again."""


def pending_col(blob_id: str) -> bytes:
    return PENDING + blob_id.encode()


def garbage_col(blob_id: str) -> bytes:
    return GARBAGE + blob_id.encode()


class OwnedWriter:
    """A `BlobWriter` whose intent stands in the owner's row. Made by `BlobOwner.create`."""

    log = Logger()

    def __init__(self, table: Table, row: bytes, now: Callable[[], float], blobs: Blobs) -> None:
        self._table = table
        self._row = row
        self._now = now
        self._writer: BlobWriter = blobs.create(self._allow)
        self._intent = Intent(now(), 0)
        self._version = 0

    @property
    def size(self) -> int:
        """Bytes taken so far."""
        return self._writer.size

    @property
    def buffered_bytes(self) -> int:
        """Bytes taken that the store has not yet confirmed."""
        return self._writer.buffered_bytes

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """As `BlobWriter.write`; also raises UploadExpired."""
        await self._writer.write(data)

    async def finish(self) -> BlobRef:
        """As `BlobWriter.finish`: the store has every byte, but nobody refers to them yet."""
        return await self._writer.finish()

    def adopt(self) -> list[SubOperation]:
        """What the owner's mutation has to contain beside the cell with the reference.

        A Conflict of that mutation may come from here: call `check` to tell.
        """
        col = pending_col(self._writer.id)
        return [IfVersion(col, self._version), DeleteCell(col)]

    async def check(self) -> None:
        """Raise UploadExpired if the intent is no longer there."""
        cell = await self._table.get(self._row, pending_col(self._writer.id))
        if cell is None or cell.version != self._version:
            raise UploadExpired("the upload took too long and was given up; please start again")

    async def abort(self) -> bool:
        """Give up: remove what was written, unless it was adopted after all.

        Never fails: what the store does not let us remove now, the collector removes later. Whether
        everything is gone; otherwise a collector has to look at the row.
        """
        col, blob_id = pending_col(self._writer.id), self._writer.id
        try:
            await self._writer.close()
            chunks = self._writer.started_chunks
            mark = msgspec.json.encode(Garbage(self._now(), chunks))
            await self._table.mutate(
                self._row,
                [
                    IfVersion(col, self._version),
                    DeleteCell(col),
                    PutCell(garbage_col(blob_id), mark),
                ],
            )
            await remove_chunks(self._table, blob_id, 0, chunks)
            if self._writer.has_failed:
                # A chunk whose write got no answer may still arrive: the collector removes it once more.
                return False
            await self._table.delete(self._row, garbage_col(blob_id))
        except Conflict:
            return False  # Adopted, or already swept: not ours any more.
        except PennCloudError as error:
            self.log.info(
                "blob {blob} of {row} is left to the collector: {error}",
                blob=blob_id,
                row=self._row.decode(errors="replace"),
                error=error,
            )
            return False
        return True

    async def announce(self) -> None:
        """Put the intent, or renew it: chunks up to the next multiple of the step may now exist."""
        chunks = (self._writer.started_chunks // INTENT_CHUNKS + 1) * INTENT_CHUNKS
        intent = Intent(self._now(), chunks)
        try:
            self._version = await self._table.put_if_version(
                self._row, pending_col(self._writer.id), self._version, msgspec.json.encode(intent)
            )
        except Conflict as conflict:
            raise UploadExpired(
                "the upload took too long and was given up; please start again"
            ) from conflict
        self._intent = intent

    async def _allow(self, number: int) -> None:
        if number >= self._intent.chunks or self._now() - self._intent.touched > TOUCH_S:
            await self.announce()


class BlobOwner:
    """The blobs that one row refers to. `now` gives Unix seconds."""

    def __init__(self, table: Table, blobs: Blobs, row: bytes, now: Callable[[], float]) -> None:
        self._table = table
        self._blobs = blobs
        self._row = row
        self._now = now

    async def create(self) -> OwnedWriter:
        """Announce a new blob and return its writer."""
        writer = OwnedWriter(self._table, self._row, self._now, self._blobs)
        await writer.announce()
        return writer

    def discard(self, ref: BlobRef) -> list[SubOperation]:
        """What the mutation that removes the last reference to a blob has to contain."""
        mark = msgspec.json.encode(Garbage(self._now(), ref.chunks))
        return [PutCell(garbage_col(ref.id), mark)]

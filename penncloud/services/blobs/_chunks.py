"""Chunks: how a blob's bytes lie in the store.

Blob ID of `size` bytes is ceil(size / chunk_bytes) rows `blob/ID/0`, `blob/ID/1`, ..., each with one
cell `data`. Every row hashes to its own place, so a large file is written to and read from all
tablets at once. A blob never changes; whoever owns it keeps its `BlobRef`.

Memory is bounded: a writer holds one chunk that fills up plus `WRITES_IN_FLIGHT` on their way (awaiting
`write` is the back-pressure), a reader fetches `READ_AHEAD` chunks before they are asked for.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar

import msgspec
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.python.failure import Failure

from penncloud.client.table import Table
from penncloud.platform.errors import PennCloudError

CHUNK_BYTES: Final = 512 * 1024
WRITES_IN_FLIGHT: Final = 4
READ_AHEAD: Final = 3
REMOVALS_IN_FLIGHT: Final = 8

_DATA: Final = b"data"
_T = TypeVar("_T")

# Told the number of a chunk before it is written; may wait or raise.
BeforeChunk = Callable[[int], Awaitable[None]]


class BlobDamaged(PennCloudError):
    """A chunk that the reference promises is missing or has the wrong size."""


class BlobRef(msgspec.Struct, frozen=True):
    """What an owner keeps of a blob: where it lies, how long it is (bytes), what it hashes to (hex)."""

    id: str
    size: int
    chunk_bytes: int
    sha256: str

    @property
    def chunks(self) -> int:
        """How many chunks it has; none when it is empty."""
        return -(-self.size // self.chunk_bytes)


def chunk_row(blob_id: str, number: int) -> bytes:
    """The row of a chunk."""
    return f"blob/{blob_id}/{number}".encode()


async def together(coroutines: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Run all of them at once, wait for every one, then raise the first failure if there is one."""
    running = [Deferred.fromCoroutine(each) for each in coroutines]
    outcomes = await DeferredList(running, consumeErrors=True)
    for _, outcome in outcomes:
        if isinstance(outcome, Failure):
            outcome.raiseException()
    return [outcome for _, outcome in outcomes]


class BlobWriter:
    """Takes the bytes of one new blob, in order, from one caller at a time."""

    def __init__(self, table: Table, blob_id: str, before_chunk: BeforeChunk | None = None) -> None:
        self.id = blob_id
        self.size = 0
        self.started_chunks = 0
        self._table = table
        self._before_chunk = before_chunk
        self._held = bytearray()
        self._sha256 = hashlib.sha256()
        self._slots = DeferredSemaphore(WRITES_IN_FLIGHT)
        self._failure: BaseException | None = None
        self._closed = False

    @property
    def buffered_bytes(self) -> int:
        """Bytes taken that the store has not yet confirmed."""
        return len(self._held) + CHUNK_BYTES * (WRITES_IN_FLIGHT - self._slots.tokens)

    @property
    def has_failed(self) -> bool:
        """Whether a chunk was not confirmed; it may have been written nevertheless, or be written yet."""
        return self._failure is not None

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take more bytes; returns when there is room for the next ones.

        Raises what the store raised for this or an earlier chunk; then only `abort` is left to do.
        """
        self._check_open()
        view = memoryview(data)
        while view:
            piece = view[: CHUNK_BYTES - len(self._held)]
            self._held += piece
            self._sha256.update(piece)
            self.size += len(piece)
            view = view[len(piece) :]
            if len(self._held) == CHUNK_BYTES:
                await self._send()

    async def finish(self) -> BlobRef:
        """Write the rest, wait until the store has everything, and return the reference."""
        self._check_open()
        if self._held:
            await self._send()
        await self._settled()
        self._check_open()
        self._closed = True
        return BlobRef(self.id, self.size, CHUNK_BYTES, self._sha256.hexdigest())

    async def close(self) -> None:
        """Take nothing more and wait for the writes under way, whatever becomes of them."""
        self._closed = True
        self._held.clear()
        await self._settled()

    async def abort(self) -> None:
        """Give up: remove what was written. Not after the reference was stored somewhere."""
        await self.close()
        await remove_chunks(self._table, self.id, 0, self.started_chunks)

    async def _send(self) -> None:
        number, chunk = self.started_chunks, bytes(self._held)
        if self._before_chunk is not None:
            await self._before_chunk(number)
        await self._slots.acquire()
        if self._failure is not None or self._closed:
            self._slots.release()
            self._check_open()
        self._held = bytearray()
        self.started_chunks += 1
        put = Deferred.fromCoroutine(self._table.put(chunk_row(self.id, number), _DATA, chunk))
        put.addErrback(self._failed)
        put.addBoth(lambda _: self._slots.release())

    def _failed(self, failure: Any) -> None:
        self._failure = self._failure or failure.value

    async def _settled(self) -> None:
        for _ in range(WRITES_IN_FLIGHT):
            await self._slots.acquire()
        for _ in range(WRITES_IN_FLIGHT):
            self._slots.release()

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise ValueError(f"blob {self.id} is already finished or given up")


async def remove_chunks(table: Table, blob_id: str, first: int, stop: int) -> None:
    """Delete the chunks first <= number < stop; those that are gone already are no error."""
    for start in range(first, stop, REMOVALS_IN_FLIGHT):
        numbers = range(start, min(stop, start + REMOVALS_IN_FLIGHT))
        await together(table.delete(chunk_row(blob_id, number), _DATA) for number in numbers)


class Blobs:
    """All blobs of a store. `entropy(n)` gives n unpredictable bytes."""

    def __init__(self, table: Table, entropy: Callable[[int], bytes]) -> None:
        self._table = table
        self._entropy = entropy

    def create(self, before_chunk: BeforeChunk | None = None) -> BlobWriter:
        """A writer of a new blob. Its chunks leak if this process dies: see `BlobOwner.create`."""
        return BlobWriter(self._table, self._entropy(16).hex(), before_chunk)

    async def read(
        self, ref: BlobRef, offset: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The bytes from `offset` (`length` of them, None: to the end) in pieces of at most a chunk.

        Raises BlobDamaged, or Unavailable from the store. Close it (`contextlib.aclosing`) when it is
        left early: that cancels what is read ahead.
        """
        stop = ref.size if length is None else min(ref.size, offset + length)
        if offset >= stop:
            return
        size = ref.chunk_bytes
        numbers = iter(range(offset // size, -(-stop // size)))
        ahead: deque[tuple[int, Deferred[bytes]]] = deque()

        def fetch() -> None:
            for number in numbers:
                ahead.append((number, Deferred.fromCoroutine(self._chunk(ref, number))))
                if len(ahead) >= READ_AHEAD:
                    break

        try:
            fetch()
            while ahead:
                number, fetching = ahead[0]
                data = await fetching
                ahead.popleft()
                fetch()
                begin = max(offset - number * size, 0)
                end = min(stop - number * size, len(data))
                yield data if (begin, end) == (0, len(data)) else data[begin:end]
        finally:
            for _, fetching in ahead:
                # Nobody waits for these any more: their failure has no consequence.
                fetching.addErrback(lambda _: None)
                fetching.cancel()

    async def _chunk(self, ref: BlobRef, number: int) -> bytes:
        cell = await self._table.get(chunk_row(ref.id, number), _DATA)
        expected = min(ref.chunk_bytes, ref.size - number * ref.chunk_bytes)
        if cell is None or len(cell.value) != expected:
            found = "is missing" if cell is None else f"has {len(cell.value)} bytes"
            raise BlobDamaged(f"chunk {number} of blob {ref.id} {found}, expected {expected} bytes")
        return cell.value

    async def read_all(self, ref: BlobRef, *, at_most: int) -> bytes:
        """The whole blob, for the small ones: raises ValueError beyond `at_most` bytes."""
        if ref.size > at_most:
            raise ValueError(f"blob {ref.id} has {ref.size} bytes, more than {at_most}")
        return b"".join([piece async for piece in self.read(ref)])

    async def remove(self, ref: BlobRef) -> None:
        """Delete the blob's chunks, a few at a time. Doing it again is no error."""
        await remove_chunks(self._table, ref.id, 0, ref.chunks)

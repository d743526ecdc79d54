"""Blobs: chunks, back-pressure, ownership marks, collection."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.client.table import Conflict, PutCell, Unavailable
from penncloud.platform.environment import Environment
from penncloud.services.blobs import (
    CHUNK_BYTES,
    BlobCollector,
    BlobDamaged,
    BlobOwner,
    BlobRef,
    Blobs,
    Sweeper,
    UploadExpired,
)
from penncloud.services.blobs._ownership import STALE_S, TOUCH_S
from tests.services.unreliable_table import UnreliableTable

_T = TypeVar("_T")
ROW = b"files/ann"
GRACE_S = 60.0


class BlobsCase(SynchronousTestCase):
    """A store, blobs and an owner on a clock that the test moves."""

    def setUp(self) -> None:
        self.table = UnreliableTable()
        self.blobs = Blobs(self.table, random.Random(1).randbytes)
        self.time = 1_000_000.0
        self.owner = BlobOwner(self.table, self.blobs, ROW, lambda: self.time)
        self.collector = BlobCollector(self.table, lambda: self.time, grace_s=GRACE_S)

    def run_now(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """The result of what can run to its end at once."""
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    async def store(self, data: bytes, piece: int = 100_000) -> BlobRef:
        writer = self.blobs.create()
        for start in range(0, len(data), piece):
            await writer.write(data[start : start + piece])
        return await writer.finish()

    async def load(self, ref: BlobRef, offset: int = 0, length: int | None = None) -> bytes:
        return b"".join([piece async for piece in self.blobs.read(ref, offset, length)])


class ReadAndWrite(BlobsCase):
    def test_round_trip(self) -> None:
        """What was written is read, whatever its size is relative to a chunk; the hash is right."""
        for size in (0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES):
            data = random.Random(size).randbytes(size)
            ref = self.run_now(self.store(data))
            self.assertEqual(ref.size, size)
            self.assertEqual(ref.chunks, -(-size // CHUNK_BYTES))
            self.assertEqual(ref.sha256, hashlib.sha256(data).hexdigest())
            self.assertEqual(self.run_now(self.load(ref)), data)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 3 * CHUNK_BYTES), st.none() | st.integers(0, 3 * CHUNK_BYTES))
    def test_ranges(self, offset: int, length: int | None) -> None:
        """Any range gives the same bytes as a slice, also beyond the end."""
        self.setUp()
        data = random.Random(0).randbytes(2 * CHUNK_BYTES + 777)
        ref = self.run_now(self.store(data, CHUNK_BYTES))
        stop = None if length is None else offset + length
        self.assertEqual(self.run_now(self.load(ref, offset, length)), data[offset:stop])

    def test_a_writer_waits_for_a_slow_store(self) -> None:
        """With four chunks on their way the next full one has to wait: memory stays bounded."""
        self.table.hold = lambda row: row.startswith(b"blob/")
        writer = self.blobs.create()
        writing = Deferred.fromCoroutine(writer.write(bytes(20 * CHUNK_BYTES)))
        self.assertEqual(len(self.table.held), 4)
        while self.table.held:
            self.assertNoResult(writing)
            self.assertLessEqual(writer.buffered_bytes, 5 * CHUNK_BYTES)
            self.table.release()
            if writing.called:
                break
        self.successResultOf(writing)
        finishing = Deferred.fromCoroutine(writer.finish())
        self.assertNoResult(finishing)
        self.table.release(len(self.table.held))
        self.assertEqual(self.successResultOf(finishing).size, 20 * CHUNK_BYTES)
        self.assertEqual(self.table.most_held, 4)

    def test_a_reader_fetches_ahead_but_not_everything(self) -> None:
        """While the consumer is busy only a few chunks are fetched; leaving early cancels them."""
        ref = self.run_now(self.store(bytes(20 * CHUNK_BYTES)))
        self.table.hold = lambda row: row.startswith(b"blob/")

        async def first() -> int:
            async with aclosing(self.blobs.read(ref)) as pieces:
                async for piece in pieces:
                    return len(piece)
            return 0

        reading = Deferred.fromCoroutine(first())
        self.assertEqual(len(self.table.held), 3)
        self.table.release()
        self.assertEqual(self.successResultOf(reading), CHUNK_BYTES)
        self.assertEqual(self.table.most_held, 3)

    def test_a_failed_chunk_fails_the_writer(self) -> None:
        """A chunk the store did not take makes finish raise; aborting removes the others."""
        writer = self.blobs.create()
        self.run_now(writer.write(bytes(2 * CHUNK_BYTES)))
        self.table.calls_left = 0
        self.run_now(writer.write(bytes(CHUNK_BYTES)))
        self.failureResultOf(Deferred.fromCoroutine(writer.finish()), Unavailable)
        self.table.calls_left = None
        self.run_now(writer.abort())
        self.assertEqual(self.table.chunk_rows(), [])

    def test_a_missing_chunk_is_an_error(self) -> None:
        """A reader never passes off a hole as the end of the content."""
        ref = self.run_now(self.store(bytes(2 * CHUNK_BYTES + 5)))
        self.run_now(self.table.delete(f"blob/{ref.id}/1".encode(), b"data"))
        self.failureResultOf(Deferred.fromCoroutine(self.load(ref)), BlobDamaged)

    def test_remove(self) -> None:
        """Removing deletes every chunk, twice without complaint."""
        ref = self.run_now(self.store(bytes(20 * CHUNK_BYTES + 1), CHUNK_BYTES))
        self.run_now(self.blobs.remove(ref))
        self.run_now(self.blobs.remove(ref))
        self.assertEqual(self.table.chunk_rows(), [])

    def test_read_all_is_bounded(self) -> None:
        """The convenience for small blobs refuses large ones."""
        ref = self.run_now(self.store(b"0123456789"))
        self.assertEqual(self.run_now(self.blobs.read_all(ref, at_most=10)), b"0123456789")
        self.failureResultOf(
            Deferred.fromCoroutine(self.blobs.read_all(ref, at_most=9)), ValueError
        )


class Ownership(BlobsCase):
    def test_adoption(self) -> None:
        """The mutation that stores the reference takes the intent away."""

        async def upload() -> None:
            writer = await self.owner.create()
            self.assertEqual(len(self.table.columns(ROW)), 1)
            await writer.write(b"hello")
            await writer.finish()
            await self.table.mutate(ROW, [*writer.adopt(), PutCell(b"mine", b"ref")])

        self.run_now(upload())
        self.assertEqual(self.table.columns(ROW), [b"mine"])
        self.assertEqual(len(self.table.chunk_rows()), 1)

    def test_abort_leaves_nothing(self) -> None:
        """An upload that is given up leaves neither chunks nor marks."""

        async def upload() -> None:
            writer = await self.owner.create()
            await writer.write(bytes(3 * CHUNK_BYTES))
            await writer.abort()

        self.run_now(upload())
        self.assertEqual(self.table.columns(ROW), [])
        self.assertEqual(self.table.chunk_rows(), [])

    def test_chunk_that_arrives_after_the_abort(self) -> None:
        """A write that was given up, and was done only after the clearing, leaves nothing for ever."""
        put, late = self.table.put, list[Coroutine[Any, Any, int]]()

        async def slow(row: bytes, *args: Any) -> int:
            late.append(put(row, *args))
            raise Unavailable("no answer within the deadline")

        async def fails() -> None:
            writer = await self.owner.create()
            patched = self.patch(UnreliableTable, "put", lambda _, *args: slow(*args))
            with self.assertRaises(Unavailable):
                await writer.write(b"x" * 2 * CHUNK_BYTES)
                await writer.finish()
            patched.restore()
            await writer.abort()

        self.run_now(fails())
        for each in late:
            self.run_now(each)
        self.assertNotEqual(self.table.chunk_rows(), [])
        self.time += GRACE_S + 1
        self.run_now(self.collector.collect(ROW))
        self.assertEqual(self.table.chunk_rows(), [])
        self.assertEqual(self.table.columns(ROW), [])

    def test_abort_after_an_adoption_of_unknown_outcome(self) -> None:
        """When only the answer to the adoption was lost, aborting must not remove the content."""

        async def upload() -> None:
            writer = await self.owner.create()
            await writer.write(b"hello")
            await writer.finish()
            self.table.calls_left, self.table.fails_after_doing = 0, True
            try:
                await self.table.mutate(ROW, [*writer.adopt(), PutCell(b"mine", b"ref")])
            except Unavailable:
                self.table.calls_left = None
                await writer.abort()

        self.run_now(upload())
        self.assertEqual(self.table.columns(ROW), [b"mine"])
        self.assertEqual(len(self.table.chunk_rows()), 1)

    def test_a_crash_at_any_point_leaks_nothing(self) -> None:
        """However far an upload came when its process died, the sweeper removes all of it."""
        for calls in range(1, 72):
            self.setUp()
            self.table.calls_left = calls

            async def upload() -> None:
                writer = await self.owner.create()
                for _ in range(67):
                    await writer.write(bytes(CHUNK_BYTES))
                await writer.finish()

            Deferred.fromCoroutine(upload()).addErrback(lambda f: f.trap(Unavailable))
            self.table.calls_left = None
            self.assertNotEqual(self.table.columns(ROW), [])
            self.time += STALE_S - 1
            self.run_now(self.collector.collect(ROW))
            self.assertNotEqual(self.table.columns(ROW), [], "a live upload was swept")
            self.time += 1
            self.run_now(self.collector.collect(ROW))
            self.assertEqual(self.table.columns(ROW), [])
            self.assertEqual(self.table.chunk_rows(), [])

    def test_a_slow_writer_keeps_its_intent_fresh(self) -> None:
        """An upload that takes days is not given up as long as bytes arrive."""

        async def upload() -> None:
            writer = await self.owner.create()
            for _ in range(10):
                self.time += STALE_S / 2
                await writer.write(bytes(CHUNK_BYTES))
                await self.collector.collect(ROW)
            await writer.finish()
            await self.table.mutate(ROW, [*writer.adopt(), PutCell(b"mine", b"ref")])

        self.run_now(upload())
        self.assertEqual(self.table.columns(ROW), [b"mine"])
        self.assertEqual(len(self.table.chunk_rows()), 10)

    def test_a_swept_writer_can_neither_write_nor_publish(self) -> None:
        """Who was given up learns it, and nobody gets a reference to removed chunks."""
        writer = self.run_now(self.owner.create())
        self.run_now(writer.write(bytes(CHUNK_BYTES)))
        self.time += STALE_S
        self.run_now(self.collector.collect(ROW))
        write = Deferred.fromCoroutine(writer.write(bytes(CHUNK_BYTES)))
        self.failureResultOf(write, UploadExpired)
        self.failureResultOf(
            Deferred.fromCoroutine(self.table.mutate(ROW, writer.adopt())), Conflict
        )
        self.failureResultOf(Deferred.fromCoroutine(writer.check()), UploadExpired)
        self.run_now(writer.abort())
        self.assertEqual(self.table.chunk_rows(), [])
        self.assertLess(TOUCH_S, STALE_S)

    def test_discarded_content_goes_after_the_grace(self) -> None:
        """A deleted blob stays readable for a while, then is removed, then its mark."""
        ref = self.run_now(self.store(bytes(2 * CHUNK_BYTES)))
        self.run_now(self.table.mutate(ROW, self.owner.discard(ref)))
        self.time += GRACE_S - 1
        self.assertEqual(self.run_now(self.collector.collect(ROW)), 0)
        self.assertEqual(len(self.table.chunk_rows()), 2)
        self.time += 1
        self.assertEqual(self.run_now(self.collector.collect(ROW)), 1)
        self.assertEqual(self.table.chunk_rows(), [])
        self.assertEqual(self.table.columns(ROW), [])

    def test_collection_resumes_after_a_crash(self) -> None:
        """Wherever a collector dies, the next one finishes, without the first's help."""
        for calls in range(12):
            self.setUp()
            ref = self.run_now(self.store(bytes(9 * CHUNK_BYTES)))
            self.run_now(self.table.mutate(ROW, self.owner.discard(ref)))
            self.time += GRACE_S
            self.table.calls_left = calls
            Deferred.fromCoroutine(self.collector.collect(ROW)).addErrback(
                lambda f: f.trap(Unavailable)
            )
            self.table.calls_left = None
            self.run_now(self.collector.collect(ROW))
            self.assertEqual(self.table.chunk_rows(), [])
            self.assertEqual(self.table.columns(ROW), [])

    def test_a_tablet_that_is_away_keeps_its_own_garbage_only(self) -> None:
        """What cannot be removed is told and comes later; the blobs before and behind it go now."""
        refs = [self.run_now(self.store(bytes(2 * CHUNK_BYTES))) for _ in range(5)]
        for ref in refs:
            self.run_now(self.table.mutate(ROW, self.owner.discard(ref)))
        stays = sorted(ref.id for ref in refs)[1]
        self.time += GRACE_S
        self.table.away = lambda row: row == f"blob/{stays}/1".encode()
        self.failureResultOf(Deferred.fromCoroutine(self.collector.collect(ROW)), Unavailable)
        self.assertEqual(self.table.columns(ROW), [f"garbage/{stays}".encode()])
        self.assertEqual(self.table.chunk_rows(), [f"blob/{stays}/1".encode()])
        self.table.away = lambda row: False
        self.assertEqual(self.run_now(self.collector.collect(ROW)), 1)
        self.assertEqual(self.table.columns(ROW) + self.table.chunk_rows(), [])

    def test_a_large_removal_notes_its_progress(self) -> None:
        """Whoever takes over a removal of thousands of chunks does not begin at the first."""
        ref = BlobRef("feed", 1500 * CHUNK_BYTES, CHUNK_BYTES, "")
        for number in range(ref.chunks):
            self.run_now(self.table.put(f"blob/feed/{number}".encode(), b"data", b"x"))
        self.run_now(self.table.mutate(ROW, self.owner.discard(ref)))
        self.time += GRACE_S
        self.table.calls_left = 1100
        self.failureResultOf(Deferred.fromCoroutine(self.collector.collect(ROW)), Unavailable)
        self.table.calls_left = None
        cell = self.run_now(self.table.get(ROW, b"garbage/feed"))
        assert cell is not None
        self.assertIn(b'"removed":1024', cell.value)
        self.assertEqual(self.run_now(self.collector.collect(ROW)), 1)
        self.assertEqual(self.table.chunk_rows(), [])


class Sweeping(BlobsCase):
    def test_rounds(self) -> None:
        """Every owner is visited in every round; one that fails does not stop the others."""
        clock = Clock()
        visited: list[str] = []

        async def names() -> AsyncIterator[str]:
            for name in ("ann", "bob", "cyd"):
                yield name

        async def collect(name: str) -> None:
            visited.append(name)
            if name == "bob":
                raise Unavailable("not now")

        environment: Any = Environment(
            reactor=clock,
            now=lambda: self.time,
            random=random.Random(7),
            entropy=random.Random(7).randbytes,
            run_in_thread=None,  # type: ignore[arg-type]
        )
        sweeper = Sweeper(environment, names, [collect], round_s=100, pause_s=1)
        sweeper.start()
        clock.pump([10] * 40)
        rounds = len(visited) // 3
        self.assertGreaterEqual(rounds, 2)
        self.assertEqual(visited[:3], ["ann", "bob", "cyd"])
        sweeper.stop()
        clock.pump([10] * 40)
        self.assertEqual(len(visited) // 3, rounds)
        self.assertEqual(clock.getDelayedCalls(), [])

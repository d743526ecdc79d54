"""One log for many replicas: order per replica, one sync for all, and whom a failure concerns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm.entry import Entry
from penncloud.lsm.errors import TabletDamaged
from penncloud.placement.tablets import HASH_SPACE
from penncloud.platform.errors import DiskFailed, DiskFull
from penncloud.replication.messages import Ready
from penncloud.storage.journal import Journal, Lane
from tests.storage.alone import now
from tests.storage.memory_engine import MemoryEngine

NOTHING = Ready(
    False, (), (), 0, 0, (), (), None, False, (), None, (), None, (), None, (), 0, ()
)  # fmt: skip


@define(eq=False)
class _Author:
    """A replica that notes what it is told."""

    id: int
    told: list[object] = field(factory=list)
    apart: Deferred[Any] = field(factory=Deferred)
    version: int = 0

    def ready(self, count: int = 1, **more: Any) -> Ready:
        """The next entries."""
        first, self.version = self.version + 1, self.version + count
        entries = [Entry(self.id, v, 1, b"", 0, (), b"") for v in range(first, self.version + 1)]
        size = sum(entry.size_bytes for entry in entries)
        return replace(NOTHING, entries=tuple(entries), entries_bytes=size, **more)

    def needs_apart(self, ready: Ready) -> bool:
        return ready.seal is not None

    async def persist_apart(self, ready: Ready) -> bool:
        self.told.append("apart")
        await self.apart
        return False

    def persisted(self, ready: Ready) -> None:
        self.told.append(ready)

    def refused(self) -> None:
        self.told.append("refused")

    def damaged(self, reason: str) -> None:
        self.told.append("damaged")

    def lost(self) -> None:
        self.told.append("lost")

    def fail(self, reason: str) -> None:
        self.told.append("failed")


class JournalTests(SynchronousTestCase):
    """Two replicas on an engine that syncs when told."""

    def setUp(self) -> None:
        self.engine = MemoryEngine()
        self.freed: Callable[[], None] = lambda: None

        def freed() -> None:
            self.freed()

        self.journal = Journal(self.engine, lambda tell: tell(), freed=freed)
        self.one, self.two = _Author(1), _Author(2)
        self.lanes = {author: Lane(author) for author in (self.one, self.two)}
        for author in self.lanes:
            now(self.engine.create_tablet(author.id, 0, HASH_SPACE))

    def submit(self, author: _Author, *readies: Ready) -> None:
        for ready in readies:
            self.journal.submit(self.lanes[author], ready)
        self.journal.write()

    def test_one_append_for_all(self) -> None:
        """What is handed over while one append runs shares the next."""
        first = self.one.ready()
        self.submit(self.one, first)
        second, third = self.one.ready(2), self.two.ready()
        self.submit(self.one, second)
        self.submit(self.two, third)
        self.assertEqual(self.engine.appends, [1])
        self.engine.sync()
        self.assertEqual(self.engine.appends, [1, 3])
        self.assertEqual((self.one.told, self.two.told), ([first], []))
        self.engine.sync()
        self.assertEqual((self.one.told, self.two.told), ([first, second], [third]))

    def test_asked_before_the_next_append(self) -> None:
        """What was held back until the log is free is in the append that follows at once."""
        held = self.two.ready(3)

        def freed() -> None:
            self.freed = lambda: None
            self.assertFalse(self.journal.writing)
            self.journal.submit(self.lanes[self.two], held)

        self.submit(self.one, self.one.ready())
        queued = self.one.ready()
        self.submit(self.one, queued)
        self.assertTrue(self.journal.writing)
        self.freed = freed
        self.engine.sync()
        self.assertEqual(self.engine.appends, [1, 4])
        self.engine.sync()
        self.assertEqual((self.one.told[-1], self.two.told), (queued, [held]))
        self.assertFalse(self.journal.writing)

    def test_order_with_nothing_to_write(self) -> None:
        """A Ready without entries waits for those before it, and for nobody else's."""
        first = self.one.ready()
        self.submit(self.one, first, NOTHING)
        self.submit(self.two, NOTHING)
        self.assertEqual((self.one.told, self.two.told), ([], [NOTHING]))
        self.engine.sync()
        self.assertEqual(self.one.told, [first, NOTHING])

    def test_apart(self) -> None:
        """What is rare waits for the log and holds up its own replica only."""
        first, sealing, later = self.one.ready(), self.one.ready(seal=2), self.one.ready()
        self.submit(self.one, first, sealing, later)
        self.engine.sync()
        self.assertEqual(self.one.told, [first, "apart"])
        other = self.two.ready()
        self.submit(self.two, other)
        self.engine.sync()
        self.assertEqual(self.two.told, [other])
        self.one.apart.callback(None)
        self.engine.sync()
        self.assertEqual(self.one.told, [first, "apart", sealing, later])
        idle = self.journal.when_idle()
        self.successResultOf(idle)

    def test_a_full_disk(self) -> None:
        """All that is under way is void, of every replica; the journal goes on."""
        self.submit(self.one, self.one.ready())
        self.submit(self.two, self.two.ready())
        self.engine.fail(DiskFull("no room"))
        self.assertEqual((self.one.told, self.two.told), (["refused"], ["refused"]))
        self.two.version = 0
        again = self.two.ready()
        self.submit(self.two, again)
        self.engine.sync()
        self.assertEqual(self.two.told, ["refused", again])
        self.assertFalse(self.journal.full)

    def test_a_full_disk_apart(self) -> None:
        """It concerns the one replica."""
        other = self.two.ready()
        self.submit(self.two, other)
        self.submit(self.one, self.one.ready(seal=2), NOTHING)
        self.one.apart.errback(DiskFull("no room"))
        self.engine.sync()
        self.assertEqual((self.one.told, self.two.told), (["apart", "refused"], [other]))

    def test_a_damaged_tablet(self) -> None:
        """The others' entries are written without it."""
        other = self.two.ready()
        self.submit(self.two, NOTHING)
        self.journal.submit(self.lanes[self.one], self.one.ready())
        self.journal.submit(self.lanes[self.two], other)
        self.journal.write()
        self.engine.fail(TabletDamaged(1, "bad block"))
        self.engine.sync()
        self.assertEqual((self.one.told, self.two.told), (["damaged"], [NOTHING, other]))

    def test_a_failed_disk(self) -> None:
        """Nothing is written any more."""
        self.submit(self.one, self.one.ready())
        self.engine.fail(DiskFailed("I/O error"))
        self.assertEqual(self.one.told, ["lost"])
        self.assertTrue(self.journal.failed)
        self.assertEqual(len(self.flushLoggedErrors(DiskFailed)), 1)
        self.submit(self.two, self.two.ready())
        self.assertEqual(self.engine.appends, [1])

    def test_a_fault_of_ours(self) -> None:
        """Replicas that cannot go on do not take the others with them."""
        self.submit(self.one, self.one.ready(seal=2))
        self.one.apart.errback(ZeroDivisionError())
        other = self.two.ready()
        self.submit(self.two, other)
        self.engine.sync()
        self.assertEqual((self.one.told, self.two.told), (["apart", "failed"], [other]))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertFalse(self.journal.failed)

    def test_what_is_void_is_not_told(self) -> None:
        """A replica that begins anew hears nothing of its earlier life."""
        self.submit(self.one, self.one.ready(), self.one.ready(seal=2))
        self.lanes[self.one].void()
        self.one.version = 1
        fresh = self.one.ready()
        self.submit(self.one, fresh)
        while self.engine.waiting:
            self.engine.sync()
        self.assertEqual(self.one.told, [fresh])

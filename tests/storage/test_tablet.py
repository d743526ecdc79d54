"""One tablet: order, durability before answers, exactly-once, bounds, a full and a failing disk."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm.engine import TabletRecovery
from penncloud.lsm.errors import TabletDamaged
from penncloud.placement.tablets import HASH_SPACE
from penncloud.platform.errors import DiskFailed, DiskFull
from penncloud.replication.lease import LeaseTimes
from penncloud.replication.state import Options
from penncloud.rpc.registration import TabletAssignment
from penncloud.storage.dedup import MAX_KEPT_VALUE
from penncloud.storage.reads import RETRY_MS, Answer
from penncloud.storage.replicas import ROOM_S
from penncloud.storage.standing import Standing
from penncloud.wire.limits import MAX_SCAN_BYTES
from penncloud.wire.messages import (
    AppendCell,
    Busy,
    Cells,
    CompareAndPut,
    CompareVersionAndPut,
    Delete,
    Error,
    Get,
    IfVersion,
    Mismatch,
    Missing,
    Mutate,
    Mutation,
    Ok,
    Put,
    Reply,
    RequestId,
    Scan,
    ScanTablet,
    Unknown,
    Value,
)
from tests.storage.alone import Alone, PlainStandings
from tests.storage.memory_engine import MemoryEngine

_T = TypeVar("_T")

R = b"row"
ID = RequestId(b"me", 1)


def whole(number: int, epoch: int) -> TabletAssignment:
    """A tablet with all rows, whose only member is this server."""
    return TabletAssignment(number, 0, HASH_SPACE, epoch, "storage-1", ["storage-1"])


class Recorder:
    """A watcher that notes what it is told."""

    def __init__(self) -> None:
        self.heard: list[tuple[bytes, int]] = []

    def changed(self, row: bytes, version: int) -> None:
        self.heard.append((row, version))


class TabletTestCase(SynchronousTestCase):
    """One tablet on an engine that syncs when told."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.start(MemoryEngine())

    def start(self, engine: MemoryEngine, **bounds: Any) -> None:
        """Begin with what an engine has, as the primary of the next configuration."""
        self.epoch = getattr(self, "epoch", 6) + 1
        self.engine = engine
        standings = PlainStandings({number: Standing(0, False) for number in engine.tablets})
        options = Options(leases=LeaseTimes(0.0, 0.0), **bounds)
        self.server = Alone(
            self.clock, engine, incarnation=self.epoch, standings=standings, options=options
        )
        self.server.open()
        self.watches = self.server.around.watches
        self.server.lead([whole(1, self.epoch)])
        engine.appends.clear()
        self.tablet = self.server.member().tablet

    def second(self) -> None:
        """Another tablet of this server."""
        self.server.lead([whole(1, self.epoch), whole(2, 1)])
        self.engine.appends.clear()

    def journal(self, **bounds: int) -> None:
        """Other bounds on what is on its way to the disk."""
        journal = self.server.replicas.journal
        for name, value in bounds.items():
            setattr(journal, f"_{name}", value)

    def mutate(
        self, mutation: Mutation, request_id: RequestId | None = None, tablet: int = 1
    ) -> Answer:
        full = self.server.replicas.journal.full
        return self.server.member(tablet).tablet.mutate(mutation, request_id, full)

    def turn(self) -> None:
        """The end of a reactor turn."""
        self.clock.advance(0)

    def sync(self) -> None:
        """The end of a reactor turn, and everything reaches the disk."""
        self.server.settle()

    def lead_again(self) -> None:
        """The coordinators name this process primary once more."""
        self.epoch += 1
        self.clock.advance(ROOM_S + 1)
        self.server.replicas._look_for_room()
        self.server.assign(
            [msgspec.structs.replace(whole(1, self.epoch), incarnation=self.server.incarnation)]
        )
        self.sync()

    def waits(self, answer: Answer) -> Deferred[Reply]:
        assert isinstance(answer, Deferred), answer
        self.assertNoResult(answer)
        return answer

    def done(self, answer: Answer) -> Reply:
        return self.successResultOf(answer) if isinstance(answer, Deferred) else answer

    def put(self, col: bytes, value: bytes) -> Reply:
        """A write that is done."""
        answer = self.mutate(Put(R, col, value))
        self.sync()
        return self.done(answer)


class PipelineTests(TabletTestCase):
    """From a mutation to its answer."""

    def test_answered_only_when_durable(self) -> None:
        """Neither the answer nor a read shows a write before the disk has it."""
        answer = self.waits(self.mutate(Put(R, b"c", b"v")))
        self.turn()
        self.waits(answer)
        self.assertEqual(self.tablet.get(Get(R, b"c")), Missing())
        self.engine.sync()
        self.assertEqual(self.done(answer), Ok(2))
        self.assertEqual(self.tablet.get(Get(R, b"c")), Value(2, b"v"))

    def test_one_turn_is_one_append(self) -> None:
        """Requests that arrive together share a sync; what comes meanwhile shares the next."""
        first = [self.mutate(Put(R, b"%d" % i, b"")) for i in range(5)]
        self.turn()
        later = [self.mutate(Put(R, b"%d" % i, b"")) for i in range(3)]
        self.turn()
        self.assertEqual(self.engine.appends, [5])
        self.engine.sync()
        self.assertEqual([self.done(a) for a in first], [Ok(v) for v in range(2, 7)])
        self.assertEqual(self.engine.appends, [5, 3])
        self.waits(later[0])
        self.engine.sync()
        self.assertEqual([self.done(a) for a in later], [Ok(7), Ok(8), Ok(9)])

    def test_decided_against_what_is_prepared(self) -> None:
        """Of two comparisons under way at once only the first wins, whatever is durable yet."""
        first = self.mutate(CompareVersionAndPut(R, b"c", 0, b"one"))
        second = self.mutate(CompareVersionAndPut(R, b"c", 0, b"two"))
        chained = self.mutate(CompareAndPut(R, b"c", b"one", b"three"))
        self.waits(second)
        self.sync()
        self.assertEqual(self.done(first), Ok(2))
        self.assertEqual(self.done(second), Mismatch(2, b"one"))
        self.assertEqual(self.done(chained), Ok(3))
        self.assertEqual(self.tablet.get(Get(R, b"c")), Value(3, b"three"))

    def test_a_failure_waits_for_what_it_saw(self) -> None:
        """Nobody is shown a value that a crash could still take away."""
        self.put(b"c", b"old")
        write = self.mutate(Put(R, b"c", b"new"))
        failed = self.waits(self.mutate(CompareAndPut(R, b"c", b"old", b"x")))
        self.turn()
        self.waits(failed)
        self.engine.sync()
        self.assertEqual((self.done(write), self.done(failed)), (Ok(3), Mismatch(3, b"new")))

    def test_a_failure_on_committed_cells_is_answered_at_once(self) -> None:
        """It takes no version and needs no disk."""
        self.put(b"c", b"old")
        self.assertEqual(self.mutate(CompareAndPut(R, b"c", b"x", b"y")), Mismatch(2, b"old"))
        self.assertEqual(self.mutate(Delete(R, b"none")), Missing())
        self.assertEqual(self.put(b"d", b""), Ok(3))

    def test_a_deletion_under_way_is_seen(self) -> None:
        """A second delete, and a comparison with nothing, see the first delete."""
        self.put(b"c", b"v")
        first = self.mutate(Delete(R, b"c"))
        second = self.waits(self.mutate(Delete(R, b"c")))
        again = self.mutate(CompareVersionAndPut(R, b"c", 0, b"w"))
        self.sync()
        self.assertEqual([self.done(a) for a in (first, second, again)], [Ok(3), Missing(), Ok(4)])

    def test_watchers_hear_of_commits(self) -> None:
        """Once per row and batch, after the commit, with the last version; failures are silent."""
        recorder = Recorder()
        self.watches.add(R, recorder)
        self.mutate(Put(R, b"a", b""))
        self.mutate(Put(R, b"b", b""))
        self.mutate(Put(b"other", b"b", b""))
        self.mutate(CompareAndPut(R, b"zz", b"x", b"y"), ID)
        self.assertEqual(recorder.heard, [])
        self.sync()
        self.assertEqual(recorder.heard, [(R, 3)])

    def test_two_tablets_share_an_append(self) -> None:
        """One sync serves all tablets of a server, and each counts its own versions."""
        self.second()
        answers = [self.mutate(Put(R, b"c", b""), None, tablet) for tablet in (1, 2)]
        self.sync()
        self.assertEqual(self.engine.appends, [2])
        self.assertEqual([self.done(a) for a in answers], [Ok(2), Ok(2)])


class ExactlyOnceTests(TabletTestCase):
    """Request ids."""

    def test_a_repeat_gets_the_first_answer(self) -> None:
        """It is not executed again, even when the cell has changed since."""
        append = Mutate(R, (AppendCell(b"", b"v"),))
        first = self.mutate(append, ID)
        self.sync()
        self.put(b"c", b"")
        self.assertEqual((self.done(first), self.mutate(append, ID)), (Ok(2), Ok(2)))
        cells = self.tablet.scan(Scan(R, b"0", b"1", 10))
        assert isinstance(cells, Cells)
        self.assertEqual(len(cells.cells), 1)

    def test_a_repeat_of_one_under_way_waits_for_it(self) -> None:
        """Both are answered when the first is durable."""
        first = self.mutate(Put(R, b"c", b""), ID)
        repeat = self.waits(self.mutate(Put(R, b"c", b""), ID))
        self.turn()
        self.waits(repeat)
        self.engine.sync()
        self.assertEqual((self.done(first), self.done(repeat)), (Ok(2), Ok(2)))
        self.assertEqual(self.engine.appends, [1])

    def test_a_failure_is_remembered(self) -> None:
        """A delayed repeat must not succeed after its client was told that it failed."""
        self.put(b"c", b"x")
        compare = CompareAndPut(R, b"c", b"y", b"z")
        failed = self.waits(self.mutate(compare, ID))
        self.sync()
        self.assertEqual(self.done(failed), Mismatch(2, b"x"))
        self.put(b"c", b"y")
        self.assertEqual(self.mutate(compare, ID), Mismatch(2, b"x"))
        gone = RequestId(b"me", 2)
        missing = self.mutate(Delete(R, b"d"), gone)
        self.sync()
        self.put(b"d", b"")
        self.assertEqual(
            (self.done(missing), self.mutate(Delete(R, b"d"), gone)), (Missing(), Missing())
        )

    def test_a_long_mismatch_shows_what_stands_there(self) -> None:
        """A repeated failure never costs more memory than a short one."""
        long = b"v" * (MAX_KEPT_VALUE + 1)
        self.put(b"c", long)
        compare = CompareAndPut(R, b"c", b"y", b"z")
        self.mutate(compare, ID)
        self.sync()
        self.assertEqual(self.mutate(compare, ID), Mismatch(2, long))
        self.put(b"c", b"now")
        self.assertEqual(self.mutate(compare, ID), Mismatch(4, b"now"))

    def test_an_id_below_the_window_is_refused(self) -> None:
        """It may have been executed, so it is not."""
        for seq in range(1, 1100):
            self.mutate(Put(R, b"c", b""), RequestId(b"me", seq))
            if seq % 50 == 0:
                self.sync()
        self.sync()
        before = self.tablet.committed
        answer = self.mutate(Put(R, b"c", b"again"), ID)
        assert isinstance(answer, Error)
        self.assertEqual((answer.code, self.tablet.committed), ("RQID", before))

    def test_ids_survive_a_crash(self) -> None:
        """Committed or only durable, with or without a checkpoint: a repeat finds the answer."""
        self.mutate(Put(R, b"a", b"1"), ID)
        self.sync()
        second = RequestId(b"me", 2)
        self.mutate(CompareAndPut(R, b"a", b"x", b"y"), second)
        self.turn()
        entries, _ = self.engine.waiting[0]
        self.engine.keep(entries)  # durable, and the process dies before it hears of it
        self.start(self.engine.restarted())
        self.assertEqual(self.mutate(Put(R, b"a", b"1"), ID), Ok(2))
        self.assertEqual(self.mutate(CompareAndPut(R, b"a", b"x", b"y"), second), Mismatch(2, b"1"))
        self.assertEqual(self.put(b"b", b""), Ok(5))


class BoundTests(TabletTestCase):
    """Too much at once, and a disk in trouble."""

    def test_too_many_under_way(self) -> None:
        """Beyond the bound nothing is done, and the client is told when to come back."""
        self.start(MemoryEngine(), max_in_flight=2)
        for _ in range(2):
            self.waits(self.mutate(Put(R, b"c", b"")))
        self.assertEqual(self.mutate(Put(R, b"c", b"")), Busy(RETRY_MS))
        self.sync()
        self.assertEqual(self.put(b"c", b""), Ok(4))
        self.assertEqual(self.tablet.in_flight_bytes, 0)

    def test_too_many_bytes_under_way(self) -> None:
        """Large values fill the bound sooner."""
        self.start(MemoryEngine(), max_in_flight_bytes=1000)
        self.waits(self.mutate(Put(R, b"c", b"v" * 1000)))
        self.assertEqual(self.mutate(Put(R, b"c", b"")), Busy(RETRY_MS))

    def test_too_many_bytes_of_all_tablets(self) -> None:
        """The bound on what is under way is one for the server, however many tablets it has."""
        self.second()
        self.journal(max_held_bytes=1000)
        large = self.mutate(Put(R, b"c", b"v" * 1000))
        self.waits(large)
        self.turn()
        self.assertEqual(self.mutate(Put(R, b"c", b""), None, 2), Busy(RETRY_MS))
        self.sync()
        self.assertEqual(self.done(large), Ok(2))
        again = self.mutate(Put(R, b"c", b""), None, 2)
        self.sync()
        self.assertEqual(self.done(again), Ok(2))

    def test_one_append_is_bounded(self) -> None:
        """What waits is written in pieces: an append holds its bytes several times."""
        self.journal(max_append_bytes=2000)
        sizes = (500, 500, 3000, 500)
        writes = [self.mutate(Put(R, b"c", b"v" * size)) for size in sizes]
        self.sync()
        self.assertEqual(self.engine.appends, [2, 1, 1])
        self.assertEqual([self.done(write) for write in writes], [Ok(2), Ok(3), Ok(4), Ok(5)])

    def test_what_a_crash_left_of_a_piece(self) -> None:
        """A disk that becomes full between two pieces keeps the first: it is taken back later."""
        self.journal(max_append_bytes=700)
        writes = [self.mutate(Put(R, b"%d" % n, b"v" * 500), RequestId(b"me", n)) for n in (1, 2)]
        self.turn()
        self.assertEqual(self.engine.appends, [1, 1])
        self.engine.sync()
        self.engine.fail(DiskFull("no room"))
        self.turn()
        self.assertEqual([self.done(write) for write in writes], [Unknown()] * 2)
        self.lead_again()
        self.assertEqual(self.put(b"c", b""), Ok(3))
        self.assertEqual(self.done(self.tablet.get(Get(R, b"1"))), Missing())

    def test_a_repeat_is_answered_even_then(self) -> None:
        """It needs no room."""
        self.start(MemoryEngine(), max_in_flight=1)
        first = self.mutate(Put(R, b"c", b""), ID)
        repeat = self.waits(self.mutate(Put(R, b"c", b""), ID))
        self.sync()
        self.assertEqual(self.done(repeat), self.done(first))

    def test_a_full_disk(self) -> None:
        """Nobody knows what becomes of what was decided; others may lead, and this one again later."""
        self.put(b"c", b"old")
        write = self.mutate(Put(R, b"c", b"new"), ID)
        self.turn()
        failed = self.mutate(CompareAndPut(R, b"c", b"old", b"x"))
        queued = self.mutate(Put(R, b"d", b""))
        self.engine.fail(DiskFull("no room"))
        self.turn()
        for answer in (write, failed, queued):
            self.assertEqual(self.done(answer), Unknown())
        self.assertEqual(self.tablet.in_flight_bytes, 0)
        self.assertIsInstance(self.mutate(Put(R, b"c", b"new"), ID), Busy)
        tip = self.server.member().tip()
        self.assertEqual((tip.eligible, tip.declined), (False, self.epoch))
        self.lead_again()
        self.assertEqual(self.done(self.tablet.get(Get(R, b"c"))), Value(2, b"old"))
        again = self.mutate(Put(R, b"c", b"new"), ID)
        compare = self.mutate(CompareVersionAndPut(R, b"d", 0, b""))
        self.sync()
        self.assertEqual((self.done(again), self.done(compare)), (Ok(4), Ok(5)))

    def test_a_damaged_tablet(self) -> None:
        """It takes no mutation any more; the other tablets of the server do."""
        self.second()
        writes = [self.mutate(Put(R, b"c", b""), None, tablet) for tablet in (1, 2)]
        self.turn()
        self.engine.fail(TabletDamaged(1, "bad block"))
        self.assertEqual(self.done(writes[0]), Unknown())
        self.assertRaises(TabletDamaged, self.mutate, Put(R, b"c", b""))
        self.assertTrue(self.server.member().tip().damaged)
        self.sync()
        self.assertEqual(self.done(writes[1]), Ok(2))

    def test_a_tablet_found_damaged(self) -> None:
        """What the engine does not vouch for is not served."""
        found = TabletRecovery(1, 0, HASH_SPACE, 0, 0, 7, b"", [], "lost entries")
        self.server = Alone(self.clock, self.engine, incarnation=9)
        self.server.open([found])
        self.server.assign([msgspec.structs.replace(whole(1, 9), incarnation=9, taken=True)])
        self.assertRaises(TabletDamaged, self.mutate, Put(R, b"c", b""))
        tip = self.server.member().tip()
        self.assertEqual((tip.damaged, tip.eligible, tip.declined), (True, False, 9))

    def test_a_failing_disk(self) -> None:
        """The outcome of what was under way is unknown, and nothing is written any more."""
        self.put(b"c", b"old")
        write = self.mutate(Put(R, b"c", b"new"))
        self.turn()
        self.engine.fail(DiskFailed("I/O error"))
        self.assertEqual(self.done(write), Unknown())
        self.assertEqual(len(self.flushLoggedErrors(DiskFailed)), 1)
        self.assertIsInstance(self.server.tablets.mutate(Put(R, b"c", b""), None), Busy)
        self.assertEqual(self.tablet.get(Get(R, b"c")), Value(2, b"old"))


class ReadTests(TabletTestCase):
    """Scans."""

    def test_scans(self) -> None:
        """Ranges, direction, limit and cut values, of committed cells only."""
        for col in (b"a", b"b", b"c"):
            self.put(col, col * 3)
        self.mutate(Put(R, b"bb", b""))
        for request, cols, more in (
            (Scan(R, b"", b"", 10), [b"a", b"b", b"c"], False),
            (Scan(R, b"b", b"", 1), [b"b"], True),
            (Scan(R, b"", b"c", 2, True), [b"b", b"a"], False),
            (Scan(b"none", b"", b"", 1), [], False),
        ):
            page = self.tablet.scan(request)
            assert isinstance(page, Cells)
            self.assertEqual(([cell.col for cell in page.cells], page.more), (cols, more))
        page = self.tablet.scan_all(ScanTablet(1, R, b"b", 1, 2))
        assert isinstance(page, Cells)
        (cell,) = page.cells
        self.assertEqual((cell.row, cell.value, cell.size, page.more), (R, b"bb", 3, True))

    def test_a_page_is_bounded_in_bytes(self) -> None:
        """Large cells come a few at a time, at least one, and cut values count as cut."""
        self.start(MemoryEngine(instant=True), max_in_flight_bytes=10**8)
        for index in range(5):
            self.put(b"%d" % index, b"v" * (MAX_SCAN_BYTES // 2))
        page = self.tablet.scan(Scan(R, b"", b"", 10))
        assert isinstance(page, Cells)
        self.assertEqual((len(page.cells), page.more), (2, True))
        page = self.tablet.scan(Scan(R, b"", b"", 10, False, 10))
        assert isinstance(page, Cells)
        self.assertEqual((len(page.cells), page.more), (5, False))

    def test_a_mutation_is_atomic(self) -> None:
        """A failed condition leaves nothing of it."""
        self.put(b"a", b"1")
        mutation = Mutate(R, (AppendCell(b"log/", b"x"), IfVersion(b"a", 5)))
        self.assertEqual(self.mutate(mutation), Mismatch(2, b"1"))
        self.sync()
        page = self.tablet.scan(Scan(R, b"", b"", 10))
        assert isinstance(page, Cells)
        self.assertEqual([cell.col for cell in page.cells], [b"a"])

"""Which tablet serves a row, and what becomes of requests for rows that are not here."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm.errors import TabletDamaged
from penncloud.placement.tablets import even_ranges, row_hash
from penncloud.rpc.registration import TabletAssignment
from penncloud.storage.reads import NOT_SERVING_RETRY_MS
from penncloud.wire.messages import Busy, Get, Missing, Moved, Ok, Put, ScanTablet, Value, Watch
from tests.storage.alone import Alone
from tests.storage.memory_engine import MemoryEngine


def assigned(count: int, here: set[int], epoch: int = 1) -> list[TabletAssignment]:
    """`count` even tablets of two servers; those in `here` have storage-1 as their primary."""
    return [
        TabletAssignment(
            n, lo, hi, epoch, "storage-1" if n in here else "storage-2", ["storage-1", "storage-2"]
        )
        for n, (lo, hi) in enumerate(even_ranges(count), 1)
    ]


def alone(tablets: list[TabletAssignment]) -> list[TabletAssignment]:
    """The same where this server is the only member of what it leads."""
    return [
        msgspec.structs.replace(tablet, members=[tablet.primary], incarnation=1)
        for tablet in tablets
    ]


class Deaf:
    """A watcher that is not told anything."""

    def changed(self, row: bytes, version: int) -> None:
        raise AssertionError("told of a row that is not here")


class TabletsTests(SynchronousTestCase):
    """The tablets of storage-1."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.engine = MemoryEngine(instant=True)
        self.server = Alone(self.clock, self.engine)
        self.server.open()
        self.tablets = self.server.tablets

    def found(self, tablets: list[TabletAssignment]) -> None:
        """Make them, on this server and elsewhere."""
        self.server.assign([msgspec.structs.replace(t, epoch=0, primary="") for t in tablets])

    def assign(self, tablets: list[TabletAssignment], **more: Any) -> None:
        self.server.assign(tablets, **more)
        self.server.settle()

    def put(self, row: bytes) -> object:
        answer = self.tablets.mutate(Put(row, b"c", row), None)
        self.clock.advance(0)
        return self.successResultOf(answer) if isinstance(answer, Deferred) else answer

    def test_nothing_assigned(self) -> None:
        """A server that knows of no tablet sends clients away."""
        self.assertEqual(self.put(b"row"), Moved("", 0))
        self.assertEqual(self.server.replicas.tips(), [])

    def test_each_row_in_its_tablet(self) -> None:
        """Rows are found by their hash; clients of those that others lead are told where these are."""
        tablets = assigned(4, {1, 3}, epoch=5)
        self.found(tablets)
        mine = alone(tablets)
        theirs = [tablets[1], tablets[3]]
        self.assign([mine[0], mine[2], *theirs], peers={"storage-2": "host:1"})
        for index in range(50):
            row = b"row-%d" % index
            number = row_hash(row) // 2**30 + 1
            if number in (1, 3):
                self.assertIsInstance(self.put(row), Ok)
                self.assertEqual(self.engine.tablets[number].cells[(row, b"c")].value, row)
            else:
                self.assertEqual(self.put(row), Moved("host:1", 5))

    def test_nobody_is_sent_to_a_dead_server(self) -> None:
        """Where the primary is taken for dead, the coordinators know more."""
        tablets = assigned(1, set(), epoch=5)
        self.found(tablets)
        self.assign(tablets, peers={"storage-2": "host:1"}, suspects=["storage-2"])
        self.assertEqual(self.put(b"row"), Moved("", 5))

    def test_only_some_of_the_hash_space(self) -> None:
        """A row behind or before the tablets here belongs to nobody known."""
        mine = [a for a in alone(assigned(4, {2})) if a.id == 2]
        self.found(mine)
        self.assign(mine)
        answers = {type(self.put(b"row-%d" % index)) for index in range(50)}
        self.assertEqual(answers, {Ok, Moved})

    def test_before_it_serves(self) -> None:
        """A primary that is taking over asks for patience, also where it has no configuration yet."""
        tablets = assigned(1, {1})
        self.found(tablets)
        self.assertEqual(self.put(b"row"), Busy(NOT_SERVING_RETRY_MS))
        self.assign([msgspec.structs.replace(tablets[0], incarnation=1)])
        for request in (Get(b"row", b"c"), ScanTablet(1, b"", b"", 1, 0)):
            asked = self.tablets.get if isinstance(request, Get) else self.tablets.scan_tablet
            self.assertEqual(asked(request), Busy(NOT_SERVING_RETRY_MS))  # type: ignore[arg-type]
        self.assertEqual(self.tablets.watch(Watch(b"row"), Deaf()), Busy(NOT_SERVING_RETRY_MS))

    def test_a_restart(self) -> None:
        """What the engine holds is served when a new configuration says so, not before."""
        mine = alone(assigned(1, {1}))
        self.found(mine)
        self.assign(mine)
        self.put(b"row")
        again = Alone(
            self.clock,
            self.engine.restarted(),
            incarnation=2,
            standings=self.server.standings,
        )
        again.open()
        again.assign(mine)
        again.settle()
        self.assertEqual(again.tablets.get(Get(b"row", b"c")), Busy(NOT_SERVING_RETRY_MS))
        again.assign([msgspec.structs.replace(mine[0], epoch=2, incarnation=2)])
        again.settle()
        self.assertEqual(again.tablets.get(Get(b"row", b"c")), Value(2, b"row"))

    def test_a_tablet_that_was_lost(self) -> None:
        """What was taken once and is not on the disk any more is refused, never begun anew."""
        whole = msgspec.structs.replace(alone(assigned(1, {1}))[0], taken=True)
        self.assign([whole])
        for request in (Get(b"row", b"c"), ScanTablet(1, b"", b"", 1, 0), Watch(b"row")):
            with self.assertRaisesRegex(TabletDamaged, "tablet 1 is damaged: .* gone"):
                match request:
                    case Get():
                        self.tablets.get(request)
                    case ScanTablet():
                        self.tablets.scan_tablet(request)
                    case Watch():
                        self.tablets.watch(request, Deaf())
        with self.assertRaises(TabletDamaged):
            self.put(b"row")
        self.assertEqual(self.engine.tablets, {})
        [tip] = self.server.replicas.tips()
        self.assertEqual((tip.damaged, tip.eligible, tip.declined), (True, False, 1))

    def test_a_lost_tablet_of_which_another_is_the_primary(self) -> None:
        """Clients are sent away as always; the coordinator is told."""
        whole = msgspec.structs.replace(assigned(1, set())[0], taken=True)
        self.assign([whole])
        self.assertEqual(self.tablets.get(Get(b"row", b"c")), Moved("", 1))
        [tip] = self.server.replicas.tips()
        self.assertEqual((tip.damaged, tip.eligible), (True, False))

    def test_a_learner_is_not_damaged(self) -> None:
        """It never had the tablet: there is nothing to complain about."""
        whole = msgspec.structs.replace(
            assigned(1, set())[0], members=["storage-2"], learners=["storage-1"]
        )
        self.assign([whole])
        [tip] = self.server.replicas.tips()
        self.assertEqual((tip.damaged, tip.eligible), (False, False))
        self.assertEqual(self.engine.tablets, {})

    def test_stopping(self) -> None:
        """What is new is refused."""
        mine = alone(assigned(1, {1}))
        self.found(mine)
        self.assign(mine)
        self.assertEqual(self.tablets.get(Get(b"row", b"c")), Missing())
        self.tablets.stopping = True
        self.assertIsInstance(self.put(b"other"), Busy)
        self.assertIsInstance(self.tablets.get(Get(b"row", b"c")), Busy)

"""What the coordinators assigned survives, in the right order, and junk is told."""

from __future__ import annotations

import random

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.platform.errors import DiskError, DiskFull
from penncloud.platform.memory_disk import Fault, MemoryDisk
from penncloud.rpc.registration import Assign, TabletAssignment
from penncloud.storage.assignment import FILE, Assignment, BadAssignment


def tablet(number: int, lo: int, hi: int) -> TabletAssignment:
    return TabletAssignment(number, lo, hi, 1, "storage-1", ["storage-1"])


FIRST = Assign(3, [tablet(1, 0, 10), tablet(2, 20, 30)])
SECOND = Assign(4, [tablet(1, 0, 10)])


class AssignmentTests(SynchronousTestCase):
    """One server's assignment on its disk."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.disk = MemoryDisk(self.clock, random.Random(1))
        self.assignment = Assignment(self.disk)
        self.made: list[list[int]] = []
        self.trouble: DiskError | None = None

    async def make(self, tablets: tuple[TabletAssignment, ...]) -> None:
        self.made.append([tablet.id for tablet in tablets])
        if self.trouble is not None:
            raise self.trouble

    def update(self, news: Assign) -> bool:
        done = Deferred.fromCoroutine(self.assignment.update(news, self.make))
        for _ in range(5):
            self.clock.advance(1)
        return self.successResultOf(done)

    def test_remembered_over_a_crash(self) -> None:
        """What was answered is there after a restart; a new server has nothing."""
        self.assertEqual((self.assignment.news.map_version, self.assignment.news.tablets), (0, []))
        self.assertTrue(self.update(FIRST))
        again = Assignment(self.disk.crash())
        self.assertEqual((again.news.map_version, again.news.tablets), (3, FIRST.tablets))

    def test_older_news_are_ignored(self) -> None:
        """Two coordinators may send in any order; the same again changes nothing."""
        self.update(SECOND)
        self.assertFalse(self.update(FIRST))
        self.assertTrue(self.update(SECOND))
        self.assertEqual(self.assignment.news.tablets, SECOND.tablets)

    def test_a_leader_of_before(self) -> None:
        """With the same tablets, what it says of who lives is late."""
        now = msgspec.structs.replace(SECOND, term=7, suspects=["storage-2"])
        self.assertTrue(self.update(now))
        self.assertFalse(self.update(msgspec.structs.replace(SECOND, term=6)))
        self.assertEqual(self.assignment.news.suspects, ["storage-2"])
        self.assertTrue(self.update(msgspec.structs.replace(SECOND, term=8)))
        self.assertEqual(self.assignment.news.suspects, [])

    def test_made_before_it_is_remembered(self) -> None:
        """What the file names was made: a tablet that could not be made is not in it."""
        self.trouble = DiskError("no room")
        done = Deferred.fromCoroutine(self.assignment.update(FIRST, self.make))
        self.failureResultOf(done, DiskError)
        self.assertEqual((self.made, self.assignment.news.map_version), ([[1, 2]], 0))
        self.assertFalse(self.disk.exists(FILE))
        self.trouble = None
        self.assertTrue(self.update(FIRST))

    def test_a_full_disk(self) -> None:
        """The news is acted on, and remembered when there is room."""
        self.update(SECOND)
        self.disk.faults[self.disk.operations] = Fault.FULL
        newer = msgspec.structs.replace(SECOND, map_version=5)
        done = Deferred.fromCoroutine(self.assignment.update(newer, self.make))
        self.clock.advance(1)
        self.failureResultOf(done, DiskFull)
        self.assertEqual(self.assignment.news.map_version, 5)
        self.assertEqual(Assignment(self.disk).news.map_version, 4)
        self.assertTrue(self.update(newer))
        self.assertEqual(Assignment(self.disk.crash()).news.map_version, 5)

    def test_who_lives_is_not_remembered(self) -> None:
        """It changes often, and says nothing about a later time."""
        self.update(msgspec.structs.replace(SECOND, suspects=["storage-2"]))
        operations = self.disk.operations
        self.update(msgspec.structs.replace(SECOND, suspects=[]))
        self.assertEqual(self.disk.operations, operations)
        self.assertEqual(Assignment(self.disk.crash()).news.suspects, [])

    def test_at_once(self) -> None:
        """Of two that arrive together the newer one stays."""
        done = [
            Deferred.fromCoroutine(self.assignment.update(news, self.make))
            for news in (SECOND, FIRST)
        ]
        for _ in range(5):
            self.clock.advance(1)
        self.assertEqual([self.successResultOf(d) for d in done], [True, False])
        self.assertEqual(Assignment(self.disk.crash()).news.map_version, 4)

    def test_nonsense_is_refused(self) -> None:
        """Tablets that overlap or come twice would lose writes."""
        for tablets in (
            [tablet(1, 0, 10), tablet(2, 9, 30)],
            [tablet(1, 5, 5)],
            [tablet(1, 0, 10), tablet(1, 10, 20)],
        ):
            done = Deferred.fromCoroutine(self.assignment.update(Assign(9, tablets), self.make))
            self.failureResultOf(done, BadAssignment)
        self.assertEqual(self.assignment.news.map_version, 0)

    def test_a_damaged_file(self) -> None:
        """A wrong bit anywhere is noticed; then it is as if nothing had been assigned yet."""
        self.update(FIRST)
        whole = self.disk.read(FILE)
        for place in range(len(whole)):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << place % 8
            self.write(bytes(damaged))
            news = Assignment(self.disk).news
            self.assertEqual((news.map_version, news.tablets, news.peers), (0, [], {}))
        self.write(whole[:-1])
        self.assertEqual(Assignment(self.disk).news.map_version, 0)
        self.write(whole)
        again = Assignment(self.disk)
        self.assertEqual(again.news.map_version, 3)

    def write(self, data: bytes) -> None:
        done = self.disk.replace(FILE, data)
        for _ in range(5):
            self.clock.advance(1)
        self.successResultOf(done)

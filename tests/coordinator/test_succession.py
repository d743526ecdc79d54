"""Who is primary next, from what the leader sees."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from penncloud.coordinator.commands import TabletRecord
from penncloud.coordinator.detector import Liveness
from penncloud.coordinator.succession import Next, Seen, Sight, first_tablets, next_configuration
from penncloud.rpc.registration import Tip

ONE, TWO, THREE = MEMBERS = ["storage-1", "storage-2", "storage-3"]


class SuccessionTests(SynchronousTestCase):
    """Tablet 1 in epoch 4, primary storage-1 in incarnation 11; all members live, with equal logs."""

    def setUp(self) -> None:
        self.record = TabletRecord(1, 0, 2**32, 4, ONE, MEMBERS, MEMBERS, 11)
        self.liveness: dict[str, Liveness] = dict.fromkeys(MEMBERS, "live")
        self.tips = {member: Tip(1, 3, 100) for member in MEMBERS}
        self.incarnations = {ONE: 11, TWO: 12, THREE: 13}
        self.silent: set[str] = set()

    def _next(self, waited: bool = False) -> Next | None:
        seen = {
            member: Seen(self.incarnations[member], {1: self.tips[member]})
            for member in MEMBERS
            if member not in self.silent
        }
        sight = Sight(lambda one: self.liveness[one], seen)
        return next_configuration(self.record, sight, waited)

    def _tip(self, member: str, **change: Any) -> None:
        self.tips[member] = msgspec.structs.replace(self.tips[member], **change)

    def _record(self, **change: Any) -> None:
        self.record = msgspec.structs.replace(self.record, **change)

    def test_nothing_to_do(self) -> None:
        """While the primary lives nothing changes, even if it is suspected or others die."""
        self.liveness[ONE] = "suspected"
        self.liveness[TWO] = "dead"
        self.silent = {THREE}
        self.assertIsNone(self._next())

    def test_the_highest_tip(self) -> None:
        """A dead primary is followed by the member with the most, named in the process that it is now."""
        self.liveness[ONE] = "dead"
        self._tip(THREE, version=101)
        self.assertEqual(self._next(), Next(THREE, 13, MEMBERS))
        self._tip(TWO, entry_cfg=4, version=7)
        self.assertEqual(self._next(), Next(TWO, 12, MEMBERS))

    def test_waits_for_what_it_does_not_know(self) -> None:
        """Nobody is chosen before each member is known to be dead or has told how far it is."""
        self.liveness[ONE] = "dead"
        self.silent = {TWO}
        self.assertIsNone(self._next())
        self.silent, self.liveness[THREE] = set(), "suspected"
        self.assertIsNone(self._next())
        self.liveness[THREE] = "dead"
        self.assertEqual(self._next(), Next(TWO, 12, MEMBERS))

    def test_restarted(self) -> None:
        """A primary that is another process now needs a new epoch, for itself if it has most."""
        self.incarnations[ONE] = 21
        self.assertEqual(self._next(), Next(ONE, 21, MEMBERS))
        self._tip(ONE, eligible=False)
        self.assertEqual(self._next(), Next(TWO, 12, MEMBERS))

    def test_declined(self) -> None:
        """A primary that has given up this epoch gets another one; an earlier epoch is old news."""
        self._tip(ONE, declined=3)
        self.assertIsNone(self._next())
        self._tip(ONE, declined=4)
        self.assertEqual(self._next(), Next(ONE, 11, MEMBERS))

    def test_damaged(self) -> None:
        """A primary whose copy is of no use is followed by one whose copy is, if there is one."""
        self._tip(ONE, damaged=True)
        self.assertEqual(self._next(), Next(TWO, 12, MEMBERS))
        self._tip(TWO, eligible=False)
        self.liveness[THREE] = "dead"
        self.assertIsNone(self._next())

    def test_nobody_left(self) -> None:
        """With no usable member one waits, however far others are."""
        self.liveness.update({ONE: "dead", TWO: "dead"})
        self._tip(THREE, eligible=False)
        self.assertIsNone(self._next())
        self._record(members=[ONE, TWO], taken=[ONE, TWO])
        self._tip(THREE, eligible=True, version=1000)
        self.assertIsNone(self._next())

    def test_without_a_primary(self) -> None:
        """A tablet whose primary was forgotten gets another one."""
        self._record(primary="", incarnation=0, members=[TWO, THREE], taken=[TWO, THREE])
        self.assertEqual(self._next(), Next(TWO, 12, [TWO, THREE]))

    def test_birth(self) -> None:
        """A new tablet waits until all have made it, or are dead; those are no members then."""
        self._record(primary="", incarnation=0, epoch=0, taken=[ONE, THREE])
        self.assertIsNone(self._next())
        self.liveness[TWO] = "dead"
        self.assertEqual(self._next(), Next(ONE, 11, [ONE, THREE]))
        self.silent = {ONE}
        self.assertEqual(self._next(), Next(THREE, 13, [ONE, THREE]))

    def test_birth_does_not_wait_for_ever(self) -> None:
        """A server that lives and cannot make the tablet is left out after a while; one has to have it."""
        self._record(primary="", incarnation=0, epoch=0, taken=[THREE])
        self.assertIsNone(self._next())
        self.assertEqual(self._next(waited=True), Next(THREE, 13, [THREE]))
        self._record(taken=[])
        self.assertIsNone(self._next(waited=True))


class FirstTabletsTests(SynchronousTestCase):
    def test_spread(self) -> None:
        """Members and, by their first members, primaries are spread evenly."""
        records = first_tablets(10, [f"storage-{n}" for n in range(5)], 3)
        members = Counter(member for record in records for member in record.members)
        primaries = Counter(record.members[0] for record in records)
        self.assertEqual(set(members.values()), {6})
        self.assertEqual(set(primaries.values()), {2})
        self.assertEqual({len(set(record.members)) for record in records}, {3})

    def test_few_servers(self) -> None:
        """There are as many copies as there are servers, at most."""
        [record] = first_tablets(1, ["storage-1", "storage-2"], 3)
        self.assertEqual(sorted(record.members), ["storage-1", "storage-2"])
        self.assertTrue(record.is_new)

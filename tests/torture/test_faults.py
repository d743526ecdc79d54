"""Drawing faults: the same for the same seed, within the round, against those that exist."""

from __future__ import annotations

import random

from twisted.trial.unittest import SynchronousTestCase

from penncloud.torture.faults import NEMESES, Partition, Who, draw

_WHO = Who(
    ("coordinator-1", "coordinator-2", "coordinator-3"),
    ("storage-1", "storage-2", "storage-3"),
    ("member-1", "member-2"),
)


class DrawTests(SynchronousTestCase):
    def test_same_seed_same_faults(self) -> None:
        """What is tried follows from the seed."""
        first = draw(random.Random("7/1"), _WHO, tuple(NEMESES), 60.0)
        self.assertEqual(draw(random.Random("7/1"), _WHO, tuple(NEMESES), 60.0), first)
        self.assertNotEqual(draw(random.Random("8/1"), _WHO, tuple(NEMESES), 60.0), first)

    def test_faults_end_with_the_round(self) -> None:
        """None begins before the round or lasts beyond it, and every kind is drawn."""
        kinds = set()
        for seed in range(50):
            for fault in draw(random.Random(seed), _WHO, tuple(NEMESES), 20.0):
                kinds.add(fault.kind)
                self.assertTrue(0 < fault.at_s < fault.at_s + fault.for_s <= 20.0, str(fault))
        self.assertEqual(kinds, set(NEMESES))

    def test_partition_never_cuts_a_host_from_itself(self) -> None:
        """Every cut has two sides, and both ways means both."""
        for seed in range(100):
            for fault in draw(random.Random(seed), _WHO, ("partition",), 20.0):
                assert isinstance(fault, Partition)
                links = fault.links()
                self.assertTrue(links)
                self.assertTrue(all(a != b for a, b in links))
                if fault.both_ways:
                    self.assertEqual(links, {(b, a) for a, b in links})

    def test_one_server_can_be_tortured(self) -> None:
        """The smallest cluster has victims, too."""
        who = Who(("coordinator-1",), ("storage-1",), ("member-1",))
        for seed in range(100):
            draw(random.Random(seed), who, tuple(NEMESES), 20.0)

    def test_nothing_wanted_nothing_drawn(self) -> None:
        """Without any kind of fault there are none."""
        self.assertEqual(draw(random.Random(1), _WHO, (), 60.0), [])

"""Who lives, by counted pings."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.coordinator.detector import Detector

NODE = "storage-1"


class DetectorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.detector = Detector(dead_after=5, grace=20)

    def _rounds(self, count: int, answered: bool = False) -> list[str]:
        """Rounds of pings; the states that were entered."""
        entered: list[str] = []
        for _ in range(count):
            if self.detector.tick():
                entered.append(self.detector.state(NODE))
            self.clock.advance(0.1)
            if answered:
                self.assertTrue(self.detector.heard(NODE, 1, self.clock.seconds()))
        return entered

    def _register(self, incarnation: int = 1) -> bool:
        return self.detector.registered(NODE, incarnation, self.clock.seconds())

    def test_silent(self) -> None:
        """Suspected from the second unanswered ping on, dead from the fifth, each told once."""
        self._register()
        self.assertEqual(self._rounds(2), [])  # the first ping is sent and missed once
        self.assertEqual(self.detector.state(NODE), "live")
        self.assertEqual(self._rounds(1), ["suspected"])
        self.assertEqual(self._rounds(2), [])
        self.assertEqual(self._rounds(1), ["dead"])
        self.assertEqual(self._rounds(50), [])

    def test_answering(self) -> None:
        """One that answers every ping stays live."""
        self._register()
        self.assertEqual(self._rounds(100, answered=True), [])
        self.assertEqual(self.detector.state(NODE), "live")

    def test_returning(self) -> None:
        """An answer makes a suspected and a dead server live again, with a clean count."""
        self._register()
        for rounds in (3, 10):
            self._rounds(rounds)
            self.assertNotEqual(self.detector.state(NODE), "live")
            self.assertTrue(self.detector.heard(NODE, 1, self.clock.seconds()))
            self.assertEqual(self.detector.state(NODE), "live")
            self.assertEqual(self._rounds(2), [])

    def test_other_incarnation(self) -> None:
        """A restart is noticed; answers of the incarnation before do not count."""
        self.assertFalse(self._register(1))
        self.assertFalse(self._register(1))  # only the connection was lost
        self.assertTrue(self._register(2))
        self._rounds(10)
        self.assertFalse(self.detector.heard(NODE, 1, self.clock.seconds()))
        self.assertEqual(self.detector.state(NODE), "dead")

    def test_expected(self) -> None:
        """After a restart of the coordinator those known are suspected for a while, then dead."""
        self.detector.expect(NODE, 1, self.clock.seconds())
        self.assertEqual(self.detector.state(NODE), "suspected")
        self.assertEqual(self._rounds(19), [])
        self.assertEqual(self._rounds(1), ["dead"])

    def test_expected_and_back(self) -> None:
        """One that comes back within that time is live, and counted like any other."""
        self.detector.expect(NODE, 1, self.clock.seconds())
        self._rounds(10)
        self.assertFalse(self._register(1))
        self.assertEqual(self.detector.state(NODE), "live")
        self.assertEqual(self._rounds(6), ["suspected", "dead"])

    def test_left(self) -> None:
        """One that stops in order is dead at once; a late answer changes nothing; a start does."""
        self._register()
        self.detector.left(NODE)
        self.assertEqual(self.detector.state(NODE), "dead")
        self.assertFalse(self.detector.heard(NODE, 1, self.clock.seconds()))
        self.assertEqual(self._rounds(10), [])
        self.assertTrue(self._register(2))
        self.assertEqual(self.detector.state(NODE), "live")

    def test_unknown(self) -> None:
        """One never heard of counts as dead, and nothing it says makes it known."""
        self.assertEqual(self.detector.state("nobody"), "dead")
        self.assertFalse(self.detector.heard("nobody", 1, 0.0))
        self.detector.left("nobody")
        self.assertEqual(self.detector.seen_s("nobody", 5.0), 0.0)

    def test_a_pause_of_ours(self) -> None:
        """When the coordinator itself stood still nobody dies of it: rounds count, not seconds."""
        self._register()
        self._rounds(1, answered=True)
        self.detector.tick()
        self.clock.advance(60)
        self.assertEqual(self.detector.tick(), [])
        self.assertEqual(self.detector.state(NODE), "live")
        self.assertEqual(self.detector.seen_s(NODE, self.clock.seconds()), 60)

    def test_dead_after_one(self) -> None:
        """With the shortest setting the first miss is death."""
        detector = Detector(dead_after=1, grace=20)
        detector.registered(NODE, 1, 0.0)
        detector.tick()
        self.assertEqual(detector.state(NODE), "live")
        detector.tick()
        self.assertEqual(detector.state(NODE), "dead")

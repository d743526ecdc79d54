"""Time goes from event to event, the same way every time."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from penncloud.simulation.timeline import NS, Standstill, Timeline


class TimelineTests(SynchronousTestCase):
    """Events on a heap."""

    def setUp(self) -> None:
        self.timeline = Timeline()
        self.seen: list[tuple[int, str]] = []

    def note(self, name: str) -> None:
        self.seen.append((self.timeline.now_ns, name))

    def test_order(self) -> None:
        """Events happen at their times, those of one time in the order of entering."""
        self.timeline.at(20, self.note, "late")
        self.timeline.at(10, self.note, "first")
        self.timeline.at(10, self.note, "second")
        self.timeline.run(NS)
        self.assertEqual(self.seen, [(10, "first"), (10, "second"), (20, "late")])
        self.assertEqual(self.timeline.now_ns, NS)

    def test_steps(self) -> None:
        """What an event enters for the meantime happens before what was entered for later."""
        self.timeline.at(10, lambda: self.timeline.at(15, self.note, "between"))
        self.timeline.at(20, self.note, "late")
        self.timeline.run(NS)
        self.assertEqual(self.seen, [(15, "between"), (20, "late")])

    def test_cancel(self) -> None:
        """A cancelled event does not happen."""
        self.timeline.at(10, self.note, "never").cancel()
        self.timeline.run(NS)
        self.assertEqual(self.seen, [])

    def test_tiny_delay(self) -> None:
        """A delay too short to be counted takes a nanosecond: a waiting loop cannot stand still."""
        self.timeline.after(1e-30, self.note, "soon")
        self.timeline.run(NS)
        self.assertEqual(self.seen, [(1, "soon")])

    def test_done(self) -> None:
        """Time stops where what was waited for has happened."""
        self.timeline.at(10, self.note, "it")
        self.timeline.at(20, self.note, "more")
        self.assertTrue(self.timeline.run(NS, lambda: bool(self.seen)))
        self.assertEqual(self.timeline.now_ns, 10)

    def test_standstill(self) -> None:
        """Events that cause each other at one instant for ever are noticed."""

        def again() -> None:
            self.timeline.after(0, again)

        again()
        self.assertRaises(Standstill, self.timeline.run, NS)

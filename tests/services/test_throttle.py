"""Bounding attempts."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.services.throttle import Throttle


class ThrottleTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.throttle = Throttle(self.clock, attempts=3, window_s=60.0, max_keys=5)

    def spend(self, key: str) -> None:
        for _ in range(3):
            self.assertEqual(self.throttle.attempt(key), 0.0)

    def test_attempts_beyond_the_limit_wait_for_the_end_of_the_window(self) -> None:
        """The wait is told, gets shorter, and then attempts are free again."""
        self.spend("a")
        self.assertEqual(self.throttle.attempt("a"), 60.0)
        self.clock.advance(45.0)
        self.assertEqual(self.throttle.attempt("a"), 15.0)
        self.clock.advance(15.0)
        self.spend("a")

    def test_keys_do_not_share(self) -> None:
        """One key's attempts are not another's."""
        self.spend("a")
        self.spend("b")

    def test_legitimate_use_is_forgiven(self) -> None:
        """Success clears a key, or takes one attempt back."""
        self.spend("a")
        self.throttle.forgive("a")
        self.spend("a")
        self.throttle.take_back("a")
        self.assertEqual(self.throttle.attempt("a"), 0.0)
        self.assertGreater(self.throttle.attempt("a"), 0.0)

    def test_memory_is_bounded(self) -> None:
        """The key that was used longest ago is forgotten first."""
        self.spend("a")
        for number in range(4):
            self.throttle.attempt(f"other {number}")
        self.assertGreater(self.throttle.attempt("a"), 0.0)
        for number in range(5):
            self.throttle.attempt(f"more {number}")
        self.assertEqual(len(self.throttle._seen), 5)
        self.assertEqual(self.throttle.attempt("a"), 0.0)

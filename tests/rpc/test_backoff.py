"""Pauses between attempts."""

from __future__ import annotations

import random

from twisted.trial.unittest import SynchronousTestCase

from penncloud.rpc.backoff import Backoff


class BackoffTests(SynchronousTestCase):
    def test_doubles_up_to_the_longest(self) -> None:
        """Each pause lies in the upper half of a bound that doubles and then stays."""
        backoff = Backoff(random.Random(1), first_s=0.1, longest_s=0.5)
        for bound in (0.1, 0.2, 0.4, 0.5, 0.5):
            pause = backoff.next_s()
            self.assertTrue(bound / 2 <= pause <= bound, f"{pause} of {bound}")

    def test_reset(self) -> None:
        """After a success the first pause is short again."""
        backoff = Backoff(random.Random(1), first_s=0.1, longest_s=10)
        for _ in range(5):
            backoff.next_s()
        backoff.reset()
        self.assertLessEqual(backoff.next_s(), 0.1)

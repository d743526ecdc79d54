"""What tests of whole runs have in common."""

from __future__ import annotations

import gc

from twisted.trial.unittest import SynchronousTestCase

from penncloud.simulation.scenario import UNCUT, Limits, Result
from penncloud.simulation.scenarios import SCENARIOS
from penncloud.simulation.world import TO_BE_EXPECTED


class RunCase(SynchronousTestCase):
    """Plays seeds. An error that was logged, and was not ordered, fails the test."""

    def play(self, scenario: str, seed: int, rule: str = "", limits: Limits = UNCUT) -> Result:
        result = SCENARIOS[scenario].play(seed, rule.__eq__, limits)
        if rule:
            # With a rule broken, errors of any kind may be how it is noticed.
            self.flushLoggedErrors()
        self.forget()
        return result

    def forget(self) -> None:
        """A server whose disk fails logs that, rightly. What is wrong with the rest of a world that has
        been thrown away comes up here, and not in some later test."""
        gc.collect()
        self.flushLoggedErrors(*TO_BE_EXPECTED)

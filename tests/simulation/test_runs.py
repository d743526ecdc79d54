"""Whole runs: the same every time, clean as they are, and not clean with a rule broken.

Seeds that once failed stand here with what they showed.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from penncloud.simulation.scenario import UNCUT, Limits, Result
from penncloud.simulation.scenarios import SCENARIOS
from penncloud.simulation.shrink import shrink

_PLAY = """
from twisted.logger import globalLogBeginner
globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
from penncloud.simulation.scenarios import SCENARIOS
print(SCENARIOS["storage"].play(5).digest)
"""


class RunCase(SynchronousTestCase):
    """Plays seeds."""

    def play(self, scenario: str, seed: int, rule: str = "", limits: Limits = UNCUT) -> Result:
        result = SCENARIOS[scenario].play(seed, rule.__eq__, limits)
        self.forget()
        return result

    def forget(self) -> None:
        """Errors that were logged have been judged by the run: a server whose disk fails logs that,
        rightly. What else comes is of programs that end halfway when the world is thrown away."""
        gc.collect()
        self.flushLoggedErrors()


class RepeatabilityTests(RunCase):
    """One seed, one history."""

    def test_same_digest_everywhere(self) -> None:
        """Neither another process nor another order of hashes changes anything."""
        root = Path(__file__).parents[2]
        digests = set()
        for hash_seed in ("0", "1", "4711"):
            environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)}
            command = [sys.executable, "-c", _PLAY]
            done = subprocess.run(
                command, env=environment, cwd=root, capture_output=True, text=True, check=True
            )
            digests.add(done.stdout.strip())
        self.assertEqual(len(digests), 1, digests)

    def test_seeds_differ(self) -> None:
        """Another seed is another history."""
        self.assertNotEqual(self.play("storage", 0).digest, self.play("storage", 8).digest)


class SeedTests(RunCase):
    """The cluster keeps its promises."""

    def clean(self, scenario: str, seeds: range) -> None:
        answered = troubles = 0.0
        for seed in seeds:
            result = self.play(scenario, seed)
            self.assertEqual(result.violations, [], f"{scenario} {seed}")
            answered += result.counts["answered during trouble"]
            troubles += result.counts["faults"]
        # Runs in which nothing happened would show nothing.
        self.assertGreater(answered, 30)
        self.assertGreater(troubles, 5)

    def test_storage(self) -> None:
        """Programs and machines die, networks and disks fail."""
        self.clean("storage", range(3, 9))

    def test_network(self) -> None:
        """Only the network fails."""
        self.clean("network", range(4))

    def test_coordinators(self) -> None:
        """Three coordinators die, stop and are cut off.

        12: a change by an administrator that was sent again undid a later one. 38: the power went
        during the very first start of a storage server, which then could not start any more.
        """
        self.clean("coordinators", range(12, 14))
        self.clean("coordinators", range(38, 39))

    def test_raft(self) -> None:
        """The Raft core alone: elections, crashes and commits, and no property violated."""
        elections = 0.0
        for seed in range(10):
            result = self.play("raft", seed)
            self.assertEqual(result.violations, [], f"raft {seed}")
            elections += result.counts["elections"]
        self.assertGreater(elections, 10)

    def test_disks(self) -> None:
        """Disks lose what was not synced."""
        self.clean("disks", range(4))


class MutantTests(RunCase):
    """With one rule broken, something is noticed within a few seeds."""

    def caught(self, rule: str, scenario: str, seeds: range, word: str) -> Result:
        for seed in seeds:
            result = self.play(scenario, seed, rule)
            if result.failed:
                self.assertIn(word, result.violations[0])
                return result
        raise self.failureException(f"{rule} switched off is not noticed in {len(seeds)} seeds")

    def test_answer_when_durable(self) -> None:
        """Acknowledged before it is on the disk: acknowledged writes are lost."""
        self.caught("answer-when-durable", "storage", range(4, 9), "registers")

    def test_request_ids(self) -> None:
        """Retries are executed again."""
        self.caught("request-ids", "network", range(6, 11), "appends")

    def test_read_committed(self) -> None:
        """A read shows what a power cut then takes back."""
        self.caught("read-committed", "hot", range(1, 6), "registers")

    def test_decide_on_prepared(self) -> None:
        """Two comparisons succeed on the same value."""
        self.caught("decide-on-prepared", "disks", range(5), "counters")

    def test_decide_when_durable(self) -> None:
        """A coordinator forgets what it confirmed."""
        self.caught("decide-when-durable", "storage", range(7, 14), "flags")


class ShrinkTests(RunCase):
    """A failing run is cut short."""

    def test_shrink(self) -> None:
        """What is found has fewer faults or takes less time, and fails when it is played again."""
        rule = "answer-when-durable"
        failing = self.play("storage", 4, rule)
        self.assertTrue(failing.failed)
        shrunk = shrink(SCENARIOS["storage"], failing, rule.__eq__, max_runs=8)
        self.assertTrue(shrunk.result.failed)
        self.assertLess(
            shrunk.result.fault_count + shrunk.result.trouble_s,
            failing.fault_count + failing.trouble_s,
        )
        again = self.play("storage", 4, rule, shrunk.limits)
        self.assertEqual(again.digest, shrunk.result.digest)
        self.forget()

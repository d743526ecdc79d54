"""Whole runs: the same every time, clean as they are, and not clean with a rule broken.

Seeds that once failed stand here with what they showed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from penncloud.judge.workloads import Registers
from penncloud.simulation import faults
from penncloud.simulation import scenario as runs
from penncloud.simulation.scenarios import SCENARIOS
from penncloud.simulation.shrink import shrink
from tests.simulation.runs import RunCase

_PLAY = """
from twisted.logger import globalLogBeginner
globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
from penncloud.simulation.scenarios import SCENARIOS
for name, scenario in SCENARIOS.items():
    print(name, scenario.play(5).digest)
"""


class RepeatabilityTests(RunCase):
    """One seed, one history."""

    def test_same_digest_everywhere(self) -> None:
        """Neither another process nor another order of hashes changes anything, in any scenario."""
        root = Path(__file__).parents[2]
        told = []
        for hash_seed in ("0", "4711"):
            environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)}
            command = [sys.executable, "-c", _PLAY]
            done = subprocess.run(
                command, env=environment, cwd=root, capture_output=True, text=True, check=True
            )
            told.append(done.stdout.splitlines())
        self.assertEqual([line.split()[0] for line in told[0]], list(SCENARIOS))
        self.assertEqual(*told)

    def test_seeds_differ(self) -> None:
        """Another seed is another history."""
        self.assertNotEqual(self.play("storage", 0).digest, self.play("storage", 8).digest)


class SeedTests(RunCase):
    """The cluster keeps its promises."""

    def clean(self, scenario: str, seeds: Iterable[int]) -> None:
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
        self.clean("storage", range(3, 8))

    def test_replicas(self) -> None:
        """Storage servers die where it hurts most: others take over, and who comes back joins again."""
        takeovers = rejoins = 0.0
        for seed in (1, 7, 16, 17):
            result = self.play("replicas", seed)
            self.assertEqual(result.violations, [], f"replicas {seed}")
            takeovers += result.counts["takeovers"]
            rejoins += result.counts["rejoins"]
            self.assertGreater(result.counts["answered during trouble"], 0)
        self.assertGreater(takeovers, 3)
        self.assertGreater(rejoins, 3)

    def test_moves(self) -> None:
        """Five storage servers, and the coordinators are lost as well."""
        self.clean("moves", range(1, 3))

    def test_splits(self) -> None:
        """Tablets are split all the time, and whoever does it is struck at that moment."""
        splits = 0.0
        for seed in (1, 4, 5):
            result = self.play("splits", seed)
            self.assertEqual(result.violations, [], f"splits {seed}")
            splits += result.counts["splits"]
        self.assertGreater(splits, 5)

    def test_async(self) -> None:
        """Writes that are answered early are lost now and then, but never silently."""
        result = self.play("async", 3)
        self.assertEqual(result.violations, [])
        self.assertGreater(result.counts["answered writes lost"], 0)
        # Were they not in quarantine, somebody would notice.
        self.patch(runs, "kept_cuts", lambda _disk: [])
        self.assertIn("in no quarantine", " ".join(self.play("async", 3).violations))

    def test_answered_early_and_dropped(self) -> None:
        """A primary alone with what it answered is removed, and its tablet is split and dropped."""
        self.assertEqual(self.play("async", 800826).violations, [])

    def test_replaced_before_it_was_cut(self) -> None:
        """A full disk refuses a cut, and a fetched checkpoint takes the log's place before there is room."""
        self.assertEqual(self.play("storage", 850450).violations, [])

    def test_strangers(self) -> None:
        """Nobody is shown by an old primary what a new one has changed."""
        self.clean("strangers", range(1, 3))

    def test_network(self) -> None:
        """Only the network fails."""
        self.clean("network", range(3))

    def test_a_last_commit(self) -> None:
        """A primary commits, and hears of its successor, by one and the same piece of what was received."""
        self.assertEqual(self.play("network", 740151).violations, [])

    def test_coordinators(self) -> None:
        """Three coordinators die, stop and are cut off; one may lose its data."""
        self.clean("coordinators", range(13, 15))
        result = self.play("coordinators", 12)
        self.assertEqual(result.violations, [])
        # Whoever is behind gets a snapshot where the log is gone.
        self.assertGreater(result.counts["snapshots installed"], 0)

    def test_an_attempt_that_comes_late(self) -> None:
        """A frontend was unknown, so it was not disabled: nor by an earlier attempt, once it is known."""
        result = self.play("elections", 800378, limits=runs.Limits(1, 2.62))
        self.assertEqual(result.violations, [])

    def test_decay(self) -> None:
        """Wrong bits on one server's disk: what is damaged is fetched again, and nothing is lost."""
        self.clean("decay", (2, 12))

    def test_asked_while_it_fetches(self) -> None:
        """A server is asked how it stands while a checkpoint takes the place of a copy that was damaged."""
        self.assertEqual(self.play("decay", 127).violations, [])

    def test_an_empty_disk_and_an_old_clock(self) -> None:
        """Its incarnation is lower than those before: the others believe the coordinators, and let it in."""
        wiped = runs.ClusterScenario("w", "", (Registers,), (faults.wipes,), trouble_s=(8.0, 12.0))
        for seed in (3, 6):
            result = wiped.play(seed)
            self.forget()
            self.assertEqual(result.violations, [])
            self.assertGreater(result.counts["rejoins"], 1)

    def test_elections(self) -> None:
        """Voters die as soon as they have voted."""
        self.clean("elections", range(4))

    def test_services(self) -> None:
        """Web frontends and a mail server at work: what people were told is done is there, once."""
        self.clean("services", range(1, 4))

    def test_hot(self) -> None:
        """Everybody wants the same cell, and asks for it in all ways."""
        self.clean("hot", range(2))

    def test_raft(self) -> None:
        """The Raft core alone: elections, crashes and commits, and no property violated."""
        for scenario in ("raft", "reigns", "members"):
            elections = 0.0
            for seed in range(10):
                result = self.play(scenario, seed)
                self.assertEqual(result.violations, [], f"{scenario} {seed}")
                elections += result.counts["elections"]
            self.assertGreater(elections, 10)

    def test_disks(self) -> None:
        """Disks lose what was not synced."""
        self.clean("disks", range(3))

    def test_a_disk_that_was_full(self) -> None:
        """A replica whose checkpoint had found no room takes part again when there is some."""
        self.assertEqual(self.play("disks", 720030).violations, [])


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

"""Every rule that can be switched off: where that is noticed, and within how many seeds.

The seeds are the same for all rules of a family, and were chosen before anybody looked: 1 to 20 for runs of
a whole cluster, 1 to 200 for the Raft core. `python -m tests.simulation.test_mutants` tells for each rule at
which of them it is noticed. Those that take long to notice are only played there, or with
`PENNCLOUD_LONG_TESTS=1` in the environment.
"""

from __future__ import annotations

import os
import re
import unittest
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Final

from attrs import frozen

from penncloud.simulation.raft_scenario import RaftScenario
from penncloud.simulation.scenarios import SCENARIOS
from tests.simulation.runs import RunCase

ROOT: Final = Path(__file__).parents[2]
CLUSTER_SEEDS: Final = range(1, 21)
RAFT_SEEDS: Final = range(1, 201)


@frozen
class Seen:
    """The scenario in which a rule's absence is seen, and a word of what is said then."""

    scenario: str
    word: str


@frozen
class Shown:
    """The test of another room that shows it: of machines that run without a cluster."""

    test: str


_MACHINES: Final = "tests.replication.test_random.MutantTests.test_"
_BY_HAND: Final = "tests.replication.test_replica.PrimaryTests.test_mutant_"

# (room, rule): the same rule may be kept, and broken, in several places.
TABLE: Final[Mapping[tuple[str, str], Seen | Shown]] = {
    ("storage", "answer-when-durable"): Seen("storage", ""),
    ("storage", "request-ids"): Seen("retries", ""),
    ("storage", "read-committed"): Seen("strangers", "registers"),
    ("storage", "decide-on-prepared"): Seen("disks", ""),
    ("storage", "failed-after-what-it-saw"): Seen("hot", "registers"),
    ("storage", "blank-is-no-member"): Shown(_MACHINES + "blank_is_no_member"),
    ("storage", "split-freezes"): Seen("splits", ""),
    ("storage", "split-request-ids"): Seen("splits", ""),
    ("storage", "split-when-committed"): Seen("splits", ""),
    ("coordinator", "decide-when-durable"): Seen("elections", ""),
    ("coordinator", "vote-not-persisted"): Seen("elections", ""),
    ("coordinator", "send-before-persist"): Seen("elections", ""),
    ("raft", "vote-without-log-check"): Seen("raft", ""),
    ("raft", "read-without-quorum"): Seen("raft", "stale read"),
    ("raft", "commit-old-term-by-count"): Seen("reigns", ""),
    ("raft", "change-before-noop"): Seen("members", ""),
    ("raft", "no-check-quorum"): Seen("raft", "liveness"),
    ("simulation", "vote-not-persisted"): Seen("raft", ""),
    ("simulation", "send-before-persist"): Seen("raft", ""),
    ("replication", "ack-after-sync"): Shown(_MACHINES + "ack_after_sync"),
    ("replication", "acks-since-takeover"): Shown(_BY_HAND + "acks_since_takeover"),
    ("replication", "blank-is-no-member"): Shown(_MACHINES + "blank_is_no_member"),
    ("replication", "every-member"): Shown(_MACHINES + "every_member"),
    ("replication", "joint"): Shown(_MACHINES + "joint"),
    ("replication", "joint-at-committed"): Shown(_BY_HAND + "joint_at_committed"),
    ("replication", "lease"): Shown(_MACHINES + "lease"),
    ("replication", "own-sync"): Shown(_MACHINES + "own_sync"),
    ("replication", "promise"): Shown(_MACHINES + "promise"),
    ("replication", "read-ticket"): Shown(_BY_HAND + "read_ticket"),
    ("replication", "restart-wait"): Shown(_MACHINES + "restart_wait"),
    ("replication", "seal"): Shown(_MACHINES + "seal"),
}

# Rules of the machines that runs of a whole cluster, through the real driver, notice as well.
DRIVEN: Final[Mapping[str, Seen]] = {
    "ack-after-sync": Seen("replicas", ""),
    "every-member": Seen("replicas", ""),
    "own-sync": Seen("replicas", ""),
    "seal": Seen("replicas", ""),
    "joint": Seen("replicas", "I1"),
    "joint-at-committed": Seen("replicas", "I1"),
    "lease": Seen("strangers", "linearizable"),
    "promise": Seen("strangers", "linearizable"),
    "restart-wait": Seen("strangers", "linearizable"),
}
# Of these, the ones that take more than a few seconds.
LONG: Final = ("joint", "joint-at-committed")


def rules_in_the_code() -> set[tuple[str, str]]:
    """Every rule that the code asks `broken(...)` for, with the room that does."""
    found = set()
    for path in sorted((ROOT / "penncloud").rglob("*.py")):
        room = path.relative_to(ROOT / "penncloud").parts[0]
        for asked in re.findall(r"broken\(([^()]*)\)", path.read_text("utf-8")):
            found |= {(room, rule) for rule in re.findall(r'"([a-z-]+)"', asked)}
    return found


def noticed(case: RunCase, rule: str, seen: Seen) -> tuple[int, str] | None:
    """The first seed that notices, and what it says."""
    core = isinstance(SCENARIOS[seen.scenario], RaftScenario)
    for seed in RAFT_SEEDS if core else CLUSTER_SEEDS:
        result = case.play(seen.scenario, seed, rule)
        if result.failed:
            return seed, result.violations[0]
    return None


class TableTests(RunCase):
    """Each rule that can be switched off is missed by somebody."""

    def test_complete(self) -> None:
        """The table has the rules that are in the code, and no others."""
        self.assertEqual(set(TABLE), rules_in_the_code())

    def test_documented(self) -> None:
        """docs/simulation.md has all of those that runs notice."""
        text = (ROOT / "docs" / "simulation.md").read_text("utf-8")
        for (_, rule), seen in _ALL.items():
            if isinstance(seen, Seen):
                self.assertIn(f"`{rule}`", text)

    def test_shown_elsewhere(self) -> None:
        """The tests of other rooms that the table names are there."""
        for shown in TABLE.values():
            if isinstance(shown, Shown):
                module, case, method = shown.test.rsplit(".", 2)
                self.assertTrue(hasattr(getattr(import_module(module), case), method), shown.test)


_ALL: Final[Mapping[tuple[str, str], Seen | Shown]] = {
    **TABLE,
    **{("replication", rule): seen for rule, seen in DRIVEN.items()},
}


def _add_tests() -> None:
    """One test for each rule, so that a failure names it."""
    for (room, rule), seen in _ALL.items():
        if not isinstance(seen, Seen):
            continue

        def test(self: RunCase, rule: str = rule, seen: Seen = seen) -> None:
            found = noticed(self, rule, seen)
            assert found is not None, f"{rule} switched off is not noticed in {seen.scenario}"
            self.assertIn(seen.word, found[1])

        if rule in LONG and not os.environ.get("PENNCLOUD_LONG_TESTS"):
            test.skip = "takes long: PENNCLOUD_LONG_TESTS=1"  # type: ignore[attr-defined]
        test.__doc__ = f"`{rule}` of {room}/ switched off is noticed in scenario {seen.scenario}."
        setattr(TableTests, f"test_{room}_{rule.replace('-', '_')}", test)


_add_tests()


if __name__ == "__main__":
    case = TableTests("test_complete")
    for (room, rule), seen in _ALL.items():
        if isinstance(seen, Seen):
            print(f"{room} {rule}: {seen.scenario}, {noticed(case, rule, seen)}", flush=True)
    unittest.main(argv=["tests.simulation.test_mutants", "TableTests.test_complete"])

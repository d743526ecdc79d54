"""The replication machines in a hostile world: every promise holds, and breaking a rule is noticed.

`python -m tests.replication.test_random FIRST LAST` runs the worlds of these seeds for longer, and says
what it saw.
"""

from __future__ import annotations

import sys
from collections import Counter
from time import process_time

from twisted.trial.unittest import SynchronousTestCase

from penncloud.replication.state import Options, nothing_broken
from tests.replication.oracle import Violation
from tests.replication.world import World


def run(seed: int, seconds: float, rule: str = "", focus: str = "") -> World:
    """One history: trouble, then peace, in which the group must become whole."""
    broken = (lambda asked: asked == rule) if rule else nothing_broken
    world = World(seed, broken, focus=focus)
    try:
        world.run(seconds)
        world.converge()
    except Violation as violation:
        raise Violation(f"seed {seed} at {world.now:.4f} s: {violation}") from violation
    return world


class PropertyTests(SynchronousTestCase):
    """Random histories."""

    def test_promises_hold(self) -> None:
        """Nothing is violated, and the histories saw faults of all kinds with successes during them."""
        seen: Counter[str] = Counter()
        for seed in range(60):
            seen += run(seed, 20.0).counts
        self.assertGreater(seen["writes"], 3000)
        self.assertGreater(seen["reads"], 2000)
        for kind in (
            "takeovers",
            "crashes",
            "rejoins",
            "checkpoints installed",
            "wipes",
            "hand-overs",
        ):
            self.assertGreater(seen[kind], 10, kind)

    def test_same_seed_same_history(self) -> None:
        """A failing seed can be played again."""
        self.assertEqual(run(7, 10.0).counts, run(7, 10.0).counts)

    def test_async_mode(self) -> None:
        """What was answered early is committed, or lies in a quarantine (or a log that is to be cut)."""
        lost = 0
        for seed in range(25):
            world = World(seed, options=Options(mode="async", async_max_lag=20, stuck_s=2.0))
            world.weights["wipe"] = 0.0
            world.run(15.0)
            world.converge()
            world.run(1.0)
            kept = {entry.request for entry in world.oracle.chosen}
            disks = [host.disk for host in world.hosts.values()]
            aside = {e.request for disk in disks for e in (*disk.quarantine, *disk.entries)}
            for request in world.oracle.local:
                if request not in kept:
                    lost += 1
                    self.assertIn(request, aside, f"seed {seed}: request {request} vanished")
        self.assertGreater(lost, 0, "no failover lost anything: this test shows nothing")

    def test_abort(self) -> None:
        """Below `min_members` what could not be committed is refused, and surely not done."""
        aborted = 0
        for seed in range(40):
            world = World(
                seed, options=Options(min_members=2, stuck_s=2.0), focus="crash cut start mend"
            )
            world.run(15.0)
            world.converge()
            aborted += world.oracle.aborted
        self.assertGreater(aborted, 0)


class MutantTests(SynchronousTestCase):
    """Each rule switched off is caught within so many seeds: the checks above can fail."""

    def caught(self, rule: str, seeds: int, seconds: float = 20.0, focus: str = "") -> None:
        for seed in range(seeds):
            try:
                run(seed, seconds, rule, focus)
            except Violation:
                return
        self.fail(f"{rule} switched off went unnoticed in {seeds} seeds")

    def test_dedup(self) -> None:
        """A retry is executed again."""
        self.caught("dedup", 5)

    def test_seal(self) -> None:
        """A member goes on obeying the primary that was replaced."""
        self.caught("seal", 5)

    def test_ack_after_sync(self) -> None:
        """A member says that it has what a crash then takes away."""
        self.caught("ack-after-sync", 5)

    def test_every_member(self) -> None:
        """A majority is taken for enough: a member without the entry may take over."""
        self.caught("every-member", 5)

    def test_own_sync(self) -> None:
        """The primary's own disk is forgotten."""
        self.caught("own-sync", 5)

    def test_promise(self) -> None:
        """A new primary serves while the old one still has its leases."""
        self.caught("promise", 200, 10.0, "coup mend start")

    def test_restart_wait(self) -> None:
        """A restarted replica has forgotten its promise and serves at once."""
        self.caught("restart-wait", 200, 10.0, "coup mend start")

    def test_lease(self) -> None:
        """A primary reads without looking at its leases."""
        self.caught("lease", 60, 10.0, "coup mend start")

    def test_joint(self) -> None:
        """Writes commit without the learner while its joining is decided."""
        self.caught("joint", 20)

    def test_members_only(self) -> None:
        """I2: a replica that was removed becomes primary."""
        self.caught("members-only", 20)

    def test_compare_and_set(self) -> None:
        """Two configurations of one number."""
        self.caught("compare-and-set", 20)

    def test_blank_is_no_member(self) -> None:
        """A wiped disk is taken for that of a member with an empty log."""
        self.caught("blank-is-no-member", 20)

    def test_decide_on_prepared(self) -> None:
        """A CPUT is decided against what is committed, though more is prepared."""
        self.caught("decide-on-prepared", 20)


def main(first: int, last: int) -> None:
    """Longer histories; prints what they saw."""
    seen: Counter[str] = Counter()
    simulated_s, began = 0.0, process_time()
    for seed in range(first, last):
        world = run(seed, 60.0)
        seen += world.counts
        simulated_s += world.now
    spent_s = process_time() - began
    print(
        f"{last - first} seeds, {simulated_s / 3600:.1f} simulated hours, {spent_s:.0f} CPU seconds"
    )
    print(", ".join(f"{kind} {count}" for kind, count in sorted(seen.items())))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

"""The Raft core in a hostile world: its properties hold, and breaking a rule is noticed."""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from penncloud.simulation.raft_world import Violation, World


def run(seed: int, steps: int, broken: Callable[[str], bool] = lambda _: False) -> World:
    """One history: trouble, then peace, in which the nodes must come to agree."""
    world = World(seed, 3 + 2 * (seed % 2), broken)
    for _ in range(steps):
        world.step()
    world.check_logs()
    world.converge()
    return world


class PropertyTests(SynchronousTestCase):
    """Random histories."""

    def test_properties_hold(self) -> None:
        """No property is violated, and the histories saw elections, crashes, commits and reads."""
        elections = crashes = commits = reads = 0
        for seed in range(60):
            world = run(seed, 3000)
            elections += world.elections
            crashes += world.crashes
            commits += len(world.committed)
            reads += world.reads_answered
        self.assertGreater(elections, 60)
        self.assertGreater(crashes, 500)
        self.assertGreater(commits, 500)
        self.assertGreater(reads, 50)


class MutantTests(SynchronousTestCase):
    """Each rule switched off is caught: the checks above can fail."""

    def caught(self, rule: str, seeds: int = 400) -> None:
        for seed in range(seeds):
            try:
                run(seed, 3000, lambda asked: asked == rule)
            except (Violation, ValueError):
                return
        self.fail(f"{rule} switched off went unnoticed in {seeds} seeds")

    def test_vote_not_persisted(self) -> None:
        """A node that forgets its vote votes twice in a term."""
        self.caught("vote-not-persisted")

    def test_vote_without_log_check(self) -> None:
        """A node with a shorter log is elected and overwrites committed entries."""
        self.caught("vote-without-log-check")

    def test_send_before_persist(self) -> None:
        """A node says that it has what a crash then takes away."""
        self.caught("send-before-persist")

    def test_read_without_quorum(self) -> None:
        """A leader that was replaced answers a read from its old state."""
        self.caught("read-without-quorum")

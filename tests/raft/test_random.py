"""The Raft core in a hostile world: its properties hold. That breaking a rule is noticed is shown in
`tests/simulation/test_mutants.py`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from penncloud.simulation.raft_world import World


def run(seed: int, steps: int) -> World:
    """One history: trouble, then peace, in which the nodes must come to agree."""
    world = World(seed, 3 + 2 * (seed % 2))
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
        self.assertGreater(commits, 300)
        self.assertGreater(reads, 50)

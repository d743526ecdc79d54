"""The Raft core in a hostile world: its properties hold. That breaking a rule is noticed is shown in
`tests/simulation/test_mutants.py`."""

from __future__ import annotations

from random import Random

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from penncloud.raft.log import RaftLog
from penncloud.raft.messages import Entry, HardState, Membership, Snapshot
from penncloud.raft.node import RaftNode
from penncloud.simulation.raft_logs import RaftLogs
from penncloud.simulation.raft_world import Violation, World


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
        elections = crashes = commits = reads = pieces = 0
        for seed in range(60):
            world = run(seed, 3000)
            elections += world.elections
            crashes += world.crashes
            commits += len(world.committed)
            reads += world.reads_answered
            pieces += world.pieces
        self.assertGreater(elections, 60)
        self.assertGreater(crashes, 500)
        self.assertGreater(commits, 300)
        self.assertGreater(reads, 50)
        self.assertGreater(pieces, 50)


class LogTests(SynchronousTestCase):
    """What is done to a log behind Raft's back is seen at the next look."""

    def setUp(self) -> None:
        self.world = World(1)
        while not self.leaders():
            self.world.step()
        self.world.heal()
        while self.leaders()[0].log.stable_index < 5:
            self.world.step()

    def leaders(self) -> list[RaftNode]:
        nodes = [host.node for host in self.world.hosts.values() if host.node is not None]
        return [node for node in nodes if node.role == "leader"]

    def test_leader_append_only(self) -> None:
        """A leader that cuts off the end of its own log."""
        log = self.leaders()[0].log
        log._cut(log.last_index)
        with self.assertRaisesRegex(Violation, "leader append-only"):
            self.world.check()

    def test_log_matching(self) -> None:
        """Another entry of an index and a term that somebody had before."""
        log = self.leaders()[0].log
        last = log.slice(log.last_index, 1, 1)[0]
        node = RaftNode("n9", RaftLog(log.snapshot), HardState(), Random(1))
        before = log.slice(log.first_index, log.last_index - log.first_index, 2**62)
        node.log.merge((*before, evolve(last, data=b"another")))
        node.log.stable_to(last.index, last.term)
        self.assertIn("log matching", self.world.logs.look("n9", node))

    def test_log_matching_of_what_is_before(self) -> None:
        """The same entry behind one of another term."""
        first, second = Entry(1, 1, "noop"), Entry(2, 3, "noop")
        logs, empty = RaftLogs(), Snapshot(0, 0, Membership(frozenset({"a", "b"})), b"")
        one = RaftNode("a", RaftLog(empty, (first, second)), HardState(), Random(1))
        two = RaftNode("b", RaftLog(empty, (evolve(first, term=2), second)), HardState(), Random(1))
        self.assertEqual(logs.look("a", one), "")
        self.assertIn("log matching", logs.look("b", two))

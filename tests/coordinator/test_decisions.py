"""A group of one: commands on their way through the log into the state."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.coordinator import decisions as subject
from penncloud.coordinator.commands import (
    Applied,
    BeginTerm,
    Command,
    Configure,
    Rejected,
    Result,
    SetEnabled,
)
from penncloud.coordinator.decisions import (
    FULL_PAUSE_S,
    Decisions,
    NotDecided,
    OutcomeUnknown,
    Timing,
    TooManyDecisions,
)
from penncloud.coordinator.raft_store import RaftStore, RaftStoreDamaged
from penncloud.platform.memory_disk import Fault, MemoryDisk
from penncloud.raft.messages import Membership, Message
from penncloud.raft.node import RaftNode
from tests.coordinator.commands import FOUNDING, HTTP_1, commands
from tests.rpc.world import environment

ALONE = Membership(frozenset({"c1"}))
REGISTER_HTTP = FOUNDING[3]
assert HTTP_1.id == "http-1"
DISABLE = SetEnabled(9.0, "http-1", False)


class _Nowhere:
    """The link of a coordinator without others."""

    def send(self, message: Message) -> None:
        raise AssertionError(message)

    async def decide(self, leader: str, command: Command, timeout_s: float) -> Result:
        raise AssertionError(command)


class DecisionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.disk = MemoryDisk(self.clock, random.Random(1))
        self.changes = 0
        self.broken: Callable[[str], bool] = lambda _: False
        self.entropy: Callable[[int], bytes] = bytes
        self.decisions = self._begin()
        self._do(REGISTER_HTTP)

    def _begin(self, compact_bytes: int = 1 << 20) -> Decisions:
        store = RaftStore(self.disk, self.clock, 1 << 16)
        decisions = Decisions(
            evolve(environment(self.clock), broken=self.broken, entropy=self.entropy),
            "c1",
            store,
            timing=Timing(),
            link=_Nowhere(),
            changed=self._changed,
            compact_bytes=compact_bytes,
        )
        self.store = store
        opened = Deferred.fromCoroutine(self._open(decisions, store))
        self._settle()
        self.successResultOf(opened)
        self._settle()
        return decisions

    async def _open(self, decisions: Decisions, store: RaftStore) -> None:
        decisions.begin(await store.open() or await store.found(ALONE, b""))

    def _changed(self) -> None:
        self.changes += 1

    def _settle(self) -> None:
        for _ in range(40):
            self.clock.advance(0.001)

    def _do(self, command: Command) -> Result:
        result = self.decisions.propose_here(command)
        self._settle()
        return self.successResultOf(result)

    def test_leads_at_once(self) -> None:
        """The only voter need not wait for a time-out; every start is a new term."""
        self.assertTrue(self.decisions.leads)
        self.assertEqual(self.decisions.machine.state.term, 1)
        self.disk = self.disk.crash()
        again = self._begin()
        self.assertTrue(again.leads)
        self.assertEqual(again.machine.state.term, 2)

    def test_durable_before_told(self) -> None:
        """A command has no effect, and its proposer no answer, before it is on the disk."""
        changes = self.changes
        result = self.decisions.propose_here(DISABLE)
        self.assertNoResult(result)
        self.assertTrue(self.decisions.machine.state.nodes["http-1"].enabled)
        self._settle()
        self.assertEqual(self.successResultOf(result), Applied())
        self.assertFalse(self.decisions.machine.state.nodes["http-1"].enabled)
        self.assertEqual(self.changes, changes + 1)

    def test_together(self) -> None:
        """What comes while the disk is busy shares the next sync."""
        before = len(self.disk.trace)
        results = [self.decisions.propose_here(DISABLE) for _ in range(10)]
        self._settle()
        self.assertEqual([self.successResultOf(result) for result in results], [Applied()] * 10)
        syncs = [what for what in self.disk.trace[before:] if what.startswith("sync")]
        self.assertLessEqual(len(syncs), 2)

    def test_rejected(self) -> None:
        """A command that does not apply is answered so."""
        self.assertIsInstance(self._do(SetEnabled(1.0, "http-9", True)), Rejected)

    @given(st.lists(commands, max_size=30), st.integers(0, 2**32))
    def test_restart(self, given: list[Command], seed: int) -> None:
        """A restart from disk gives the same state, byte for byte, with and without snapshots."""
        self.disk = MemoryDisk(self.clock, random.Random(seed))
        self.decisions = self._begin(2000 if seed % 2 else 1 << 20)
        for command in (*FOUNDING[1:], *(c for c in given if not isinstance(c, BeginTerm))):
            self._do(command)
        before = self.decisions.machine.state
        self.disk = self.disk.crash()
        after = self._begin().machine.state
        # The restart itself is a new term.
        self.assertEqual(after.term, before.term + 1)
        self.assertEqual((after.nodes, after.tablets), (before.nodes, before.tablets))
        self.assertEqual(after.audit[: len(before.audit)], before.audit)

    def test_snapshots_are_taken(self) -> None:
        """The log does not grow without bound, and what is left of it is enough."""
        self.decisions = self._begin(20_000)
        for number in range(400):
            self._do(SetEnabled(float(number), "http-1", number % 2 == 0))
        node = self.decisions.node
        assert node is not None
        self.assertGreater(node.log.snapshot.index, 100)
        self.assertLess(self.store.log_bytes, 40_000)
        self.disk = self.disk.crash()
        self.assertFalse(self._begin().machine.state.nodes["http-1"].enabled)

    def test_disk_full(self) -> None:
        """Without room a command waits; with room again it is decided."""
        self.disk.faults[self.disk.operations] = Fault.FULL
        result = self.decisions.propose_here(DISABLE)
        self._settle()
        self.assertNoResult(result)
        self.clock.advance(FULL_PAUSE_S)
        self._settle()
        self.assertEqual(self.successResultOf(result), Applied())

    def test_disk_failed(self) -> None:
        """After a failed sync nobody is told that anything was done, and nothing is taken any more."""
        self.disk.faults[self.disk.operations] = Fault.FAIL
        results = [self.decisions.propose_here(DISABLE) for _ in range(3)]
        self._settle()
        for result in results:
            self.failureResultOf(result, OutcomeUnknown)
        self.failureResultOf(self.decisions.propose_here(DISABLE), NotDecided)
        self.failureResultOf(self.decisions.read_barrier(), NotDecided)
        self.assertTrue(self.decisions.machine.state.nodes["http-1"].enabled)

    def test_bounded(self) -> None:
        """Commands and reads beyond the bound are refused at once."""
        self.patch(subject, "MAX_WAITING", 2)
        results = [self.decisions.propose_here(DISABLE) for _ in range(3)]
        reads = [self.decisions.read_barrier() for _ in range(3)]
        self.failureResultOf(results[-1], TooManyDecisions)
        self.failureResultOf(reads[-1], TooManyDecisions)
        self._settle()
        self.assertEqual(self.successResultOf(results[0]), Applied())
        self.successResultOf(reads[0])

    def test_deadline(self) -> None:
        """A command that is not decided in time has an unknown outcome; its entry stays."""
        self.disk.faults[self.disk.operations] = Fault.SLOW
        result = self.decisions.propose_here(DISABLE, timeout_s=0.02)
        self._settle()
        self.failureResultOf(result, OutcomeUnknown)
        self.clock.advance(60)
        self._settle()
        self.assertFalse(self.decisions.machine.state.nodes["http-1"].enabled)

    def test_replaced(self) -> None:
        """Of an entry in whose place this node has put another nobody knows yet what becomes of it."""
        self.patch(RaftNode, "propose", lambda _node, _data: (10**6, 1))
        first, second = (self.decisions.propose_here(DISABLE) for _ in range(2))
        self.failureResultOf(first, OutcomeUnknown)
        self.assertNoResult(second)

    def test_leads_however_many_wait(self) -> None:
        """A node that is elected while commands of its earlier terms fill the bound decides all the same."""
        self.patch(subject, "MAX_WAITING", 0)
        self.disk = self.disk.crash()
        again = self._begin()
        self.assertTrue(again.leads)

    def test_read_is_fresh(self) -> None:
        """A read waits for what was acknowledged before it, and for no more."""
        barrier = self.decisions.read_barrier()
        self.assertNoResult(barrier)
        self._settle()
        self.successResultOf(barrier)

    def test_reads_of_an_earlier_run(self) -> None:
        """What answers them, late, answers none of this run, which may have to see more."""
        asked: list[int] = []
        self.patch(RaftNode, "read", lambda _node, context: asked.append(context))
        for entropy in (b"1".__mul__, b"2".__mul__):
            self.entropy = entropy
            decisions = self._begin()
            decisions.read_barrier()
            self._settle()
            self.disk = self.disk.crash()
        self.assertEqual((len(asked), len(set(asked))), (2, 2))

    def test_close(self) -> None:
        """Closing finishes the disk's work and refuses what comes; the log can be opened again."""
        self._do(DISABLE)
        closed = Deferred.fromCoroutine(self.decisions.close())
        self.failureResultOf(self.decisions.propose_here(DISABLE), NotDecided)
        self._settle()
        self.successResultOf(closed)
        self.assertFalse(self._begin().machine.state.nodes["http-1"].enabled)

    def test_fault_of_ours(self) -> None:
        """A fault while applying is logged, told to the proposers, and ends the deciding."""

        def broken(command: Any) -> Any:
            raise ZeroDivisionError("broken")

        self.patch(self.decisions.machine, "apply", broken)
        result = self.decisions.propose_here(DISABLE)
        self._settle()
        self.failureResultOf(result, OutcomeUnknown)
        self.failureResultOf(self.decisions.propose_here(DISABLE), NotDecided)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_foreign_snapshot(self) -> None:
        """A snapshot that is whole but no state is reported as damage."""
        store = RaftStore(MemoryDisk(self.clock, random.Random(1)), self.clock)
        founded = Deferred.fromCoroutine(store.found(ALONE, b"\xa1x"))
        self._settle()
        kept = self.successResultOf(founded)
        with self.assertRaises(RaftStoreDamaged):
            self.decisions.begin(kept)

    def test_mutant(self) -> None:
        """Without the rule that a decision is durable first, a crash loses what was acknowledged."""
        self.broken = lambda rule: rule == "decide-when-durable"
        self.decisions = self._begin()
        self.assertIsInstance(self._do(Configure(1.0, 1, 0, "", [])), Rejected)
        self._do(DISABLE)
        self.broken = lambda _: False
        self.disk = self.disk.crash()
        self.assertTrue(self._begin().machine.state.nodes["http-1"].enabled)

"""Commands on their way through the log into the state."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.coordinator import decisions as subject
from penncloud.coordinator.decisions import Decisions, NotDeciding, TooManyDecisions
from penncloud.coordinator.log import CommandLog, LogCorrupt
from penncloud.coordinator.state import Applied, BeginTerm, Command, Rejected, SetEnabled
from penncloud.platform.errors import DiskFull
from penncloud.platform.memory_disk import Fault, MemoryDisk
from tests.coordinator.commands import FOUNDING, commands

BEGIN = BeginTerm(1.0, "coordinator-1")


class DecisionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.disk = MemoryDisk(self.clock, random.Random(1))
        self.changes = 0
        self.decisions = self._open()

    def _open(self) -> Decisions:
        decisions = Decisions(self.disk, self._changed)
        opened = Deferred.fromCoroutine(decisions.open())
        self._settle()
        self.successResultOf(opened)
        return decisions

    def _changed(self) -> None:
        self.changes += 1

    def _settle(self) -> None:
        for _ in range(20):
            self.clock.advance(0.001)

    def test_durable_before_told(self) -> None:
        """A command has no effect, and its proposer no answer, before it is on the disk."""
        result = self.decisions.propose(BEGIN)
        self.assertNoResult(result)
        self.assertEqual(self.decisions.machine.state.term, 0)
        self._settle()
        self.assertEqual(self.successResultOf(result), Applied())
        self.assertEqual((self.decisions.machine.state.term, self.changes), (1, 1))

    def test_together(self) -> None:
        """What comes while the disk is busy shares the next write."""
        results = [self.decisions.propose(BEGIN) for _ in range(10)]
        self._settle()
        self.assertEqual([self.successResultOf(result) for result in results], [Applied()] * 10)
        syncs = [what for what in self.disk.trace if what == "sync log-0000000000000000"]
        self.assertLessEqual(len(syncs), 2)

    def test_rejected(self) -> None:
        """A command that does not apply is answered so."""
        result = self.decisions.propose(SetEnabled(1.0, "http-9", True))
        self._settle()
        self.assertIsInstance(self.successResultOf(result), Rejected)

    @given(st.lists(commands, max_size=30), st.integers(0, 2**32))
    def test_restart(self, given: list[Command], seed: int) -> None:
        """A restart from disk gives the same state, byte for byte, with and without snapshots."""
        self.disk = MemoryDisk(self.clock, random.Random(seed))
        self.patch(CommandLog.__init__, "__defaults__", (2000 if seed % 2 else 1 << 20,))
        decisions = self._open()
        for command in (*FOUNDING, *given):
            result = decisions.propose(command)
            self._settle()
            self.successResultOf(result)
        before = decisions.machine.snapshot()
        self.disk = self.disk.crash()
        self.assertEqual(self._open().machine.snapshot(), before)

    def test_snapshots_are_taken(self) -> None:
        """The log does not grow without bound."""
        self.patch(CommandLog.__init__, "__defaults__", (2000,))
        decisions = self._open()
        for _ in range(100):
            decisions.propose(BEGIN)
            self._settle()
        [log] = [name for name in self.disk.listdir("") if name.startswith("log-")]
        self.assertLess(self.disk.size_bytes(log), 3000)
        self.assertEqual(self._open().machine.state.term, 100)

    def test_disk_full(self) -> None:
        """Without room the proposer is told; with room again decisions go on."""
        self.disk.faults[self.disk.operations] = Fault.FULL
        full = self.decisions.propose(BEGIN)
        self._settle()
        self.failureResultOf(full, DiskFull)
        again = self.decisions.propose(BEGIN)
        self._settle()
        self.assertEqual(self.successResultOf(again), Applied())
        self.assertEqual(self._open().machine.state.term, 1)

    def test_disk_failed(self) -> None:
        """After a failed sync nobody is told that anything was done, and nothing is taken any more."""
        self.disk.faults[self.disk.operations] = Fault.FAIL
        results = [self.decisions.propose(BEGIN) for _ in range(3)]
        self._settle()
        results.append(self.decisions.propose(BEGIN))
        for result in results:
            self.failureResultOf(result, NotDeciding)
        self.assertEqual(self.decisions.machine.state.term, 0)

    def test_bounded(self) -> None:
        """Commands beyond the bound are refused at once."""
        self.patch(subject, "MAX_WAITING", 2)
        results = [self.decisions.propose(BEGIN) for _ in range(4)]
        self.failureResultOf(results[-1], TooManyDecisions)
        self._settle()
        self.assertEqual(self.successResultOf(results[0]), Applied())

    def test_close(self) -> None:
        """Closing finishes what is under way and refuses what comes."""
        under_way = self.decisions.propose(BEGIN)
        closed = Deferred.fromCoroutine(self.decisions.close())
        self.failureResultOf(self.decisions.propose(BEGIN), NotDeciding)
        self.assertNoResult(closed)
        self._settle()
        self.assertEqual(self.successResultOf(under_way), Applied())
        self.successResultOf(closed)

    def test_fault_of_ours(self) -> None:
        """A fault while applying is logged, told to the proposers, and ends the deciding."""

        def broken(command: Any) -> Any:
            raise ZeroDivisionError("broken")

        self.patch(self.decisions.machine, "apply", broken)
        result = self.decisions.propose(BEGIN)
        self._settle()
        self.failureResultOf(result, NotDeciding)
        self.failureResultOf(self.decisions.propose(BEGIN), NotDeciding)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_foreign_snapshot(self) -> None:
        """A snapshot that is whole but no state is reported as corruption."""
        log: CommandLog[Command] = CommandLog(self.disk, Command)
        for work in (log.open(), log.rotate(b"\xa1x")):
            Deferred.fromCoroutine(work)
            self._settle()
        opened = Deferred.fromCoroutine(Decisions(self.disk, self._changed).open())
        self._settle()
        self.failureResultOf(opened, LogCorrupt)

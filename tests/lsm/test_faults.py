"""Everything that can go wrong, at every moment: crashes, full disks, failed syncs, flipped bits.

One workload uses all there is (appends over several tablets, checkpoints, compaction, split, drop). It
knows at every moment what has been acknowledged, and what is being attempted. Whatever happens, a
restart has to find one of the two, or say what is damaged.

`PENNCLOUD_LONG_TESTS=1` in the environment flips ten times as many bits (some minutes).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from typing import Any

from attrs import evolve, frozen
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm.entry import Effect, PutEffect
from penncloud.lsm.errors import StoreDamaged, TableDamaged, TabletDamaged
from penncloud.lsm.keys import HASH_SPACE, row_hash
from penncloud.lsm.store import LOG, MANIFEST, TABLES
from penncloud.platform.errors import DiskError, DiskFailed, DiskFull
from penncloud.platform.memory_disk import Fault
from tests.lsm.machine import SMALL, Machine, Stuck, delete, put

# Bits to flip in each file.
_BITS = 2000 if os.environ.get("PENNCLOUD_LONG_TESTS") else 200
_ROWS = [f"row{number}" for number in range(6)]


@frozen
class Tablet:
    """What one tablet has to hold."""

    lo: int
    hi: int
    version: int
    cells: dict[tuple[bytes, bytes], tuple[int, bytes]]

    def with_effects(self, effects: list[Effect]) -> Tablet:
        version = self.version + 1
        cells = dict(self.cells)
        for effect in effects:
            if isinstance(effect, PutEffect):
                cells[effect.row, effect.col] = (version, effect.value)
            else:
                cells.pop((effect.row, effect.col), None)
        return evolve(self, version=version, cells=cells)

    def between(self, lo: int, hi: int) -> Tablet:
        cells = {key: cell for key, cell in self.cells.items() if lo <= row_hash(key[0]) < hi}
        return evolve(self, lo=lo, hi=hi, cells=cells)


State = dict[int, Tablet]


class Workload:
    """Steps on a machine. `known` is acknowledged; `attempt` may be true as well after a crash."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.known: State = {}
        self.attempt: State = {}
        self.on_full: Callable[[], None] = lambda: None
        self.refusals = 0

    def run(self) -> None:
        """All steps; raises Stuck when the power is gone, DiskFailed when the disk has failed."""
        machine, middle = self.machine, HASH_SPACE // 2
        machine.open()
        self._step({1: Tablet(0, HASH_SPACE, 0, {})}, self._create(1, 0, HASH_SPACE))
        for number in range(4):
            self._write({1: [put(row, str(number), f"{row} {number} " * 30) for row in _ROWS]})
        self._step(self.known, lambda: machine.engine.checkpoint(1))
        self._step(
            {**self.known, 2: Tablet(0, HASH_SPACE, 0, {})},
            self._create(2, 0, HASH_SPACE),
        )
        self._write({1: [delete("row1", "0"), put("row2", "0", b"")], 2: [put("x", "y", "z")]})
        self._step(self.known, lambda: machine.engine.checkpoint(1))
        self._step(self.known, lambda: machine.engine.compact(1))
        one = self.known[1]
        halves = {3: one.between(0, middle), 4: one.between(middle, HASH_SPACE)}
        self._step(
            {2: self.known[2], **halves},
            lambda: machine.engine.split_tablet(1, middle, 3, 4),
        )
        for number in range(4, 7):
            effects: dict[int, list[Effect]] = {}
            for row in _ROWS:
                half = 3 if row_hash(row.encode()) < middle else 4
                effects.setdefault(half, []).append(put(row, str(number), "v" * 300))
            self._write(effects)
        self._step(self.known, lambda: machine.engine.compact(3))
        self._step(
            {tablet: state for tablet, state in self.known.items() if tablet != 2},
            lambda: machine.engine.drop_tablet(2),
        )
        self._step(self.known, lambda: machine.engine.checkpoint(4))
        machine.settle(0.1)

    def _create(self, tablet: int, lo: int, hi: int) -> Callable[[], Coroutine[Any, Any, None]]:
        return lambda: self.machine.engine.create_tablet(tablet, lo, hi)

    def _step(
        self, after: State, work: Callable[[], Coroutine[Any, Any, Any] | Deferred[None]]
    ) -> None:
        self.attempt = after
        while True:
            try:
                self.machine.run(work())
            except DiskFull:
                # Nothing has happened, and the same may be tried again.
                self.attempt = self.known
                self.refusals += 1
                self.on_full()
                self.attempt = after
                continue
            break
        self.known = after

    def _write(self, effects: dict[int, list[Effect]]) -> None:
        after = dict(self.known)
        entries = []
        for tablet, chosen in effects.items():
            after[tablet] = self.known[tablet].with_effects(chosen)
            entries.append(self.machine.entry(tablet, after[tablet].version, *chosen))
        self._step(after, lambda: self.machine.engine.append(entries))
        for entry in entries:
            self.machine.engine.commit(entry.tablet, entry.version)


def found(machine: Machine) -> State:
    """What a machine holds that has just been started; raises what is damaged."""
    state: State = {}
    for tablet, recovery in machine.open().items():
        if recovery.damaged:
            raise TabletDamaged(tablet, recovery.damaged)
        version = recovery.version + len(recovery.tail)
        machine.engine.commit(tablet, version)
        state[tablet] = Tablet(recovery.lo, recovery.hi, version, machine.cells(tablet))
        for (row, col), (_version, value) in state[tablet].cells.items():
            cell = machine.engine.get(tablet, row, col)
            assert cell is not None
            assert cell.value == value
    return state


def restarted(machine: Machine) -> Machine:
    """The same machine after a power cut, not yet started."""
    after = Machine(options=machine.options)
    after.clock = machine.clock
    after.disk = machine.disk.crash()
    after.engine = after._engine()
    return after


class EveryOperationTests(SynchronousTestCase):
    """The workload with something going wrong at operation 0, 1, 2, ..."""

    options = evolve(SMALL, segment_bytes=4000, memtable_bytes=15_000)

    def _each(self, seeds: int = 1) -> Any:
        """Workloads on fresh machines, until one comes through without meeting operation `at`."""
        for at in range(10_000):
            for seed in range(seeds):
                machine = Machine(seed=at * 10 + seed, options=self.options)
                workload = Workload(machine)
                yield at, workload
            if machine.disk.operations <= at:
                return

    def test_crash(self) -> None:
        """A restart finds all that was acknowledged, and goes on from there."""
        runs = 0
        for at, workload in self._each(seeds=2):
            machine = workload.machine
            machine.disk.unplug_at = at
            try:
                workload.run()
            except Stuck:
                runs += 1
            again = restarted(machine)
            state = found(again)
            self.assertIn(state, (workload.known, workload.attempt), f"crash at {at}")
            for tablet, expected in state.items():
                again.write(tablet, expected.version + 1, put("row0", "after", "crash"))
            last = found(restarted(again))
            self.assertEqual(
                {tablet: one.version - 1 for tablet, one in last.items()},
                {tablet: one.version for tablet, one in state.items()},
            )
        self.assertGreater(runs, 150)

    def test_full(self) -> None:
        """A refused operation has not happened; everything else has, and goes on to work."""
        refusals = 0
        for at, workload in self._each():
            machine = workload.machine
            machine.disk.faults[at] = Fault.FULL
            try:
                workload.run()
            except DiskFull:
                # Refused at the very start: nothing was opened.
                self.assertEqual(workload.known, {}, f"full at {at}")
                machine.engine = machine._engine()
                workload.run()
            refusals += workload.refusals
            self.assertEqual(found(restarted(machine)), workload.known, f"full at {at}")
        self.assertGreater(refusals, 20)

    def test_full_for_a_while(self) -> None:
        """A disk that stays full refuses writes, answers reads, and heals without a restart."""
        for at in range(40, 200, 7):
            machine = Machine(seed=at, options=self.options)
            workload = Workload(machine)

            def free(machine: Machine = machine, workload: Workload = workload) -> None:
                for tablet, expected in workload.known.items():
                    self.assertEqual(machine.cells(tablet), expected.cells)
                if workload.refusals % 5 == 0:
                    machine.disk.capacity_bytes = 2**40
                    machine.settle(2)

            workload.on_full = free
            machine.disk.faults[at] = Fault.FULL
            machine.disk.capacity_bytes = 30_000 + at * 100
            workload.run()
            self.assertEqual(found(restarted(machine)), workload.known, f"full at {at}")

    def test_failed(self) -> None:
        """After an input/output error nothing wrong is acknowledged, read or found later."""
        failures = 0
        for at, workload in self._each():
            machine = workload.machine
            machine.disk.faults[at] = Fault.FAIL
            try:
                workload.run()
            except (DiskFailed, DiskError, TabletDamaged, TableDamaged, Stuck):
                failures += 1
            self.flushLoggedErrors(DiskError, TableDamaged)
            try:
                state = found(restarted(machine))
            except TabletDamaged:
                continue
            self.assertIn(state, (workload.known, workload.attempt), f"failure at {at}")
        self.assertGreater(failures, 80)

    def test_flipped_while_written(self) -> None:
        """A write that goes wrong unnoticed is never read as something else later."""
        reported = 0
        for at, workload in self._each():
            machine = workload.machine
            machine.disk.faults[at] = Fault.FLIP
            try:
                workload.run()
                machine.settle(10)
                self.flushLoggedErrors(TableDamaged)
                self.assertEqual(found(restarted(machine)), workload.known, f"flip at {at}")
            except (TabletDamaged, TableDamaged, StoreDamaged):
                self.flushLoggedErrors(TableDamaged)
                reported += 1
        self.assertGreater(reported, 8)


class FlippedBitTests(SynchronousTestCase):
    """The files at rest, with one bit flipped."""

    def test_every_kind_of_file(self) -> None:
        """One flipped bit anywhere gives the same cells, or an error that names what is damaged."""
        machine = Machine(options=EveryOperationTests.options)
        workload = Workload(machine)
        workload.run()
        machine.engine.set_meta(3, lambda: b"the owner's blob")
        machine.run(machine.engine.checkpoint(3))
        # Something that only the log has, and the pause after which the log says so.
        row = next(row for row in _ROWS if row_hash(row.encode()) < HASH_SPACE // 2)
        workload._write({3: [put(row, "last", "x" * 200)]})
        machine.settle(1)
        disk = restarted(machine).disk
        kinds: dict[str, list[int]] = {}
        files = [MANIFEST] + [f"{d}/{n}" for d in (LOG, TABLES) for n in disk.listdir(d)]
        for path in files:
            content = disk.read(path).rstrip(b"\0")
            step = max(1, len(content) * 8 // _BITS)
            counts = kinds.setdefault(path.rpartition(".")[2], [0, 0])
            for bit in range(0, len(content) * 8, step):
                again = restarted(machine)
                again.disk.flip_bit(path, bit)
                try:
                    self.assertEqual(found(again), workload.known, f"{path} bit {bit}")
                    counts[0] += 1
                except (TabletDamaged, StoreDamaged) as error:
                    self.assertRegex(str(error), "lsm/|log lacks")
                    counts[1] += 1
        self.assertEqual(set(kinds), {MANIFEST, "log", LOG + "/ends", "table", "meta"})
        for kind, (_harmless, reported) in kinds.items():
            self.assertGreater(reported, 20, kind)

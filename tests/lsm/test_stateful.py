"""The engine against a dict: any sequence of operations, with crashes, gives the same cells.

`PENNCLOUD_LONG_TESTS=1` in the environment runs ten times as many, and longer ones (some minutes).
"""

from __future__ import annotations

import os
from functools import partial

from attrs import evolve
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm.engine import TabletRecovery
from penncloud.lsm.entry import DeleteEffect, Effect, PutEffect
from penncloud.lsm.keys import HASH_SPACE, row_hash
from penncloud.lsm.snapshot import Snapshot
from tests.lsm.machine import SMALL, Machine

Cells = dict[tuple[bytes, bytes], tuple[int, bytes]]

_LONG = bool(os.environ.get("PENNCLOUD_LONG_TESTS"))
_rows = st.sampled_from([b"a", b"b", b"row \0\xff", b"c" * 30, b"d", b"e", b"f"])
_cols = st.sampled_from([b"", b"0", b"1", b"2\0", b"2\0\1", b"3" * 20])
_values = st.one_of(
    st.binary(max_size=20), st.sampled_from([b"", b"v" * 300, b"w" * 3000, b"x" * 9000])
)
_effects: st.SearchStrategy[Effect] = st.one_of(
    st.builds(PutEffect, _rows, _cols, _values), st.builds(DeleteEffect, _rows, _cols)
)


class EngineAgainstDict(RuleBasedStateMachine):
    """A machine whose tablets cover the hash space; `cells` is what it has to hold."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine(
            seed=1, options=evolve(SMALL, memtable_bytes=4000, segment_bytes=3000)
        )
        self.machine.open()
        self.machine.run(self.machine.engine.create_tablet(1, 0, HASH_SPACE))
        self.cells: Cells = {}
        # By tablet: range and version.
        self.tablets: dict[int, tuple[int, int]] = {1: (0, HASH_SPACE)}
        self.versions: dict[int, int] = {1: 0}
        self.snapshots: list[tuple[int, Snapshot, Cells]] = []
        self.next_tablet = 2
        self._provide()

    def _provide(self) -> None:
        for tablet in self.tablets:
            self.machine.engine.set_meta(tablet, partial(self._blob, tablet))

    def _blob(self, tablet: int) -> bytes:
        return b"at %d" % self.versions[tablet]

    def _tablet_of(self, row: bytes) -> int:
        position = row_hash(row)
        return next(t for t, (lo, hi) in self.tablets.items() if lo <= position < hi)

    def _cells_of(self, tablet: int) -> Cells:
        return {key: cell for key, cell in self.cells.items() if self._tablet_of(key[0]) == tablet}

    def _apply(self, effect: Effect, version: int) -> None:
        key = (effect.row, effect.col)
        if isinstance(effect, PutEffect):
            self.cells[key] = (version, effect.value)
        else:
            self.cells.pop(key, None)

    @rule(effects=st.lists(_effects, min_size=1, max_size=4))
    def write(self, effects: list[Effect]) -> None:
        """One entry per tablet that the effects touch, all in one append."""
        by_tablet: dict[int, list[Effect]] = {}
        for effect in effects:
            by_tablet.setdefault(self._tablet_of(effect.row), []).append(effect)
        engine = self.machine.engine
        entries = [
            self.machine.entry(tablet, self.versions[tablet] + 1, *chosen)
            for tablet, chosen in by_tablet.items()
        ]
        self.machine.run(engine.append(entries))
        for entry in entries:
            self.versions[entry.tablet] = entry.version
            for effect in entry.effects:
                self._apply(effect, entry.version)
            engine.commit(entry.tablet, entry.version)

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.003, 0.01, 0.2]))
    def wait(self, seconds: float) -> None:
        self.machine.settle(seconds)

    @rule(crash=st.booleans())
    def restart(self, crash: bool) -> None:
        self.snapshots.clear()
        self._check_recovery(self.machine.reopen(crash))

    @rule(effects=st.lists(_effects, min_size=1, max_size=2), steps=st.integers(0, 8))
    def crash_with_a_write_in_flight(self, effects: list[Effect], steps: int) -> None:
        """The write may or may not have happened, as a whole."""
        tablet = self._tablet_of(effects[0].row)
        mine = [effect for effect in effects if self._tablet_of(effect.row) == tablet]
        version = self.versions[tablet] + 1
        self.machine.disk.unplug_at = self.machine.disk.operations + steps
        self.machine.engine.append([self.machine.entry(tablet, version, *mine)])
        self.machine.settle(0.005)
        self.snapshots.clear()
        self._check_recovery(self.machine.reopen(crash=True), tablet, mine)

    def _check_recovery(
        self,
        found: dict[int, TabletRecovery],
        doubtful: int = 0,
        effects: list[Effect] | None = None,
    ) -> None:
        assert set(found) == set(self.tablets)
        for tablet, recovery in found.items():
            assert recovery.damaged == ""
            assert (recovery.lo, recovery.hi) == self.tablets[tablet]
            assert recovery.meta in (b"", b"at %d" % recovery.version)
            last = recovery.version + len(recovery.tail)
            if tablet == doubtful and last == self.versions[tablet] + 1:
                self.versions[tablet] = last
                for effect in effects or ():
                    self._apply(effect, last)
            assert last == self.versions[tablet], (tablet, last, self.versions[tablet])
            self.machine.engine.commit(tablet, last)
        self._provide()

    @rule(data=st.data())
    def checkpoint(self, data: st.DataObject) -> None:
        tablet = data.draw(st.sampled_from(sorted(self.tablets)))
        self.machine.run(self.machine.engine.checkpoint(tablet))

    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        tablet = data.draw(st.sampled_from(sorted(self.tablets)))
        self.machine.run(self.machine.engine.compact(tablet))

    @precondition(lambda self: len(self.tablets) < 5)
    @rule(data=st.data(), noops=st.integers(0, 2))
    def split(self, data: st.DataObject, noops: int) -> None:
        """At the last committed entry; what has no effects may stand behind it."""
        tablet = data.draw(st.sampled_from(sorted(self.tablets)))
        point = self.machine.engine.split_point(tablet)
        lo, hi = self.tablets[tablet]
        if point is None:
            point = (lo + hi) // 2
        left, right = self.next_tablet, self.next_tablet + 1
        self.next_tablet += 2
        version = self.versions[tablet]
        for number in range(noops):
            entry = self.machine.entry(tablet, version + 1 + number)
            self.machine.run(self.machine.engine.append([entry]))
        self.machine.run(self.machine.engine.split_tablet(tablet, point, left, right, (version, 1)))
        del self.tablets[tablet]
        version = self.versions.pop(tablet)
        self.tablets |= {left: (lo, point), right: (point, hi)}
        self.versions |= {left: version, right: version}
        self._provide()

    @precondition(lambda self: len(self.snapshots) < 3)
    @rule(data=st.data())
    def snapshot(self, data: st.DataObject) -> None:
        tablet = data.draw(st.sampled_from(sorted(self.tablets)))
        taken = self.machine.engine.snapshot(tablet)
        self.snapshots.append((tablet, taken, self._cells_of(tablet)))

    @precondition(lambda self: self.snapshots)
    @rule()
    def close_snapshot(self) -> None:
        self.snapshots.pop(0)[1].close()

    @invariant()
    def same_cells(self) -> None:
        engine = self.machine.engine
        for tablet in self.tablets:
            assert self.machine.cells(tablet) == self._cells_of(tablet)
        for (row, col), (version, value) in self.cells.items():
            stored = engine.get(self._tablet_of(row), row, col)
            assert stored is not None
            assert (stored.version, stored.value) == (version, value)
        row = b"a"
        cols = [cell.col for cell in engine.scan(self._tablet_of(row), row, b"1", b"3", True)]
        assert cols == sorted(
            (c for r, c in self.cells if r == row and b"1" <= c < b"3"), reverse=True
        )

    @invariant()
    def same_snapshots(self) -> None:
        for _tablet, taken, cells in self.snapshots:
            seen = {(c.row, c.col): (c.version, c.value) for c in taken.scan_tablet()}
            assert seen == cells

    @invariant()
    def few_files(self) -> None:
        names = self.machine.disk.listdir("lsm/tables")
        manifest = self.machine.engine._store.manifest
        live = len(manifest.tables()) + len(manifest.metas())
        # What is being written, or was just replaced.
        assert len(names) <= live + 4, (names, live)


class StatefulTests(SynchronousTestCase):
    """Hypothesis looks for a sequence of operations that goes wrong."""

    def test_engine_against_dict(self) -> None:
        """No sequence of operations, crashes included, makes the engine differ from a dict."""
        run_state_machine_as_test(
            EngineAgainstDict,
            settings=settings(
                max_examples=600 if _LONG else 60,
                stateful_step_count=60 if _LONG else 40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )

"""The memtable: the newest slot of each key, in any order that is asked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm import memtable
from penncloud.lsm.entry import DeleteEffect, Effect, Entry, PutEffect
from penncloud.lsm.keys import ABOVE_ALL, pack
from penncloud.lsm.memtable import Memtable, Slot, StoredCell, Tombstone

_names = st.sampled_from([b"", b"a", b"b\0", b"cc", b"d"])
_effects: st.SearchStrategy[Effect] = st.one_of(
    st.builds(PutEffect, _names, _names, st.binary(max_size=5)),
    st.builds(DeleteEffect, _names, _names),
)


def _entry(version: int, effects: list[Effect]) -> Entry:
    return Entry(1, version, 1, b"", 0, tuple(effects), b"")


class MemtableTests(SynchronousTestCase):
    """Beside a dict, with runs of a few keys."""

    def setUp(self) -> None:
        self.patch(memtable, "_SORTED", 3)
        self.patch(memtable, "_PIECE", 4)
        self.patch(memtable, "FIRST_RUN", 1)
        self.patch(memtable, "RUN", 2)

    @given(st.lists(st.lists(_effects, max_size=3), max_size=12), st.sets(st.integers(0, 11)))
    def test_any_effects(self, entries: list[list[Effect]], scanned: set[int]) -> None:
        """Get, scans both ways and the whole in order say what a dict says, whenever they are asked."""
        table = Memtable(0)
        expected: dict[bytes, Slot] = {}
        for version, effects in enumerate(entries):
            table.apply([_entry(version, effects)])
            for effect in effects:
                key = pack(effect.row, effect.col)
                if isinstance(effect, PutEffect):
                    expected[key] = StoredCell(version, effect.value)
                else:
                    expected[key] = Tombstone(version)
            if version in scanned:
                self._same(table, expected)
        self.assertEqual(
            [cell for run in table.all_runs() for cell in run], sorted(expected.items())
        )
        self._same(table, expected)
        self.assertEqual(
            [cell for run in table.all_runs() for cell in run], sorted(expected.items())
        )

    def _same(self, table: Memtable, expected: dict[bytes, Slot]) -> None:
        ordered = sorted(expected.items())
        for reverse in (False, True):
            found = [cell for run in table.runs(b"", ABOVE_ALL, reverse) for cell in run]
            self.assertEqual(found, ordered[::-1] if reverse else ordered)
        first, last = pack(b"a", b""), pack(b"cc", b"a")
        inside = [cell for cell in ordered if first <= cell[0] < last]
        self.assertEqual([cell for run in table.runs(first, last) for cell in run], inside)
        for key, slot in ordered:
            self.assertEqual(table.get(key), slot)

    def test_size(self) -> None:
        """Overwriting a value counts the new one only; an entry counts though it changes nothing."""
        table = Memtable(0)
        table.apply([_entry(1, [PutEffect(b"row", b"col", b"x" * 1000)])])
        large = table.size_bytes
        table.apply([_entry(2, [PutEffect(b"row", b"col", b"x" * 10)]), _entry(3, [])])
        self.assertEqual(large - table.size_bytes, 990)
        self.assertEqual((len(table), table.entries), (1, 3))

"""Decisions: the same outcomes as the verified fake of the table, and what the fake cannot show."""

from __future__ import annotations

from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from penncloud.client.memory import MemoryTable
from penncloud.client.table import Conflict
from penncloud.lsm.entry import PutEffect
from penncloud.storage.decide import NOTHING, Decision, Seen, decide
from penncloud.wire.messages import (
    AppendCell,
    CompareAndPut,
    CompareVersionAndPut,
    Delete,
    DeleteCell,
    IfValue,
    IfVersion,
    Mismatch,
    Missing,
    Mutate,
    Mutation,
    Ok,
    Put,
    PutCell,
    SubOperation,
)

ROW = b"r"

# Few names and values, so that comparisons meet cells and hold about as often as not.
_cols = st.sampled_from([b"a", b"b", b"p%016x" % 3])
_values = st.sampled_from([b"", b"x", b"y"])
_versions = st.integers(0, 8)
_sub_operations: st.SearchStrategy[SubOperation] = st.one_of(
    st.builds(PutCell, _cols, _values),
    st.builds(AppendCell, st.sampled_from([b"", b"p"]), _values),
    st.builds(DeleteCell, _cols),
    st.builds(IfVersion, _cols, _versions),
    st.builds(IfValue, _cols, _values),
)
_mutations: st.SearchStrategy[Mutation] = st.one_of(
    st.builds(Put, st.just(ROW), _cols, _values),
    st.builds(CompareAndPut, st.just(ROW), _cols, _values, _values),
    st.builds(CompareVersionAndPut, st.just(ROW), _cols, _versions, _values),
    st.builds(Delete, st.just(ROW), _cols),
    st.builds(Mutate, st.just(ROW), st.lists(_sub_operations, min_size=1, max_size=5).map(tuple)),
)


@define
class Row:
    """One row to which decisions are applied at once. A failure takes no version, as in the fake."""

    cells: dict[bytes, Seen] = field(factory=dict)
    version: int = 0

    def view(self, col: bytes) -> Seen:
        return self.cells.get(col, NOTHING)

    def apply(self, mutation: Mutation) -> Decision:
        decision = decide(mutation, self.view, self.version + 1)
        if isinstance(decision.reply, Ok):
            self.version += 1
        for effect in decision.effects:
            if isinstance(effect, PutEffect):
                self.cells[effect.col] = (self.version, effect.value)
            else:
                self.cells.pop(effect.col, None)
        return decision


async def ask(table: MemoryTable, mutation: Mutation) -> Ok | Missing | Mismatch:
    """The fake's answer to a mutation, as a reply."""
    try:
        match mutation:
            case Put(row, col, value):
                return Ok(await table.put(row, col, value))
            case CompareAndPut(row, col, expected, value):
                return Ok(await table.compare_and_put(row, col, expected, value))
            case CompareVersionAndPut(row, col, version, value):
                return Ok(await table.put_if_version(row, col, version, value))
            case Delete(row, col):
                found = await table.get(row, col)
                if not await table.delete(row, col):
                    return Missing()
                assert found is not None
                # The table interface does not tell a deletion's version.
                return Ok(table._version)
            case Mutate(row, operations):
                return Ok(await table.mutate(row, operations))
    except Conflict as conflict:
        return Mismatch(conflict.version, conflict.value)


class SameAsTheFakeTests(SynchronousTestCase):
    """What services are tested against is what the store does."""

    @given(st.lists(_mutations, max_size=20))
    def test_same_operations_same_outcomes(self, mutations: list[Mutation]) -> None:
        """Any sequence of mutations is answered alike and leaves the same cells."""
        row, table = Row(), MemoryTable()
        for mutation in mutations:
            expected = self.successResultOf(Deferred.fromCoroutine(ask(table, mutation)))
            self.assertEqual(row.apply(mutation).reply, expected)
        page = self.successResultOf(Deferred.fromCoroutine(table.scan(ROW, limit=1000)))
        stored = {cell.col: (cell.version, cell.value) for cell in page.cells}
        self.assertEqual(row.cells, stored)


class DecisionTests(SynchronousTestCase):
    """The parts of a decision that the table interface does not show."""

    def test_conditions_are_checked_before_any_change(self) -> None:
        """A condition behind a change sees the state before the mutation."""
        row = Row({b"a": (1, b"x")}, 1)
        both = Mutate(ROW, (PutCell(b"a", b"y"), IfValue(b"a", b"x")))
        self.assertEqual(row.apply(both), Decision(Ok(2), (PutEffect(ROW, b"a", b"y"),)))

    def test_a_failure_names_its_column_and_changes_nothing(self) -> None:
        """The first condition that fails is the one reported."""
        row = Row({b"a": (1, b"x")}, 1)
        failing = (IfVersion(b"a", 1), PutCell(b"c", b""), IfVersion(b"b", 7), IfVersion(b"a", 9))
        self.assertEqual(row.apply(Mutate(ROW, failing)), Decision(Mismatch(0, None), (), b"b"))
        self.assertEqual(row.apply(Delete(ROW, b"b")), Decision(Missing(), (), b"b"))

    def test_one_effect_per_column(self) -> None:
        """Of several changes to one column only the last reaches the log."""
        operations = (
            PutCell(b"a", b"1"),
            DeleteCell(b"b"),
            PutCell(b"b", b"2"),
            PutCell(b"a", b"3"),
        )
        effects = Row().apply(Mutate(ROW, operations)).effects
        self.assertEqual(effects, (PutEffect(ROW, b"a", b"3"), PutEffect(ROW, b"b", b"2")))

    def test_an_appended_cell_is_named_by_its_version(self) -> None:
        """Columns of later mutations sort behind those of earlier ones."""
        row = Row(version=0xFE)
        row.apply(Mutate(ROW, (AppendCell(b"m/", b"1"),)))
        row.apply(Mutate(ROW, (AppendCell(b"m/", b"2"),)))
        self.assertEqual(list(row.cells), [b"m/00000000000000ff", b"m/0000000000000100"])

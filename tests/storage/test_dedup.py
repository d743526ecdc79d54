"""The table of request ids: what it remembers, what it refuses, and that it stays bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from penncloud.storage.dedup import (
    MAX_KEPT_VALUE,
    CorruptTable,
    DedupTable,
    Failed,
    Outcome,
    Refusal,
    decode_outcome,
    encode_outcome,
    outcome_of,
    reply_of,
)
from penncloud.wire.messages import Mismatch, Missing, Ok

_outcomes = st.integers(1, 1000) | st.builds(
    Failed,
    st.binary(max_size=3),
    st.booleans(),
    st.integers(0, 9),
    st.none() | st.binary(max_size=3),
)
_records = st.lists(
    st.tuples(st.sampled_from([b"a", b"b", b"c", b"d"]), st.integers(0, 12), _outcomes), max_size=60
)


class DedupTests(SynchronousTestCase):
    """One table."""

    def test_the_first_answer_is_the_answer(self) -> None:
        """What was recorded is found, and only under its own id."""
        table = DedupTable()
        table.record(b"me", 5, 17)
        self.assertEqual(table.find(b"me", 5), 17)
        self.assertIsNone(table.find(b"me", 6))
        self.assertIsNone(table.find(b"me", 4))
        self.assertIsNone(table.find(b"you", 5))

    def test_below_the_window_is_refused(self) -> None:
        """What may have been executed and is not remembered must not be executed again."""
        table = DedupTable(window=2)
        for seq in (1, 2, 3):
            table.record(b"me", seq, seq * 10)
        self.assertEqual(table.find(b"me", 1), Refusal.BELOW_WINDOW)
        self.assertEqual(table.find(b"me", 0), Refusal.BELOW_WINDOW)
        self.assertEqual((table.find(b"me", 2), table.find(b"me", 3)), (20, 30))

    def test_ids_out_of_order(self) -> None:
        """A late small id is remembered although the floor is above it."""
        table = DedupTable(window=2)
        for seq in (5, 6, 1):
            table.record(b"me", seq, seq)
        self.assertEqual(table.find(b"me", 1), 1)
        self.assertEqual(table.find(b"me", 6), 6)
        self.assertEqual(table.find(b"me", 5), Refusal.BELOW_WINDOW)

    def test_a_full_table_forgets_results_before_floors(self) -> None:
        """A client whose results had to go is still protected against being executed twice."""
        table = DedupTable(window=2, max_results=3)
        table.record(b"old", 1, 1)
        table.record(b"mid", 1, 2)
        table.record(b"new", 1, 3)
        table.record(b"new", 2, 4)
        self.assertEqual(len(table), 3)
        self.assertEqual(table.find(b"old", 1), Refusal.BELOW_WINDOW)
        self.assertIsNone(table.find(b"old", 2))
        self.assertEqual(table.find(b"mid", 1), 2)
        table.record(b"old", 2, 5)
        self.assertEqual(table.find(b"old", 1), Refusal.BELOW_WINDOW)

    def test_the_least_recent_client_is_forgotten(self) -> None:
        """The number of clients is bounded; writing again makes a client recent."""
        table = DedupTable(max_clients=2)
        table.record(b"a", 1, 1)
        table.record(b"b", 1, 2)
        table.record(b"a", 2, 3)
        table.record(b"c", 1, 4)
        self.assertIsNone(table.find(b"b", 1))
        self.assertEqual((table.find(b"a", 1), table.find(b"c", 1)), (1, 4))
        self.assertEqual(len(table), 3)

    @given(_records)
    def test_always_bounded_and_never_forgetful_of_a_floor(
        self, records: list[tuple[bytes, int, Outcome]]
    ) -> None:
        """With few clients, every id ever recorded is answered or refused, and never executed."""
        table = DedupTable(window=3, max_results=5, max_clients=4)
        for client, seq, outcome in records:
            table.record(client, seq, outcome)
            self.assertEqual(table.find(client, seq), outcome)
            self.assertLessEqual(len(table), 5)
        for client, seq, _ in records:
            self.assertIsNotNone(table.find(client, seq))

    @given(_records, _records)
    def test_a_checkpoint_is_the_same_table(
        self, before: list[tuple[bytes, int, Outcome]], later: list[tuple[bytes, int, Outcome]]
    ) -> None:
        """A restored table answers and evicts exactly as the one that was saved."""
        table, restored = DedupTable(3, 5, 3), DedupTable(3, 5, 3)
        for record in before:
            table.record(*record)
        restored.restore(table.encode())
        for record in later:
            table.record(*record)
            restored.record(*record)
        self.assertEqual(restored.encode(), table.encode())
        self.assertEqual(len(restored), len(table))

    def test_damaged_bytes(self) -> None:
        """Junk is told apart from a table; nothing at all is an empty table."""
        table = DedupTable()
        for junk in (b"\x00", b"junk", DedupTable().encode()[:-1], b"\x92\x01\x02"):
            self.assertRaises(CorruptTable, table.restore, junk)
        self.assertRaises(CorruptTable, decode_outcome, b"junk")
        table.restore(b"")
        self.assertEqual(len(table), 0)


class OutcomeTests(SynchronousTestCase):
    """From a decision to what is recorded and back to an answer."""

    def test_every_reply_comes_back(self) -> None:
        """The recorded outcome gives the first answer again."""
        short = b"v" * MAX_KEPT_VALUE
        for reply in (Ok(7), Missing(), Mismatch(3, short), Mismatch(3, b""), Mismatch(0, None)):
            outcome = outcome_of(reply, b"c")
            self.assertEqual(decode_outcome(encode_outcome(outcome)), outcome)
            self.assertEqual(reply_of(outcome, Mismatch(9, b"now")), reply)

    def test_a_long_value_is_not_kept(self) -> None:
        """The repeated answer then shows what stands there now."""
        outcome = outcome_of(Mismatch(3, b"v" * (MAX_KEPT_VALUE + 1)), b"c")
        self.assertEqual(outcome, Failed(b"c", False, 3, None, True))
        self.assertEqual(reply_of(outcome, Mismatch(4, b"now")), Mismatch(4, b"now"))

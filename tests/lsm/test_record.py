"""Framing of log records: what was written is read, and anything else is noticed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm.record import HEADER_BYTES, BadRange, Record, encode, read_records

_BASE = 7 << 32


def _segment(payloads: list[bytes], synced: int = 0) -> bytes:
    data = b""
    for payload in payloads:
        data += b"".join(encode([payload], _BASE + len(data), synced))
    return data


class RecordTests(SynchronousTestCase):
    """Records written one behind the other."""

    @given(st.lists(st.binary(min_size=1, max_size=100), max_size=5), st.integers(0, 100))
    def test_round_trip(self, payloads: list[bytes], room: int) -> None:
        """All records come back in order; zeros behind them are the end."""
        data = _segment(payloads, synced=5) + bytes(room)
        found = list(read_records(data, _BASE))
        self.assertEqual(
            [record.payload for record in found if isinstance(record, Record)], payloads
        )
        self.assertEqual(len(found), len(payloads))
        for record in found:
            assert isinstance(record, Record)
            self.assertEqual(record.synced, 5)

    def test_parts(self) -> None:
        """A payload given in parts is one payload."""
        data = b"".join(encode([b"one", b"", b"two"], 0, 0))
        self.assertEqual(list(read_records(data, 0)), [Record(0, 0, b"onetwo")])

    def test_sizes(self) -> None:
        """An empty payload cannot be told from unwritten room, so there is none; 8 MiB are fine."""
        with self.assertRaises(ValueError):
            encode([b""], 0, 0)
        large = bytes(8 * 1024 * 1024)
        data = b"".join(encode([large], 0, 0))
        self.assertEqual(list(read_records(data, 0)), [Record(0, 0, large)])

    def test_every_bit_counts(self) -> None:
        """Any flipped bit hides exactly the record it is in; those behind it are found again."""
        payloads = [b"first", b"second", b"third"]
        data = _segment(payloads)
        starts = [0, HEADER_BYTES + 5, 2 * HEADER_BYTES + 11, len(data)]
        for bit in range(len(data) * 8):
            broken = bytearray(data)
            broken[bit // 8] ^= 1 << bit % 8
            hit = next(n for n in range(3) if bit // 8 < starts[n + 1])
            found = list(read_records(bytes(broken), _BASE))
            self.assertEqual(
                found[hit], BadRange(_BASE + starts[hit], _BASE + starts[hit + 1]), f"bit {bit}"
            )
            rest = [item.payload for item in found if isinstance(item, Record)]
            self.assertEqual(rest, payloads[:hit] + payloads[hit + 1 :])

    def test_torn_at_every_byte(self) -> None:
        """A log cut anywhere gives the whole records before the cut, then one bad range or nothing."""
        data = _segment([b"first", b"second"])
        first = HEADER_BYTES + 5
        for length in range(len(data)):
            found = list(read_records(data[:length], _BASE))
            whole = [item for item in found if isinstance(item, Record)]
            self.assertEqual(len(whole), 1 if length >= first else 0)
            self.assertEqual(len(found) - len(whole), 0 if length in (0, first) else 1)

    def test_records_belong_to_their_position(self) -> None:
        """A record copied to another place, or into a value of another record, is none."""
        data = _segment([b"first"])
        self.assertEqual(
            list(read_records(data, _BASE + 1)), [BadRange(_BASE + 1, _BASE + 1 + len(data))]
        )
        outer = bytearray(b"".join(encode([data * 3], _BASE, 0)))
        outer[4] ^= 1
        self.assertEqual(
            list(read_records(bytes(outer), _BASE)), [BadRange(_BASE, _BASE + len(outer))]
        )

    def test_lost_sector(self) -> None:
        """Zeros in the middle are damage, as records follow; zeros at the end are not."""
        data = _segment([b"x" * 600, b"y" * 600, b"z"])
        hole = data[:1000] + bytes(512) + data[1512:]
        found = list(read_records(hole, _BASE))
        self.assertIsInstance(found[0], Record)
        self.assertIsInstance(found[1], BadRange)

"""Keys: order and uniqueness for any names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm.keys import (
    HASH_SPACE,
    hash_key,
    hash_of,
    pack,
    row_hash,
    row_interval,
    unpack,
)
from penncloud.placement import tablets

# Names full of the bytes that escaping is about.
_names = st.lists(st.sampled_from([b"\0", b"\1", b"\2", b"\xff", b"a"]), max_size=5).map(b"".join)


class KeyTests(SynchronousTestCase):
    """`pack` and what is built on it."""

    @given(_names, _names)
    def test_round_trip(self, row: bytes, col: bytes) -> None:
        """Row and column come back, whatever bytes they hold."""
        self.assertEqual(unpack(pack(row, col)), (row, col))

    @given(st.tuples(_names, _names), st.tuples(_names, _names))
    def test_order(self, one: tuple[bytes, bytes], two: tuple[bytes, bytes]) -> None:
        """Keys are ordered as (hash of the row, row, column)."""
        self.assertEqual(
            pack(*one) < pack(*two), (row_hash(one[0]), *one) < (row_hash(two[0]), *two)
        )

    @given(_names, _names, _names, _names, _names)
    def test_interval(
        self, row: bytes, start: bytes, stop: bytes, other: bytes, col: bytes
    ) -> None:
        """The interval of a row holds its cells between start and stop, and no others."""
        first, last = row_interval(row, start, stop)
        inside = first <= pack(other, col) < last
        self.assertEqual(inside, other == row and start <= col and (col < stop or not stop))

    @given(_names, st.integers(0, HASH_SPACE))
    def test_hash_key(self, row: bytes, edge: int) -> None:
        """`hash_key` cuts where the hash of the row does."""
        self.assertEqual(pack(row, b"") >= hash_key(edge), row_hash(row) >= edge)
        self.assertEqual(hash_of(pack(row, b"x")), row_hash(row))

    @given(st.binary(max_size=30))
    def test_same_hash_as_the_tablet_map(self, row: bytes) -> None:
        """Rows lie where the tablet map says."""
        self.assertEqual(row_hash(row), tablets.row_hash(row))

    def test_no_key(self) -> None:
        """Bytes that are no key are refused."""
        with self.assertRaises(ValueError):
            unpack(b"1234row without an end")

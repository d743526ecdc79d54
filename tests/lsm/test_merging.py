"""Merging: for any sources, cut into runs anywhere, the newest cell of each key, in order."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm.merging import merged_runs

_source = st.dictionaries(st.binary(max_size=2), st.integers(), max_size=30)


def _cut(cells: dict[bytes, int], size: int, reverse: bool) -> Iterator[list[tuple[bytes, int]]]:
    ordered = sorted(cells.items(), reverse=reverse)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


class MergingTests(SynchronousTestCase):
    """`merged_runs` beside a dict."""

    @given(st.lists(st.tuples(_source, st.integers(1, 10)), max_size=5), st.booleans())
    def test_any_sources(self, sources: list[tuple[dict[bytes, int], int]], reverse: bool) -> None:
        """What a dict says that took the sources in, the oldest first."""
        expected: dict[bytes, int] = {}
        for cells, _size in reversed(sources):
            expected.update(cells)
        runs = list(merged_runs([_cut(*source, reverse) for source in sources], reverse))
        self.assertNotIn([], runs)
        found = [cell for run in runs for cell in run]
        self.assertEqual(found, sorted(expected.items(), reverse=reverse))

    def test_only_what_is_needed(self) -> None:
        """A reader who stops early has not had all sources read to their end."""
        read = []

        def source(name: str) -> Iterator[list[tuple[bytes, str]]]:
            for number in range(100):
                read.append(number)
                yield [(b"%03d" % number, name)]

        runs = merged_runs([source("new"), source("old")])
        found = [*next(runs), *next(runs)]
        self.assertEqual(found, [(b"%03d" % number, "new") for number in range(len(found))])
        self.assertLess(len(found), 8)
        self.assertLess(len(read), 10)

    def test_short_sources(self) -> None:
        """Sources that end with a short run are merged at once, also where one is cut into two."""
        new = iter([[(b"b", "new")], [(b"d", "new")]])
        old = iter([[(b"a", "old"), (b"b", "old"), (b"c", "old")]])
        runs = list(merged_runs([new, old]))
        self.assertEqual(
            [cell for run in runs for cell in run],
            [(b"a", "old"), (b"b", "new"), (b"c", "old"), (b"d", "new")],
        )
        few = [iter([[(b"a", 2)]]), iter([[(b"a", 1), (b"b", 1)]])]
        self.assertEqual(list(merged_runs(few)), [[(b"a", 2), (b"b", 1)]])

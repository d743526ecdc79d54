"""Several sorted sources as one: of every key, what the newest source says.

Theory of operation
    Sources give their cells in runs: lists in order, of a block's size. As far as all sources have shown
    their cells (up to the lowest of the last keys of their present runs), the runs go into a dict, the
    oldest source first, so that newer cells overwrite older ones; sorting that gives a merged run. The
    work on each cell is done by dict and sort, in C; a heap would cost several Python calls a cell.

    A short first run is mostly all that its source has, as in the scan of a small row: then it is found
    out, and when all sources have shown everything they are merged at once.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any, TypeVar

from attrs import define

from penncloud.lsm.memtable import FIRST_RUN

_T = TypeVar("_T")
_key = itemgetter(0)


@define(eq=False)
class _Source:
    """A run of which the first `start` cells are merged already, and the runs behind it.

    `ended`: there are none behind it, for certain.
    """

    run: list[tuple[bytes, Any]]
    following: Iterator[list[tuple[bytes, Any]]]
    ended: bool
    start: int = 0

    def take(self, bound: bytes, reverse: bool) -> list[tuple[bytes, Any]]:
        """The cells up to `bound`, which the present run reaches."""
        start = self.start
        if self.run[-1][0] == bound:
            taken = self.run[start:] if start else self.run
            self.run, self.start = next(self.following, []), 0
            return taken
        if reverse:
            self.start = _first_below(self.run, bound, start)
        else:
            self.start = bisect_right(self.run, bound, start, key=_key)
        return self.run[start : self.start]


def _first_below(run: list[tuple[bytes, Any]], bound: bytes, start: int) -> int:
    """Index of the first cell below `bound` in a run in reverse order."""
    count = len(run)
    indexes = range(count)
    # Seen from the end, the run is in order.
    below = bisect_left(indexes, bound, 0, count - start, key=lambda n: run[count - 1 - n][0])
    return count - below


def merged_runs(
    sources: Sequence[Iterator[list[tuple[bytes, _T]]]], reverse: bool = False
) -> Iterator[list[tuple[bytes, _T]]]:
    """Runs of the merged cells; `sources` newest first, each with runs that are not empty."""
    live: list[_Source] = []
    # Oldest first.
    for runs in reversed(sources):
        run = next(runs, None)
        if run is None:
            continue
        ended = False
        if len(run) < FIRST_RUN:
            more = next(runs, None)
            if more is None:
                ended = True
            else:
                run = run + more
        live.append(_Source(run, runs, ended))
    if len(live) > 1 and all(source.ended for source in live):
        whole: dict[bytes, _T] = {}
        for source in live:
            whole.update(source.run)
        yield sorted(whole.items(), reverse=reverse)
        return
    choose = max if reverse else min
    while len(live) > 1:
        bound = choose([source.run[-1][0] for source in live])
        merged: dict[bytes, _T] = {}
        for source in live:
            merged.update(source.take(bound, reverse))
        live = [source for source in live if source.run]
        # Keys differ, so that nothing but keys is compared.
        yield sorted(merged.items(), reverse=reverse)
    for last in live:
        yield last.run[last.start :] if last.start else last.run
        yield from last.following

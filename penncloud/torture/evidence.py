"""What the users of all processes saw, put together; and what became of a whole run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec
from attrs import define, field, frozen

from penncloud.judge.history import History, Operation, Outcome
from penncloud.torture.messages import Seen, TabletSeen, WorkloadSeen, heard

# Kinds of operations that change something: the longest time without one is what a takeover costs.
_READS: Final = ("get",)
# The longest gap is explained if it is at least this long, by so many faults at most.
TOLD_GAP_S: Final = 1.0
_MOST_FAULTS: Final = 4


def read_reports(files: Iterable[str]) -> list[WorkloadSeen]:
    """All that the reports in these files tell."""
    seen: list[WorkloadSeen] = []
    for file in files:
        seen += msgspec.msgpack.decode(Path(file).read_bytes(), type=Seen).workloads
    return seen


def put_together(seen: Iterable[WorkloadSeen]) -> History:
    """One history of what several processes saw of one workload.

    Their order is the machine's monotonic time. Where an end and a beginning have the same time, the
    beginning comes first: they may have been at the same time, which explains more and accuses nobody
    wrongly.
    """
    operations = [heard(told) for one in seen for told in one.operations]
    operations.sort(key=lambda operation: operation.invoked)
    moments = [(operation.invoked, 0, n) for n, operation in enumerate(operations)]
    moments += [
        (operation.returned, 1, n)
        for n, operation in enumerate(operations)
        if operation.returned is not None
    ]
    moments.sort()
    for tick, (_, ends, number) in enumerate(moments, 1):
        if ends:
            operations[number].returned = tick
        else:
            operations[number].invoked = tick
    return History(operations, len(moments))


@frozen
class FaultSeen:
    """One fault as it was: seconds of the run."""

    kind: str
    text: str
    from_s: float
    until_s: float

    def __str__(self) -> str:
        return f"{self.text} ({self.from_s:.1f} s to {self.until_s:.1f} s)"


@define
class Evidence:
    """What was seen in a run, as it goes on. Times are seconds since the run began."""

    # Operations that were answered and those that were not, by the second in which they were asked for.
    answered: Counter[int] = field(factory=Counter)
    unanswered: Counter[int] = field(factory=Counter)
    counts: Counter[str] = field(factory=Counter)
    faults: list[FaultSeen] = field(factory=list)
    takeovers: list[float] = field(factory=list)
    # The longest time in which no write at all was answered (from, until), and the longest that one
    # waited for.
    longest_gap: tuple[float, float] = (0.0, 0.0)
    slowest_write_s: float = 0.0
    violations: list[str] = field(factory=list)
    notes: list[str] = field(factory=list)
    rounds: int = 0
    _primaries: dict[int, tuple[int, str]] = field(factory=dict)

    # -- while it goes on ------------------------------------------------------------------------

    def look_at(self, tablets: Sequence[TabletSeen], at_s: float) -> None:
        """Take notice of the tablets as the coordinators have them now."""
        for tablet in tablets:
            epoch, primary = self._primaries.get(tablet.id, (0, ""))
            if tablet.epoch <= epoch:
                continue
            if primary and tablet.primary and tablet.primary != primary:
                self.takeovers.append(at_s)
            self._primaries[tablet.id] = tablet.epoch, tablet.primary or primary

    def violated(self, texts: Iterable[str]) -> None:
        self.violations += texts

    def add_round(self, seen: Sequence[WorkloadSeen], begun_s: float, trouble_s: float) -> None:
        """Count what was seen in a round whose trouble went on for `trouble_s` from `begun_s` on."""
        self.rounds += 1
        operations = [told for one in seen for told in map(heard, one.operations)]
        faults = [fault for fault in self.faults if fault.until_s >= begun_s]
        for operation in operations:
            self._count(operation, faults)
        writes = [operation for operation in operations if _is_answered_write(operation)]
        gap = longest_gap(writes, begun_s, begun_s + trouble_s)
        self.longest_gap = max(self.longest_gap, gap, key=_length_s)
        self.slowest_write_s = max(self.slowest_write_s, *map(_took_s, writes), 0.0)

    def _count(self, operation: Operation, faults: Sequence[FaultSeen]) -> None:
        counts, second = self.counts, int(operation.at_s)
        counts["operations"] += 1
        if operation.outcome is Outcome.UNKNOWN:
            self.unanswered[second] += 1
            counts["unknown"] += 1
        elif operation.outcome is Outcome.FAILED:
            counts["failed"] += 1
        else:
            self.answered[second] += 1
            counts["ok"] += 1
            if isinstance(operation.result, tuple):
                counts["conflicts"] += 1
            if any(fault.from_s <= operation.at_s <= fault.until_s for fault in faults):
                counts["ok during faults"] += 1


def _is_answered_write(operation: Operation) -> bool:
    return operation.outcome is Outcome.DONE and operation.kind not in _READS


def _took_s(operation: Operation) -> float:
    """The ticks of one process's history are nanoseconds."""
    assert operation.returned is not None
    return (operation.returned - operation.invoked) / 1e9


def longest_gap(
    answered: Iterable[Operation], from_s: float, until_s: float
) -> tuple[float, float]:
    """The longest time between two answers in these seconds of the run, or up to their end."""
    ends = sorted(operation.at_s + _took_s(operation) for operation in answered)
    moments = [from_s, *(end for end in ends if from_s <= end <= until_s), until_s]
    return max(pairwise(moments), key=_length_s)


def _length_s(gap: tuple[float, float]) -> float:
    return gap[1] - gap[0]


def _gap_in_words(evidence: Evidence) -> list[str]:
    """When it was, and what was done to the cluster then: a kill of all servers explains much."""
    begun_s, ended_s = evidence.longest_gap
    if ended_s - begun_s < TOLD_GAP_S:
        return []
    then = [f"{f}" for f in evidence.faults if f.from_s < ended_s and f.until_s > begun_s]
    during = "; ".join(then[:_MOST_FAULTS]) or "no fault"
    more = f"; and {len(then) - _MOST_FAULTS} more" if len(then) > _MOST_FAULTS else ""
    return [f"that was from {begun_s:.1f} s to {ended_s:.1f} s, during: {during}{more}"]


def verdict(evidence: Evidence) -> list[str]:
    """The run in words, for people."""
    counts = evidence.counts
    kinds = Counter(fault.kind for fault in evidence.faults)
    lines = [
        f"{counts['operations']:,} operations in {evidence.rounds} rounds: {counts['ok']:,} ok"
        f" ({counts['ok during faults']:,} of them during faults, {counts['conflicts']:,} conflicts),"
        f" {counts['unknown']:,} unknown, {counts['failed']:,} failed",
        f"{len(evidence.faults)} faults"
        + (": " + ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())) if kinds else ""),
        f"{len(evidence.takeovers)} takeovers seen; longest time without an answered write:"
        f" {_length_s(evidence.longest_gap):.2f} s;"
        f" slowest answered write: {evidence.slowest_write_s:.2f} s",
        *_gap_in_words(evidence),
        *evidence.notes,
    ]
    if evidence.violations:
        lines += [f"VIOLATED {text}" for text in evidence.violations]
        lines.append(f"verdict: {len(evidence.violations)} violations")
    else:
        lines.append("verdict: everything that was promised was kept")
    return lines

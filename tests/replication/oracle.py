"""Sees everything, and says when a promise is broken.

The committed entries of a group are one sequence, and each read names the version at which it read. So
the witness of linearizability is given, not searched for: every operation has to fit into the sequence of
versions between its invocation and its answer, and the sequence, replayed by a register of ints, has to
give every result. That is stricter than a search per key (it orders all keys together) and costs next to
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from attrs import define, field

from tests.replication.application import Operation, Request, Result


class Violation(AssertionError):
    """A promise is broken."""


@define(eq=False)
class Oracle:
    """See the module. `everything_answered_stays` is False in async mode."""

    everything_answered_stays: bool = True
    chosen: list[Operation] = field(factory=list)
    # The newest version that anybody outside knows of, by an answer or a read.
    floor: int = 0
    writes: int = 0
    reads: int = 0
    primaries: dict[int, str] = field(factory=dict)
    local: dict[int, Operation] = field(factory=dict)
    aborted: int = 0
    _cells: dict[int, int] = field(factory=dict)
    _history: dict[int, list[tuple[int, int]]] = field(factory=dict)
    _executed: dict[int, Operation] = field(factory=dict)
    _refused: set[tuple[int, int]] = field(factory=set)

    def applies(self, host: str, entry: Operation, primary: bool) -> bool:
        """I1 and I4: a replica applies the one entry that is committed at this version; only a
        primary may be the first. True when it is the first."""
        if entry.version <= len(self.chosen):
            known = self.chosen[entry.version - 1]
            if known is not entry and known != entry:
                raise Violation(f"{host} applies {entry}, but {known} was committed")
            return False
        if entry.version != len(self.chosen) + 1:
            raise Violation(f"{host} applies {entry}, only {len(self.chosen)} are committed")
        if not primary:
            raise Violation(f"{host} applies {entry} before the primary")
        self.chosen.append(entry)
        self._replay(entry)
        return True

    def _replay(self, entry: Operation) -> None:
        if (entry.version, entry.entry_cfg) in self._refused:
            raise Violation(f"{entry} was refused as not done, and is committed")
        if entry.request:
            if entry.request in self._executed:
                raise Violation(f"request {entry.request} is executed twice: {entry}")
            self._executed[entry.request] = entry
        if entry.value is None:
            if entry.request and entry.result[1] != self._cells.get(entry.key, 0):
                raise Violation(f"{entry} failed on a value that was not there")
            return
        self._cells[entry.key] = entry.value
        self._history.setdefault(entry.key, []).append((entry.version, entry.value))

    def decided(self, request: Request, entry: Operation) -> None:
        """What a CPUT saw must be what it follows on in the sequence."""
        if request.expect is None or entry.value is None:
            return
        before = 0
        for version, value in self._history.get(entry.key, ()):
            if version >= entry.version:
                break
            before = value
        if before != request.expect:
            raise Violation(f"CPUT {request} was done on {before}: {entry}")

    def takes_over(self, host: str, cfg: int) -> None:
        """I3."""
        known = self.primaries.setdefault(cfg, host)
        if known != host:
            raise Violation(f"{known} and {host} are both primary of cfg {cfg}")

    def serves(self, host: str, cfg: int, has: Callable[[Operation], bool]) -> None:
        """A replica that begins to serve in `cfg` has every entry that was committed before it.

        (It may be late, and there may be a later primary already: then it gets no lease and no ACK.)
        """
        for entry in self.chosen[-50:]:
            if entry.entry_cfg < cfg and not has(entry):
                raise Violation(f"{host} serves without {entry}")

    def durable(self, entry: Operation, members: Iterable[tuple[str, bool]]) -> None:
        """I1: a committed entry is on the disk of every member."""
        for member, has in members:
            if not has:
                raise Violation(f"{entry} is committed and not on the disk of {member}")

    def refuses(self, entries: Iterable[Operation]) -> None:
        """ABORT: these are surely not done."""
        for entry in entries:
            self.aborted += 1
            self._refused.add((entry.version, entry.entry_cfg))
            if self._executed.get(entry.request) == entry:
                raise Violation(f"{entry} is refused as not done, and is committed")

    def answers_write(self, request: Request, result: Result, floor: int) -> None:
        """A client is told that its write is done, or that its comparison failed."""
        self.writes += 1
        entry = self._executed.get(request.id)
        if entry is None:
            if self.everything_answered_stays:
                raise Violation(f"{request} is answered {result} and not committed")
            return
        if entry.result != result:
            raise Violation(f"{request} was answered {result}, and is {entry}")
        if entry.version <= floor:
            raise Violation(f"{entry} was asked for after version {floor} was known")
        self.decided(request, entry)
        self.floor = max(self.floor, entry.version)

    def answers_read(self, host: str, key: int, seen: tuple[int, int], at: int, floor: int) -> None:
        """A client is told what `key` held at version `at`."""
        self.reads += 1
        if not self.everything_answered_stays:
            return
        if at < floor:
            raise Violation(f"{host} reads at {at} what was at least {floor} when it was asked")
        expected = (0, 0)
        for version, value in reversed(self._history.get(key, [])):
            if version <= at:
                expected = (version, value)
                break
        if seen != expected:
            raise Violation(f"{host} reads {seen} at {at}, but {expected} stood there")
        self.floor = max(self.floor, at)

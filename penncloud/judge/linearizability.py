"""Is there an order of operations that explains what every user saw?

Wing and Gong's search with Lowe's memory of configurations ("Testing for linearizability", 2017): try
the operations that may come next, an operation being next only while no other has returned before it was
asked for; remember every (set of operations, state) that was tried. Operations of unknown outcome may be
placed anywhere after they were asked for, and need not be placed at all.

Three things keep the search small. An operation that only reads is placed as soon as it may come and has
its result on the present state, without trying anything else: whatever order there is from here on, it can
be moved to its front. (A write of the value that is there already cannot: later it may change something.)
An operation of unknown outcome is not placed where it would change nothing. And of several of these that are
alike, the one that was asked for first is placed first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import define, frozen

from penncloud.judge.history import Operation, Outcome

# Configurations that are tried before the search gives up.
MAX_STEPS: Final = 300_000

# The state after an operation on a state, or IMPOSSIBLE when it cannot have had its result there.
Model = Callable[[Any, Operation], Any]
IMPOSSIBLE: Final = object()


@frozen
class NotLinearizable:
    """No order explains `operation`, given those that `explained` holds in the best order found."""

    operation: Operation
    explained: tuple[Operation, ...]

    def __str__(self) -> str:
        around = [o for o in self.explained if (o.returned or 0) > self.operation.invoked - 40]
        lines = "\n".join(f"    {operation}" for operation in around[-12:])
        return f"no order of operations explains\n    {self.operation}\n  after\n{lines}"


class Undecided(Exception):
    """The search was given up: too many operations at the same time."""


@define(eq=False)
class _Entry:
    """The beginning or the end of an operation, in a list from which both can be taken out."""

    operation: Operation
    number: int
    begins: bool
    before: Any = None
    after: Any = None
    end: Any = None

    def lift(self) -> None:
        for entry in (self, self.end):
            if entry is not None:
                entry.before.after = entry.after
                if entry.after is not None:
                    entry.after.before = entry.before

    def put_back(self) -> None:
        for entry in (self.end, self):
            if entry is not None:
                entry.before.after = entry
                if entry.after is not None:
                    entry.after.before = entry


def _only_reads(operation: Operation) -> bool:
    """Whether an operation that is done would change no state at all."""
    if operation.kind == "get":
        return True
    return operation.kind == "cput" and operation.result is not None


def _twins(operations: Sequence[Operation]) -> dict[int, int]:
    """For operations of unknown outcome: the bit of the last one before that is just the same."""
    last: dict[Any, int] = {}
    twins: dict[int, int] = {}
    for number, operation in sorted(enumerate(operations), key=lambda pair: pair[1].invoked):
        if operation.outcome is Outcome.UNKNOWN:
            alike = operation.kind, operation.arguments
            twins[number] = last.get(alike, 0)
            last[alike] = 1 << number
    return twins


def _listed(operations: Sequence[Operation]) -> _Entry:
    """The head of the list of all begins and ends in their order."""
    events: list[tuple[int, _Entry]] = []
    for number, operation in enumerate(operations):
        begin = _Entry(operation, number, True)
        events.append((operation.invoked, begin))
        if operation.outcome is Outcome.DONE:
            assert operation.returned is not None
            begin.end = _Entry(operation, number, False)
            events.append((operation.returned, begin.end))
    events.sort(key=lambda event: event[0])
    head = last = _Entry(operations[0], -1, False)
    for _, entry in events:
        last.after, entry.before = entry, last
        last = entry
    return head


def check(
    operations: Sequence[Operation], model: Model, state: Any, max_steps: int = MAX_STEPS
) -> NotLinearizable | None:
    """None when there is an order. Operations are of one key; failed ones have had no effect.

    Raises Undecided.
    """
    operations = [o for o in operations if o.outcome is not Outcome.FAILED]
    if not operations:
        return None
    left = sum(operation.outcome is Outcome.DONE for operation in operations)
    head = _listed(operations)
    twins = _twins(operations)
    placed = 0
    stack: list[tuple[_Entry, Any, bool]] = []
    tried: set[tuple[int, Any]] = set()
    best: tuple[Operation, ...] = ()
    stuck = operations[0]
    entry: _Entry = head.after
    while left:
        if entry.begins:
            following = model(state, entry.operation)
            bit = 1 << entry.number
            useless = entry.end is None and (
                following == state or twins[entry.number] & ~placed != 0
            )
            if (
                not useless
                and following is not IMPOSSIBLE
                and (placed | bit, following) not in tried
            ):
                tried.add((placed | bit, following))
                if len(tried) > max_steps:
                    raise Undecided(f"{len(operations)} operations")
                forced = entry.end is not None and _only_reads(entry.operation)
                stack.append((entry, state, forced))
                state = following
                placed |= bit
                left -= entry.end is not None
                entry.lift()
                entry = head.after
            else:
                entry = entry.after
            continue
        # Something has returned before anything else could come: one of those before is wrong.
        if len(stack) >= len(best):
            best = tuple(placed_entry.operation for placed_entry, _, _ in stack)
            stuck = entry.operation
        forced = True
        while forced:
            if not stack:
                return NotLinearizable(stuck, best)
            entry, state, forced = stack.pop()
            placed &= ~(1 << entry.number)
            left += entry.end is not None
            entry.put_back()
        entry = entry.after
    return None


def register(state: Any, operation: Operation) -> Any:
    """A cell: `get`, `put(value)`, `cput(expected, value)` and `delete`.

    Results: of `get` the value or None; of `cput` None when done, else a tuple of what was there; of
    `delete` whether there was anything.
    """
    known = operation.outcome is Outcome.DONE
    if operation.kind == "get":
        return state if not known or operation.result == state else IMPOSSIBLE
    if operation.kind == "put":
        return operation.arguments[0]
    if operation.kind == "delete":
        return None if not known or operation.result is (state is not None) else IMPOSSIBLE
    expected, value = operation.arguments
    if known and operation.result is not None:
        return state if operation.result == (state,) and state != expected else IMPOSSIBLE
    if state == expected:
        return value
    return IMPOSSIBLE if known else state


def without_traceless(operations: Sequence[Operation]) -> list[Operation]:
    """Leave out writes of unknown outcome whose value nobody ever saw: they explain nothing.

    Right for histories whose values are unique and that have no `delete`; it keeps the search small.
    """
    seen: set[Any] = set()
    for operation in operations:
        if operation.outcome is Outcome.FAILED:
            continue
        if operation.kind == "get":
            seen.add(operation.result)
        elif operation.kind == "cput":
            seen.add(operation.arguments[0])
            if isinstance(operation.result, tuple):
                seen.add(operation.result[0])
    return [
        operation
        for operation in operations
        if operation.outcome is Outcome.DONE
        or (operation.kind in ("put", "cput") and operation.arguments[-1] in seen)
    ]

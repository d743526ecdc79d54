"""The checker finds what is wrong, and nothing else."""

from __future__ import annotations

import random
from itertools import chain, combinations, permutations
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from penncloud.judge.history import Operation, Outcome
from penncloud.judge.linearizability import (
    IMPOSSIBLE,
    NotLinearizable,
    Undecided,
    check,
    register,
    without_traceless,
)

A, B, C = b"a", b"b", b"c"


def op(begin: int, end: int | None, kind: str, *arguments: Any, result: Any = None) -> Operation:
    """An operation; without an end its outcome is unknown."""
    outcome = Outcome.UNKNOWN if end is None else Outcome.DONE
    return Operation("u", "k", kind, arguments, begin, 0.0, end, outcome, result)


class RegisterTests(SynchronousTestCase):
    """Histories made by hand."""

    def good(self, *operations: Operation) -> None:
        for history in (list(operations), without_traceless(operations)):
            self.assertIsNone(check(history, register, None))

    def bad(self, *operations: Operation) -> None:
        for history in (list(operations), without_traceless(operations)):
            self.assertIsInstance(check(history, register, None), NotLinearizable)

    def test_empty(self) -> None:
        """Nothing happened."""
        self.good()

    def test_sequence(self) -> None:
        """One after the other: the last write is read."""
        self.good(op(1, 2, "put", A), op(3, 4, "get", result=A))
        self.bad(op(1, 2, "put", A), op(3, 4, "get"))

    def test_stale_read(self) -> None:
        """A read that begins after a write was answered may not miss it."""
        self.bad(op(1, 2, "put", A), op(3, 4, "put", B), op(5, 6, "get", result=A))

    def test_concurrent(self) -> None:
        """While a write is under way both values may be read, but not back and forth."""
        write = op(3, 10, "put", B)
        self.good(op(1, 2, "put", A), write, op(4, 5, "get", result=A), op(6, 7, "get", result=B))
        self.bad(op(1, 2, "put", A), write, op(4, 5, "get", result=B), op(6, 7, "get", result=A))

    def test_unknown_may_happen_late(self) -> None:
        """A write without an answer may take effect long after."""
        self.good(
            op(1, None, "put", A),
            op(2, 3, "get"),
            op(4, 5, "put", B),
            op(6, 7, "get", result=B),
            op(8, 9, "get", result=A),
        )

    def test_unknown_may_not_happen_early(self) -> None:
        """But not before it was asked for."""
        self.bad(op(1, 2, "get", result=A), op(3, None, "put", A))

    def test_unknown_happens_once(self) -> None:
        """Nor twice."""
        self.bad(
            op(1, None, "put", A),
            op(2, 3, "get", result=A),
            op(4, 5, "put", B),
            op(6, 7, "get", result=B),
            op(8, 9, "get", result=A),
        )

    def test_compare(self) -> None:
        """A comparison succeeds on what is there, and fails on what is not."""
        self.good(op(1, 2, "put", A), op(3, 4, "cput", A, B), op(5, 6, "get", result=B))
        self.bad(op(1, 2, "put", A), op(3, 4, "cput", B, C))
        self.good(op(1, 2, "put", A), op(3, 4, "cput", B, C, result=(A,)))
        self.bad(op(1, 2, "put", A), op(3, 4, "cput", A, B, result=(A,)))
        self.bad(op(1, 2, "put", A), op(3, 4, "cput", B, C, result=(C,)))

    def test_executed_twice(self) -> None:
        """A retry that is executed again, and told that it failed because of itself."""
        self.bad(op(1, 2, "put", A), op(3, 4, "cput", A, B, result=(B,)))

    def test_unknown_compare(self) -> None:
        """A comparison without an answer has happened or not."""
        maybe = op(3, None, "cput", A, B)
        self.good(op(1, 2, "put", A), maybe, op(4, 5, "get", result=A), op(6, 7, "get", result=B))
        self.bad(op(1, 2, "put", C), maybe, op(6, 7, "get", result=B))

    def test_delete(self) -> None:
        """Deleting says whether there was anything."""
        self.assertIsNone(
            check([op(1, 2, "put", A), op(3, 4, "delete", result=True)], register, None)
        )
        self.assertIsNotNone(check([op(1, 2, "delete", result=True)], register, None))

    def test_repeated_value(self) -> None:
        """A write of what is there already still is a write: it may have come after another one."""
        history = [
            op(1, 4, "put", True),
            op(2, 5, "put", False),
            op(6, 7, "get", result=True),
        ]
        self.assertIsNone(check(history, register, True))
        stale = [op(1, 2, "put", True), op(3, 5, "put", False), op(6, 7, "get", result=True)]
        self.assertIsNotNone(check(stale, register, True))

    def test_many_unknown(self) -> None:
        """Writes of two values without an answer, however many, leave a verdict possible."""
        history = [op(n, None, "put", n % 2 == 0) for n in range(1, 61)]
        for n in range(100, 160, 2):
            history.append(op(n, n + 1, "get", result=n % 4 == 0))
        self.assertIsNone(check(history, register, True, 20_000))
        history.append(op(200, 201, "get", result=None))
        self.assertIsNotNone(check(history, register, True, 20_000))

    def test_unknown_alike(self) -> None:
        """Of writes that are alike each counts once, the one that was asked for first before others."""
        history = [op(1, None, "put", A), op(5, None, "put", A)]
        for n, value in enumerate((A, B, A, B)):
            if value == B:
                history.append(op(10 + 4 * n, 11 + 4 * n, "put", B))
            history.append(op(12 + 4 * n, 13 + 4 * n, "get", result=value))
        self.assertIsNone(check(history, register, None))
        self.assertIsNotNone(check([*history, op(90, 91, "get", result=A)], register, None))
        early = [op(1, None, "put", A), op(2, 3, "put", B), op(4, 5, "get", result=A)]
        early += [op(6, 7, "put", B), op(8, 9, "get", result=A), op(10, None, "put", A)]
        self.assertIsNotNone(check(early, register, None))

    def test_what_is_wrong(self) -> None:
        """The answer names the operation that has no place."""
        found = check([op(1, 2, "put", A), op(3, 4, "get", result=B)], register, None)
        assert found is not None
        self.assertEqual(found.operation.kind, "get")
        self.assertIn("no order", str(found))

    def test_gives_up(self) -> None:
        """A search that has become too long is no verdict."""
        history = [op(n, 100 + n, "put", b"%d" % n) for n in range(14)]
        history.append(op(200, 201, "get", result=C))
        self.assertRaises(Undecided, check, history, register, None, 1000)


def explained(operations: list[Operation]) -> bool:
    """Whether some order explains a short history: all of them are tried."""
    done = [o for o in operations if o.outcome is Outcome.DONE]
    unknown = [o for o in operations if o.outcome is Outcome.UNKNOWN]
    some = chain.from_iterable(combinations(unknown, n) for n in range(len(unknown) + 1))
    return any(_follows(order) for extra in some for order in permutations([*done, *extra]))


def _follows(order: tuple[Operation, ...]) -> bool:
    state: Any = A
    for place, operation in enumerate(order):
        if any((later.returned or 10**6) < operation.invoked for later in order[place + 1 :]):
            return False
        state = register(state, operation)
        if state is IMPOSSIBLE:
            return False
    return True


def drawn(chance: random.Random) -> list[Operation]:
    """A short history of few values, much of it at the same time."""
    operations = []
    for _ in range(chance.randint(2, 6)):
        begin = chance.randint(1, 12)
        end = None if chance.random() < 0.3 else begin + chance.randint(1, 8)
        kind = chance.choice(("get", "get", "put", "cput"))
        value, other = chance.choice((A, B)), chance.choice((A, B))
        if kind == "get":
            operations.append(op(2 * begin, end and 2 * end + 1, "get", result=value))
        elif kind == "put":
            operations.append(op(2 * begin, end and 2 * end + 1, "put", value))
        else:
            result = chance.choice((None, (A,), (B,))) if end else None
            operations.append(
                op(2 * begin, end and 2 * end + 1, "cput", value, other, result=result)
            )
    return sorted(operations, key=lambda operation: operation.invoked)


class AllOrdersTests(SynchronousTestCase):
    """The search with all its short cuts, beside one that has none."""

    def test_same_verdict(self) -> None:
        """Both find the same histories good, and the same ones bad."""
        chance = random.Random(4)
        verdicts = []
        for _ in range(600):
            history = drawn(chance)
            good = check(history, register, A) is None
            self.assertEqual(good, explained(history), [str(o) for o in history])
            verdicts.append(good)
        self.assertGreater(verdicts.count(True), 100)
        self.assertGreater(verdicts.count(False), 100)

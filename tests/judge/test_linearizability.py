"""The checker finds what is wrong, and nothing else."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from penncloud.judge.history import Operation, Outcome
from penncloud.judge.linearizability import (
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

"""What users asked for and what they were told, in the order in which it happened.

The order is exact: one counter for the whole world, as everything in it happens one after the other. An
operation without an answer, or with one that leaves its outcome open, may take effect at any time after
it was asked for, or never.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from attrs import define, field


class Outcome(Enum):
    UNKNOWN = "unknown"
    DONE = "done"
    FAILED = "failed"  # certainly without effect


@define(eq=False)
class Operation:
    """`result` is what a done operation returned."""

    user: str
    key: str
    kind: str
    arguments: tuple[Any, ...]
    invoked: int
    at_s: float
    returned: int | None = None
    outcome: Outcome = Outcome.UNKNOWN
    result: Any = None

    def __str__(self) -> str:
        arguments = ", ".join(map(repr, self.arguments))
        end = "" if self.returned is None else f"..{self.returned}"
        result = (
            f" -> {self.result!r}" if self.outcome is Outcome.DONE else f" {self.outcome.value}"
        )
        return (
            f"[{self.invoked}{end}, {self.at_s:.3f} s] {self.user}: "
            f"{self.kind} {self.key}({arguments}){result}"
        )


@define
class History:
    """All operations of one workload. `ticks` counts begins and ends."""

    operations: list[Operation] = field(factory=list)
    ticks: int = 0

    def tick(self) -> int:
        """The place of what happens now."""
        self.ticks += 1
        return self.ticks

    def begin(self, user: str, at_s: float, key: str, kind: str, *arguments: Any) -> Operation:
        operation = Operation(user, key, kind, arguments, self.tick(), at_s)
        self.operations.append(operation)
        return operation

    def done(self, operation: Operation, result: Any = None) -> None:
        self._end(operation, Outcome.DONE)
        operation.result = result

    def failed(self, operation: Operation) -> None:
        self._end(operation, Outcome.FAILED)

    def _end(self, operation: Operation, outcome: Outcome) -> None:
        operation.returned = self.tick()
        operation.outcome = outcome

    def by_key(self) -> dict[str, list[Operation]]:
        keys: dict[str, list[Operation]] = {}
        for operation in self.operations:
            keys.setdefault(operation.key, []).append(operation)
        return keys

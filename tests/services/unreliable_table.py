"""A table that can be slow and can fail at a chosen moment, over the verified fake."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred

from penncloud.client.memory import MemoryTable
from penncloud.client.table import Cell, Page, SubOperation, Unavailable

__all__ = ["UnreliableTable"]


@define
class UnreliableTable(MemoryTable):
    """`hold(row)` true: the call on that row waits for `release()`. `away(row)`: its tablet is away.

    `calls_left`: so many mutations succeed, then every one raises Unavailable. With
    `fails_after_doing` they are executed nevertheless, as when only the answer is lost.
    """

    hold: Callable[[bytes], bool] = lambda row: False
    away: Callable[[bytes], bool] = lambda row: False
    calls_left: int | None = None
    fails_after_doing: bool = False
    held: list[Deferred[None]] = field(factory=list)
    most_held: int = 0

    async def mutate(
        self, row: bytes, operations: Sequence[SubOperation], *, deadline_s: float | None = None
    ) -> int:
        await self._wait(row)
        if self.calls_left is not None:
            if self.calls_left == 0:
                if self.fails_after_doing:
                    await MemoryTable.mutate(self, row, operations)
                raise Unavailable("no answer within the deadline")
            self.calls_left -= 1
        return await MemoryTable.mutate(self, row, operations)

    async def get(self, row: bytes, col: bytes, *, deadline_s: float | None = None) -> Cell | None:
        await self._wait(row)
        return await MemoryTable.get(self, row, col)

    async def delete(self, row: bytes, col: bytes, *, deadline_s: float | None = None) -> bool:
        self._look(row)
        return await MemoryTable.delete(self, row, col)

    async def scan(self, row: bytes, *args: Any, **kwargs: Any) -> Page:
        self._look(row)
        return await MemoryTable.scan(self, row, *args, **kwargs)

    def _look(self, row: bytes) -> None:
        if self.away(row):
            raise Unavailable("its tablet is away")

    async def _wait(self, row: bytes) -> None:
        self._look(row)
        if self.hold(row):
            gate: Deferred[None] = Deferred()
            self.held.append(gate)
            self.most_held = max(self.most_held, len(self.held))
            await gate

    def release(self, count: int = 1) -> None:
        """Let the oldest held calls go on."""
        for _ in range(count):
            self.held.pop(0).callback(None)

    def release_one(self, index: int) -> None:
        """Let one of the held calls go on."""
        self.held.pop(index).callback(None)

    def interleaved(
        self, row: bytes, first: Callable[[], Any], steps: int, second: Callable[[], Any]
    ) -> tuple[Deferred[Any], Deferred[Any]]:
        """What becomes of two coroutines: `second` begins when `first` has had so many calls to `row`."""
        self.hold = lambda held: held == row
        one = Deferred.fromCoroutine(first())
        mine = list(self.held)
        for _ in range(steps):
            if mine:
                self.held.remove(mine[0])
                mine.pop(0).callback(None)
                mine += [gate for gate in self.held if gate not in mine]
        two = Deferred.fromCoroutine(second())
        while self.held:
            self.release_one(-1)
        self.hold = lambda _: False
        return one, two

    def chunk_rows(self) -> list[bytes]:
        """The rows of chunks that exist."""
        return sorted(
            row for row, cells in self._rows.items() if row.startswith(b"blob/") and cells
        )

    def columns(self, row: bytes) -> list[bytes]:
        """The columns of a row."""
        return list(self._rows.get(row, {}))

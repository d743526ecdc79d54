"""Requests of one connection that touch the same row take effect in the order in which they were sent.

Mutations of a row are decided at once, one after the other. A read behind a mutation that is still on
its way would not see it, as reads see what is committed: it waits for the mutation, and later requests to
the row wait behind the read. Other rows are not held up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from attrs import define

# Starts a request; True when it is under way now: `ended` is told when it was answered.
Start = Callable[[], bool]


@define
class _Row:
    under_way: int = 0
    # What is under way is a read: nothing may pass it.
    reading: bool = False
    # Most rows have nobody waiting.
    behind: deque[tuple[bool, Start, int]] | None = None


class RowOrder:
    """The order of one connection. `waiting` requests of `waiting_bytes` have not been started.

    Whoever has a request asks whether its row is `free`; then it is started, and if it is under way after
    that, `begun` is told. Otherwise it has to `wait`.
    """

    def __init__(self) -> None:
        self._rows: dict[bytes, _Row] = {}
        self.waiting = 0
        self.waiting_bytes = 0

    def free(self, row: bytes, reads: bool) -> bool:
        """Whether a request to the row may be started now."""
        order = self._rows.get(row)
        return order is None or not (reads or order.reading or order.behind)

    def begun(self, row: bytes, reads: bool) -> None:
        """A request to a free row was started, and is under way now."""
        order = self._rows.get(row)
        if order is None:
            self._rows[row] = _Row(1, reads)
        else:
            order.under_way += 1

    def wait(self, row: bytes, reads: bool, start: Start, size_bytes: int) -> None:
        """Call `start` when the turn of this request comes; the row is not free."""
        order = self._rows[row]
        if order.behind is None:
            order.behind = deque()
        order.behind.append((reads, start, size_bytes))
        self.waiting += 1
        self.waiting_bytes += size_bytes

    def ended(self, row: bytes) -> None:
        """A request to the row that was under way was answered."""
        order = self._rows[row]
        order.under_way -= 1
        order.reading = order.reading and order.under_way > 0
        while order.behind and not order.reading and not (order.under_way and order.behind[0][0]):
            reads, start, size_bytes = order.behind.popleft()
            self.waiting -= 1
            self.waiting_bytes -= size_bytes
            # It counts before it begins: its answer may be there when `start` returns.
            order.under_way += 1
            order.reading = reads
            if not start():
                order.under_way -= 1
                order.reading = False
        if not order.under_way:
            self._rows.pop(row, None)

    def clear(self) -> None:
        """Start nothing any more; what is under way may still end."""
        for order in self._rows.values():
            order.behind = None
        self.waiting = self.waiting_bytes = 0

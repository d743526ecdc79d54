"""Requests of one connection that touch the same row take effect in the order in which they were sent.

Mutations of a row are decided at once, one after the other. A read behind a mutation that is still on
its way would not see it, as reads see what is committed: it waits for the mutation, and later requests to
the row wait behind the read. Other rows are not held up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from attrs import define, field

# Starts a request; True when it is under way now: `ended` is told when it was answered.
Start = Callable[[], bool]


@define
class _Row:
    under_way: int = 0
    # What is under way is a read: nothing may pass it.
    reading: bool = False
    behind: deque[tuple[bool, Start]] = field(factory=deque)


class RowOrder:
    """The order of one connection. `waiting` requests have not been started."""

    def __init__(self) -> None:
        self._rows: dict[bytes, _Row] = {}
        self.waiting = 0

    def admit(self, row: bytes, reads: bool, start: Start) -> None:
        """Call `start` now, or when its turn comes."""
        order = self._rows.get(row)
        if order is None:
            if start():
                self._rows[row] = _Row(1, reads)
        elif order.behind or reads or order.reading:
            order.behind.append((reads, start))
            self.waiting += 1
        else:
            order.under_way += start()

    def ended(self, row: bytes) -> None:
        """A request to the row that was under way was answered."""
        order = self._rows[row]
        order.under_way -= 1
        order.reading = order.reading and order.under_way > 0
        while order.behind and not order.reading and not (order.under_way and order.behind[0][0]):
            reads, start = order.behind.popleft()
            self.waiting -= 1
            started = start()
            order.under_way += started
            order.reading = reads and started
        if not order.under_way:
            del self._rows[row]

    def clear(self) -> None:
        """Start nothing any more; what is under way may still end."""
        for order in self._rows.values():
            order.behind.clear()
        self.waiting = 0

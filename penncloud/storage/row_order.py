"""Requests of one connection that touch the same row take effect in the order in which they were sent.

Mutations of a row are decided at once, one after the other. A read behind a mutation that is still on
its way to the disk would not see it, as reads see what is committed: it waits for the mutation, and
later requests to the row wait behind the read. Other rows are not held up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from attrs import define, field

# Starts a request; True when it is a mutation that is now under way, of whose end `ended` is told.
Start = Callable[[], bool]


@define
class _Row:
    under_way: int = 0
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
                self._rows[row] = _Row(1)
        elif order.behind or reads:
            order.behind.append((reads, start))
            self.waiting += 1
        else:
            order.under_way += start()

    def ended(self, row: bytes) -> None:
        """A mutation of the row was answered."""
        order = self._rows[row]
        order.under_way -= 1
        while order.behind and not (order.under_way and order.behind[0][0]):
            _, start = order.behind.popleft()
            self.waiting -= 1
            order.under_way += start()
        if not order.under_way:
            del self._rows[row]

    def clear(self) -> None:
        """Start nothing any more; mutations under way may still end."""
        for order in self._rows.values():
            order.behind.clear()
        self.waiting = 0

"""Reads that surely show the newest state of a tablet, and pages of scans.

A read takes a ticket before it looks, and checks it and the leases after: so nobody is shown what another
primary has changed already. Where clocks cannot be trusted (`read_mode = "confirm"`) it waits for a round to
the members before it looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias, TypeVar

from twisted.internet.defer import Deferred

from penncloud.lsm.tablet import ScannedCell
from penncloud.replication.primary import Refused
from penncloud.replication.replica import Replica
from penncloud.wire.limits import MAX_SCAN_BYTES
from penncloud.wire.messages import Busy, CellLine, Cells, Reply

# What a client is told to wait when too much is under way, and when nobody serves right now.
RETRY_MS: Final = 20
NOT_SERVING_RETRY_MS: Final = 50

Answer: TypeAlias = Reply | Deferred[Reply]
Asked = TypeVar("Asked")


class SureReads:
    """See the module. `clock` has IReactorTime; `touched` is told when the replica has new work."""

    def __init__(self, clock: Any, touched: Callable[[], None]) -> None:
        self._clock = clock
        self._touched = touched
        # Those that wait for a round to the members.
        self._confirming: dict[int, tuple[Deferred[Reply], Callable[[], Reply]]] = {}
        self._next_context = 0

    def may_watch(self, replica: Replica) -> bool:
        """Whether a watch may begin: what commits from now on is told."""
        ticket = replica.read_ticket()
        if not ticket or replica.confirms:
            return bool(ticket)
        return replica.may_read(ticket, self._clock.seconds())

    def read(self, replica: Replica, look: Callable[[Asked], Reply], asked: Asked) -> Answer:
        """Answer with what `look` gives for what was `asked`, if that surely is the newest.

        Raises what `look` does. That it gets what was asked here spares every read a closure.
        """
        ticket = replica.read_ticket()
        if not ticket:
            return Busy(NOT_SERVING_RETRY_MS)
        if replica.confirms:
            return self._confirm(replica, look, asked)
        seen = look(asked)
        if replica.may_read(ticket, self._clock.seconds()):
            return seen
        return Busy(NOT_SERVING_RETRY_MS)

    def _confirm(self, replica: Replica, look: Callable[[Asked], Reply], asked: Asked) -> Answer:
        self._next_context += 1
        try:
            replica.confirm(self._next_context, self._clock.seconds())
        except Refused:
            return Busy(RETRY_MS)
        answer: Deferred[Reply] = Deferred()
        self._confirming[self._next_context] = (answer, lambda: look(asked))
        self._touched()
        return answer

    def confirmed(self, context: int) -> None:
        """The replica has had the round that it was asked for."""
        waiting = self._confirming.pop(context, None)
        if waiting is not None:
            answer, look = waiting
            try:
                seen = look()
            except Exception:  # noqa: BLE001 (whoever asked is told what went wrong)
                answer.errback()
            else:
                answer.callback(seen)

    def give_up(self) -> None:
        """There will be no round: this replica is the primary no more."""
        confirming, self._confirming = self._confirming, {}
        for answer, _ in confirming.values():
            answer.callback(Busy(RETRY_MS))


def page(found: Iterator[ScannedCell], limit: int, max_value: int | None) -> Cells:
    """The first cells of a scan, within the bounds on their number and bytes; at least one."""
    cells: list[CellLine] = []
    held = 0
    for cell in found:
        shown = cell.value if max_value is None else cell.value[:max_value]
        if len(cells) == limit or (cells and held + len(shown) > MAX_SCAN_BYTES):
            return Cells(tuple(cells), True)
        cells.append(CellLine(cell.row, cell.col, cell.version, len(cell.value), shown))
        held += len(shown)
    return Cells(tuple(cells), False)

"""All tablets of one storage server: which one a request is for, and who may not be served here."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Any, Final

from attrs import frozen
from twisted.logger import Logger

from penncloud.placement.tablets import row_hash
from penncloud.rpc.registration import TabletAssignment, Tip
from penncloud.storage.engine import Engine
from penncloud.storage.journal import Journal
from penncloud.storage.tablet import Answer, Tablet
from penncloud.storage.watches import Watcher, Watches
from penncloud.wire.messages import (
    Busy,
    Get,
    Moved,
    Mutation,
    Ok,
    Reply,
    RequestId,
    Scan,
    ScanTablet,
    Unwatch,
    Watch,
)

# What a client is told to wait when the server stops: by then the coordinator may know.
STOPPING_RETRY_MS: Final = 100


@frozen
class _Range:
    lo: int
    hi: int
    tablet: Tablet


class Tablets:
    """The tablets of server `node_id`, on one engine and one journal. `clock` has IReactorTime."""

    log = Logger()

    def __init__(self, node_id: str, clock: Any, engine: Engine) -> None:
        self._node_id = node_id
        self._engine = engine
        self._journal = Journal(clock, engine)
        self._watches = Watches()
        # A tablet is opened once per start, and kept when it is served elsewhere.
        self._opened: dict[int, Tablet] = {}
        self._ranges: list[_Range] = []
        self._starts: list[int] = []
        # Of tablets that are assigned to this server with another primary.
        self._elsewhere: list[TabletAssignment] = []
        self._stopping = False

    @property
    def tablets(self) -> list[Tablet]:
        """Those that are served here now."""
        return [served.tablet for served in self._ranges]

    def assign(self, assigned: Iterable[TabletAssignment]) -> None:
        """Serve the tablets of which this server is the primary, and no others, from now on."""
        before = {served.tablet.id for served in self._ranges}
        self._ranges, self._elsewhere = [], []
        for assignment in sorted(assigned, key=lambda tablet: tablet.lo):
            if assignment.primary != self._node_id:
                self._elsewhere.append(assignment)
                continue
            tablet = self._open(assignment)
            self._ranges.append(_Range(assignment.lo, assignment.hi, tablet))
        self._starts = [served.lo for served in self._ranges]
        if before != {served.tablet.id for served in self._ranges}:
            self.log.info("{id} serves {count} tablets", id=self._node_id, count=len(self._ranges))
        self._tell_of_moved_rows()

    def _open(self, assignment: TabletAssignment) -> Tablet:
        tablet = self._opened.get(assignment.id)
        if tablet is None:
            tablet = Tablet(
                assignment.id, assignment.epoch, self._engine, self._journal, self._watches
            )
            self._opened[assignment.id] = tablet
        tablet.epoch = assignment.epoch
        return tablet

    def _tell_of_moved_rows(self) -> None:
        """A hint to read again leads the watchers of a row that has left to its new server."""
        for row in self._watches.rows():
            if self._find(row) is None:
                self._watches.tell(row, 0)

    def request_ids(self, tablet: int) -> bytes:
        """The encoded table of request ids of a tablet as of its last commit."""
        return self._opened[tablet].request_ids()

    def tips(self) -> list[Tip]:
        """How far the tablets reach."""
        return [Tip(t.id, t.epoch, t.prepared) for t in self.tablets]

    async def stop(self) -> None:
        """Refuse what is new and fire when everything under way has been answered."""
        self._stopping = True
        await self._journal.when_idle()

    # -- requests --------------------------------------------------------------------------------

    def get(self, request: Get) -> Reply:
        tablet = self._find(request.row)
        return (
            self._not_here(request.row) if tablet is None else tablet.get(request.row, request.col)
        )

    def mutate(self, mutation: Mutation, request_id: RequestId | None) -> Answer:
        tablet = self._find(mutation.row)
        if tablet is None:
            return self._not_here(mutation.row)
        return tablet.mutate(mutation, request_id)

    def scan(self, request: Scan) -> Reply:
        tablet = self._find(request.row)
        return self._not_here(request.row) if tablet is None else tablet.scan(request)

    def scan_tablet(self, request: ScanTablet) -> Reply:
        for served in self._ranges:
            if served.tablet.id == request.tablet and not self._stopping:
                return served.tablet.scan_all(request)
        return Busy(STOPPING_RETRY_MS) if self._stopping else Moved("", 0)

    def watch(self, request: Watch, watcher: Watcher) -> Reply:
        tablet = self._find(request.row)
        if tablet is None:
            return self._not_here(request.row)
        self._watches.add(request.row, watcher)
        return Ok(tablet.committed)

    def unwatch(self, request: Unwatch, watcher: Watcher) -> Reply:
        """Answered with Ok wherever the row is: the watch has ended."""
        self._watches.remove(request.row, watcher)
        tablet = self._find(request.row)
        return Ok(0 if tablet is None else tablet.committed)

    def _find(self, row: bytes) -> Tablet | None:
        if self._stopping:
            return None
        place = row_hash(row)
        index = bisect_right(self._starts, place) - 1
        if index < 0 or place >= self._ranges[index].hi:
            return None
        return self._ranges[index].tablet

    def _not_here(self, row: bytes) -> Reply:
        if self._stopping:
            return Busy(STOPPING_RETRY_MS)
        place = row_hash(row)
        for assignment in self._elsewhere:
            if assignment.lo <= place < assignment.hi:
                return Moved("", assignment.epoch)
        return Moved("", 0)

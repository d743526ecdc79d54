"""All tablets of one storage server: which one a request is for, and who may not be served here."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import frozen
from twisted.logger import Logger

from penncloud.lsm.engine import TabletRecovery
from penncloud.lsm.errors import TabletDamaged
from penncloud.placement.tablets import row_hash
from penncloud.platform.environment import nothing_broken
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
# Why a tablet cannot be used that the data directory should hold and does not.
LOST: Final = "its files are gone from the data directory of this server, which had them"
# How long a stop waits for a disk that does not finish what is under way.
STOP_WITHIN_S: Final = 10.0


@frozen
class _Range:
    lo: int
    hi: int
    tablet: Tablet


class Tablets:
    """The tablets of server `node_id`, on one engine and one journal. `clock` has IReactorTime."""

    log = Logger()

    def __init__(
        self,
        node_id: str,
        clock: Any,
        engine: Engine,
        broken: Callable[[str], bool] = nothing_broken,
    ) -> None:
        self._node_id = node_id
        self._clock = clock
        self._engine = engine
        self._broken = broken
        self._journal = Journal(clock, engine)
        self._watches = Watches()
        # Every tablet that the engine holds, also while another server serves it.
        self._opened: dict[int, Tablet] = {}
        self._ranges: list[_Range] = []
        self._starts: list[int] = []
        # Of tablets that are assigned to this server and not served here: another is the primary, or
        # they were lost.
        self._elsewhere: list[TabletAssignment] = []
        # Of tablets that were on this server's disk and are not any more.
        self._lost: dict[int, TabletAssignment] = {}
        self._open = False
        self._stopping = False
        # Requests since the start, by kind.
        self.counts = {"get": 0, "mutate": 0, "scan": 0}

    @property
    def watched_rows(self) -> int:
        return len(self._watches)

    @property
    def tablets(self) -> list[Tablet]:
        """Those that are served here now."""
        return [served.tablet for served in self._ranges]

    async def open(self) -> None:
        """Open the engine with what it holds; serve nothing yet. Raises what the engine raises."""
        for found in await self._engine.open():
            if found.damaged:
                self.log.critical(
                    "tablet {tablet} is damaged: {why}", tablet=found.tablet, why=found.damaged
                )
            self._opened[found.tablet] = self._tablet(found, found.entry_cfg)
        self._open = True

    async def make(self, assigned: Sequence[TabletAssignment]) -> None:
        """Make those that are new to this server, durably. Raises DiskError."""
        for assignment in assigned:
            if assignment.id not in self._opened and not assignment.taken:
                lo, hi = assignment.lo, assignment.hi
                await self._engine.create_tablet(assignment.id, lo, hi)
                new = TabletRecovery(assignment.id, lo, hi, 0, 0, assignment.epoch, b"", [], "")
                self._opened[assignment.id] = self._tablet(new, assignment.epoch)

    def _tablet(self, found: TabletRecovery, epoch: int) -> Tablet:
        return Tablet(found, epoch, self._engine, self._journal, self._watches, broken=self._broken)

    def serve(self, assigned: Sequence[TabletAssignment]) -> None:
        """Serve the tablets of which this server is the primary, and no others, from now on.

        One that should be on the disk and is not was lost: it is refused, not served as if empty.
        """
        before = {served.tablet.id for served in self._ranges}
        self._ranges, self._elsewhere = [], []
        lost: dict[int, TabletAssignment] = {}
        for assignment in sorted(assigned, key=lambda tablet: tablet.lo):
            tablet = self._opened.get(assignment.id)
            if tablet is None:
                lost[assignment.id] = assignment
            if assignment.primary != self._node_id or tablet is None:
                self._elsewhere.append(assignment)
                continue
            tablet.epoch = assignment.epoch
            self._ranges.append(_Range(assignment.lo, assignment.hi, tablet))
        self._starts = [served.lo for served in self._ranges]
        for number in lost.keys() - self._lost.keys():
            self.log.critical("tablet {tablet}: {why}", tablet=number, why=LOST)
        self._lost = lost
        if before != {served.tablet.id for served in self._ranges}:
            self.log.info("{id} serves {count} tablets", id=self._node_id, count=len(self._ranges))
        self._tell_of_moved_rows()

    def _tell_of_moved_rows(self) -> None:
        """A hint to read again leads the watchers of a row that has left to its new server."""
        for row in self._watches.rows():
            if self._find(row) is None:
                self._watches.tell(row, 0)

    def tips(self) -> list[Tip]:
        """How far the tablets reach, and which are of no use."""
        held = [Tip(t.id, t.epoch, t.prepared, t.is_damaged) for t in self.tablets]
        return held + [Tip(lost.id, lost.epoch, 0, True) for lost in self._lost.values()]

    async def stop(self) -> None:
        """Refuse what is new, let what is under way be answered, and close the engine.

        Raises DiskError when the engine cannot write what is left.
        """
        self._stopping = True
        idle = self._journal.when_idle()
        await idle.addTimeout(STOP_WITHIN_S, self._clock, self._hung)
        if self._open:
            self._open = False
            await self._engine.close()

    def _hung(self, result: object, seconds: float) -> None:
        self.log.error("the disk has not finished within {seconds} s", seconds=seconds)

    # -- requests --------------------------------------------------------------------------------

    def get(self, request: Get) -> Reply:
        self.counts["get"] += 1
        tablet = self._find(request.row)
        return (
            self._not_here(request.row) if tablet is None else tablet.get(request.row, request.col)
        )

    def mutate(self, mutation: Mutation, request_id: RequestId | None) -> Answer:
        self.counts["mutate"] += 1
        tablet = self._find(mutation.row)
        if tablet is None:
            return self._not_here(mutation.row)
        return tablet.mutate(mutation, request_id)

    def scan(self, request: Scan) -> Reply:
        self.counts["scan"] += 1
        tablet = self._find(request.row)
        return self._not_here(request.row) if tablet is None else tablet.scan(request)

    def scan_tablet(self, request: ScanTablet) -> Reply:
        self.counts["scan"] += 1
        for served in self._ranges:
            if served.tablet.id == request.tablet and not self._stopping:
                return served.tablet.scan_all(request)
        if self._stopping:
            return Busy(STOPPING_RETRY_MS)
        lost = self._lost.get(request.tablet)
        if lost is not None and lost.primary == self._node_id:
            raise TabletDamaged(lost.id, LOST)
        return Moved("", 0)

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
                if assignment.primary == self._node_id:
                    raise TabletDamaged(assignment.id, LOST)
                return Moved("", assignment.epoch)
        return Moved("", 0)

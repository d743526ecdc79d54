"""What clients ask of a storage server: each request goes to its tablet, or is told where that is."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from attrs import frozen

from penncloud.lsm.errors import TabletDamaged
from penncloud.placement.tablets import row_hash
from penncloud.storage.member import Member
from penncloud.storage.reads import NOT_SERVING_RETRY_MS, Answer
from penncloud.storage.replicas import Replicas
from penncloud.storage.surroundings import Surroundings
from penncloud.storage.tablet import Tablet
from penncloud.storage.watches import Watcher
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
# What clients are told to wait when the log cannot be written any more: the server ends.
FAILED_RETRY_MS: Final = 1000


@frozen
class _Range:
    lo: int
    hi: int
    member: Member


class Tablets:
    """The service behind the text protocol, over the replicas of one server."""

    def __init__(self, replicas: Replicas, around: Surroundings) -> None:
        self._node_id = around.node_id
        self._replicas = replicas
        self._watches = around.watches
        self._ranges: list[_Range] = []
        self._starts: list[int] = []
        self.stopping = False
        # Requests since the start, by kind.
        self.counts = {"get": 0, "mutate": 0, "scan": 0}

    @property
    def watched_rows(self) -> int:
        return len(self._watches)

    @property
    def tablets(self) -> list[Tablet]:
        """Those that are served here now."""
        return [served.member.tablet for served in self._ranges if served.member.tablet.serving]

    def assigned(self) -> None:
        """The replicas have a new assignment: serve the tablets in it, as far as they lead."""
        self._ranges = sorted(
            (
                _Range(member.lo, member.hi, member)
                for member in self._replicas.members.values()
                if member.assignment is not None
            ),
            key=lambda served: served.lo,
        )
        self._starts = [served.lo for served in self._ranges]
        for row in self._watches.rows():
            if self._find(row) is None:
                # A hint to read again leads the watchers of a row that has left to its new server.
                self._watches.tell(row, 0)

    # -- requests --------------------------------------------------------------------------------

    def get(self, request: Get) -> Answer:
        self.counts["get"] += 1
        tablet = self._serving(request.row)
        if isinstance(tablet, Tablet):
            return tablet.get(request)
        return tablet

    def mutate(self, mutation: Mutation, request_id: RequestId | None) -> Answer:
        self.counts["mutate"] += 1
        tablet = self._serving(mutation.row)
        if not isinstance(tablet, Tablet):
            return tablet
        journal = self._replicas.journal
        if journal.failed:
            return Busy(FAILED_RETRY_MS)
        return tablet.mutate(mutation, request_id, journal.full)

    def scan(self, request: Scan) -> Answer:
        self.counts["scan"] += 1
        tablet = self._serving(request.row)
        return tablet.scan(request) if isinstance(tablet, Tablet) else tablet

    def scan_tablet(self, request: ScanTablet) -> Answer:
        self.counts["scan"] += 1
        tablet = self._here(self._replicas.members.get(request.tablet))
        return tablet.scan_all(request) if isinstance(tablet, Tablet) else tablet

    def watch(self, request: Watch, watcher: Watcher) -> Reply:
        tablet = self._serving(request.row)
        if not isinstance(tablet, Tablet):
            return tablet
        if not tablet.may_watch():
            return Busy(NOT_SERVING_RETRY_MS)
        self._watches.add(request.row, watcher)
        return Ok(tablet.committed)

    def unwatch(self, request: Unwatch, watcher: Watcher) -> Reply:
        """Answered with Ok wherever the row is: the watch has ended."""
        self._watches.remove(request.row, watcher)
        member = self._find(request.row)
        return Ok(0 if member is None else member.tablet.committed)

    # -- where a row is --------------------------------------------------------------------------

    def _find(self, row: bytes) -> Member | None:
        place = row_hash(row)
        index = bisect_right(self._starts, place) - 1
        if index < 0 or place >= self._ranges[index].hi:
            return None
        return self._ranges[index].member

    def _serving(self, row: bytes) -> Tablet | Reply:
        return self._here(self._find(row))

    def _here(self, member: Member | None) -> Tablet | Reply:
        """The tablet, if this is its primary; else what to answer. Raises TabletDamaged."""
        if self.stopping:
            return Busy(STOPPING_RETRY_MS)
        if member is None:
            return Moved("", 0)
        tablet = member.tablet
        if tablet.serving:
            return tablet
        config = member.replica.config
        if config is not None and config.primary != self._node_id:
            return self._elsewhere(config.primary, config.cfg)
        if tablet.damage:
            raise TabletDamaged(tablet.id, tablet.damage)
        return Busy(NOT_SERVING_RETRY_MS)

    def _elsewhere(self, primary: str, cfg: int) -> Reply:
        """Nobody is sent to a server that is taken for dead: who comes next, the coordinators know."""
        replicas = self._replicas
        known = primary not in replicas.suspects
        return Moved(replicas.addresses.get(primary, "") if known else "", cfg)

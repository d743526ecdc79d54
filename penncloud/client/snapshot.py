"""All cells of a cluster as they were at one moment, read at leisure while it goes on working.

    hold writes at every primary -> all hold: take the snapshots -> go on -> check the map -> read

The cut is consistent: of two writes, the second sent after the first was answered, it never has the second
without the first. It is taken within the hold (some milliseconds; a server ends it by itself after
`HOLD_S`), and again when a primary changed meanwhile, was too slow, or was not there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.client.table import Unavailable
from penncloud.placement.tablets import HASH_SPACE, TabletMap
from penncloud.platform.config import Cluster, parse_address
from penncloud.platform.environment import Environment
from penncloud.platform.errors import PennCloudError
from penncloud.rpc.auth import load_secret
from penncloud.rpc.client import RpcClient
from penncloud.rpc.errors import Refusal, RpcError
from penncloud.storage.backup_messages import (
    CloseSnapshots,
    Done,
    Held,
    HoldWrites,
    ReadCell,
    ReadSnapshot,
    ReleaseWrites,
    SnapshotCell,
    SnapshotPage,
    SnapshotsTaken,
    TakeSnapshots,
)
from penncloud.wire.limits import MAX_SCAN_CELLS

HOLD_S: Final = 1.0
ATTEMPTS: Final = 10
_PAUSE_S: Final = 1.0
_CALL_S: Final = 15.0


class MapSource(Protocol):
    """Where the tablet map comes from: `client.router.RoutedTable`."""

    async def tablet_map(self) -> TabletMap: ...


class NoCut(Unavailable):
    """The cluster did not stand still enough for a snapshot: a tablet without primary, a slow server."""


class SnapshotLost(PennCloudError):
    """A server has not got its part of the snapshot any more (it was restarted): begin anew."""

    retryable = True


@frozen
class TabletSnapshot:
    """One tablet of the cut. `version` is the last mutation in it."""

    id: int
    lo: int
    hi: int
    epoch: int
    version: int
    server: str
    snapshot: int


class ClusterSnapshot:
    """Made by `take`; `close` lets the servers go on with their files."""

    log = Logger()

    def __init__(self, environment: Environment, cluster: Cluster) -> None:
        self._environment = environment
        self._cluster = cluster
        self._clients: dict[str, RpcClient] = {}
        self.tablets: list[TabletSnapshot] = []

    async def take(self, maps: MapSource) -> None:
        """Raises NoCut, or Unavailable where no coordinator answers."""
        why = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                await deferLater(self._environment.reactor, _PAUSE_S)
            try:
                self.tablets = await self._attempt(maps)
            except (Refusal, RpcError, NoCut) as error:
                why = str(error)
                self.log.info("no snapshot yet: {why}", why=why)
            else:
                return
        raise NoCut(f"no snapshot of the whole cluster in {ATTEMPTS} attempts: {why}")

    async def _attempt(self, maps: MapSource) -> list[TabletSnapshot]:
        servers = _primaries(await maps.tablet_map())
        holds: dict[str, Held] = {}
        taken: dict[str, SnapshotsTaken] = {}
        try:
            await self._at_all(servers, lambda server: self._hold(server, holds))
            _check_complete(holds)
            await self._at_all(servers, lambda server: self._take(server, holds, taken))
        except BaseException:
            await self._close_sets([(server, found.snapshot) for server, found in taken.items()])
            raise
        finally:
            # What cannot be released ends by itself.
            await gatherResults(
                [self._quietly(server, ReleaseWrites(held.hold)) for server, held in holds.items()]
            )
        cut = []
        for server, found in taken.items():
            versions = {each.tablet: each.version for each in found.tablets}
            cut += [
                TabletSnapshot(
                    each.id, each.lo, each.hi, each.epoch, versions[each.id], server, found.snapshot
                )
                for each in holds[server].tablets
            ]
        cut.sort(key=lambda tablet: tablet.lo)
        now = await maps.tablet_map()
        if [(each.id, each.epoch) for each in now.tablets] != [(t.id, t.epoch) for t in cut]:
            # A primary that was deposed before its snapshot may lack what its successor has answered.
            await self._close_sets([(server, found.snapshot) for server, found in taken.items()])
            raise NoCut("the tablets have moved meanwhile")
        return cut

    async def _hold(self, server: str, holds: dict[str, Held]) -> None:
        client = self._client(server)
        holds[server] = await client.call(HoldWrites(round(HOLD_S * 1000)), Held, HOLD_S)

    async def _take(
        self, server: str, holds: dict[str, Held], taken: dict[str, SnapshotsTaken]
    ) -> None:
        held = holds[server]
        call = TakeSnapshots(held.hold, [tablet.id for tablet in held.tablets])
        taken[server] = await self._client(server).call(call, SnapshotsTaken, HOLD_S)

    async def _at_all(
        self, servers: Sequence[str], act: Callable[[str], Coroutine[Any, Any, None]]
    ) -> None:
        acting = [Deferred.fromCoroutine(act(server)) for server in servers]
        # All have ended before anything is undone.
        failures: list[Failure] = []
        for each in acting:
            each.addErrback(failures.append)
        await gatherResults(acting)
        if failures:
            failures[0].raiseException()

    # -- reading ---------------------------------------------------------------------------------

    async def cells(
        self, tablet: TabletSnapshot, max_value: int
    ) -> AsyncIterator[Sequence[SnapshotCell]]:
        """Pages of all cells of a tablet, in the order of keys; values are cut to `max_value` bytes.

        Raises SnapshotLost.
        """
        row, col = b"", b""
        while True:
            call = ReadSnapshot(tablet.snapshot, tablet.id, row, col, MAX_SCAN_CELLS, max_value)
            page = await self._read(tablet, call)
            yield page.cells
            if not page.more:
                return
            row, col = page.cells[-1].row, page.cells[-1].col + b"\x00"

    async def value(self, tablet: TabletSnapshot, row: bytes, col: bytes) -> bytes:
        """The whole value of a cell that `cells` has shown. Raises SnapshotLost."""
        page = await self._read(tablet, ReadCell(tablet.snapshot, tablet.id, row, col))
        if not page.cells:
            raise SnapshotLost(f"tablet {tablet.id}: a cell of the snapshot is gone")
        return page.cells[0].value

    async def _read(self, tablet: TabletSnapshot, call: ReadSnapshot | ReadCell) -> SnapshotPage:
        try:
            return await self._client(tablet.server).call(call, SnapshotPage, _CALL_S)
        except (Refusal, RpcError) as error:
            raise SnapshotLost(f"tablet {tablet.id} at {tablet.server}: {error}") from error

    async def close(self) -> None:
        """Let go of everything; the snapshots that cannot be told end by themselves."""
        sets = {(tablet.server, tablet.snapshot) for tablet in self.tablets}
        await self._close_sets(sorted(sets))
        self.tablets = []
        clients, self._clients = self._clients, {}
        await gatherResults([Deferred.fromCoroutine(each.stop()) for each in clients.values()])

    async def _close_sets(self, sets: Sequence[tuple[str, int]]) -> None:
        await gatherResults(
            [self._quietly(server, CloseSnapshots(number)) for server, number in sets]
        )

    def _quietly(self, server: str, call: ReleaseWrites | CloseSnapshots) -> Deferred[None]:
        told = Deferred.fromCoroutine(self._client(server).call(call, Done, HOLD_S))

        def not_told(failure: Failure) -> None:
            failure.trap(RpcError, Refusal)
            self.log.info("{server}: {why}", server=server, why=failure.getErrorMessage())

        return told.addCallbacks(lambda _: None, not_told)

    def _client(self, server: str) -> RpcClient:
        if server not in self._clients:
            host, port = parse_address(server)
            secret = load_secret(self._cluster, host)
            client = RpcClient(self._environment, host, port, secret=secret, roles=("storage",))
            client.start()
            self._clients[server] = client
        return self._clients[server]


def _primaries(tablets: TabletMap) -> list[str]:
    """host:port of all primaries."""
    if not tablets.tablets:
        raise NoCut("the cluster has no tablets yet")
    without = [tablet.id for tablet in tablets.tablets if not tablet.primary]
    if without:
        raise NoCut(f"tablets without a primary: {', '.join(map(str, without))}")
    return sorted({tablet.primary for tablet in tablets.tablets})


def _check_complete(holds: dict[str, Held]) -> None:
    """Together the primaries hold the whole hash space, each part once."""
    held = sorted((tablet.lo, tablet.hi) for each in holds.values() for tablet in each.tablets)
    end = 0
    for lo, hi in held:
        if lo != end:
            raise NoCut("the primaries are changing")
        end = hi
    if end != HASH_SPACE:
        raise NoCut("the primaries are changing")

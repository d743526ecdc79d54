"""More than the servers can take: they say so at once, stay small, and go on serving the others."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from attrs import evolve
from twisted.internet import reactor as real_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from penncloud.client.coordinator_link import CoordinatorDirectory
from penncloud.client.directory import TabletInfo
from penncloud.client.router import RoutedTable
from penncloud.client.table import PutCell, Unavailable, scan_all
from penncloud.cluster.layout import Layout
from penncloud.placement.tablets import row_hash
from penncloud.platform.tls import Credentials
from penncloud.rpc.endpoints import internal_endpoint
from penncloud.torture.bed import Bed, Size
from penncloud.torture.lan import Loopback
from tests.rpc.world import environment
from tests.waiting import PATIENCE_S

reactor: Any = real_reactor

# What a server may hold in memory, whatever is thrown at it (MB). Idle ones have about 60.
_MOST_MB: Final = 350
# An answer that has not come by then will not come before the secondary works again.
_AT_ONCE_S: Final = 5.0
_LARGE: Final = b"x" * 65_536


class _Raw(Protocol):
    """A connection that sends what it is told and keeps what comes back."""

    def __init__(self) -> None:
        self.received = b""
        self.lost = False
        self._awaited: list[tuple[int, Deferred[bytes]]] = []

    def replies(self, count: int) -> Deferred[bytes]:
        """Fires with all that came once there are so many lines."""
        told: Deferred[bytes] = Deferred()
        self._awaited.append((count, told))
        self.dataReceived(b"")
        return told

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        lines = self.received.count(b"\r\n")
        for awaited in list(self._awaited):
            if lines >= awaited[0]:
                self._awaited.remove(awaited)
                awaited[1].callback(self.received)

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True
        awaited, self._awaited = self._awaited, []
        for _, told in awaited:
            told.errback(reason)


class OverloadTests(TestCase):
    timeout = 600

    async def _start(self) -> None:
        layout = Layout.at(self.mktemp())
        self.bed = Bed(reactor, layout, Loopback(), Size(1, 3, 0), now=time.time)
        self.bed.make()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.bed.remove()))
        self.bed.start()
        credentials = Credentials.at(str(layout.tls), self.bed.auditor)
        world = self.world = evolve(environment(reactor, seed=5), credentials=credentials)
        self.table = RoutedTable(world, self.bed.cluster)
        self.table.start()
        self.addCleanup(self.table.stop)
        self.directory = CoordinatorDirectory(world, self.bed.cluster)
        self.directory.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.directory.stop()))
        await self._until(lambda tablets: bool(tablets) and _whole(tablets), "the cluster serves")

    async def _tablets(self) -> list[TabletInfo]:
        try:
            return (await self.directory.view()).tablets
        except Unavailable:
            return []

    async def _until(self, is_so: Callable[[list[TabletInfo]], bool], what: str) -> None:
        deadline = reactor.seconds() + PATIENCE_S
        while not is_so(tablets := await self._tablets()):
            self.assertLess(reactor.seconds(), deadline, f"{what}: {tablets}")
            await deferLater(reactor, 0.2)

    async def _tablet(self, row: bytes) -> TabletInfo:
        place = row_hash(row)
        return next(one for one in await self._tablets() if one.lo <= place < one.hi)

    async def _connect(self, server: str) -> _Raw:
        station = self.bed.stations[server]
        endpoint = internal_endpoint(self.world, station.address, station.server.port, 10.0)
        connection: Any = await endpoint.connect(Factory.forProtocol(_Raw))
        self.addCleanup(connection.transport.abortConnection)
        raw: _Raw = connection
        return raw

    def _memory_mb(self, server: str) -> float:
        status = Path(f"/proc/{self.bed.stations[server].process.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(line.split()[1]) / 1024

    def test_more_than_they_can_take(self) -> Deferred[None]:
        """A huge scan, a secondary that stands still, and queues that are full."""
        return Deferred.fromCoroutine(self._all())

    async def _all(self) -> None:
        await self._start()
        await self._huge_scans_stall_nobody()
        await self._a_standing_secondary_is_removed()
        await self._full_queues_are_busy_at_once()

    # -- one huge scan ---------------------------------------------------------------------------

    async def _huge_scans_stall_nobody(self) -> None:
        """Small reads of the same tablet are answered while several read a row of 24 MB."""
        row = b"huge"
        for page in range(24):
            many = [PutCell(b"cell/%d.%d" % (page, n), b"y" * 15_000) for n in range(64)]
            await self.table.mutate(row, many)
        await self.table.put(row, b"small", b"here")
        scanning = True
        scans = 0

        async def scan() -> None:
            nonlocal scans
            while scanning:
                cells = await scan_all(self.table, row, b"cell/")
                self.assertEqual(len(cells), 24 * 64)
                scans += 1

        scanners = [Deferred.fromCoroutine(scan()) for _ in range(4)]
        for _ in range(100):
            cell = await self.table.get(row, b"small", deadline_s=PATIENCE_S)
            assert cell is not None
            self.assertEqual(cell.value, b"here")
        scanning = False
        await gatherResults(scanners)
        self.assertGreaterEqual(scans, 4)
        primary = (await self._tablet(row)).primary
        self.assertLess(self._memory_mb(primary), _MOST_MB)

    # -- a slow secondary ------------------------------------------------------------------------

    async def _a_standing_secondary_is_removed(self) -> None:
        """Writes go on without one that does not answer, and it is taken back when it does."""
        row = b"slow"
        tablet = await self._tablet(row)
        victim = next(member for member in tablet.members if member != tablet.primary)
        self.bed.pause(victim)
        await self.table.put(row, b"v", b"without it", deadline_s=PATIENCE_S)
        left = await self._tablet(row)
        self.assertNotIn(victim, left.members)
        self.bed.resume(victim)
        await self._until(_whole, "it is taken back")

    # -- full queues -----------------------------------------------------------------------------

    async def _full_queues_are_busy_at_once(self) -> None:
        """While a tablet cannot commit anything its primary refuses at once what it has no room for."""
        row = b"full"
        tablet = await self._tablet(row)
        victim = next(member for member in tablet.members if member != tablet.primary)
        [coordinator] = self.bed.of("coordinator")
        # Without a coordinator nobody can remove the secondary: the primary has to wait for it.
        self.bed.pause(coordinator)
        self.bed.pause(victim)
        many = b"".join(b"PUTV;%b;c%d;%d;%b\r\n" % (row, n, 65_536, _LARGE) for n in range(128))
        crowd = [await self._connect(tablet.primary) for _ in range(8)]
        for connection in crowd:
            assert connection.transport is not None
            connection.transport.write(many)
        last = await self._connect(tablet.primary)
        assert last.transport is not None
        deadline = reactor.seconds() + PATIENCE_S
        count = 0
        while not last.received.endswith(b"\r\n") or b"-BUSY;" not in last.received:
            self.assertLess(reactor.seconds(), deadline, last.received[-100:])
            count += 1
            last.transport.write(b"PUTV;%b;mine;%d;%b\r\n" % (row, len(_LARGE), _LARGE))
            last = await self._answered_or_another(last, tablet.primary, count)
        self.assertLess(self._memory_mb(tablet.primary), _MOST_MB)
        self.bed.resume(victim)
        self.bed.resume(coordinator)
        await self._until(_whole, "the cluster is whole")
        for connection in crowd:
            replies = await connection.replies(128).addTimeout(PATIENCE_S, reactor)
            for line in replies.split(b"\r\n")[:128]:
                self.assertTrue(line.startswith((b"+OK;", b"-BUSY;", b"-UNKNOWN", b"-MOVED")), line)
        await self.table.put(row, b"v", b"after", deadline_s=PATIENCE_S)

    async def _answered_or_another(self, raw: _Raw, server: str, count: int) -> _Raw:
        """The connection when its request was answered at once; else it was taken in, and a new one."""
        try:
            await raw.replies(1).addTimeout(_AT_ONCE_S, reactor)
        except DeferredTimeout:
            # It waits for the secondary, as it should.
            self.assertLess(count, 100)
            return await self._connect(server)
        return raw


def _whole(tablets: list[TabletInfo]) -> bool:
    return bool(tablets) and all(
        tablet.state == "ok" and len(tablet.members) == 3 for tablet in tablets
    )

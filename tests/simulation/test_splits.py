"""Tablets split under a whole cluster: real coordinators, real clients, and servers that die meanwhile."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from penncloud.client.table import AppendCell, Unavailable
from penncloud.judge.workloads import Access
from penncloud.simulation.cluster import Cluster, Settings
from penncloud.simulation.world import World
from penncloud.storage.node import StorageNode

_ROWS = 60


class _Clients:
    """Append to every row, several at a time, each row again and again until it is told to stop."""

    def __init__(self) -> None:
        # By row: the columns of which a client was told.
        self.told: dict[bytes, list[bytes]] = {}
        self.read: dict[bytes, list[bytes]] = {}
        self.longest_s = 0.0
        self.unavailable = 0
        self.booted = self.stopped = False
        self.working = 0

    async def work(self, access: Access) -> None:
        for lane in range(2):
            self.working += 1
            working = Deferred.fromCoroutine(self._lane(access, lane))
            working.addErrback(lambda failure: failure.printTraceback())

    async def _lane(self, access: Access, lane: int) -> None:
        clock = access.environment.reactor
        number = 0
        while not self.stopped:
            row = b"row%d" % ((lane + 2 * number) % _ROWS)
            number += 1
            await deferLater(clock, 0.02)
            began = clock.seconds()
            try:
                done = await access.table.mutate(
                    row, (AppendCell(b"", b"x" * 4000),), deadline_s=20
                )
            except Unavailable:
                self.unavailable += 1
                continue
            if self.booted:
                self.longest_s = max(self.longest_s, clock.seconds() - began)
            self.told.setdefault(row, []).append(b"%d" % done)
        self.working -= 1

    async def audit(self, access: Access) -> None:
        self.access = access

    async def read_all(self) -> None:
        for row in self.told:
            cells = (await self.access.table.scan(row, limit=1000)).cells
            self.read[row] = [b"%d" % cell.version for cell in cells]


class SplitsUnderLoadTests(SynchronousTestCase):
    """Two tablets that become many."""

    def play(self, seed: int, kills: bool) -> _Clients:
        world = World(f"splits/{seed}", keep_trace=False)
        clients = _Clients()
        settings = Settings(tablets=2, clients=1, split_bytes=256 * 1024)
        cluster = Cluster(world, settings, clients.work, clients.audit)
        cluster.start(0.0)
        world.run(5)
        clients.booted = True
        for round_ in range(3):
            victim = cluster.storages[round_ % 3]
            if kills:
                victim.kill(power=True)
            world.run(1.5)
            victim.start()
            world.run(3.5)
        clients.stopped = True
        self.assertTrue(world.run(30, lambda: clients.working == 0))
        self.settle(world, cluster, clients)
        self.assertEqual(world.errors, [])
        return clients

    def settle(self, world: World, cluster: Cluster, clients: _Clients) -> None:
        """Every append of which a client was told is there once, and nothing else twice."""
        world.run(20)
        process = cluster.auditor.process
        assert process is not None
        ended: list[object] = []

        def begin() -> None:
            Deferred.fromCoroutine(clients.read_all()).addBoth(ended.append)

        process.execute(begin)
        self.assertTrue(world.run(60, lambda: bool(ended)))
        self.assertEqual(ended, [None])
        for row, told in clients.told.items():
            self.assertEqual(len(set(told)), len(told))
            self.assertLessEqual(set(told), set(clients.read[row]), row)
        self.tablets = [self._tablets(host.node) for host in cluster.storages]

    def _tablets(self, node: object) -> list[int]:
        assert isinstance(node, StorageNode)
        return sorted(node._replicas.members)

    def test_without_trouble(self) -> None:
        """No client waits long, none is refused, and all servers end up with the same many tablets."""
        clients = self.play(1, kills=False)
        self.assertEqual(clients.unavailable, 0)
        self.assertLess(clients.longest_s, 1.0)
        self.assertGreater(len(self.tablets[0]), 3)
        self.assertEqual(self.tablets, [self.tablets[0]] * 3)

    def test_while_servers_die(self) -> None:
        """Nothing of which a client was told is lost."""
        for seed in (2,):
            self.play(seed, kills=True)
            self.flushLoggedErrors()
            self.assertGreater(len(self.tablets[0]), 3)
            # A copy that was away while its tablet split may still wait for leave to go.
            common = set.intersection(*map(set, self.tablets))
            self.assertGreater(len(common), len(self.tablets[0]) // 2)

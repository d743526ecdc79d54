"""Twin of `penncloud.web.workers.front`: the process that holds the port, with workers that are none."""

from __future__ import annotations

import msgspec
from prometheus_client import CollectorRegistry
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.trial.unittest import TestCase

from penncloud.client.memory import MemoryTable
from penncloud.platform.config import Cluster, Http
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.metrics import exposition
from penncloud.platform.supervisor import Ended
from penncloud.services.accounts import Accounts
from penncloud.web.workers.front import FrontNode
from penncloud.web.workers.words import Retire
from tests.web.frontend import QUICK, environment_for
from tests.web.workers.fake_worker import FakeSpawner, FakeWorker

ROLE = Http(id="http-1", port=0, session_hours=1)


class FrontTests(TestCase):
    def setUp(self) -> None:
        self.spawner = FakeSpawner()
        self.table = MemoryTable()
        self.registry = CollectorRegistry()
        self.front = self.make(ROLE)

    def make(self, role: Http) -> FrontNode:
        environment = environment_for(reactor)
        return FrontNode(
            environment,
            cluster=Cluster(),
            role=role,
            table=self.table,
            registry=self.registry,
            count=2,
            spawn_on=lambda socket: self.spawner.spawn,
            hasher=QUICK,
        )

    async def started(self) -> None:
        starting = Deferred.fromCoroutine(self.front.start())
        for worker in self.workers(2):
            worker.serve()
        await starting

    def workers(self, count: int) -> list[FakeWorker]:
        """The last ones that were started."""
        return self.spawner.started[-count:]

    async def ended(self) -> None:
        ending = Deferred.fromCoroutine(self.front.stop())
        for worker in self.spawner.alive:
            while worker.alive and not worker.retirements:
                turned: Deferred[None] = Deferred()
                reactor.callLater(0, turned.callback, None)
                await turned
            worker.end(Ended(0, None))
        await ending

    async def test_connections_wait_for_workers(self) -> None:
        """The port is open before anybody accepts; the first admin is made once, by the front."""
        starting = Deferred.fromCoroutine(self.front.start())
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.front.port)
        waiting = await connectProtocol(endpoint, Protocol())
        self.assertNoResult(starting)
        self.assertEqual(self.front.trouble(), "no worker serves")
        for worker in self.workers(2):
            worker.serve()
        await starting
        self.assertTrue(await Accounts(self.table, environment_for(reactor), QUICK).exists("admin"))
        assert waiting.transport is not None
        waiting.transport.loseConnection()
        await self.ended()

    async def test_reload(self) -> None:
        """Workers are renewed with what is new, but for what the front itself is made of; which keys are in
        use is told."""
        await self.started()
        wanted = msgspec.structs.replace(ROLE, session_hours=7, port=9999, workers=5)
        taken = self.front.reload(wanted)
        self.assertIn("session_hours", taken)
        self.assertTrue(taken.isdisjoint({"port", "workers", "host", "id", "mail_config"}))
        self.spawner.last.serve()
        self.spawner.last.serve()
        roles = [worker.begin.role for worker in self.workers(2)]
        self.assertEqual(roles, [msgspec.structs.replace(ROLE, session_hours=7)] * 2)
        for old in self.spawner.started[:2]:
            self.assertEqual(old.retirements, [Retire(ROLE.drain_s, patient=True)])
        await self.ended()

    async def test_bad_reload(self) -> None:
        """A configuration that no worker takes changes nothing."""
        await self.started()
        self.front.reload(msgspec.structs.replace(ROLE, session_hours=-7))
        self.spawner.last.fail("what a number")
        self.assertEqual(self.front.trouble(), "no coordinator is connected")
        self.assertEqual(self.front.pool.serving, 2)
        await self.ended()

    async def test_metrics(self) -> None:
        """How many workers do what is the front's to say."""
        await self.started()
        self.spawner.started[0].end(Ended(None, 9))
        text = exposition(self.registry, {}).decode()
        self.assertIn("penncloud_http_workers_serving 1.0", text)
        self.assertIn("penncloud_http_workers_waiting 1.0", text)
        await self.ended()

    async def test_cannot_start(self) -> None:
        """What a worker cannot serve with ends the frontend's start."""
        starting = Deferred.fromCoroutine(self.front.start())
        self.spawner.started[0].fail("no such file")
        with self.assertRaisesRegex(ConfigurationError, "no such file"):
            await starting
        await self.ended()

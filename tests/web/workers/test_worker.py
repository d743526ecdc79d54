"""Twin of `penncloud.web.workers.worker`: a worker from inside, in this process."""

from __future__ import annotations

import os
from typing import Any

from prometheus_client import CollectorRegistry, Gauge
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Protocol
from twisted.trial.unittest import TestCase

from penncloud.client.directory import MemoryDirectory
from penncloud.client.memory import MemoryTable
from penncloud.client.raw import MemoryRawCells
from penncloud.placement.tablets import TabletMap
from penncloud.platform.config import Cluster, Http
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.listening import accept_from, descriptor_of, hold_port, port_of
from penncloud.web.attempts import Attempts
from penncloud.web.serving import Serving
from penncloud.web.workers.words import (
    Begin,
    Failed,
    FromWorker,
    Report,
    Reported,
    Retire,
    Serves,
    UseCoordinators,
)
from penncloud.web.workers.worker import Worker
from tests.services.recording_control import RecordingControl
from tests.web.frontend import QUICK, environment_for

BEGIN = Begin(1, Cluster(), Http(id="http-1"), ["10.0.0.1:1"])


class _Link:
    def __init__(self) -> None:
        self.notes: list[object] = []

    def start(self) -> None:
        self.notes.append("start")

    def use_coordinators(self, addresses: Any) -> None:
        self.notes.append(list(addresses))

    def stop(self) -> None:
        self.notes.append("stop")


class _Workplace:
    """A process that is none. `refuses`: what is wrong with its configuration."""

    def __init__(self, held: IListeningPort) -> None:
        self._held = held
        self.refuses = ""
        self.link = _Link()
        self.left: Deferred[bool] = Deferred()

    async def build(self, begin: Begin, attempts: Attempts) -> tuple[Serving, CollectorRegistry]:
        if self.refuses:
            raise ConfigurationError(self.refuses)
        table, registry = MemoryTable(), CollectorRegistry()
        Gauge("penncloud_seven", "", registry=registry).set(7)
        serving = Serving(
            environment_for(reactor),
            cluster=begin.cluster,
            role=begin.role,
            table=table,
            raw=MemoryRawCells(table, TabletMap(1, ())),
            directory=MemoryDirectory(),
            control=RecordingControl(),
            registry=registry,
            links=[self.link],
            attempts=attempts,
            hasher=QUICK,
        )
        return serving, registry

    async def listen(self, factory: Any) -> IListeningPort:
        return accept_from(reactor, os.dup(descriptor_of(self._held)), factory)

    def leave(self, failed: bool) -> None:
        self.left.callback(failed)


class WorkerTests(TestCase):
    async def workplace(self) -> _Workplace:
        held = await hold_port(reactor, "127.0.0.1", 0)
        self.addCleanup(held.stopListening)
        self.port = port_of(held)
        return _Workplace(held)

    def worker(self, workplace: _Workplace) -> tuple[Worker, list[FromWorker], Deferred[None]]:
        said: list[FromWorker] = []
        first: Deferred[None] = Deferred()

        def say(word: FromWorker) -> None:
            said.append(word)
            if not first.called:
                first.callback(None)

        return Worker(workplace, say, reactor), said, first

    async def test_serves_until_it_retires(self) -> None:
        """It says that it serves, reports, follows the coordinators, and ends when it has nothing left to do,
        while the port stays open for others."""
        workplace = await self.workplace()
        worker, said, first = self.worker(workplace)
        worker.heard(BEGIN)
        await first
        self.assertEqual(said, [Serves()])
        worker.heard(UseCoordinators(["10.0.0.2:1"]))
        worker.heard(Report())
        reported = said[-1]
        assert isinstance(reported, Reported)
        self.assertIn("penncloud_seven", [family.name for family in reported.families])
        worker.heard(Retire(60, patient=True))
        self.assertFalse(await workplace.left)
        self.assertEqual(workplace.link.notes, ["start", ["10.0.0.1:1"], ["10.0.0.2:1"], "stop"])
        # The kernel still takes connections: there is a queue, and somebody may come to accept.
        waiting = await _connect(self.port)
        waiting.loseConnection()

    async def test_told_twice(self) -> None:
        """Whoever asks for the end while it is under way waits for the same end."""
        workplace = await self.workplace()
        worker, _, first = self.worker(workplace)
        worker.heard(BEGIN)
        await first
        again = worker.end(1)
        await worker.end(0.5)
        await again
        self.assertFalse(await workplace.left)

    async def test_cannot_serve(self) -> None:
        """A mistake is told to the front, and the process ends."""
        workplace = await self.workplace()
        workplace.refuses = "[http]: tls_cert: no such file"
        worker, said, first = self.worker(workplace)
        worker.heard(BEGIN)
        await first
        self.assertEqual(said, [Failed("[http]: tls_cert: no such file")])
        self.assertTrue(await workplace.left)

    async def test_retired_before_it_began(self) -> None:
        """A front that ends at once has nothing to wait for."""
        workplace = await self.workplace()
        worker, said, _ = self.worker(workplace)
        worker.heard(Retire(1, patient=False))
        self.assertFalse(await workplace.left)
        self.assertEqual(said, [])


async def _connect(port: int) -> Any:
    protocol: Any = await connectProtocol(
        TCP4ClientEndpoint(reactor, "127.0.0.1", port), Protocol()
    )
    return protocol.transport

"""Storage servers as real processes: killed, stopped, refused a directory, betrayed by their disk."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from penncloud.wire.messages import (
    AppendCell,
    Busy,
    Cells,
    Malformed,
    Moved,
    Mutate,
    Ok,
    Reply,
    Request,
    RequestId,
    Scan,
    Unknown,
)
from penncloud.wire.replies import ReplyDecoder
from penncloud.wire.requests import encode_request
from tests.processes.role_process import RoleProcess, free_port

# Rows, so that all tablets take part, and appends to each.
ROWS = [b"row-%d" % index for index in range(10)]
APPENDS = 100


class Pipeline(Protocol):
    """Sends requests at once; `answers` are the replies so far, `over` fires when no more will come.

    `stop_after` answers have come: `reached` fires.
    """

    def __init__(self, requests: Sequence[tuple[Request, ...]], stop_after: int = 0) -> None:
        self._requests = requests
        self._stop_after = stop_after
        self._decoder = ReplyDecoder()
        self.answers: list[Reply | Malformed] = []
        self.reached: Deferred[None] = Deferred()
        self.over: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        transport: Any = self.transport
        for request in self._requests:
            transport.write(b"".join(map(encode_request, request)))

    def dataReceived(self, data: bytes) -> None:
        self.answers += self._decoder.feed(data)
        if self._stop_after and len(self.answers) >= self._stop_after and not self.reached.called:
            self.reached.callback(None)
        if len(self.answers) == len(self._requests):
            transport: Any = self.transport
            transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.over.callback(None)


def appends() -> dict[RequestId, Request]:
    """Every append by its request id; a value is its id's number."""
    return {
        RequestId(b"load", seq): Mutate(ROWS[seq % len(ROWS)], (AppendCell(b"log/", b"%d" % seq),))
        for seq in range(1, len(ROWS) * APPENDS + 1)
    }


class StorageProcessTests(TestCase):
    """A coordinator and one storage server."""

    timeout = 600

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.coordinator_port, self.storage_port = free_port(), free_port()
        self.processes: list[RoleProcess] = []
        self.addCleanup(lambda: Deferred.fromCoroutine(self.end_all()))

    async def end_all(self) -> None:
        for process in self.processes:
            await process.signal(signal.SIGKILL)

    def start(
        self, name: str, port: int, options: dict[str, object], file_limit_bytes: int = 0
    ) -> RoleProcess:
        common = {
            "id": f"{name}-1",
            "port": port,
            "data-dir": self.directory / f"{name}-1",
            "cluster-coordinators": f"127.0.0.1:{self.coordinator_port}",
        }
        process = RoleProcess(reactor, name, {**common, **options}, file_limit_bytes)
        self.processes.append(process)
        return process

    def coordinator(self) -> RoleProcess:
        return self.start("coordinator", self.coordinator_port, {"expect-storage": 1})

    def storage(self, file_limit_bytes: int = 0) -> RoleProcess:
        return self.start("storage", self.storage_port, {}, file_limit_bytes)

    async def pipeline(
        self, requests: Sequence[tuple[Request, ...]], stop_after: int = 0
    ) -> Pipeline:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.storage_port)
        pipeline: Pipeline = await connectProtocol(endpoint, Pipeline(requests, stop_after))
        return pipeline

    async def ask(self, requests: Sequence[tuple[Request, ...]]) -> list[Reply | Malformed]:
        """Every answer; -BUSY, -MOVED and -UNKNOWN are asked again, as a client does."""
        answers: dict[int, Reply | Malformed] = {}
        for _ in range(1000):
            missing = [index for index in range(len(requests)) if index not in answers]
            if not missing:
                break
            pipeline = await self.pipeline([requests[index] for index in missing])
            await pipeline.over
            for index, answer in zip(missing, pipeline.answers, strict=False):
                if not isinstance(answer, Busy | Moved | Unknown):
                    answers[index] = answer
            if len(answers) < len(requests):
                await deferLater(reactor, 0.1)
        return [answers[index] for index in range(len(requests))]

    async def serving(self) -> RoleProcess:
        self.coordinator()
        storage = self.storage()
        await storage.says("storage-1 serves 6 tablets")
        return storage

    async def again(self) -> RoleProcess:
        """The storage server on the same directory, once the coordinator has it lead its tablets again."""
        storage = self.storage()
        await storage.says("storage-1 serves 6 tablets")
        return storage

    async def check(self, acknowledged: dict[RequestId, int]) -> None:
        """Send again what was not answered; then everything is there once, where it was said to be."""
        load = appends()
        answers = await self.ask([(name, request) for name, request in load.items()])
        for name, answer in zip(load, answers, strict=True):
            assert isinstance(answer, Ok), answer
            self.assertEqual(acknowledged.get(name, answer.version), answer.version)
            acknowledged[name] = answer.version
        pages = await self.ask([(Scan(row, b"", b"", 1000),) for row in ROWS])
        found: dict[int, int] = {}
        for page in pages:
            assert isinstance(page, Cells), page
            for cell in page.cells:
                self.assertNotIn(int(cell.value), found, "executed twice")
                found[int(cell.value)] = cell.version
        self.assertEqual(found, {name.seq: version for name, version in acknowledged.items()})

    async def test_killed_under_load(self) -> None:
        """kill -9 again and again: what was acknowledged is there, and a repeat executes once."""
        storage = await self.serving()
        load = list(appends().items())
        acknowledged: dict[RequestId, int] = {}
        for stop_after in (150, 400, 700):
            pipeline = await self.pipeline(load, stop_after)
            await pipeline.reached
            await storage.signal(signal.SIGKILL)
            await pipeline.over
            for (name, _), answer in zip(load, pipeline.answers, strict=False):
                assert isinstance(answer, Ok), answer
                self.assertEqual(acknowledged.setdefault(name, answer.version), answer.version)
            self.assertGreaterEqual(len(acknowledged), stop_after)
            storage = await self.again()
        await self.check(acknowledged)

    async def test_stopped_under_load(self) -> None:
        """SIGTERM: what was taken on is answered, the exit is clean, and nothing is lost."""
        storage = await self.serving()
        load = list(appends().items())
        pipeline = await self.pipeline(load, 100)
        await pipeline.reached
        # twistd stops in order and then ends itself by the same signal.
        self.assertEqual(await storage.signal(signal.SIGTERM), -signal.SIGTERM)
        self.assertIn("Server Shut Down", storage.output)
        await pipeline.over
        acknowledged = {
            name: answer.version
            for (name, _), answer in zip(load, pipeline.answers, strict=False)
            if isinstance(answer, Ok)
        }
        others = {type(answer) for answer in pipeline.answers} - {Ok}
        self.assertLessEqual(others, {Busy})
        await self.again()
        await self.check(acknowledged)

    async def test_a_directory_in_use(self) -> None:
        """A second process on the same directory ends at once and says who holds it."""
        await self.serving()
        second = self.storage()
        self.assertEqual(await second.ended, 1)
        self.assertIn("in use by another process (pid", second.output)
        self.assertNotIn("Traceback", second.output)

    async def test_a_port_in_use(self) -> None:
        """A clear line and exit code 1."""
        self.coordinator_port = self.storage_port
        await self.coordinator().says("leads term")
        second = self.storage()
        self.assertEqual(await second.ended, 1)
        self.assertIn(f"cannot listen on 127.0.0.1:{self.storage_port}", second.output)
        self.assertNotIn("Traceback", second.output)

    async def test_a_disk_that_fails(self) -> None:
        """Nobody knows what is on it: the process ends with an error instead of guessing."""
        storage = await self.serving()
        await storage.signal(signal.SIGTERM)
        betrayed = self.storage(file_limit_bytes=300_000)
        await betrayed.says("so this process ends")
        self.assertEqual(await betrayed.ended, 1)
        await self.again()

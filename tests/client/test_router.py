"""The client of a cluster: the table's contract over real sockets, and every way a server can fail."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from penncloud.client import router
from penncloud.client.connection import SILENCE_S
from penncloud.client.router import RoutedTable
from penncloud.client.table import Refused, Table, Unavailable
from penncloud.platform import trace
from penncloud.platform.config import Cluster
from penncloud.platform.environment import Environment
from penncloud.wire.messages import (
    Busy,
    Error,
    Map,
    Moved,
    Put,
    Reply,
    Request,
    RequestId,
    TraceId,
    Unknown,
)
from tests.client.scripted_server import DROP, LOSE, SILENT, ScriptedServer
from tests.client.table_contract import TableContract, deferred, raised


def environment() -> Environment:
    """A real reactor with seeded chance."""
    seeded = random.Random(1)
    return Environment(
        reactor=reactor,
        now=lambda: 0.0,
        random=seeded,
        entropy=seeded.randbytes,
        run_in_thread=lambda f, *a, **k: Deferred(),
    )


class _Served(TestCase):
    """A scripted server on a free port and a table that uses it."""

    def serve(self) -> RoutedTable:
        self.server = ScriptedServer()
        net: Any = reactor
        port: Any = net.listenTCP(0, self.server, interface="127.0.0.1")
        self.server.address = f"127.0.0.1:{port.getHost().port}"
        self.addCleanup(port.stopListening)
        table = RoutedTable(environment(), Cluster(coordinators=[self.server.address]))
        table.start()
        self.addCleanup(self._closed)
        self.addCleanup(table.stop)
        return table

    def _closed(self) -> Deferred[None]:
        """Wait until the server saw all connections end, so that none outlives the test."""
        done: Deferred[None] = Deferred()
        net: Any = reactor

        def look() -> None:
            if self.server.connections:
                net.callLater(0, look)
            else:
                done.callback(None)

        look()
        return done

    def first_times(self, count: int, told: Reply | str) -> Callable[[Request], Reply | str | None]:
        """A script: the first `count` requests get `told`, all others are done."""
        left = [count]

        def script(request: Request) -> Reply | str | None:
            left[0] -= 1
            return told if left[0] >= 0 else None

        return script


class RoutedTableContract(_Served, TableContract):
    """See TableContract."""

    def make_table(self) -> Table:
        return self.serve()


class RetryTests(_Served):
    """What the client does when a server fails it."""

    async def _put_survives(self, told: Reply | str) -> None:
        table = self.serve()
        self.server.script = self.first_times(2, told)
        version = await table.put(b"r", b"c", b"v")
        cell = await self.server.table.get(b"r", b"c")
        assert cell is not None
        self.assertEqual((cell.version, cell.value), (version, b"v"))
        self.assertEqual(version, 1, "executed more than once")
        ids = {seen for seen in self.server.seen if isinstance(seen, RequestId)}
        self.assertEqual(len(ids), 1, "a retry has to use the same request id")

    @deferred
    async def test_trace(self) -> None:
        """Each attempt says what it is for, where that is known, and only there."""
        table = self.serve()
        self.server.script = self.first_times(1, DROP)
        with trace.working_for("abc"):
            await table.put(b"r", b"c", b"v")
            await table.get(b"r", b"c")
        await table.get(b"r", b"c")
        traced = [seen.id for seen in self.server.seen if isinstance(seen, TraceId)]
        self.assertEqual(traced, [b"abc"] * 3)
        kinds = [type(seen).__name__ for seen in self.server.seen if not isinstance(seen, Map)]
        self.assertEqual(kinds[-3:], ["TraceId", "Get", "Get"])

    @deferred
    async def test_dropped(self) -> None:
        """A connection that breaks before anything was done: tried again."""
        await self._put_survives(DROP)

    @deferred
    async def test_reply_lost(self) -> None:
        """Done, but the answer got lost: the retry gets the first answer, nothing runs twice."""
        await self._put_survives(LOSE)

    @deferred
    async def test_silence_of_a_primary_of_old(self) -> None:
        """Another one is asked as soon as the map names it, not when the silent connection is given up."""
        table = self.serve()
        other = ScriptedServer()
        net: Any = reactor
        port: Any = net.listenTCP(0, other, interface="127.0.0.1")
        self.addCleanup(port.stopListening)

        def fall_silent(_request: Request) -> str:
            self.server.address = f"127.0.0.1:{port.getHost().port}"
            self.server.map_version = 2
            return SILENT

        self.server.script = fall_silent
        await table.put(b"r", b"c", b"v", deadline_s=SILENCE_S - 1)
        asked = [s for server in (self.server, other) for s in server.seen]
        ids = [seen for seen in asked if isinstance(seen, RequestId)]
        self.assertEqual(
            (len(ids), len(set(ids))), (2, 1), "a retry has to use the same request id"
        )

    @deferred
    async def test_busy(self) -> None:
        """-BUSY is waited out."""
        await self._put_survives(Busy(1))

    @deferred
    async def test_unknown(self) -> None:
        """-UNKNOWN: asked again with the same id."""
        await self._put_survives(Unknown())

    @deferred
    async def test_damaged(self) -> None:
        """-ERR;DAMAGED: a server whose copy is sound soon leads instead; the map is asked for again."""
        await self._put_survives(Error("DAMAGED", "no such block"))
        self.assertGreater(self.server.maps_asked, 1)

    @deferred
    async def test_damaged_for_good(self) -> None:
        """Where nobody has it any more, that is said, long before the deadline."""
        self.patch(router, "DAMAGED_S", 0.01)
        table = self.serve()
        self.server.script = lambda request: Error("DAMAGED", "no such block")
        refused = await raised(Refused, table.get(b"r", b"c"))
        self.assertEqual(refused.code, "DAMAGED")

    @deferred
    async def test_moved(self) -> None:
        """-MOVED: the map is asked for again."""
        table = self.serve()
        await table.put(b"r", b"c", b"0")
        before = self.server.maps_asked
        self.server.script = self.first_times(1, Moved("", 2))
        await table.put(b"r", b"c", b"v")
        self.assertGreater(self.server.maps_asked, before)

    @deferred
    async def test_map_is_remembered(self) -> None:
        """While nothing fails the coordinator is asked once."""
        table = self.serve()
        for _ in range(5):
            await table.get(b"r", b"c")
        self.assertEqual(self.server.maps_asked, 1)

    @deferred
    async def test_deadline(self) -> None:
        """A server that never answers: Unavailable at the deadline."""
        table = self.serve()
        self.server.script = lambda request: SILENT
        await raised(Unavailable, table.put(b"r", b"c", b"v", deadline_s=0.1))
        await raised(Unavailable, table.get(b"r", b"c", deadline_s=0.1))

    @deferred
    async def test_no_primary(self) -> None:
        """A tablet without primary is waited for, and found when it has one again."""
        table = self.serve()
        address, self.server.address = self.server.address, ""
        getting = Deferred.fromCoroutine(table.put(b"r", b"c", b"v"))
        await raised(Unavailable, table.get(b"r", b"c", deadline_s=0.1))
        self.server.address = address
        self.assertEqual(await getting, 1)

    @deferred
    async def test_nobody_there(self) -> None:
        """No coordinator at all: Unavailable, in bounded time."""
        self.server = ScriptedServer()
        net: Any = reactor
        port: Any = net.listenTCP(0, self.server, interface="127.0.0.1")
        address = f"127.0.0.1:{port.getHost().port}"
        await port.stopListening()
        table = RoutedTable(environment(), Cluster(coordinators=[address]))
        self.addCleanup(table.stop)
        await raised(Unavailable, table.get(b"r", b"c", deadline_s=0.2))

    @deferred
    async def test_pipelined(self) -> None:
        """Many calls at once share connections and each gets its own answer."""
        table = self.serve()
        puts = [
            Deferred.fromCoroutine(table.put(b"row%d" % i, b"c", b"%d" % i)) for i in range(500)
        ]
        for put in puts:
            await put
        for i in range(0, 500, 50):
            cell = await table.get(b"row%d" % i, b"c")
            assert cell is not None
            self.assertEqual(cell.value, b"%d" % i)
        self.assertLessEqual(len(self.server.connections), 3)
        self.assertEqual(sum(isinstance(seen, Put) for seen in self.server.seen), 500)

    @deferred
    async def test_watch_survives(self) -> None:
        """A watch is set up again after its connection broke, and the watcher is told to read."""
        table = self.serve()
        heard: list[int] = []
        waiting: list[Deferred[None]] = [Deferred()]

        def callback(version: int) -> None:
            heard.append(version)
            if not waiting[0].called:
                waiting[0].callback(None)

        watching = table.watch(b"r", callback)
        await waiting[0]
        waiting[0] = Deferred()
        for connection in list(self.server.connections):
            connection.transport.abortConnection()
        await waiting[0]
        waiting[0] = Deferred()
        await table.put(b"r", b"c", b"v")
        await waiting[0]
        watching.stop()

    @deferred
    async def test_refused_locally(self) -> None:
        """What would cost the connection is refused before it is sent."""
        table = self.serve()
        await table.get(b"r", b"c")
        seen = len(self.server.seen)
        await raised(Refused, table.mutate(b"r", []))
        self.assertEqual(len(self.server.seen), seen)


del TableContract, _Served

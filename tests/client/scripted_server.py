"""A server of the key-value protocol for tests: right in every answer, wrong where it is told to be.

It stands for coordinator and storage at once: the map it gives names itself (or what a test sets), and
its cells live in a MemoryTable, with the exactly-once rule of request ids.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from penncloud.client.memory import MemoryTable
from penncloud.client.table import Conflict, Refused, Watching
from penncloud.placement.tablets import even_ranges
from penncloud.wire.messages import (
    CellLine,
    Cells,
    Changed,
    CompareAndPut,
    CompareVersionAndPut,
    Delete,
    Error,
    Get,
    Malformed,
    Map,
    Mismatch,
    Missing,
    Mutate,
    Ok,
    Put,
    Reply,
    Request,
    RequestId,
    Scan,
    TabletLine,
    Tablets,
    TraceId,
    Unwatch,
    Value,
    Watch,
)
from penncloud.wire.replies import encode_reply
from penncloud.wire.requests import RequestDecoder

DROP = "drop the connection without doing it"
LOSE = "do it, then drop the connection instead of answering"
SILENT = "never answer"


class ScriptedServer(Factory):
    """`script` is asked for each request but MAP: None goes on as usual, a Reply is sent instead
    of doing it, DROP / LOSE / SILENT are what they say."""

    noisy = False

    def __init__(self) -> None:
        self.table = MemoryTable()
        self.address = ""
        self.map_version = 1
        self.maps_asked = 0
        self.seen: list[Request | Malformed] = []
        self.done: dict[tuple[bytes, int], Reply] = {}
        self.connections: list[ScriptedConnection] = []
        self.script: Callable[[Request], Reply | str | None] = lambda _: None

    def buildProtocol(self, addr: IAddress | None) -> ScriptedConnection:
        return ScriptedConnection(self)

    def tablet_map(self) -> Tablets:
        self.maps_asked += 1
        tablets = [
            TabletLine(i + 1, lo, hi, 1, self.address) for i, (lo, hi) in enumerate(even_ranges(3))
        ]
        return Tablets(self.map_version, tuple(tablets))


class ScriptedConnection(Protocol):
    """One connection; requests are answered one after the other."""

    transport: Any

    def __init__(self, server: ScriptedServer) -> None:
        self._server = server
        self._decoder = RequestDecoder()
        self._request_id: RequestId | None = None
        self._watches: dict[bytes, Watching] = {}

    def connectionMade(self) -> None:
        self._server.connections.append(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._server.connections.remove(self)
        for watching in self._watches.values():
            watching.stop()

    def dataReceived(self, data: bytes) -> None:
        for request in self._decoder.feed(data):
            self._server.seen.append(request)
            if isinstance(request, RequestId):
                self._request_id = request
            elif isinstance(request, TraceId):
                pass  # It is in `seen`, and changes nothing.
            else:
                self._answer(request)

    def _answer(self, request: Request | Malformed) -> None:
        if isinstance(request, Malformed):
            self._send(Error(request.code, request.text))
            return
        if isinstance(request, Map):
            self._send(self._server.tablet_map())
            return
        told = self._server.script(request)
        if told == DROP:
            self.transport.abortConnection()
        elif told == LOSE:
            self._do(request)
            self.transport.abortConnection()
        elif isinstance(told, str):
            return
        else:
            self._send(told if told is not None else self._do(request))

    def _send(self, reply: Reply) -> None:
        self.transport.write(encode_reply(reply))

    def _do(self, request: Request) -> Reply:
        request_id, self._request_id = self._request_id, None
        key = (request_id.client, request_id.seq) if request_id else (b"", -1)
        if key not in self._server.done:
            result: list[Reply] = []
            doing = Deferred.fromCoroutine(self._execute(request))
            doing.addCallback(result.append)
            if request_id is None:
                return result[0]
            self._server.done[key] = result[0]
        return self._server.done[key]

    async def _execute(self, request: Request) -> Reply:
        try:
            return await self._run(request)
        except Conflict as conflict:
            return Mismatch(conflict.version, conflict.value)
        except Refused as refused:
            return Error(refused.code, str(refused))

    async def _run(self, request: Request) -> Reply:
        table = self._server.table
        match request:
            case Get(row, col):
                cell = await table.get(row, col)
                return Missing() if cell is None else Value(cell.version, cell.value)
            case Put(row, col, value):
                return Ok(await table.put(row, col, value))
            case CompareAndPut(row, col, expected, value):
                return Ok(await table.compare_and_put(row, col, expected, value))
            case CompareVersionAndPut(row, col, version, value):
                return Ok(await table.put_if_version(row, col, version, value))
            case Delete(row, col):
                return Ok(1) if await table.delete(row, col) else Missing()
            case Mutate(row, operations):
                return Ok(await table.mutate(row, operations))
            case Scan(row, start, stop, limit, reverse, max_value):
                page = await table.scan(
                    row, start, stop, limit=limit, reverse=reverse, max_value=max_value
                )
                lines = [CellLine(row, c.col, c.version, c.size, c.value) for c in page.cells]
                return Cells(tuple(lines), page.more)
            case Watch(row):
                if row not in self._watches:
                    self._watches[row] = table.watch(row, lambda version: self._push(row, version))
                return Ok(1)
            case Unwatch(row):
                if row in self._watches:
                    self._watches.pop(row).stop()
                return Ok(1)
        return Error("COMMAND", "not here")

    def _push(self, row: bytes, version: int) -> None:
        if row in self._watches:
            self._send(Changed(row, version))

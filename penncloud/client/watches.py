"""Watches of one client: kept up through broken connections and moved tablets.

For each watched row one loop runs: find the primary, say WATCH there, tell the watchers (something may
have changed while nobody watched), and wait until that connection breaks. All watches of a server share
a connection of their own, so that pushes never wait behind large replies.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.client.connection import Disconnected, Overloaded, Peer
from penncloud.client.locator import Locator
from penncloud.client.table import Unavailable
from penncloud.platform.config import parse_address
from penncloud.platform.environment import Environment
from penncloud.wire.messages import Changed, Ok, Unwatch, Watch
from penncloud.wire.requests import encode_request

# Pause before a watch that broke is set up again, jittered downwards by up to half.
PAUSE_S = 0.2
SET_UP_TIMEOUT_S = 5.0
# A watch that holds is said again so often: a server that fell silent is found out by that.
RENEW_S = 10.0


@define(eq=False)
class _Watching:
    watches: Watches
    row: bytes
    callback: Callable[[int], None]

    def stop(self) -> None:
        self.watches._forget(self)


@define(eq=False)
class _Row:
    """One watched row: who wants to know, and the loop that keeps the watch."""

    watchers: list[_Watching] = field(factory=list)
    loop: Deferred[None] | None = None
    broken: bool = False
    wake: Deferred[None] | None = None


@define(eq=False)
class _Server:
    peer: Peer
    # A dict as an ordered set.
    rows: dict[bytes, None] = field(factory=dict)


class Watches:
    """The rows that one client watches."""

    log = Logger()

    def __init__(self, environment: Environment, locator: Locator) -> None:
        self._environment = environment
        self._reactor = environment.reactor
        self._locator = locator
        self._rows: dict[bytes, _Row] = {}
        self._servers: dict[str, _Server] = {}

    def watch(self, row: bytes, callback: Callable[[int], None]) -> _Watching:
        watching = _Watching(self, row, callback)
        entry = self._rows.get(row)
        if entry is None:
            entry = self._rows[row] = _Row([watching])
            entry.loop = Deferred.fromCoroutine(self._keep(row, entry))
            entry.loop.addErrback(self._ended, row)
        else:
            entry.watchers.append(watching)
            # The row's watch may hold already, and then nothing would tell this one to read.
            self._reactor.callLater(0, self._tell_one, watching)
        return watching

    def stop(self) -> None:
        for row in list(self._rows):
            self._drop(row)
        for server in self._servers.values():
            server.peer.close()

    def _ended(self, failure: Failure, row: bytes) -> None:
        if not failure.check(CancelledError):
            self.log.failure("the watch of {row!r} failed", failure, row=row)

    def _forget(self, watching: _Watching) -> None:
        entry = self._rows.get(watching.row)
        if entry is None or watching not in entry.watchers:
            return
        entry.watchers.remove(watching)
        if not entry.watchers:
            self._drop(watching.row)

    def _drop(self, row: bytes) -> None:
        entry = self._rows.pop(row)
        entry.watchers.clear()
        if entry.loop is not None:
            entry.loop.cancel()

    async def _keep(self, row: bytes, entry: _Row) -> None:
        while True:
            try:
                await self._hold(row, entry)
            except (Disconnected, Overloaded, Unavailable, DeferredTimeout):
                self._locator.report_wrong()
            pause_s = PAUSE_S * (1 - self._environment.random.random() / 2)
            await deferLater(self._reactor, pause_s)

    async def _hold(self, row: bytes, entry: _Row) -> None:
        """Set the watch up and return when it broke."""
        tablet = await self._locator.find(row)
        if tablet is None or not tablet.primary:
            raise Unavailable("the tablet has no primary")
        address = tablet.primary
        server = self._server(address)
        server.rows[row] = None
        entry.broken = False
        try:
            self._tell(row, await self._ask(server, row))
            await self._broken_or_due(entry)
            while not entry.broken:
                await self._ask(server, row)
                await self._broken_or_due(entry)
            self._locator.report_wrong()
        finally:
            server.rows.pop(row, None)
            self._unwatch(server, row)

    async def _ask(self, server: _Server, row: bytes) -> int:
        asking = Deferred.fromCoroutine(server.peer.request(encode_request(Watch(row))))
        asking.addTimeout(SET_UP_TIMEOUT_S, self._reactor)
        reply = await asking
        if not isinstance(reply, Ok):
            raise Unavailable(f"the server answered {type(reply).__name__}")
        return reply.version

    async def _broken_or_due(self, entry: _Row) -> None:
        """Wait until the connection breaks, but no longer than until the watch is to be renewed."""
        if entry.broken:
            return
        entry.wake = Deferred()
        due = self._reactor.callLater(RENEW_S, entry.wake.callback, None)
        try:
            await entry.wake
        finally:
            entry.wake = None
            if due.active():
                due.cancel()

    def _unwatch(self, server: _Server, row: bytes) -> None:
        """Tell the server that nobody listens any more, if it is still there to be told."""
        if row not in self._rows and server.peer.connected:
            telling = Deferred.fromCoroutine(server.peer.request(encode_request(Unwatch(row))))
            telling.addErrback(lambda failure: failure.trap(Disconnected, Overloaded) and None)

    def _server(self, address: str) -> _Server:
        server = self._servers.get(address)
        if server is None:
            host, port = parse_address(address)
            peer = Peer(
                self._environment,
                host,
                port,
                on_push=self._changed,
                on_lost=lambda: self._lost(address),
                roles=("storage",),
            )
            server = self._servers[address] = _Server(peer)
        return server

    def _lost(self, address: str) -> None:
        for row in list(self._servers[address].rows):
            entry = self._rows.get(row)
            if entry is not None:
                entry.broken = True
                if entry.wake is not None:
                    entry.wake.callback(None)

    def _changed(self, message: Changed) -> None:
        self._tell(message.row, message.version)

    def _tell(self, row: bytes, version: int) -> None:
        entry = self._rows.get(row)
        for watching in list(entry.watchers) if entry else []:
            self._call(watching, version)

    def _tell_one(self, watching: _Watching) -> None:
        entry = self._rows.get(watching.row)
        if entry is not None and watching in entry.watchers:
            self._call(watching, 0)

    def _call(self, watching: _Watching, version: int) -> None:
        with self.log.failuresHandled("a watcher of {row!r} failed", row=watching.row):
            watching.callback(version)

"""The client of a real cluster: finds the tablet, asks its primary, retries until the deadline.

Theory of operation
    Every call goes to the server that the tablet map names. `-MOVED`, a broken connection or a tablet
    without a primary make the map be asked for again; `-BUSY`, `-UNKNOWN` and silence are waited out
    with growing pauses. A server that is silent may be one that nobody reaches any more: meanwhile the
    coordinators are asked, and once they name another primary the attempt is given up, long before the
    connection is. A server that finds its copy damaged lets another one lead if one can: for that, too, there
    is a while. A mutation keeps one request id (`lanes`) through all its attempts, so that it
    is executed once. At the deadline the caller gets `Unavailable`: for a mutation the outcome is then
    unknown, and only the same request id could tell, which is gone; services that need to know read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import deferLater
from twisted.logger import Logger

from penncloud.client.connection import Disconnected, Overloaded, Peer
from penncloud.client.lanes import Lanes, TooManyMutations
from penncloud.client.locator import Locator
from penncloud.client.table import (
    Cell,
    Conflict,
    Page,
    Refused,
    SubOperation,
    Unavailable,
    Watching,
)
from penncloud.client.watches import Watches
from penncloud.placement.tablets import Tablet, TabletMap
from penncloud.platform import trace
from penncloud.platform.config import Cluster, parse_address
from penncloud.platform.environment import Environment
from penncloud.wire.limits import (
    MAX_COL_BYTES,
    MAX_MUTATION_BYTES,
    MAX_MUTATIONS,
    MAX_PREFIX_BYTES,
    MAX_ROW_BYTES,
    MAX_SCAN_CELLS,
    MAX_VALUE_BYTES,
)
from penncloud.wire.messages import (
    AppendCell,
    Busy,
    Cells,
    CompareAndPut,
    CompareVersionAndPut,
    Delete,
    Error,
    Get,
    Mismatch,
    Missing,
    Moved,
    Mutate,
    Mutation,
    Ok,
    Put,
    Reply,
    Scan,
    ScanTablet,
    TraceId,
    Unknown,
    Value,
)
from penncloud.wire.requests import encode_request

# A call that names no deadline has this one: longer than a failover, shorter than a browser waits.
DEFAULT_DEADLINE_S = 15.0
# Pauses between attempts: doubled from the first to the last, and jittered downwards by up to half.
FIRST_PAUSE_S = 0.01
LAST_PAUSE_S = 0.5
# An attempt without an answer for so long has the coordinators asked whether the tablet is elsewhere.
DOUBT_S = 0.5
# So long another server is waited for that has what the first one found damaged: longer than a takeover.
DAMAGED_S = 3.0
# Connections to one server. Two, so that a large value does not hold up everything behind it.
CONNECTIONS = 2


class RoutedTable:
    """See `client.table.Table`. `start` and `stop` bound its life; one per process is enough."""

    def __init__(self, environment: Environment, cluster: Cluster) -> None:
        self._environment = environment
        self._reactor = environment.reactor
        self._locator = Locator(environment, cluster.coordinators)
        self._lanes = Lanes(environment.entropy(12).hex().encode())
        self._peers: dict[str, list[Peer]] = {}
        self._watches = Watches(environment, self._locator)

    def start(self) -> None:
        """Nothing has to be there yet: connections are made when they are needed."""

    def use_coordinators(self, addresses: Sequence[str]) -> None:
        """Ask those at these addresses (host:port) besides the configured ones, and no others."""
        self._locator.use_coordinators(addresses)

    def stop(self) -> None:
        """Close all connections; calls under way raise Unavailable at their next attempt."""
        self._watches.stop()
        self._locator.close()
        for peers in self._peers.values():
            for peer in peers:
                peer.close()

    # -- the table -------------------------------------------------------------------------------

    async def get(self, row: bytes, col: bytes, *, deadline_s: float | None = None) -> Cell | None:
        reply = await self._read(row, Get(row, col), deadline_s)
        if isinstance(reply, Missing):
            return None
        if isinstance(reply, Value):
            return Cell(col, reply.version, reply.value, len(reply.value))
        raise _unexpected(reply)

    async def put(
        self, row: bytes, col: bytes, value: bytes, *, deadline_s: float | None = None
    ) -> int:
        return _version(await self._mutation(row, Put(row, col, value), deadline_s))

    async def compare_and_put(
        self,
        row: bytes,
        col: bytes,
        expected: bytes,
        value: bytes,
        *,
        deadline_s: float | None = None,
    ) -> int:
        request = CompareAndPut(row, col, expected, value)
        return _version(await self._mutation(row, request, deadline_s))

    async def put_if_version(
        self, row: bytes, col: bytes, version: int, value: bytes, *, deadline_s: float | None = None
    ) -> int:
        request = CompareVersionAndPut(row, col, version, value)
        return _version(await self._mutation(row, request, deadline_s))

    async def delete(self, row: bytes, col: bytes, *, deadline_s: float | None = None) -> bool:
        reply = await self._mutation(row, Delete(row, col), deadline_s)
        if isinstance(reply, Missing):
            return False
        _version(reply)
        return True

    async def mutate(
        self, row: bytes, operations: Sequence[SubOperation], *, deadline_s: float | None = None
    ) -> int:
        request = Mutate(row, tuple(operations))
        return _version(await self._mutation(row, request, deadline_s))

    async def scan(
        self,
        row: bytes,
        start: bytes = b"",
        stop: bytes = b"",
        *,
        limit: int = 100,
        reverse: bool = False,
        max_value: int | None = None,
        deadline_s: float | None = None,
    ) -> Page:
        request = Scan(row, start, stop, limit, reverse, max_value)
        reply = await self._read(row, request, deadline_s)
        if not isinstance(reply, Cells):
            raise _unexpected(reply)
        cells = tuple(Cell(c.col, c.version, c.value, c.size) for c in reply.cells)
        return Page(cells, reply.more)

    def watch(self, row: bytes, callback: Callable[[int], None]) -> Watching:
        return self._watches.watch(row, callback)

    # -- the administrator's view ----------------------------------------------------------------

    async def tablet_map(self) -> TabletMap:
        """The map as a coordinator gives it now; `Tablet.primary` is host:port."""
        self._locator.report_wrong()
        return await self._locator.current()

    async def scan_tablet(
        self,
        tablet: int,
        row: bytes,
        col: bytes,
        limit: int,
        max_value: int,
        *,
        deadline_s: float | None = None,
    ) -> Cells:
        """Cells of one tablet from (row, col) on, with values cut to `max_value` bytes."""

        async def find() -> Tablet | None:
            tablets = (await self._locator.current()).tablets
            return next((found for found in tablets if found.id == tablet), None)

        request = encode_request(ScanTablet(tablet, row, col, limit, max_value))
        reply = await self._ask(find, request, deadline_s)
        if not isinstance(reply, Cells):
            raise _unexpected(reply)
        return reply

    # -- one request -----------------------------------------------------------------------------

    async def _read(self, row: bytes, request: Get | Scan, deadline_s: float | None) -> Reply:
        _check(request)
        data = encode_request(request)
        return await self._ask(lambda: self._locator.find(row), data, deadline_s)

    async def _mutation(self, row: bytes, request: Mutation, deadline_s: float | None) -> Reply:
        _check(request)
        try:
            lane = self._lanes.take()
        except TooManyMutations as error:
            raise Unavailable(str(error)) from error
        try:
            data = encode_request(lane.next_id()) + encode_request(request)
            return await self._ask(lambda: self._locator.find(row), data, deadline_s)
        finally:
            self._lanes.give_back(lane)

    async def _ask(
        self,
        find: Callable[[], Awaitable[Tablet | None]],
        data: bytes,
        deadline_s: float | None,
    ) -> Reply:
        """Attempts until there is an answer that says something, or the deadline."""
        data = _traced(data)
        allowed_s = DEFAULT_DEADLINE_S if deadline_s is None else deadline_s
        deadline = self._reactor.seconds() + allowed_s
        pause_s = FIRST_PAUSE_S
        trouble = "the store did not answer"
        damaged_until: float | None = None
        while True:
            remaining_s = deadline - self._reactor.seconds()
            if remaining_s <= 0:
                raise Unavailable(f"{trouble} within {allowed_s:g} s")
            attempt = Deferred.fromCoroutine(self._attempt(find, data))
            attempt.addTimeout(remaining_s, self._reactor)
            wait_s = 0.0
            try:
                reply = await attempt
            except DeferredTimeout:
                continue
            except (Disconnected, Overloaded, Unavailable) as error:
                trouble = str(error)
                self._locator.report_wrong()
            else:
                if isinstance(reply, Moved):
                    trouble = "the tablet has moved"
                    self._locator.report_wrong()
                elif isinstance(reply, Busy):
                    trouble = "the store is busy"
                    wait_s = reply.retry_ms / 1000
                elif isinstance(reply, Unknown):
                    trouble = "the outcome is unknown"
                elif isinstance(reply, Error) and reply.code == "DAMAGED":
                    trouble = "the tablet is damaged"
                    now = self._reactor.seconds()
                    if damaged_until is None:
                        damaged_until = now + DAMAGED_S
                    elif now >= damaged_until:
                        return reply
                    self._locator.report_wrong()
                else:
                    return reply
            jittered_s = pause_s * (1 - self._environment.random.random() / 2)
            pause_s = min(pause_s * 2, LAST_PAUSE_S)
            remaining_s = max(deadline - self._reactor.seconds(), 0)
            await deferLater(self._reactor, min(max(jittered_s, wait_s), remaining_s))

    async def _attempt(self, find: Callable[[], Awaitable[Tablet | None]], data: bytes) -> Reply:
        tablet = await find()
        if tablet is None or not tablet.primary:
            self._locator.report_wrong()
            raise Unavailable("the tablet has no primary")
        asking = Deferred.fromCoroutine(self._peer(tablet.primary).request(data))
        doubt = _Doubt(self._reactor, self._locator, find, tablet.primary, asking)
        try:
            return await asking
        except CancelledError:
            if doubt.elsewhere:
                raise Disconnected(f"{tablet.primary} is silent, and primary no more") from None
            raise
        finally:
            doubt.end()

    def _peer(self, address: str) -> Peer:
        peers = self._peers.get(address)
        if peers is None:
            host, port = parse_address(address)
            peers = [
                Peer(self._environment, host, port, roles=("storage",)) for _ in range(CONNECTIONS)
            ]
            self._peers[address] = peers
        return min(peers, key=lambda peer: peer.load)


class _Doubt:
    """Gives an attempt up once the coordinators name another primary for its tablet."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        locator: Locator,
        find: Callable[[], Awaitable[Tablet | None]],
        address: str,
        asking: Deferred[Reply],
    ) -> None:
        self.elsewhere = False
        self._reactor = reactor
        self._locator = locator
        self._find = find
        self._address = address
        self._asking = asking
        self._timer: Any = reactor.callLater(DOUBT_S, self._look)

    def end(self) -> None:
        """The attempt has ended."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        self._locator.report_old(DOUBT_S)
        looking = Deferred.fromCoroutine(self._look_again())
        looking.addErrback(lambda failure: self.log.failure("looking for a tablet", failure))

    async def _look_again(self) -> None:
        try:
            tablet = await self._find()
        except Unavailable:
            tablet = None
        if self._asking.called:
            return
        if tablet is not None and tablet.primary not in ("", self._address):
            self.elsewhere = True
            self._asking.cancel()
        else:
            self._timer = self._reactor.callLater(DOUBT_S, self._look)


def _traced(data: bytes) -> bytes:
    """A request, named by what it is done for."""
    request_id = trace.current()
    return encode_request(TraceId(request_id.encode())) + data if request_id else data


def _check(request: Mutation | Get | Scan) -> None:
    """What the server would refuse is refused here, without a round trip.

    Some of it would even cost the connection, and so disturb the requests of others on it.
    """
    if not 0 < len(request.row) <= MAX_ROW_BYTES:
        raise Refused("FORMAT", f"a row has 1 to {MAX_ROW_BYTES} bytes")
    match request:
        case Scan(_, _, _, limit):
            if not 0 < limit <= MAX_SCAN_CELLS:
                raise Refused("FORMAT", f"a limit is between 1 and {MAX_SCAN_CELLS}")
        case Mutate(_, operations):
            if not 0 < len(operations) <= MAX_MUTATIONS:
                raise Refused("LIMIT", f"a mutation has 1 to {MAX_MUTATIONS} sub-operations")
            if sum(map(_check_cell, operations)) > MAX_MUTATION_BYTES:
                raise Refused("FORMAT", f"a mutation has at most {MAX_MUTATION_BYTES} bytes")
        case _:
            _check_cell(request)


def _check_cell(request: Any) -> int:
    """Check names and values of a request or sub-operation; returns its values' bytes."""
    if isinstance(request, AppendCell):
        if len(request.prefix) > MAX_PREFIX_BYTES:
            raise Refused("FORMAT", f"a prefix has at most {MAX_PREFIX_BYTES} bytes")
    elif not 0 < len(request.col) <= MAX_COL_BYTES:
        raise Refused("FORMAT", f"a column has 1 to {MAX_COL_BYTES} bytes")
    sizes = [len(getattr(request, field, b"")) for field in ("value", "expected")]
    if max(sizes) > MAX_VALUE_BYTES:
        raise Refused("FORMAT", f"a value has at most {MAX_VALUE_BYTES} bytes")
    return sum(sizes)


def _version(reply: Reply) -> int:
    if isinstance(reply, Ok):
        return reply.version
    if isinstance(reply, Mismatch):
        raise Conflict(reply.version, reply.value)
    raise _unexpected(reply)


def _unexpected(reply: Reply) -> Exception:
    if isinstance(reply, Error):
        return Refused(reply.code, reply.text)
    return Refused("REPLY", f"the server answered {type(reply).__name__}")

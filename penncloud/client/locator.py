"""Where a row's tablet is served: the tablet map, asked of the coordinators and remembered.

The map is asked for again when somebody found it wrong, at most once at a time and not more often than
every `MIN_INTERVAL_S`; all who need it share the answer. The coordinator that answered last is asked first,
one that did not answer last, so that one that is away is not waited for again and again.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import deferLater

from penncloud.client.connection import Disconnected, Overloaded, Peer
from penncloud.client.table import Unavailable
from penncloud.placement.tablets import Tablet, TabletMap
from penncloud.platform.config import parse_address
from penncloud.platform.environment import Environment
from penncloud.wire.messages import Map, Tablets
from penncloud.wire.requests import encode_request

MIN_INTERVAL_S = 0.05
# How long one coordinator may take before the next is asked; doubled when none has answered.
ASK_TIMEOUT_S = 0.4
ROUNDS = 3


class Locator:
    """The tablet map of one client. `Tablet.primary` holds the primary's host:port here."""

    def __init__(self, environment: Environment, coordinators: list[str]) -> None:
        self._environment = environment
        self._reactor = environment.reactor
        self._configured = list(coordinators)
        self._peers: list[Peer] = []
        self._addresses: dict[str, Peer] = {}
        self.use_coordinators(())
        self._map: TabletMap | None = None
        self._stale = True
        self._asked_at = float("-inf")
        self._waiters: list[Deferred[None]] | None = None

    async def find(self, row: bytes) -> Tablet | None:
        """The tablet of a row, with an empty `primary` while it has none.

        None while the cluster has no tablets yet. Raises Unavailable when the map is not known and
        no coordinator answers.
        """
        found = await self.current()
        return found.find(row)

    async def current(self) -> TabletMap:
        """The map as last known, asked for again first when it was reported wrong."""
        if self._stale:
            await self._refresh()
        if self._map is None:
            raise Unavailable("no coordinator answers")
        return self._map

    def report_wrong(self) -> None:
        """What the map said did not hold (a server moved, died, or is not there)."""
        self._stale = True

    def report_old(self, age_s: float) -> None:
        """The map may be wrong, if it was asked for longer than `age_s` ago."""
        if self._reactor.seconds() - self._asked_at > age_s:
            self._stale = True

    def use_coordinators(self, addresses: Sequence[str]) -> None:
        """Ask those at these addresses (host:port) besides the configured ones, and no others."""
        wanted = list(dict.fromkeys([*self._configured, *addresses]))
        for address in [address for address in self._addresses if address not in wanted]:
            peer = self._addresses.pop(address)
            self._peers.remove(peer)
            peer.close()
        for address in wanted:
            if address not in self._addresses:
                peer = Peer(self._environment, *parse_address(address), roles=("coordinator",))
                self._addresses[address] = peer
                self._peers.append(peer)

    def close(self) -> None:
        for peer in self._peers:
            peer.close()

    async def _refresh(self) -> None:
        if self._waiters is not None:
            waiter: Deferred[None] = Deferred()
            self._waiters.append(waiter)
            await waiter
            return
        self._waiters = []
        try:
            wait_s = self._asked_at + MIN_INTERVAL_S - self._reactor.seconds()
            if wait_s > 0:
                await deferLater(self._reactor, wait_s)
            self._asked_at = self._reactor.seconds()
            await self._ask()
        except GeneratorExit:
            # Thrown away unfinished, with a simulated machine: so are those who wait.
            raise
        except BaseException:
            self._asked()
            raise
        self._asked()

    def _asked(self) -> None:
        waiters, self._waiters = self._waiters or [], None
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(None)

    async def _ask(self) -> None:
        """Take the map from the first coordinator that gives one. With none the old map stays, and
        stays stale."""
        for round_ in range(ROUNDS):
            silent = False
            for peer in list(self._peers):
                asking = Deferred.fromCoroutine(peer.request(encode_request(Map())))
                asking.addTimeout(ASK_TIMEOUT_S * 2**round_, self._reactor)
                try:
                    reply = await asking
                except DeferredTimeout:
                    silent = True
                except (Disconnected, Overloaded):
                    pass
                else:
                    if isinstance(reply, Tablets):
                        self._take(reply)
                        self._put(peer, first=True)
                        return
                self._put(peer, first=False)
            if not silent:
                return

    def _put(self, peer: Peer, first: bool) -> None:
        """Ask it first from now on, or last; one that is left out meanwhile is asked no more."""
        if peer in self._peers:
            self._peers.remove(peer)
            self._peers.insert(0 if first else len(self._peers), peer)

    def _take(self, reply: Tablets) -> None:
        try:
            fresh = TabletMap(
                reply.version,
                [Tablet(t.tablet, t.lo, t.hi, t.epoch, t.address, ()) for t in reply.tablets],
            )
        except ValueError:
            return
        if self._map is None or fresh.version >= self._map.version:
            self._map = fresh
            self._stale = False

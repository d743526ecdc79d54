"""The real directory: asks whichever coordinator answers.

Theory of operation
    There is a connection to every coordinator of the configuration, and to those that have joined the
    group since. A call goes to one that is
    connected, beginning with the one that answered last; when it does not answer soon, or says that it
    cannot now, the next one is asked, until the deadline. One that did not answer is asked last from
    then on: a coordinator that is connected and stands still costs one call a moment, and the others
    nothing. What is asked here may be asked twice without harm.

    The servers' states come from one coordinator at a time, the *feed*: the one that first answered
    `Subscribe`. When its connection is lost, or it does not answer any more, another takes its place, or
    the same when it is back. What was known last stays known meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.client.directory import ClusterView, NodeInfo, NoSuchNode
from penncloud.client.table import Refused, Unavailable, Watching
from penncloud.coordinator.messages import (
    AddCoordinator,
    DrainServer,
    Enabled,
    EnableNode,
    ForceTablet,
    GroupChanged,
    NodesChanged,
    RemoveCoordinator,
    RemoveServer,
    ServerChanged,
    Subscribe,
    TransferLeadership,
    ViewCluster,
)
from penncloud.platform.config import Cluster, parse_address
from penncloud.platform.environment import Environment
from penncloud.rpc.auth import load_secret
from penncloud.rpc.calls import Calls
from penncloud.rpc.client import RpcClient
from penncloud.rpc.endpoints import address_text
from penncloud.rpc.errors import CallTimedOut, Disconnected, Refusal, RpcBusy, RpcError
from penncloud.rpc.protocol import Hooks, RpcProtocol
from penncloud.rpc.registration import ASK_ANOTHER, LONGEST_PAUSE_S

# A call as a whole, and the share that one coordinator gets while there are others to ask: doubled each
# time that all of them have failed, for a busy machine is slow and not dead.
DEADLINE_S: Final = 5.0
ATTEMPT_S: Final = 0.5
LONGEST_ATTEMPT_S: Final = 2.0
# Pause between questions whether the feed still answers: no news is good news only from one that does.
FEED_CHECK_S: Final = 1.0
# Pause before the coordinators are asked again after all have failed.
RETRY_S: Final = 0.1

_T = TypeVar("_T")

Callback = Callable[[Sequence[NodeInfo]], None]


class CoordinatorDirectory:
    """Implements `client.directory.Directory`; works between start() and stop()."""

    log = Logger()

    def __init__(
        self, environment: Environment, cluster: Cluster, deadline_s: float = DEADLINE_S
    ) -> None:
        self._environment = environment
        self._clock = environment.reactor
        self._cluster = cluster
        self._deadline_s = deadline_s
        self._clients: list[RpcClient] = []
        self._leaving: set[Deferred[None]] = set()
        self._secret = b""
        self._calls = Calls()
        self._calls.on_note(NodesChanged, self._changed)
        self._feed: RpcProtocol | None = None
        self._subscribing = False
        self._nodes: list[NodeInfo] | None = None
        self._callbacks: list[Callback] = []
        self._checking = False
        self._feed_checks = LoopingCall(self._check_feed)
        self._feed_checks.clock = environment.reactor

    def start(self) -> None:
        """Begin to connect; raises ConfigurationError for a secret file that cannot be used."""
        self._secret = load_secret(self._cluster)
        for address in self._cluster.coordinators:
            self._connect(address)
        self._feed_checks.start(FEED_CHECK_S, now=False).addErrback(self._not_subscribed)

    def _connect(self, address: str) -> None:
        client = RpcClient(
            self._environment,
            *parse_address(address),
            calls=self._calls,
            secret=self._secret,
            hooks=Hooks(self._opened, self._closed),
            longest_pause_s=LONGEST_PAUSE_S,
            roles=("coordinator",),
        )
        self._clients.append(client)
        client.start()

    async def stop(self) -> None:
        """Close the connections; calls under way fail as Unavailable."""
        clients, self._clients = self._clients, []
        self._callbacks.clear()
        if self._feed_checks.running:
            self._feed_checks.stop()
        ends = [Deferred.fromCoroutine(client.stop()) for client in clients]
        await DeferredList([*ends, *self._leaving])

    def use_coordinators(self, addresses: Sequence[str]) -> None:
        """Ask those at these addresses (host:port) besides the configured ones, and no others."""
        if not self._clients:
            return
        wanted = {*self._cluster.coordinators, *addresses}
        for client in [one for one in self._clients if one.address not in wanted]:
            self._clients.remove(client)
            ending = Deferred.fromCoroutine(client.stop()).addErrback(self._not_subscribed)
            self._leaving.add(ending)
            ending.addBoth(self._left, ending)
        there = {client.address for client in self._clients}
        for address in addresses:
            if address not in there:
                self._connect(address)

    def _left(self, result: object, ending: Deferred[None]) -> None:
        self._leaving.discard(ending)

    def _know(self, nodes: Sequence[NodeInfo]) -> None:
        members = [address_text(n.host, n.port) for n in nodes if n.role == "coordinator"]
        if members:  # one that belongs to no group (yet) knows nobody
            self.use_coordinators(members)

    # -- Directory -------------------------------------------------------------------------------

    async def view(self) -> ClusterView:
        """See `Directory`."""
        view = await self._ask(ViewCluster(), ClusterView)
        self._know(view.nodes)
        return view

    async def set_enabled(self, node_id: str, enabled: bool) -> None:
        """See `Directory`; raises NoSuchNode, and Refused for a server that is no http server."""
        try:
            await self._ask(EnableNode(node_id, enabled, self._new_request()), Enabled)
        except Refusal as refusal:
            if refusal.code == "NO_SUCH_NODE":
                raise NoSuchNode(refusal.text) from refusal
            raise Refused(refusal.code, refusal.text) from refusal

    async def add_coordinator(self, node_id: str, host: str, port: int) -> None:
        """Make sure that a coordinator belongs to the group; it votes once it has caught up.

        It has to run: it asks to be taken in by itself. Raises Refused (NOT_STARTED until it has),
        Unavailable.
        """
        await self._change(AddCoordinator(node_id, host, port, by_hand=True))

    async def remove_coordinator(self, node_id: str) -> None:
        """Take a member out of the coordinators' group. Raises Refused, Unavailable."""
        await self._change(RemoveCoordinator(node_id))

    async def transfer_leadership(self, node_id: str = "") -> None:
        """Begin to hand leadership over to a coordinator, or to any. Raises Refused, Unavailable."""
        await self._change(TransferLeadership(node_id))

    async def drain_server(self, node_id: str, draining: bool) -> None:
        """Have a storage server give its tablets away, or hold some again; they move by and by.

        Raises Refused (there would be too few others), Unavailable.
        """
        await self._change(DrainServer(node_id, draining, self._new_request()), ServerChanged)

    async def remove_server(self, node_id: str, accept_data_loss: bool = False) -> None:
        """Forget a storage server that does not run any more. Raises Refused (it holds tablets, or
        runs), Unavailable."""
        call = RemoveServer(node_id, accept_data_loss, self._new_request())
        await self._change(call, ServerChanged)

    async def force_primary(self, tablet: int, node_id: str) -> None:
        """Make a storage server a tablet's primary and only member, with what it has: what others had
        more is lost. Raises Refused, Unavailable."""
        await self._change(ForceTablet(tablet, node_id, self._new_request()), ServerChanged)

    def _new_request(self) -> str:
        """A name for what is wanted now, in all attempts."""
        return self._environment.entropy(12).hex()

    async def _change(
        self, message: msgspec.Struct, answer: type[msgspec.Struct] = GroupChanged
    ) -> None:
        try:
            await self._ask(message, answer)
        except Refusal as refusal:
            raise Refused(refusal.code, refusal.text) from refusal

    def subscribe(self, callback: Callback) -> Watching:
        """See `Directory`."""
        self._callbacks.append(callback)
        if self._nodes is not None:
            callback(self._nodes)
        self._find_feed()
        callbacks = self._callbacks

        class _Subscription:
            def stop(self) -> None:
                if callback in callbacks:
                    callbacks.remove(callback)

        return _Subscription()

    # -- calls -----------------------------------------------------------------------------------

    async def _ask(self, message: msgspec.Struct, answer: type[_T]) -> _T:
        """Raises Unavailable, or Refusal for what every coordinator would refuse."""
        deadline = self._clock.seconds() + self._deadline_s
        attempt_s = ATTEMPT_S
        trouble = "none is connected"
        while self._clients:
            for client in list(self._clients):
                left_s = deadline - self._clock.seconds()
                connection = client.connection
                if connection is None or left_s <= 0:
                    continue
                try:
                    result = await connection.call(message, answer, min(left_s, attempt_s))
                except (Disconnected, CallTimedOut, RpcBusy) as error:
                    trouble = str(error)
                    self._ask_last(client)
                except Refusal as refusal:
                    if refusal.code not in ASK_ANOTHER:
                        raise
                    trouble = refusal.text
                except RpcError as error:
                    raise Unavailable(f"coordinator {client.address}: {error}") from error
                else:
                    self._prefer(client)
                    return result
            attempt_s = min(2 * attempt_s, LONGEST_ATTEMPT_S)
            left_s = deadline - self._clock.seconds()
            if left_s <= 0:
                break
            await self._pause(min(left_s, RETRY_S))
        raise Unavailable(f"no coordinator has answered in time: {trouble}")

    def _ask_last(self, client: RpcClient) -> None:
        if client in self._clients:
            self._clients.remove(client)
            self._clients.append(client)

    def _prefer(self, client: RpcClient) -> None:
        if client in self._clients:
            self._clients.remove(client)
            self._clients.insert(0, client)

    def _pause(self, seconds: float) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        self._clock.callLater(seconds, done.callback, None)
        return done

    # -- the feed --------------------------------------------------------------------------------

    def _opened(self, connection: RpcProtocol) -> None:
        self._find_feed()

    def _closed(self, connection: RpcProtocol, why: Failure) -> None:
        if connection is self._feed:
            self._feed = None
            self._find_feed()

    def _find_feed(self) -> None:
        if self._callbacks and self._feed is None and not self._subscribing:
            self._subscribing = True
            Deferred.fromCoroutine(self._subscribe()).addErrback(self._not_subscribed)

    async def _subscribe(self) -> None:
        try:
            for client in list(self._clients):
                connection = client.connection
                if connection is None:
                    continue
                try:
                    news = await connection.call(Subscribe(), NodesChanged, LONGEST_ATTEMPT_S)
                except RpcError as error:
                    # It comes back by a new connection, which begins anew here.
                    connection.drop(f"subscription failed: {error}")
                    continue
                if connection.is_open:
                    self._feed = connection
                    self._tell(news.nodes)
                    return
        finally:
            self._subscribing = False
        if any(client.connection is not None for client in self._clients):
            self._find_feed()

    def _check_feed(self) -> None:
        feed = self._feed
        if feed is not None and not self._checking:
            self._checking = True
            asked = feed.call(Subscribe(), NodesChanged, ATTEMPT_S)
            asked.addCallbacks(self._feed_answers, self._feed_is_silent, errbackArgs=(feed,))
            asked.addErrback(self._not_subscribed)

    def _feed_answers(self, news: NodesChanged) -> None:
        self._checking = False

    def _feed_is_silent(self, failure: Failure, feed: RpcProtocol) -> None:
        self._checking = False
        failure.trap(RpcError)
        if feed is self._feed and failure.check(CallTimedOut) and len(self._clients) > 1:
            self._feed = None
            for client in list(self._clients):
                if client.connection is feed:
                    self._ask_last(client)
            self._find_feed()

    def _not_subscribed(self, failure: Failure) -> None:
        self.log.failure("subscribing to the coordinators' news", failure)

    def _changed(self, connection: RpcProtocol, news: NodesChanged) -> None:
        if connection is self._feed:
            self._tell(news.nodes)

    def _tell(self, nodes: list[NodeInfo]) -> None:
        self._know(nodes)
        self._nodes = nodes
        for callback in list(self._callbacks):
            try:
                callback(nodes)
            except Exception:  # noqa: BLE001 (one subscriber's fault is not the others')
                self.log.failure("telling a subscriber of the servers' states", Failure())

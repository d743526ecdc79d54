"""Connections to the other coordinators: one to each address, over which this side asks and tells.

Who answers at an address is asked on every connection and again every ASK_S; that is how a coordinator
learns the others' ids, roles and terms, and whether they live.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

import msgspec
from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList, fail
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.coordinator.commands import Command, Result
from penncloud.coordinator.decisions import NotDecided, OutcomeUnknown, TooManyDecisions
from penncloud.coordinator.group_messages import Decide, Decided, Who, WhoIs, encode_message
from penncloud.platform.config import parse_address
from penncloud.platform.environment import Environment
from penncloud.raft.messages import Message
from penncloud.rpc.client import RpcClient
from penncloud.rpc.errors import CallTimedOut, Disconnected, Refusal, RpcBusy, RpcError
from penncloud.rpc.protocol import Hooks, RpcProtocol

ASK_S: Final = 0.2
ANSWER_S: Final = 1.0
# A coordinator that is back is to take part at once.
LONGEST_PAUSE_S: Final = 0.5

_T = TypeVar("_T")


@define(eq=False)
class _Peer:
    client: RpcClient
    asking: bool = False
    who: Who | None = None
    heard_at: float = 0.0


@define
class Peers:
    """`heard` is called when an answer has come. Between start() and stop()."""

    _environment: Environment
    _own_id: str
    _heard: Callable[[], None]
    _secret: bytes = b""
    _own_address: str = ""
    _peers: dict[str, _Peer] = field(factory=dict)
    _asking: LoopingCall = field(init=False)
    _log: Logger = field(factory=Logger, init=False)

    def start(self, own_address: str, secret: bytes) -> None:
        self._own_address, self._secret = own_address, secret
        self._asking = LoopingCall(self._ask_all)
        self._asking.clock = self._environment.reactor
        self._asking.start(ASK_S, now=False).addErrback(self._failed)

    async def stop(self) -> None:
        if hasattr(self, "_asking") and self._asking.running:
            self._asking.stop()
        peers, self._peers = list(self._peers.values()), {}
        await DeferredList([Deferred.fromCoroutine(peer.client.stop()) for peer in peers])

    def connect_to(self, addresses: Iterable[str]) -> None:
        """Have connections to these, and to no others; this coordinator's own address is left out."""
        wanted = [address for address in addresses if address != self._own_address]
        for address in wanted:
            if address not in self._peers:
                self._peers[address] = self._connect(address)
        for address in [address for address in self._peers if address not in wanted]:
            peer = self._peers.pop(address)
            Deferred.fromCoroutine(peer.client.stop()).addErrback(self._failed)

    # -- who is there ----------------------------------------------------------------------------

    def answers(self, addresses: Sequence[str]) -> list[Who | None]:
        """Who answers there now, in order; None for nobody. Own addresses are left out."""
        found = []
        for address in addresses:
            peer = self._peers.get(address)
            if peer is None or (peer.who is not None and peer.who.id == self._own_id):
                continue
            found.append(peer.who if self._is_fresh(peer) else None)
        return found

    def seen(self) -> dict[str, tuple[Who, float, bool]]:
        """By id: the last answer of each, how many seconds ago, and whether that counts as alive."""
        now = self._environment.reactor.seconds()
        found: dict[str, tuple[Who, float, bool]] = {}
        for peer in sorted(self._peers.values(), key=lambda peer: peer.heard_at):
            if peer.who is not None and peer.who.id != self._own_id:
                found[peer.who.id] = peer.who, now - peer.heard_at, self._is_fresh(peer)
        return found

    def _is_fresh(self, peer: _Peer) -> bool:
        now = self._environment.reactor.seconds()
        return peer.who is not None and now - peer.heard_at <= ANSWER_S

    # -- telling and asking ----------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """May get lost, as Raft's messages may."""
        connection = self._connection(message.to)
        if connection is not None:
            try:
                connection.note(encode_message(message))
            except RpcError as error:
                self._log.debug("not sent to {to}: {why}", to=message.to, why=str(error))

    async def decide(self, leader: str, command: Command, timeout_s: float) -> Result:
        """See `decisions.Link`."""
        try:
            return (await self.call(leader, Decide(command), Decided, timeout_s)).result
        except RpcBusy as error:
            raise TooManyDecisions(str(error)) from error
        except Refusal as refusal:
            if refusal.code == "NOT_LEADER":
                raise NotDecided(refusal.text) from refusal
            raise OutcomeUnknown(f"{leader}: {refusal}") from refusal
        except NotConnected as error:
            raise NotDecided(str(error)) from error
        except (CallTimedOut, Disconnected) as error:
            raise OutcomeUnknown(f"{leader}: {error}") from error

    def call(
        self, node_id: str, message: msgspec.Struct, answer: type[_T], timeout_s: float
    ) -> Deferred[_T]:
        """Ask one of them; errors: NotConnected, and those of `RpcProtocol.call`."""
        connection = self._connection(node_id)
        if connection is None:
            return fail(NotConnected(f"there is no connection to {node_id}"))
        return connection.call(message, answer, timeout_s)

    def _connection(self, node_id: str) -> RpcProtocol | None:
        found = None
        heard_at = float("-inf")
        for peer in self._peers.values():
            if peer.who is not None and peer.who.id == node_id and peer.heard_at > heard_at:
                found, heard_at = peer.client.connection or found, peer.heard_at
        return found

    # -- connections -----------------------------------------------------------------------------

    def _connect(self, address: str) -> _Peer:
        peer: _Peer

        def opened(_: RpcProtocol) -> None:
            peer.asking = False
            self._ask(peer)

        client = RpcClient(
            self._environment,
            *parse_address(address),
            secret=self._secret,
            hooks=Hooks(opened=opened),
            longest_pause_s=LONGEST_PAUSE_S,
            roles=("coordinator",),
        )
        peer = _Peer(client)
        client.start()
        return peer

    def _ask_all(self) -> None:
        for peer in list(self._peers.values()):
            self._ask(peer)
        self._heard()

    def _ask(self, peer: _Peer) -> None:
        connection = peer.client.connection
        if connection is None or peer.asking:
            return
        peer.asking = True
        connection.call(WhoIs(), Who, ANSWER_S).addCallbacks(
            self._answered, self._not_answered, callbackArgs=(peer, connection), errbackArgs=(peer,)
        ).addErrback(self._failed)

    def _answered(self, who: Who, peer: _Peer, connection: RpcProtocol) -> None:
        peer.asking = False
        holder = connection.certified
        if holder is not None and holder.id != who.id:
            connection.drop(f"the certificate is of {holder}, but it answers as {who.id}")
            return
        peer.who, peer.heard_at = who, self._environment.reactor.seconds()
        self._heard()

    def _not_answered(self, failure: Failure, peer: _Peer) -> None:
        failure.trap(RpcError)
        peer.asking = False

    def _failed(self, failure: Failure) -> None:
        self._log.failure("talking to the other coordinators", failure)


class NotConnected(Disconnected):
    """There is no connection now: nothing was done."""

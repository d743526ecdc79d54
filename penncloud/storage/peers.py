"""Connections between storage servers: the replicas' messages travel over them, in order or not at all.

Theory of operation
    What a server says to another goes over the connection that it itself made; answers come over the
    other one's. So each direction has its own order. Messages are gathered until `flush`, which is
    called once per turn of the reactor, and leave together, in frames of bounded size.

    Nothing is kept for a peer that cannot be reached or does not read: its messages are dropped, and the
    replicas find out by the protocol. When a connection is new, `reconnected` is told, because what was
    under way on the one before may be lost. The receiving side takes messages from the newest connection
    of a sender only, so that late ones of an older connection are never seen behind newer ones. Which is
    newer the incarnations say, and where a clock was set back, the coordinators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from penncloud.platform.config import parse_address
from penncloud.platform.environment import Environment
from penncloud.replication.messages import Message
from penncloud.rpc.calls import Calls
from penncloud.rpc.client import RpcClient
from penncloud.rpc.errors import Disconnected, MessageTooLarge, RpcBusy
from penncloud.rpc.protocol import Hooks, RpcProtocol
from penncloud.storage.peer_messages import Batch, PeerHello, decode, encode

# A frame ends when its messages hold so much; one larger message goes alone.
FRAME_BYTES: Final = 1024 * 1024
# Who may speak for a replica.
SENDERS: Final = ("storage",)
# A lost peer is looked for at least so often: its leases and its place in the group depend on it.
LONGEST_PAUSE_S: Final = 0.5


@define(eq=False)
class _Link:
    """The connection to one peer, and what waits for the end of this turn."""

    address: str
    client: RpcClient
    waiting: list[bytes] = field(factory=list)


@define(eq=False)
class _Heard:
    """The newest connection of one sender."""

    order: tuple[int, int]
    connection: RpcProtocol


class Peers:
    """The other storage servers, by id. `received(sender, messages)` is given what they say."""

    log = Logger()

    def __init__(
        self,
        environment: Environment,
        own_id: str,
        incarnation: int,
        secret: bytes,
        *,
        received: Callable[[str, list[Message]], None],
        reconnected: Callable[[str], None],
    ) -> None:
        self._environment = environment
        self._own_id = own_id
        self._incarnation = incarnation
        self._secret = secret
        self._received = received
        self._reconnected = reconnected
        self._links: dict[str, _Link] = {}
        self._heard: dict[str, _Heard] = {}
        self._senders: dict[RpcProtocol, str] = {}
        self._outranked: dict[str, tuple[int, int]] = {}
        self._number = 0
        self._stopped = False

    # -- to them ---------------------------------------------------------------------------------

    def connect(self, addresses: Mapping[str, str]) -> None:
        """Keep connections to these peers (host:port by id), and to no others."""
        if self._stopped:
            return
        for peer, link in list(self._links.items()):
            if addresses.get(peer) != link.address:
                del self._links[peer]
                self._spawn(link.client)
        for peer, address in addresses.items():
            if peer != self._own_id and peer not in self._links:
                self._links[peer] = self._link(peer, address)

    def _link(self, peer: str, address: str) -> _Link:
        client = RpcClient(
            self._environment,
            *parse_address(address),
            secret=self._secret,
            hooks=Hooks(opened=lambda connection: self._opened(peer, connection)),
            longest_pause_s=LONGEST_PAUSE_S,
        )
        link = _Link(address, client)
        client.start()
        return link

    def _opened(self, peer: str, connection: RpcProtocol) -> None:
        holder = connection.certified
        if holder is not None and holder.id != peer:
            connection.drop(f"the certificate is of {holder}, not of {peer}")
            return
        self._number += 1
        try:
            connection.note(PeerHello(self._own_id, self._incarnation, self._number))
        except Disconnected:
            # It ended as it opened; another one follows.
            return
        link = self._links.get(peer)
        if link is not None:
            link.waiting.clear()
            self._reconnected(peer)

    def send(self, message: Message) -> None:
        """Let a message leave with the next `flush`."""
        link = self._links.get(message.to)
        if link is not None and link.client.connection is not None:
            link.waiting.append(encode(message))

    def flush(self) -> None:
        """Send what was gathered."""
        for link in self._links.values():
            if link.waiting:
                waiting, link.waiting = link.waiting, []
                connection = link.client.connection
                if connection is not None:
                    self._write(connection, waiting)

    def _write(self, connection: RpcProtocol, waiting: list[bytes]) -> None:
        frame: list[msgspec.Raw] = []
        held = 0
        try:
            for message in waiting:
                if frame and held + len(message) > FRAME_BYTES:
                    connection.note(Batch(frame))
                    frame, held = [], 0
                frame.append(msgspec.Raw(message))
                held += len(message)
            connection.note(Batch(frame))
        except (Disconnected, RpcBusy) as error:
            # A gap, which the other side notices.
            self.log.debug("not sent to {peer}: {why}", peer=connection.peer, why=str(error))
        except MessageTooLarge as error:
            self.log.error("not sent to {peer}: {why}", peer=connection.peer, why=str(error))

    # -- from them -------------------------------------------------------------------------------

    def serve(self, calls: Calls) -> None:
        """Take what peers send over connections with these calls."""
        calls.on_note(PeerHello, self._greeted, roles=SENDERS)
        calls.on_note(Batch, self._take, roles=SENDERS)

    def _greeted(self, connection: RpcProtocol, hello: PeerHello) -> None:
        holder = connection.certified
        if holder is not None and holder.id != hello.id:
            connection.drop(f"the certificate is of {holder}, but it says that it is {hello.id}")
            return
        present, before = self._outranked.get(hello.id, (0, 0))
        if present < hello.incarnation <= before:
            connection.drop(f"another process of {hello.id} has registered since")
            return
        order = hello.incarnation, hello.number
        known = self._heard.get(hello.id)
        if known is not None and known.connection is not connection:
            if order < known.order:
                connection.drop(f"{hello.id} has made a newer connection")
                return
            self._senders.pop(known.connection, None)
            known.connection.drop(f"{hello.id} has made another connection")
        self._heard[hello.id] = _Heard(order, connection)
        self._senders[connection] = hello.id

    def _take(self, connection: RpcProtocol, batch: Batch) -> None:
        sender = self._senders.get(connection)
        if sender is None:
            return
        try:
            messages = decode(batch.messages, sender, self._own_id)
        except msgspec.MsgspecError as error:
            connection.drop(f"{sender} sends what is no message: {error}")
            return
        self._received(sender, messages)

    def believe(self, outranked: Mapping[str, tuple[int, int]]) -> None:
        """Peers whose process has a lower incarnation than an earlier one had: both.

        What was heard of the earlier one says nothing about which connection is newer.
        """
        self._outranked = dict(outranked)
        for peer, (present, before) in outranked.items():
            heard = self._heard.get(peer)
            if heard is not None and present < heard.order[0] <= before:
                del self._heard[peer]
                self._senders.pop(heard.connection, None)
                heard.connection.drop(f"another process of {peer} has registered since")

    def lost(self, connection: RpcProtocol) -> None:
        """A connection that somebody made to this server has ended."""
        # Its place in the order is kept: what comes late of an older one is still late.
        self._senders.pop(connection, None)

    # -- the end ---------------------------------------------------------------------------------

    def _spawn(self, client: RpcClient) -> None:
        ended = Deferred.fromCoroutine(client.stop())
        ended.addErrback(lambda failure: self.log.failure("closing a connection", failure))

    async def stop(self) -> None:
        """Close the connections that this server made, and make no others."""
        self._stopped = True
        links, self._links = self._links, {}
        await DeferredList([Deferred.fromCoroutine(link.client.stop()) for link in links.values()])

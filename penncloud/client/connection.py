"""Connections to one server of the key-value protocol: pipelined, bounded, made when needed.

Theory of operation
    Replies come in the order of the requests, so a connection keeps a queue of who waits for which. A
    request that its caller gave up on stays in the queue (its reply is thrown away). A server that says
    nothing for `SILENCE_S` while somebody waits is taken for dead: the connection is aborted, and all
    who wait learn that the outcome is unknown. Nothing is retried here; that is the router's work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

from attrs import define
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IAddress, ITCPTransport
from twisted.internet.protocol import Factory, connectionDone
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure

from penncloud.platform.environment import Environment
from penncloud.platform.errors import PennCloudError
from penncloud.platform.tls import Roles
from penncloud.rpc.endpoints import secured
from penncloud.wire.messages import Changed, Malformed, Reply
from penncloud.wire.replies import ReplyDecoder

# Replies outstanding on one connection (servers read at least this many ahead), and requests that
# may wait behind them.
OUTSTANDING = 128
WAITING = 4096
# A server that owes an answer and sends nothing for so long is taken for dead.
SILENCE_S = 5.0
CONNECT_TIMEOUT_S = 2.0
# Who speaks the key-value protocol.
TEXT_SERVERS = frozenset(("coordinator", "storage"))


class Disconnected(PennCloudError):
    """The connection could not be made, or broke; what was sent may or may not have been done."""

    retryable: ClassVar[bool] = True


class Overloaded(PennCloudError):
    """Too many requests wait for this server already; nothing was sent."""

    retryable: ClassVar[bool] = True


@define(eq=False)
class _Asked:
    data: bytes
    answer: Deferred[Reply]
    abandoned: bool = False


class KeyValueClient(LineReceiver):
    """The client's side of the protocol. `delimiter` and lines are the decoder's concern."""

    transport: Any

    def __init__(self, clock: Any, on_push: Callable[[Changed], None]) -> None:
        self._clock = clock
        self._on_push = on_push
        self._decoder = ReplyDecoder()
        self._waiting: deque[_Asked] = deque()
        self._outstanding: deque[_Asked] = deque()
        self._silence: Any = None
        self._lost: Callable[[KeyValueClient], None] = lambda _: None
        self.open = True

    def connectionMade(self) -> None:
        if ITCPTransport.providedBy(self.transport):
            # Else a request waits until the server's kernel has acknowledged the one before, up to 40 ms.
            self.transport.setTcpNoDelay(True)

    @property
    def load(self) -> int:
        """Requests not yet answered."""
        return len(self._waiting) + len(self._outstanding)

    def when_lost(self, callback: Callable[[KeyValueClient], None]) -> None:
        self._lost = callback

    def request(self, data: bytes) -> Deferred[Reply]:
        """Send one request (with what belongs before it) and fire with its reply.

        Errors: Disconnected, Overloaded. Cancelling gives up the reply, not the request.
        """
        if not self.open:
            return fail(Disconnected("the connection is closed"))
        if len(self._waiting) >= WAITING:
            return fail(Overloaded("too many requests wait for this server"))
        asked = _Asked(data, Deferred(lambda _: self._abandon(asked)))
        self._waiting.append(asked)
        self._send()
        return asked.answer

    def _abandon(self, asked: _Asked) -> None:
        asked.abandoned = True

    def _send(self) -> None:
        ready = []
        while self._waiting and len(self._outstanding) < OUTSTANDING:
            asked = self._waiting.popleft()
            if asked.abandoned:
                continue
            ready.append(asked.data)
            self._outstanding.append(asked)
        if ready:
            self.transport.write(b"".join(ready))
            if self._silence is None:
                self._silence = self._clock.callLater(SILENCE_S, self._silent)

    def _silent(self) -> None:
        self._silence = None
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        for message in self._decoder.feed(data):
            if isinstance(message, Changed):
                self._on_push(message)
            elif isinstance(message, Malformed) or not self._outstanding:
                self.transport.abortConnection()
                return
            else:
                asked = self._outstanding.popleft()
                if not asked.abandoned:
                    asked.answer.callback(message)
        if self._outstanding:
            if self._silence is not None:
                self._silence.reset(SILENCE_S)
        elif self._silence is not None:
            self._silence.cancel()
            self._silence = None
        self._send()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.open = False
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        self._lost(self)
        unanswered = [*self._outstanding, *self._waiting]
        self._outstanding.clear()
        self._waiting.clear()
        for asked in unanswered:
            if not asked.abandoned:
                asked.answer.errback(Disconnected("the connection was lost"))


class _ClientFactory(Factory):
    noisy = False

    def __init__(self, clock: Any, on_push: Callable[[Changed], None]) -> None:
        self._clock = clock
        self._on_push = on_push

    def buildProtocol(self, addr: IAddress | None) -> KeyValueClient:
        return KeyValueClient(self._clock, self._on_push)


class Peer:
    """One server at `host:port`, connected to when there is something to ask.

    `roles` are those that it may have (by its certificate, where there is TLS). `on_push` gets what the
    server pushes; `on_lost` is called when an open connection breaks.
    """

    def __init__(
        self,
        environment: Environment,
        host: str,
        port: int,
        on_push: Callable[[Changed], None] = lambda _: None,
        on_lost: Callable[[], None] = lambda: None,
        *,
        roles: Roles = TEXT_SERVERS,
    ) -> None:
        self._reactor = environment.reactor
        endpoint = HostnameEndpoint(self._reactor, host, port, timeout=CONNECT_TIMEOUT_S)
        self._endpoint = secured(environment, endpoint, roles)
        self._on_push = on_push
        self._on_lost = on_lost
        self._client: KeyValueClient | None = None
        self._connecting: list[Deferred[KeyValueClient]] | None = None
        self._attempt: Deferred[Any] | None = None
        self._closed = False

    @property
    def load(self) -> int:
        """Requests not yet answered."""
        return self._client.load if self._client else 0

    @property
    def connected(self) -> bool:
        return self._client is not None

    async def request(self, data: bytes) -> Reply:
        """See KeyValueClient.request; makes the connection first where there is none."""
        if self._client is None:
            client = await self._connected()
        else:
            client = self._client
        return await client.request(data)

    def _connected(self) -> Deferred[KeyValueClient]:
        """Fires with the open connection; all who wait share one attempt."""
        if self._closed:
            return fail(Disconnected("closed"))
        waiter: Deferred[KeyValueClient] = Deferred(self._give_up)
        if self._connecting is not None:
            if len(self._connecting) >= WAITING:
                return fail(Overloaded("too many requests wait for this server"))
            self._connecting.append(waiter)
            return waiter
        self._connecting = [waiter]
        self._attempt = self._endpoint.connect(_ClientFactory(self._reactor, self._on_push))
        self._attempt.addCallbacks(self._made, self._failed)
        return waiter

    def _give_up(self, waiter: Deferred[KeyValueClient]) -> None:
        if self._connecting is not None and waiter in self._connecting:
            self._connecting.remove(waiter)

    def _made(self, client: KeyValueClient) -> None:
        waiters, self._connecting = self._connecting or [], None
        self._attempt = None
        self._client = client
        client.when_lost(self._broke)
        for waiter in waiters:
            waiter.callback(client)

    def _failed(self, failure: Failure) -> None:
        waiters, self._connecting = self._connecting or [], None
        self._attempt = None
        for waiter in waiters:
            waiter.errback(Disconnected(f"cannot connect: {failure.getErrorMessage()}"))

    def _broke(self, client: KeyValueClient) -> None:
        if self._client is client:
            self._client = None
            self._on_lost()

    def close(self) -> None:
        """Close at once; whoever waits gets Disconnected."""
        self._closed = True
        if self._attempt is not None:
            self._attempt.cancel()
        if self._client is not None:
            self._client.transport.abortConnection()

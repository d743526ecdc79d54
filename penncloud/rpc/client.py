"""A connection that comes back."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.platform.environment import Environment
from penncloud.platform.tls import Roles
from penncloud.rpc.backoff import LONGEST_S, Backoff
from penncloud.rpc.calls import Calls
from penncloud.rpc.endpoints import SERVERS, address_text, internal_endpoint
from penncloud.rpc.errors import Disconnected, RpcBusy
from penncloud.rpc.protocol import MAX_CALLS, Hooks, RpcProtocol

CONNECT_TIMEOUT_S: Final = 5.0
# A connection that held for less was no success: the back-off goes on growing.
STEADY_S: Final = 5.0

_T = TypeVar("_T")


class RpcClient:
    """Keeps one connection to host:port while started, and makes calls over it.

    `roles` are those that the server may have (by its certificate, where there is TLS). `calls` are what
    the other side may call over the same connection. `hooks` are called each time the
    connection has opened (greeting done) and each time an open one has ended.
    """

    log = Logger()

    def __init__(
        self,
        environment: Environment,
        host: str,
        port: int,
        *,
        calls: Calls | None = None,
        secret: bytes = b"",
        hooks: Hooks | None = None,
        longest_pause_s: float = LONGEST_S,
        roles: Roles = SERVERS,
    ) -> None:
        self.address = address_text(host, port)
        self._environment = environment
        self._endpoint = internal_endpoint(environment, host, port, CONNECT_TIMEOUT_S, roles)
        self._calls = calls or Calls()
        self._secret = secret
        self._hooks = hooks or Hooks()
        self._backoff = Backoff(environment.random, longest_s=longest_pause_s)
        self._running = False
        self._connection: RpcProtocol | None = None
        self._opened_at = 0.0
        self._attempt: Deferred[Any] | None = None
        self._pause: Any = None
        self._silent = False
        self._waiting: list[Deferred[RpcProtocol]] = []
        self._ended: Deferred[None] | None = None

    # -- for users -------------------------------------------------------------------------------

    @property
    def connection(self) -> RpcProtocol | None:
        """The open connection, if there is one now."""
        current = self._connection
        return current if current is not None and current.is_open else None

    def start(self) -> None:
        """Connect, and again whenever the connection is lost, until `stop`."""
        if not self._running:
            self._running = True
            self._backoff.reset()
            self._connect()

    async def stop(self) -> None:
        """Close the connection, after what was written has left, and make no other."""
        if not self._running:
            return
        self._running = False
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._attempt is not None:
            self._attempt.cancel()
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.errback(Disconnected(f"the connection to {self.address} was given up"))
        if self._connection is not None:
            self._ended = Deferred()
            self._connection.close()
            await self._ended

    def when_connected(self, timeout_s: float) -> Deferred[RpcProtocol]:
        """Fires with the open connection; errors: Disconnected after `timeout_s`, RpcBusy."""
        result: Deferred[RpcProtocol] = Deferred(self._forget)
        if (current := self.connection) is not None:
            result.callback(current)
        elif not self._running:
            result.errback(Disconnected(f"the connection to {self.address} is not started"))
        elif len(self._waiting) >= MAX_CALLS:
            result.errback(RpcBusy(f"{MAX_CALLS} calls already wait for {self.address}"))
        else:
            self._waiting.append(result)
            result.addTimeout(timeout_s, self._environment.reactor, self._not_connected)
        return result

    async def call(self, message: msgspec.Struct, answer: type[_T], timeout_s: float) -> _T:
        """Ask the other side, waiting for the connection if need be; see `RpcProtocol.call`.

        `timeout_s` bounds the wait and the call together.
        """
        clock = self._environment.reactor
        deadline = clock.seconds() + timeout_s
        connection = await self.when_connected(timeout_s)
        left_s = max(0.001, deadline - clock.seconds())
        return await connection.call(message, answer, left_s)

    # -- connecting ------------------------------------------------------------------------------

    def _forget(self, waiter: Deferred[RpcProtocol]) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)

    def _not_connected(self, value: Any, waited_s: float) -> Any:
        if isinstance(value, Failure) and value.check(CancelledError):
            raise Disconnected(f"no connection to {self.address} within {waited_s:g} s")
        return value

    def _connect(self) -> None:
        self._pause = None
        self._attempt = self._endpoint.connect(_ConnectionFactory(self._build))
        self._attempt.addCallbacks(self._connected, self._not_reached)
        self._attempt.addErrback(self._attempt_failed)

    def _build(self) -> RpcProtocol:
        environment = self._environment
        hooks = Hooks(self._opened, self._closed)
        return RpcProtocol(
            environment.reactor,
            environment.entropy,
            self._calls,
            "client",
            secret=self._secret,
            hooks=hooks,
        )

    def _connected(self, connection: RpcProtocol) -> None:
        self._attempt = None
        self._connection = connection

    def _not_reached(self, failure: Failure) -> None:
        self._attempt = None
        if self._running:
            self._report(failure.getErrorMessage())
            self._try_later()

    def _attempt_failed(self, failure: Failure) -> None:
        self.log.failure("connecting to {address} failed", failure, address=self.address)

    def _report(self, why: str) -> None:
        """Say once, not at each attempt, that the other side is away."""
        if not self._silent:
            self._silent = True
            self.log.info("no rpc with {address}: {why}", address=self.address, why=why)

    def _try_later(self) -> None:
        self._pause = self._environment.reactor.callLater(self._backoff.next_s(), self._connect)

    def _opened(self, connection: RpcProtocol) -> None:
        self._connection = connection
        self._silent = False
        self._opened_at = self._environment.reactor.seconds()
        self._hooks.opened(connection)
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(connection)

    def _closed(self, connection: RpcProtocol, reason: Failure) -> None:
        self._connection = None
        why = reason.getErrorMessage()
        if not connection.was_open:
            why = f"closed during the greeting (is secret_file the same on both sides?): {why}"
        else:
            if self._environment.reactor.seconds() - self._opened_at >= STEADY_S:
                self._backoff.reset()
            self._hooks.closed(connection, reason)
        if self._ended is not None:
            ended, self._ended = self._ended, None
            ended.callback(None)
        if self._running:
            self._report(why)
            self._try_later()


class _ConnectionFactory(Factory):
    noisy = False

    def __init__(self, build: Any) -> None:
        self._build = build

    def buildProtocol(self, addr: IAddress | None) -> RpcProtocol:
        connection: RpcProtocol = self._build()
        connection.factory = self
        return connection

"""Accepting rpc connections."""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.platform.environment import Environment
from penncloud.rpc.calls import Calls
from penncloud.rpc.protocol import Hooks, RpcProtocol

# Processes of one cluster that connect to one server: far more than any has.
MAX_CONNECTIONS: Final = 4096


class RpcServerFactory(Factory):
    """Serves `calls` to every process that connects and, where there is a secret, knows it.

    `hooks` are called when a connection is open (authenticated) and when an open one has ended.
    `connections` are all there are, also those still in their greeting.
    """

    log = Logger()
    noisy = False

    def __init__(
        self,
        environment: Environment,
        calls: Calls,
        *,
        secret: bytes = b"",
        hooks: Hooks | None = None,
    ) -> None:
        self._environment = environment
        self._calls = calls
        self._secret = secret
        self._hooks = hooks or Hooks()
        # A dict as an ordered set: what is done to all is done in the same order in every run.
        self.connections: dict[RpcProtocol, None] = {}

    def buildProtocol(self, addr: IAddress | None) -> RpcProtocol | None:
        if len(self.connections) >= MAX_CONNECTIONS:
            self.log.error("rpc connection refused: there are {count}", count=MAX_CONNECTIONS)
            return None
        hooks = Hooks(self._hooks.opened, self._closed)
        environment = self._environment
        protocol = RpcProtocol(
            environment.reactor,
            environment.entropy,
            self._calls,
            "server",
            secret=self._secret,
            hooks=hooks,
        )
        protocol.factory = self
        self.connections[protocol] = None
        return protocol

    def close_all(self) -> None:
        """End every connection after what is written has left."""
        for connection in list(self.connections):
            connection.close()

    def _closed(self, connection: RpcProtocol, why: Failure) -> None:
        self.connections.pop(connection, None)
        if connection.was_open:
            self._hooks.closed(connection, why)

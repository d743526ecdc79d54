"""What an agent answers, whoever really keeps its servers running: itself or a service manager."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Final, Protocol

from twisted.logger import Logger

from penncloud.client.agents import (
    NO_SUCH_SERVER,
    ListServers,
    RestartServer,
    Servers,
    StartServer,
    StopServer,
    SupervisedServer,
)
from penncloud.rpc.calls import Calls
from penncloud.rpc.errors import Refusal
from penncloud.rpc.protocol import RpcProtocol

# Who may stop and start servers: an administrator's command, and the admin console on the frontends.
CALLERS: Final = frozenset(("admin", "http"))


class Controlled(Protocol):
    """One server of the host. What it raises (PennCloudError) is told to the caller."""

    def start(self) -> Awaitable[None]: ...

    def stop(self) -> Awaitable[None]: ...

    def restart(self) -> Awaitable[None]: ...

    def describe(self) -> Awaitable[SupervisedServer]: ...


class AgentCalls:
    """Serves the calls of `client.agents` on `servers`, by id."""

    log = Logger()

    def __init__(self, servers: Mapping[str, Controlled]) -> None:
        self._servers = servers

    def serve(self, calls: Calls) -> None:
        calls.on_call(StartServer, self._start)
        calls.on_call(StopServer, self._stop)
        calls.on_call(RestartServer, self._restart)
        calls.on_call(ListServers, self._list)

    def _find(self, node_id: str, action: str, connection: RpcProtocol) -> Controlled:
        if node_id not in self._servers:
            raise Refusal(NO_SUCH_SERVER, f"this agent has no server {node_id}")
        self.log.info(
            "{id}: {action} asked for by {peer}", id=node_id, action=action, peer=connection.peer
        )
        return self._servers[node_id]

    async def _start(self, connection: RpcProtocol, call: StartServer) -> Servers:
        server = self._find(call.id, "start", connection)
        await server.start()
        return Servers([await server.describe()])

    async def _stop(self, connection: RpcProtocol, call: StopServer) -> Servers:
        server = self._find(call.id, "stop", connection)
        await server.stop()
        return Servers([await server.describe()])

    async def _restart(self, connection: RpcProtocol, call: RestartServer) -> Servers:
        server = self._find(call.id, "restart", connection)
        await server.restart()
        return Servers([await server.describe()])

    async def _list(self, connection: RpcProtocol, call: ListServers) -> Servers:
        return Servers([await server.describe() for server in self._servers.values()])

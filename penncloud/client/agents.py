"""Stopping and starting servers: what an agent takes, and the client that finds the right agent.

Every host has one agent (`cluster.agent`), which listens by rpc and starts, stops and restarts the
servers of its host. The directory tells which agent a server has. When no coordinator answers, perhaps
because it is a coordinator that is to be started again, what the directory said last still helps, and
the agents that the caller knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from penncloud.client.directory import Directory, NoSuchNode
from penncloud.client.table import Unavailable
from penncloud.platform.config import Cluster, parse_address
from penncloud.platform.environment import Environment
from penncloud.platform.errors import PennCloudError
from penncloud.rpc.auth import load_secret
from penncloud.rpc.client import RpcClient
from penncloud.rpc.errors import CallTimedOut, Disconnected, Refusal, RpcError

# Longer than an agent lets a server take to end in order, before it kills it.
CALL_TIMEOUT_S: Final = 30.0

# An agent that is not there is given up after so long: somebody waits for the answer.
CONNECT_TIMEOUT_S: Final = 3.0

NO_SUCH_SERVER: Final = "NO_SUCH_SERVER"
# Refusal of an agent whose servers are started by somebody else.
NOT_SUPERVISED: Final = "NOT_SUPERVISED"


class StartServer(msgspec.Struct, tag="agent-start", frozen=True):
    """Call: start it; nothing happens when it runs."""

    id: str


class StopServer(msgspec.Struct, tag="agent-stop", frozen=True):
    """Call: end it in order and leave it down; answered when it is down."""

    id: str


class RestartServer(msgspec.Struct, tag="agent-restart", frozen=True):
    """Call: end it in order and start it; answered when it has been started."""

    id: str


class AddServer(msgspec.Struct, tag="agent-add", frozen=True):
    """Call: configure one more server of this role and start it; answered with it. Roles: storage.

    Refusals: WRONG_ROLE, NOT_POSSIBLE (no free port, say), NOT_SUPERVISED.
    """

    role: str


class RemoveServer(msgspec.Struct, tag="agent-remove", frozen=True):
    """Call: end a server in order and forget it: it is not started again; its data stays on the disk.

    Answered when it is down. Refusals: NO_SUCH_SERVER, WRONG_ROLE, NOT_SUPERVISED.
    """

    id: str


class ListServers(msgspec.Struct, tag="agent-list", frozen=True):
    """Call: what the agent supervises."""


class SupervisedServer(msgspec.Struct, frozen=True):
    """`state`: down, running, waiting (to be started again) or stopping. `deaths`: by itself, since
    it last ran steadily. `last_end`: how it ended the last time, "" if it never did.
    """

    id: str
    role: str
    state: str
    pid: int | None
    deaths: int
    last_end: str


class Servers(msgspec.Struct, tag="agent-servers", frozen=True):
    """Answer to ListServers, and to each other call with the one server."""

    servers: list[SupervisedServer]


Action = StartServer | StopServer | RestartServer | RemoveServer


class AgentUnreachable(PennCloudError):
    """No agent that could do it answers; the text says which were asked."""

    retryable = True


class AgentControl:
    """Acts on servers by id. `fallback`: host:port of agents that are known without the directory."""

    def __init__(
        self,
        environment: Environment,
        cluster: Cluster,
        directory: Directory,
        fallback: Sequence[str] = (),
    ) -> None:
        self._environment = environment
        self._cluster = cluster
        self._directory = directory
        self._fallback = [address for address in fallback if address]
        self._seen: dict[str, str] = {}

    async def start(self, node_id: str) -> None:
        """Start a server; returns when its process runs. Raises NoSuchNode, AgentUnreachable."""
        await self._act(StartServer(node_id))

    async def stop(self, node_id: str) -> None:
        """Stop a server until it is started again; returns when its process has ended."""
        await self._act(StopServer(node_id))

    async def restart(self, node_id: str) -> None:
        """Stop and start a server; returns when its new process runs."""
        await self._act(RestartServer(node_id))

    async def remove(self, node_id: str) -> None:
        """Stop a server and have its agent forget it; its data stays. Raises NoSuchNode,
        AgentUnreachable, Refusal."""
        await self._act(RemoveServer(node_id))

    async def add(self, role: str) -> SupervisedServer:
        """Have the first agent that answers configure and start one more server.

        Raises AgentUnreachable, Refusal (a role that cannot be added, no free port).
        """
        failures = []
        for agent in self._fallback:
            try:
                [server] = (await self._ask(agent, AddServer(role))).servers
            except (CallTimedOut, Disconnected) as error:
                failures.append(f"the agent at {agent}: {error}")
            else:
                return server
        raise AgentUnreachable("; ".join(failures) or "there is no agent here")

    async def servers(self, agent: str) -> list[SupervisedServer]:
        """What the agent at host:port supervises."""
        return (await self._ask(agent, ListServers())).servers

    async def _act(self, action: Action) -> None:
        failures = []
        for agent in await self._agents_of(action.id):
            try:
                await self._ask(agent, action)
            except Refusal as refusal:
                if refusal.code != NO_SUCH_SERVER:
                    raise
            except RpcError as error:
                failures.append(f"the agent at {agent}: {error}")
            else:
                return
        if failures:
            raise AgentUnreachable(f"{action.id}: {'; '.join(failures)}")
        raise NoSuchNode(f"no agent that could be asked has a server {action.id}")

    async def _agents_of(self, node_id: str) -> list[str]:
        """The agents to ask, the likeliest first."""
        try:
            view = await self._directory.view()
        except Unavailable:
            likely = [self._seen[node_id]] if node_id in self._seen else []
            others = [*self._fallback, *self._seen.values()]
            return list(dict.fromkeys(likely + others))
        self._seen = {node.id: node.agent for node in view.nodes if node.agent}
        if node_id in self._seen:
            return [self._seen[node_id]]
        # A server that never registered is not in the directory.
        return list(dict.fromkeys([*self._fallback, *self._seen.values()]))

    async def _ask(self, agent: str, call: Action | AddServer | ListServers) -> Servers:
        host, port = parse_address(agent)
        secret = load_secret(self._cluster, host)
        client = RpcClient(self._environment, host, port, secret=secret, roles=("agent",))
        client.start()
        try:
            connection = await client.when_connected(CONNECT_TIMEOUT_S)
            return await connection.call(call, Servers, CALL_TIMEOUT_S)
        finally:
            await client.stop()

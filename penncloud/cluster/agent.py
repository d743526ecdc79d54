"""The agent of a host: supervises its servers, lets others stop and start them, keeps cluster.json.

It listens by rpc (`client.agents` has the calls) and registers with the coordinators as role `agent`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from attrs import frozen
from twisted.internet.defer import gatherResults, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from penncloud.client.agents import NO_SUCH_SERVER, SupervisedServer
from penncloud.cluster import cluster_file
from penncloud.cluster.agent_calls import CALLERS, AgentCalls
from penncloud.cluster.certificates import admin_certificate
from penncloud.cluster.cluster_file import ClusterFile
from penncloud.cluster.configuration import has_workers
from penncloud.cluster.growth import Growth
from penncloud.cluster.layout import Layout
from penncloud.cluster.ports import is_free
from penncloud.cluster.topology import Server, Topology, in_stop_order
from penncloud.platform.config import Agent, Cluster
from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.listening import listen_internal
from penncloud.platform.supervisor import Launch, Pace, Supervised
from penncloud.rpc.auth import load_secret
from penncloud.rpc.calls import Calls
from penncloud.rpc.errors import Refusal
from penncloud.rpc.registration import Identity, Registration
from penncloud.rpc.server import RpcServerFactory

ROLE: Final = "agent"


@frozen
class _Child:
    """A process of this agent's, as others may act on it."""

    @property
    def role(self) -> str:
        return self._role

    _process: Supervised
    _role: str
    # Whether the process that runs now has workers.
    _renews: Callable[[], bool]

    async def start(self) -> None:
        self._process.start()

    async def stop(self) -> None:
        await self._process.stop()

    async def restart(self) -> None:
        """A frontend with workers replaces them one by one, which cuts no request."""
        if not (self._renews() and self._process.renew()):
            await self._process.restart()

    async def describe(self) -> SupervisedServer:
        process = self._process
        return SupervisedServer(
            id=process.id,
            role=self._role,
            state=process.state,
            pid=process.pid,
            deaths=process.deaths,
            last_end=str(process.last_end) if process.last_end else "",
        )


class AgentNode:
    """All the servers of one topology. `launch` gives the function that starts a server's process.

    `changed` is called after each change of a server's state.
    """

    log = Logger()

    def __init__(
        self,
        environment: Environment,
        layout: Layout,
        topology: Topology,
        *,
        cluster: Cluster,
        config: Agent,
        launch: Callable[[Server], Launch],
        changed: Callable[[Supervised], None],
    ) -> None:
        self._environment = environment
        self._layout = layout
        self.topology = topology
        self._launch = launch
        self._cluster = cluster
        self._config = config
        self._changed = changed
        self._written: ClusterFile | None = None
        self.processes: dict[str, Supervised] = {}
        self._children: dict[str, _Child] = {}
        # The frontends that were started with workers: the configuration may have changed since.
        self._with_workers: set[str] = set()
        for server in topology.servers:
            self._supervise(server)
        host = topology.public_host
        identity = Identity(ROLE, config.id, host, topology.agent_port, os.getpid())
        self._registration = Registration(environment, cluster, identity)
        calls = Calls()
        AgentCalls(self._children).serve(calls)
        Growth(layout, self, is_free, environment.now).serve(calls)
        self._server = RpcServerFactory(
            environment, calls, secret=load_secret(cluster, topology.host)
        )
        self._listening: IListeningPort | None = None

    async def start(self) -> None:
        """Listen and start every server; raises ConfigurationError when it cannot listen."""
        topology = self.topology
        self._listening = await listen_internal(
            self._environment, topology.host, topology.agent_port, self._server, CALLERS
        )
        for process in self.processes.values():
            process.start()
        self._registration.start()

    async def stop(self) -> None:
        """Stop every server in order: first those that take requests, last those that others need."""
        if self._listening is not None:
            await maybeDeferred(self._listening.stopListening)
        await self._registration.stop()
        for group in in_stop_order(self.topology.servers):
            # One that is being removed meanwhile ends by that.
            here = [self.processes[one.id] for one in group if one.id in self.processes]
            await gatherResults([process.stop() for process in here])
        self._server.close_all()

    def kill(self) -> None:
        """End all that still runs, now; `stop` then finishes at once."""
        for process in self.processes.values():
            process.kill()

    # -- servers that come and go ----------------------------------------------------------------

    def _supervise(self, server: Server) -> Supervised:
        process = self.processes[server.id] = Supervised(
            server.id,
            self._launch(server),
            self._environment.reactor,
            Pace.of(self._config),
            self._process_changed,
        )
        self._children[server.id] = _Child(
            process, server.role, lambda: server.id in self._with_workers
        )
        return process

    def begin(self, server: Server) -> None:
        """Supervise and start one more server, which `topology` has."""
        self._supervise(server).start()

    async def end(self, node_id: str) -> None:
        """Stop a server and supervise it no more. Nobody can start it from now on: a process that was
        started while the last one ends would be left running."""
        self._children.pop(node_id, None)
        await self.processes[node_id].stop()
        self.processes.pop(node_id, None)

    async def describe(self, node_id: str) -> SupervisedServer:
        """Raises Refusal for a server that is not here."""
        if node_id not in self._children:
            raise Refusal(NO_SUCH_SERVER, f"this agent has no server {node_id}")
        return await self._children[node_id].describe()

    # -- cluster.json ----------------------------------------------------------------------------

    def _process_changed(self, process: Supervised) -> None:
        if process.state == "running":
            self._note_workers(process.id)
        self.write_cluster_file()
        self._changed(process)

    def _note_workers(self, node_id: str) -> None:
        self._with_workers.discard(node_id)
        if self._children[node_id].role == "http" and has_workers(self._layout, node_id):
            self._with_workers.add(node_id)

    def write_cluster_file(self) -> None:
        """Bring DIR/cluster.json up to date; a disk that refuses does not stop the servers."""
        pids = {node_id: process.pid for node_id, process in self.processes.items()}
        document = cluster_file.describe(
            self.topology,
            self._config.id,
            os.getpid(),
            pids,
            admin_certificate(self._layout, self.topology),
        )
        if document == self._written:
            return
        try:
            cluster_file.write(self._layout, document)
        except ConfigurationError as error:
            self.log.error("{error}", error=str(error))
        else:
            self._written = document

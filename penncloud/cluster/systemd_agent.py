"""The agent of a host whose servers systemd keeps running: it passes on what the admin console asks for.

It answers the same calls as the agent of `penncloud up` (`agent_calls`) and knows the servers by the
sections of the host's configuration: the section of a role, with an id, is this host's server of that role.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IListeningPort

from penncloud.cluster import growth
from penncloud.cluster.agent_calls import CALLERS, AgentCalls
from penncloud.cluster.systemd import Systemctl, units_of
from penncloud.cluster.systemd_units import unit_name
from penncloud.cluster.topology import ROLES
from penncloud.platform.config import Agent, Cluster, Http, section
from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.listening import listen_internal, port_of
from penncloud.platform.resources import worker_count
from penncloud.rpc.auth import load_secret
from penncloud.rpc.calls import Calls
from penncloud.rpc.registration import Identity, Registration
from penncloud.rpc.server import RpcServerFactory


def servers_in(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Id, role and unit of each server that a host's configuration has."""
    found = []
    for role in ROLES:
        node_id = document.get(role, {}).get("id", "")
        if node_id:
            found.append((node_id, role, unit_name(role)))
    return found


def with_workers(document: Mapping[str, Any]) -> list[str]:
    """The id of the host's frontend, if it has workers. Raises ConfigurationError."""
    role = section(Http, document.get("http", {}), "[http]")
    return [role.id] if role.id and worker_count(role.workers) else []


class SystemdAgent:
    """Listens by rpc and registers with the coordinators as role `agent`; see the module."""

    def __init__(
        self,
        environment: Environment,
        document: Mapping[str, Any],
        cluster: Cluster,
        config: Agent,
        systemctl: Systemctl,
    ) -> None:
        servers = servers_in(document)
        if not servers:
            raise ConfigurationError(
                "no server to act on: the configuration has no section of a role with an id"
            )
        self._environment = environment
        self._cluster = cluster
        self._config = config
        calls = Calls()
        AgentCalls(units_of(servers, systemctl, with_workers(document))).serve(calls)
        growth.serve_none(calls)
        self._server = RpcServerFactory(
            environment, calls, secret=load_secret(cluster, config.host)
        )
        self._listening: IListeningPort | None = None
        self._registration: Registration | None = None

    @property
    def port(self) -> int:
        """The TCP port that is listened on, once started."""
        return port_of(self._listening)

    async def start(self) -> None:
        """Raises ConfigurationError when it cannot listen."""
        config = self._config
        self._listening = await listen_internal(
            self._environment, config.host, config.port, self._server, CALLERS
        )
        host = config.advertise or config.host
        me = Identity("agent", config.id, host, self.port, self._environment.pid)
        self._registration = Registration(self._environment, self._cluster, me)
        self._registration.start()

    async def stop(self) -> None:
        """The servers go on: they are systemd's."""
        if self._listening is not None:
            await maybeDeferred(self._listening.stopListening)
        if self._registration is not None:
            await self._registration.stop()
        self._server.close_all()

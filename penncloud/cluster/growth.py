"""Servers that come and go while a local cluster runs: their files, ports and processes.

Only roles that hold tablets grow so: the coordinators move tablets to a new server by themselves, and away
from one before it is removed (`penncloud node`). The configuration of the others stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from attrs import define
from twisted.logger import Logger

from penncloud.client.agents import (
    NOT_SUPERVISED,
    AddServer,
    RemoveServer,
    Servers,
    SupervisedServer,
)
from penncloud.cluster.certificates import make_certificates
from penncloud.cluster.configuration import write_all
from penncloud.cluster.layout import Layout
from penncloud.cluster.topology import IsFree, Server, Topology, grown, without
from penncloud.platform.errors import ConfigurationError
from penncloud.rpc.calls import Calls
from penncloud.rpc.errors import Refusal
from penncloud.rpc.protocol import RpcProtocol

GROWING: Final = frozenset({"storage"})
# Moving data to and from a server is for an administrator's command alone.
CALLERS: Final = frozenset(("admin",))


class Host(Protocol):
    """The agent: its servers' processes."""

    topology: Topology

    def begin(self, server: Server) -> None:
        """Supervise and start one more."""
        ...

    async def end(self, node_id: str) -> None:
        """Stop one and supervise it no more."""
        ...

    async def describe(self, node_id: str) -> SupervisedServer: ...

    def write_cluster_file(self) -> None: ...


@define
class Growth:
    """Serves AddServer and RemoveServer of `client.agents`."""

    _layout: Layout
    _host: Host
    _is_free: IsFree
    _now: Callable[[], float]

    log = Logger()

    def serve(self, calls: Calls) -> None:
        calls.on_call(AddServer, self._add, CALLERS)
        calls.on_call(RemoveServer, self._remove, CALLERS)

    async def _add(self, connection: RpcProtocol, call: AddServer) -> Servers:
        before = self._host.topology
        if call.role not in GROWING:
            raise Refusal("WRONG_ROLE", f"{call.role} servers are not added to a running cluster")
        try:
            topology, server = grown(before, call.role, self._is_free)
            write_all(self._layout, topology, ())
            make_certificates(self._layout, topology, self._now)
        except ConfigurationError as error:
            raise Refusal("NOT_POSSIBLE", str(error)) from error
        self.log.info("{id}: added by {peer}", id=server.id, peer=connection.peer)
        self._host.topology = topology
        self._host.begin(server)
        return Servers([await self._host.describe(server.id)])

    async def _remove(self, connection: RpcProtocol, call: RemoveServer) -> Servers:
        # Refuses an id that this agent does not have.
        before = await self._host.describe(call.id)
        if before.role not in GROWING:
            raise Refusal("WRONG_ROLE", f"{call.id}: {before.role} servers are not removed so")
        self.log.info("{id}: removed by {peer}", id=call.id, peer=connection.peer)
        await self._host.end(call.id)
        self._host.topology = without(self._host.topology, call.id)
        self._host.write_cluster_file()
        try:
            write_all(self._layout, self._host.topology, ())
        except ConfigurationError as error:
            raise Refusal("NOT_POSSIBLE", str(error)) from error
        return Servers([before])


def serve_none(calls: Calls) -> None:
    """For a host whose servers a service manager starts: what an administrator has to do there."""

    def refuse(_connection: RpcProtocol, _call: AddServer | RemoveServer) -> Servers:
        raise Refusal(
            NOT_SUPERVISED,
            "the service manager of this host starts its servers: add or disable a unit there",
        )

    calls.on_call(AddServer, refuse)
    calls.on_call(RemoveServer, refuse)

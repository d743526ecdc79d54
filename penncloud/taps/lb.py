"""`twistd penncloud-lb`: the load balancer."""

from __future__ import annotations

from typing import cast

from prometheus_client import CollectorRegistry
from twisted.application.service import IService

from penncloud.platform.config import Cluster, Lb, Role
from penncloud.platform.environment import Environment
from penncloud.taps._options import RoleOptions, role_options
from penncloud.taps._service import Node, RoleService

Options = role_options("lb", "[options]")


class _WithDirectory:
    """The balancer's node and its connection to the coordinators."""

    def __init__(
        self, environment: Environment, cluster: Cluster, role: Lb, registry: CollectorRegistry
    ) -> None:
        from penncloud.client.coordinator_link import CoordinatorDirectory
        from penncloud.lb.node import LbNode

        self._directory = CoordinatorDirectory(environment, cluster)
        self._node = LbNode(environment, cluster, role, self._directory, registry)

    async def start(self) -> None:
        self._directory.start()
        await self._node.start()

    async def stop(self) -> None:
        await self._node.stop()
        await self._directory.stop()

    def trouble(self) -> str:
        return self._node.trouble()

    def reload(self, role: Role) -> frozenset[str]:
        return self._node.reload(role)


def makeService(options: RoleOptions) -> IService:
    cluster, role = options.cluster, cast(Lb, options.role)

    def build(environment: Environment, registry: CollectorRegistry) -> Node:
        return _WithDirectory(environment, cluster, role, registry)

    return RoleService(cluster, role, build, options.read)

"""`twistd penncloud-coordinator`."""

from __future__ import annotations

from typing import cast

from prometheus_client import CollectorRegistry
from twisted.application.service import IService

from penncloud.platform.config import Coordinator
from penncloud.platform.environment import Environment
from penncloud.taps._data_directory import OnDataDirectory
from penncloud.taps._options import RoleOptions, role_options
from penncloud.taps._service import Node, RoleService

Options = role_options("coordinator", "[options]")


def makeService(options: RoleOptions) -> IService:
    cluster, role = options.cluster, cast(Coordinator, options.role)

    def build(environment: Environment, registry: CollectorRegistry) -> Node:
        from penncloud.coordinator.node import CoordinatorNode

        return OnDataDirectory(
            environment.reactor,
            role.data_dir,
            lambda disk: CoordinatorNode(environment, cluster, role, registry, disk),
        )

    return RoleService(cluster, role, build, options.read)

"""`twistd penncloud-http`: one web frontend."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry
from twisted.application.service import Service

from penncloud.platform.config import Http
from penncloud.platform.environment import Environment
from penncloud.taps._options import role_options
from penncloud.taps._service import Node, RoleService

Options = role_options("http", "Usage: twistd [twistd options] penncloud-http [options]")


def makeService(options: Any) -> Service:
    """From twistd: the service of the options given."""
    cluster, role = options.cluster, options.role
    assert isinstance(role, Http)

    def build(environment: Environment, registry: CollectorRegistry) -> Node:
        from penncloud.client.agents import AgentControl
        from penncloud.client.coordinator_link import CoordinatorDirectory
        from penncloud.client.router import RoutedTable
        from penncloud.web.node import HttpNode

        table = RoutedTable(environment, cluster)
        directory = CoordinatorDirectory(environment, cluster)
        return HttpNode(
            environment,
            cluster=cluster,
            role=role,
            table=table,
            raw=table,
            directory=directory,
            control=AgentControl(environment, cluster, directory, [role.agent]),
            registry=registry,
            links=(table, directory),
        )

    return RoleService(cluster, role, build, options.read)

"""`twistd penncloud-smtp`: mail in and out."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry

from penncloud.platform.environment import Environment
from penncloud.taps._options import role_options
from penncloud.taps._service import Node, RoleService

Options = role_options("smtp", "[--config FILE] [--KEY VALUE ...]")


def makeService(options: Any) -> RoleService:
    """The role as a service; called by `twistd`."""

    def build(environment: Environment, registry: CollectorRegistry) -> Node:
        from penncloud.client.router import RoutedTable
        from penncloud.smtp.node import SmtpNode

        table = RoutedTable(environment, options.cluster)
        return SmtpNode(environment, options.cluster, options.role, table, registry)

    return RoleService(options.cluster, options.role, build, options.read)

"""The web frontend and the mail server as their taps build them, for a simulated host.

Imported only where a scenario wants them: Klein and Twisted's mail protocols take a while to load.
"""

from __future__ import annotations

from argon2 import PasswordHasher
from prometheus_client import CollectorRegistry

from penncloud.client.agents import AgentControl
from penncloud.client.coordinator_link import CoordinatorDirectory
from penncloud.client.router import RoutedTable
from penncloud.platform import config
from penncloud.platform.environment import Environment
from penncloud.simulation.host import Node
from penncloud.smtp.node import SmtpNode
from penncloud.web.node import HttpNode


class _RepeatableHasher(PasswordHasher):
    """As quick as argon2 can be, with salt from the host's own chance."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self._entropy = environment.entropy

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        return super().hash(password, salt=salt or self._entropy(16))


def web_frontend(environment: Environment, cluster: config.Cluster, role: config.Http) -> Node:
    """See `taps.http`."""
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
        registry=CollectorRegistry(),
        links=(table, directory),
        hasher=_RepeatableHasher(environment),
    )


def mail_server(environment: Environment, cluster: config.Cluster, role: config.Smtp) -> Node:
    """See `taps.smtp`."""
    table = RoutedTable(environment, cluster)
    return SmtpNode(environment, cluster, role, table, CollectorRegistry())

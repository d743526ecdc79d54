"""`twistd penncloud-http`: one web frontend, which may stand by for its host's mail server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from twisted.application.service import Service

from penncloud.platform.config import Cluster, Http, Role, Smtp, read_file, section
from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError
from penncloud.taps._options import role_options
from penncloud.taps._service import Node, RoleService

if TYPE_CHECKING:
    from penncloud.smtp.node import SmtpNode

Options = role_options("http", "Usage: twistd [twistd options] penncloud-http [options]")


class _WithMail:
    """A frontend that also takes mail in while no other process of its host does."""

    def __init__(self, web: Node, mail: Node) -> None:
        self._web = web
        self._mail = mail

    async def start(self) -> None:
        await self._web.start()
        await self._mail.start()

    async def stop(self) -> None:
        await self._mail.stop()
        await self._web.stop()

    def trouble(self) -> str:
        return self._web.trouble()

    def reload(self, role: Role) -> frozenset[str]:
        return self._web.reload(role)


def _mail_of(
    environment: Environment, cluster: Cluster, role: Http, registry: CollectorRegistry
) -> SmtpNode:
    """The mail server that `mail_config` describes, as a part of this frontend."""
    from penncloud.client.router import RoutedTable
    from penncloud.smtp.node import SmtpNode

    found = read_file(role.mail_config).get("smtp")
    if found is None:
        raise ConfigurationError(f"[http]: mail_config: {role.mail_config} has no section [smtp]")
    mail = section(Smtp, {**found, "id": f"{role.id}-mail", "standby": True}, "[smtp]")
    table = RoutedTable(environment, cluster)
    return SmtpNode(environment, cluster, mail, table, registry, registered=False)


def makeService(options: Any) -> Service:
    """From twistd: the service of the options given."""
    cluster, role = options.cluster, options.role
    assert isinstance(role, Http)

    def build(environment: Environment, registry: CollectorRegistry) -> Node:
        from penncloud.client.agents import AgentControl
        from penncloud.client.coordinator_link import CoordinatorDirectory
        from penncloud.client.router import RoutedTable
        from penncloud.web.node import HttpNode

        mail = _mail_of(environment, cluster, role, registry) if role.mail_config else None
        table = RoutedTable(environment, cluster)
        directory = CoordinatorDirectory(environment, cluster)
        web = HttpNode(
            environment,
            cluster=cluster,
            role=role,
            table=table,
            raw=table,
            directory=directory,
            control=AgentControl(environment, cluster, directory, [role.agent]),
            registry=registry,
            links=(table, directory),
            mail=lambda: "" if mail is None else mail.part,
        )
        return web if mail is None else _WithMail(web, mail)

    return RoleService(cluster, role, build, options.read)

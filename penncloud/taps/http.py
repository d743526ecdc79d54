"""`twistd penncloud-http`: one web frontend, which may stand by for its host's mail server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry
from twisted.application.service import Service

from penncloud.platform.config import Cluster, Http, Role, Smtp, read_file, section
from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.metrics import Family
from penncloud.platform.resources import worker_count
from penncloud.rpc.registration import MailPart
from penncloud.taps._options import role_options
from penncloud.taps._service import Node, RoleService, WithWorkers

if TYPE_CHECKING:
    from penncloud.smtp.node import SmtpNode

# The main program of a worker.
WORKER_MODULE: Final = "penncloud.taps.http_worker"

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

    async def worker_metrics(self) -> Mapping[str, Sequence[Family]]:
        return await self._web.worker_metrics() if isinstance(self._web, WithWorkers) else {}


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
    label = [options["config"]] if options["config"] else []

    def build(environment: Environment, registry: CollectorRegistry) -> Node:
        count = worker_count(role.workers)
        # The mail server lives in this process, never in a worker: there is one of it.
        mail = _mail_of(environment, cluster, role, registry) if role.mail_config else None

        def part() -> MailPart:
            return "" if mail is None else mail.part

        make = _one_process if count == 0 else _front(count, label)
        web = make(environment, cluster, role, registry, part)
        return web if mail is None else _WithMail(web, mail)

    return RoleService(cluster, role, build, options.read)


_Make = Callable[[Environment, Cluster, Http, CollectorRegistry, Callable[[], MailPart]], Node]


def _one_process(
    environment: Environment,
    cluster: Cluster,
    role: Http,
    registry: CollectorRegistry,
    mail: Callable[[], MailPart],
) -> Node:
    from penncloud.web.node import HttpNode

    parts = parts_of_serving(environment, cluster, role)
    return HttpNode(environment, registry=registry, mail=mail, **parts)


def parts_of_serving(environment: Environment, cluster: Cluster, role: Http) -> dict[str, Any]:
    """What a process that answers browsers is made of, by the names that `Serving` and `HttpNode` have."""
    from penncloud.client.agents import AgentControl
    from penncloud.client.coordinator_link import CoordinatorDirectory
    from penncloud.client.router import RoutedTable

    table = RoutedTable(environment, cluster)
    directory = CoordinatorDirectory(environment, cluster)
    return {
        "cluster": cluster,
        "role": role,
        "table": table,
        "raw": table,
        "directory": directory,
        "control": AgentControl(environment, cluster, directory, [role.agent]),
        "links": (table, directory),
    }


def _front(count: int, label: Sequence[str]) -> _Make:
    from penncloud.client.router import RoutedTable
    from penncloud.web.workers.front import FrontNode
    from penncloud.web.workers.process import spawn_workers

    def make(
        environment: Environment,
        cluster: Cluster,
        role: Http,
        registry: CollectorRegistry,
        mail: Callable[[], MailPart],
    ) -> Node:
        table = RoutedTable(environment, cluster)
        return FrontNode(
            environment,
            cluster=cluster,
            role=role,
            table=table,
            registry=registry,
            count=count,
            spawn_on=lambda socket: spawn_workers(
                environment.reactor, socket, WORKER_MODULE, label
            ),
            links=(table,),
            mail=mail,
        )

    return make

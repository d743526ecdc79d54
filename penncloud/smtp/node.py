"""The mail server as a node: takes mail in, sends the queue out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from prometheus_client import CollectorRegistry

from penncloud.client.table import Table
from penncloud.platform.config import Cluster, Role, Smtp
from penncloud.platform.environment import Environment
from penncloud.platform.listening import port_of
from penncloud.platform.port_holder import PortHolder
from penncloud.platform.tls import ServerCertificate
from penncloud.rpc.registration import MailPart, Registration, identity, new_incarnation
from penncloud.services.accounts import Accounts
from penncloud.services.blobs import Blobs
from penncloud.services.mail.bodies import Bodies
from penncloud.services.mail.outbox import Outbox
from penncloud.services.mail.post import PostOffice
from penncloud.services.mail.queue import Queue
from penncloud.services.mail.reclaim import Reclaimer
from penncloud.smtp.dsn import Reports
from penncloud.smtp.mx import MxRouter, make_resolver
from penncloud.smtp.reception import Reception
from penncloud.smtp.relay import Relay
from penncloud.smtp.runner import QueueRunner, Schedule
from penncloud.smtp.server import InboundServer, Limits

# What can be changed while it runs.
RELOADED: Final = frozenset(
    (
        "max_message_bytes",
        "max_recipients",
        "max_connections",
        "max_connections_per_client",
        "idle_timeout_s",
        "data_timeout_s",
        "retry_seconds",
        "delay_notice_hours",
        "expire_hours",
        "relay_port",
        "smart_host",
    )
)


class TableClient(Table, Protocol):
    """A table whose connections begin and end with this node."""

    def start(self) -> None: ...

    def use_coordinators(self, addresses: Sequence[str]) -> None: ...

    def stop(self) -> None: ...


class SmtpNode:
    """Listens on the SMTP port; `start` raises ConfigurationError when it cannot.

    With `role.standby` it waits for a port that another process of the host has. `registered`: the
    coordinators are told of it; not where it is a part of another role's process.
    """

    def __init__(
        self,
        environment: Environment,
        cluster: Cluster,
        role: Smtp,
        table: TableClient,
        registry: CollectorRegistry,
        *,
        registered: bool = True,
    ) -> None:
        self._environment = environment
        self._registered = registered
        self._cluster = cluster
        self._role = role
        self._table = table
        hostname = role.hostname or cluster.domain
        bodies = Bodies(table, Blobs(table, environment.entropy), environment)
        accounts = Accounts(table, environment)
        post = PostOffice(table, bodies, environment, accounts, cluster.domain)
        self._inbound = InboundServer(
            environment, Reception(environment, post, hostname), registry, limits_of(role)
        )
        queue = Queue(table, environment, role.id, new_incarnation(environment))
        resolver = make_resolver(environment, role.resolver)
        self._relay = Relay(
            environment,
            MxRouter(environment, resolver, hostname, role.address_literals),
            hostname,
            role.relay_port,
            role.smart_host,
            opportunistic_tls=role.relay_tls == "opportunistic",
        )
        self._runner = QueueRunner(
            environment,
            queue,
            bodies,
            Outbox(environment, bodies, post, queue),
            self._relay,
            Reports(environment, post, hostname),
            Reclaimer(table, environment, bodies, post, queue),
            registry,
            schedule_of(role),
        )
        self._port = PortHolder(environment.reactor, role.host, role.port, self._inbound)
        self._registration: Registration | None = None

    @property
    def port(self) -> int:
        """The TCP port that is listened on, once started."""
        return port_of(self._port.listening)

    @property
    def part(self) -> MailPart:
        """What it does as a part of a frontend."""
        return "stands by for mail" if self._port.listening is None else "serves mail"

    def trouble(self) -> str:
        """Why it cannot do its work just now; "" if it can."""
        return "it does not run" if self._registration is None else self._registration.trouble()

    def reload(self, role: Role) -> frozenset[str]:
        """See `taps._service.Node`. Sessions that are open keep the times that they began with."""
        assert isinstance(role, Smtp)
        self._inbound.limits = limits_of(role)
        self._runner.schedule = schedule_of(role)
        self._relay.port = role.relay_port
        self._relay.smart_host = role.smart_host
        return RELOADED

    async def start(self) -> None:
        role = self._role
        self._inbound.certificate = ServerCertificate.configured(
            role.tls_cert, role.tls_key, "[smtp]"
        )
        if role.standby:
            await self._port.stand_by()
        else:
            await self._port.hold()
        self._table.start()
        if self._registered:
            port = role.port or self.port
            me = identity("smtp", role, port, self._environment.pid)
            self._registration = Registration(
                self._environment, self._cluster, me, on_coordinators=self._table.use_coordinators
            )
            self._registration.start()
        self._runner.start()

    async def stop(self) -> None:
        """No new clients; messages that are just being stored or sent are brought to their end."""
        await self._port.stop()
        await self._inbound.stop()
        await self._runner.stop()
        if self._registration is not None:
            await self._registration.stop()
        self._table.stop()


def limits_of(role: Smtp) -> Limits:
    """The server's bounds from its section of the configuration."""
    return Limits(
        message_bytes=role.max_message_bytes,
        recipients=role.max_recipients,
        connections=role.max_connections,
        connections_per_client=role.max_connections_per_client,
        idle_s=role.idle_timeout_s,
        data_s=role.data_timeout_s,
    )


def schedule_of(role: Smtp) -> Schedule:
    """When outgoing mail is tried again, from the configuration."""
    return Schedule(
        retry_s=tuple(role.retry_seconds) or Schedule().retry_s,
        delay_notice_s=role.delay_notice_hours * 3600,
        expire_s=role.expire_hours * 3600,
    )

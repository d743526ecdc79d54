"""The process of a frontend that holds the port and looks after its workers; see the package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
from argon2 import PasswordHasher
from prometheus_client import CollectorRegistry, Gauge
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.client.table import Table
from penncloud.platform.config import Cluster, Http, Role
from penncloud.platform.environment import Environment
from penncloud.platform.listening import descriptor_of, hold_port, port_of
from penncloud.platform.metrics import Family
from penncloud.rpc.registration import MailPart
from penncloud.services.accounts import Accounts
from penncloud.web.household import Household
from penncloud.web.serving import Link
from penncloud.web.workers.pool import RenewalFailed, Spawn, WorkerPool

# What the front itself uses of its section; everything else is the workers', who are renewed for it.
_OWN_KEYS = frozenset(
    (
        "id",
        "host",
        "advertise",
        "port",
        "metrics_port",
        "agent",
        "mail_config",
        "admin_password",
        "workers",
        # Whether there is HTTPS is told at registration.
        "tls_cert",
        "tls_key",
    )
)


class FrontNode:
    """A frontend of `count` worker processes. `spawn_on` makes the function that starts them, given one that
    tells the listening socket's descriptor. `links` are started first and stopped last."""

    log = Logger()

    def __init__(
        self,
        environment: Environment,
        *,
        cluster: Cluster,
        role: Http,
        table: Table,
        registry: CollectorRegistry,
        count: int,
        spawn_on: Callable[[Callable[[], int]], Spawn],
        links: Sequence[Link] = (),
        mail: Callable[[], MailPart] = lambda: "",
        hasher: PasswordHasher | None = None,
    ) -> None:
        self._environment = environment
        self._role = role
        self._links = links
        self._listening: IListeningPort | None = None
        spawn = spawn_on(lambda: descriptor_of(self._listening))
        self.pool = WorkerPool(environment.reactor, spawn, cluster=cluster, role=role, count=count)
        self._household = Household(
            environment,
            cluster,
            role,
            table=table,
            accounts=Accounts(table, environment, hasher),
            on_coordinators=self._use_coordinators,
            mail=mail,
            workers=self.pool.states,
        )
        for state in ("starting", "serving", "retiring", "waiting"):
            self._count(registry, state)

    @property
    def port(self) -> int:
        """The TCP port, once started."""
        return port_of(self._listening)

    def trouble(self) -> str:
        """Why it cannot do its work just now; "" if it can."""
        if not self.pool.serving:
            return "no worker serves"
        return self._household.trouble()

    def reload(self, role: Role) -> frozenset[str]:
        """Renew the workers, with what of the section they can be given; see `taps._service.Node`."""
        assert isinstance(role, Http)
        kept = {name: getattr(self._role, name) for name in _OWN_KEYS}
        renewing = Deferred.fromCoroutine(self._renew(msgspec.structs.replace(role, **kept)))
        renewing.addErrback(self._not_renewed)
        return frozenset(role.__struct_fields__) - _OWN_KEYS

    async def start(self) -> None:
        """Serve; ends when the admin account is known to exist. Raises ConfigurationError."""
        for link in self._links:
            link.start()
        role = self._role
        self._listening = await hold_port(self._environment.reactor, role.host, role.port)
        await self.pool.start()
        self._household.start(self.port)
        await self._household.prepare()

    async def stop(self) -> None:
        """Leave, let the workers finish (within a bound), close everything."""
        await self._household.stop()
        await self.pool.stop()
        if self._listening is not None:
            await maybeDeferred(self._listening.stopListening)
        for link in reversed(self._links):
            stopping = link.stop()
            if stopping is not None:
                await stopping

    async def worker_metrics(self) -> Mapping[str, Sequence[Family]]:
        """Those of all workers that answer, by number."""
        return await self.pool.report()

    async def _renew(self, role: Http) -> None:
        await self.pool.renew(role)
        self.log.info("{id}: its workers are renewed", id=role.id)

    def _not_renewed(self, failure: Failure) -> None:
        if failure.check(RenewalFailed):
            self.log.error("{id}: {why}", id=self._role.id, why=failure.getErrorMessage())
        else:
            self.log.failure("renewing workers", failure)

    def _use_coordinators(self, addresses: Sequence[str]) -> None:
        for link in self._links:
            link.use_coordinators(addresses)
        self.pool.use_coordinators(addresses)

    def _count(self, registry: CollectorRegistry, state: str) -> None:
        name = f"penncloud_http_workers_{state}"
        Gauge(name, f"Worker processes that are {state}.", registry=registry).set_function(
            lambda: sum(one.state == state for one in self.pool.states())
        )

"""One web frontend as a node: listens, registers with the coordinators, ends in order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol

from argon2 import PasswordHasher
from prometheus_client import CollectorRegistry
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort

from penncloud.client.directory import Directory
from penncloud.client.raw import RawCells
from penncloud.client.table import Table
from penncloud.platform.config import Cluster, Http, Role
from penncloud.platform.environment import Environment
from penncloud.platform.listening import listen, port_of
from penncloud.platform.tls import ServerCertificate, over_https
from penncloud.rpc.registration import MailPart, Registration, identity
from penncloud.services.admin import ServerControl
from penncloud.services.blobs import Blobs, Sweeper
from penncloud.services.files import Files
from penncloud.web.assembly import build_site
from penncloud.web.first_admin import ensure_admin


class Link(Protocol):
    """Something that the node needs and that has to be started and stopped with it."""

    def start(self) -> None: ...

    def use_coordinators(self, addresses: Sequence[str]) -> None:
        """The coordinators' group has changed."""
        ...

    def stop(self) -> Awaitable[None] | None: ...


class HttpNode:
    """Serves browsers on the role's port; `start` raises ConfigurationError when it cannot.

    `links` (connections to the store and to the coordinators) are started first and stopped last. `mail`
    tells the coordinators what the mail server within this process does.
    """

    def __init__(
        self,
        environment: Environment,
        *,
        cluster: Cluster,
        role: Http,
        table: Table,
        raw: RawCells,
        directory: Directory,
        control: ServerControl,
        registry: CollectorRegistry,
        links: Sequence[Link] = (),
        hasher: PasswordHasher | None = None,
        mail: Callable[[], MailPart] = lambda: "",
    ) -> None:
        self._mail = mail
        self._environment = environment
        self._cluster = cluster
        self._role = role
        self._links = links
        self._site, self.context = build_site(
            environment,
            cluster=cluster,
            config=role,
            table=table,
            raw=raw,
            directory=directory,
            control=control,
            registry=registry,
            hasher=hasher,
        )
        files = Files(table, Blobs(table, environment.entropy), environment)
        self._sweeper = Sweeper(environment, self._account_names, [files.collect])
        self._listening: IListeningPort | None = None
        self._registration: Registration | None = None
        self._starting: Deferred[None] | None = None

    @property
    def port(self) -> int:
        """The TCP port that is listened on, once started."""
        return port_of(self._listening)

    def trouble(self) -> str:
        """Why it cannot do its work just now; "" if it can."""
        return "it does not run" if self._registration is None else self._registration.trouble()

    def reload(self, role: Role) -> frozenset[str]:
        """See `taps._service.Node`."""
        self._site.slow_s = role.slow_s
        return frozenset(("log_slower_ms",))

    async def start(self) -> None:
        """Serve; ends when the admin account is known to exist, which needs the store."""
        for link in self._links:
            link.start()
        role, reactor = self._role, self._environment.reactor
        certificate = ServerCertificate.configured(role.tls_cert, role.tls_key, "[http]")
        self._listening = await listen(
            reactor, role.host, role.port, over_https(reactor, certificate, self._site)
        )
        me = identity("http", self._role, self.port, self._environment.pid)
        self._registration = Registration(
            self._environment,
            self._cluster,
            me,
            on_coordinators=self._use_coordinators,
            mail=self._mail,
        )
        self._registration.start()
        self._sweeper.start()
        self._starting = Deferred.fromCoroutine(self._prepare())
        try:
            await self._starting
        except CancelledError:
            # Stopped while the store was still awaited.
            return

    def _use_coordinators(self, addresses: Sequence[str]) -> None:
        for link in self._links:
            link.use_coordinators(addresses)

    async def stop(self) -> None:
        """Leave, finish the requests under way (within a bound), close everything."""
        if self._starting is not None:
            self._starting.cancel()
        self._sweeper.stop()
        if self._registration is not None:
            await self._registration.stop()
        if self._listening is not None:
            await maybeDeferred(self._listening.stopListening)
        self.context.events.end()
        await self._site.end()
        for link in reversed(self._links):
            stopping: Any = link.stop()
            if stopping is not None:
                await stopping

    async def _account_names(self) -> AsyncIterator[str]:
        """Whose files the sweeper looks after: everybody's, page by page."""
        start = ""
        while accounts := await self.context.accounts.list(start):
            for account in accounts:
                yield account.name
            # The next name in byte order; NUL is in no name.
            start = accounts[-1].name + "\0"

    async def _prepare(self) -> None:
        await self.context.accounts.passwords.prepare()
        await ensure_admin(self.context.accounts, self._environment, self._cluster, self._role)

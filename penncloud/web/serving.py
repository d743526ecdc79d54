"""Answering browsers: the site on a port, and the connections to the store that it needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from argon2 import PasswordHasher
from prometheus_client import CollectorRegistry
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IListeningPort

from penncloud.client.directory import Directory
from penncloud.client.raw import RawCells
from penncloud.client.table import Table
from penncloud.platform.config import Cluster, Http
from penncloud.platform.environment import Environment
from penncloud.platform.listening import port_of
from penncloud.platform.tls import ServerCertificate, over_https
from penncloud.services.admin import ServerControl
from penncloud.web.assembly import build_site
from penncloud.web.attempts import Attempts
from penncloud.web.site import GRACE_S


class Link(Protocol):
    """Something that the node needs and that has to be started and stopped with it."""

    def start(self) -> None: ...

    def use_coordinators(self, addresses: Sequence[str]) -> None:
        """The coordinators' group has changed."""
        ...

    def stop(self) -> Awaitable[None] | None: ...


# Listens with a factory; may raise ConfigurationError.
Listen = Callable[[Any], Awaitable[IListeningPort]]


class Serving:
    """One process that answers browsers. `links` (connections to the store and to the coordinators) are
    started first and stopped last."""

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
        attempts: Attempts | None = None,
    ) -> None:
        self._reactor = environment.reactor
        self._role = role
        self._links = links
        self.site, self.context = build_site(
            environment,
            cluster=cluster,
            config=role,
            table=table,
            raw=raw,
            directory=directory,
            control=control,
            registry=registry,
            hasher=hasher,
            attempts=attempts,
        )
        self._listening: IListeningPort | None = None

    @property
    def port(self) -> int:
        """The TCP port that is listened on, once started."""
        return port_of(self._listening)

    async def start(self, listen: Listen) -> None:
        """Begin to serve. Raises ConfigurationError when it cannot."""
        for link in self._links:
            link.start()
        role = self._role
        certificate = ServerCertificate.configured(role.tls_cert, role.tls_key, "[http]")
        self._listening = await listen(over_https(self._reactor, certificate, self.site))

    async def prepare(self) -> None:
        """What makes the first requests as quick as the others; it may be left out."""
        await self.context.accounts.passwords.prepare()

    def use_coordinators(self, addresses: Sequence[str]) -> None:
        """The coordinators' group has changed."""
        for link in self._links:
            link.use_coordinators(addresses)

    async def stop(self, within_s: float = GRACE_S, *, patient: bool = False) -> None:
        """Accept no more and finish the requests under way, within a bound; see `WebSite.end`.

        Called again meanwhile it can only shorten the time.
        """
        listening, self._listening = self._listening, None
        if listening is not None:
            await maybeDeferred(listening.stopListening)
        self.context.events.end()
        await self.site.end(within_s, patient=patient)

    async def stop_links(self) -> None:
        """The end, after `stop`."""
        for link in reversed(self._links):
            stopping: Any = link.stop()
            if stopping is not None:
                await stopping

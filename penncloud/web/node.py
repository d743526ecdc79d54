"""One web frontend in one process: listens, registers with the coordinators, ends in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from argon2 import PasswordHasher
from prometheus_client import CollectorRegistry
from twisted.internet.interfaces import IListeningPort

from penncloud.client.directory import Directory
from penncloud.client.raw import RawCells
from penncloud.client.table import Table
from penncloud.platform.config import Cluster, Http, Role
from penncloud.platform.environment import Environment
from penncloud.platform.listening import listen
from penncloud.rpc.registration import MailPart
from penncloud.services.admin import ServerControl
from penncloud.web.context import WebContext
from penncloud.web.household import Household
from penncloud.web.serving import Link, Serving


class HttpNode:
    """Serves browsers on the role's port; `start` raises ConfigurationError when it cannot. `mail` tells the
    coordinators what the mail server within this process does."""

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
        self._reactor = environment.reactor
        self._role = role
        self._serving = Serving(
            environment,
            cluster=cluster,
            role=role,
            table=table,
            raw=raw,
            directory=directory,
            control=control,
            registry=registry,
            links=links,
            hasher=hasher,
        )
        self.household = Household(
            environment,
            cluster,
            role,
            table=table,
            accounts=self.context.accounts,
            on_coordinators=self._serving.use_coordinators,
            mail=mail,
        )

    @property
    def context(self) -> WebContext:
        """What the features share."""
        return self._serving.context

    @property
    def port(self) -> int:
        """The TCP port that is listened on, once started."""
        return self._serving.port

    def trouble(self) -> str:
        """Why it cannot do its work just now; "" if it can."""
        return self.household.trouble()

    def reload(self, role: Role) -> frozenset[str]:
        """See `taps._service.Node`."""
        self._serving.site.slow_s = role.slow_s
        return frozenset(("log_slower_ms",))

    async def start(self) -> None:
        """Serve; ends when the admin account is known to exist, which needs the store."""
        await self._serving.start(self._listen)
        self.household.start(self.port)
        await self._serving.prepare()
        await self.household.prepare()

    async def _listen(self, factory: Any) -> IListeningPort:
        return await listen(self._reactor, self._role.host, self._role.port, factory)

    async def stop(self) -> None:
        """Leave, finish the requests under way (within a bound), close everything."""
        await self.household.stop()
        await self._serving.stop()
        await self._serving.stop_links()

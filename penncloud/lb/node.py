"""The load balancer as a node: the directory tells who is there, HTTP clients are sent to them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IListeningPort

from penncloud.client.directory import Directory
from penncloud.client.table import Watching
from penncloud.lb.balance import RoundRobin
from penncloud.lb.site import balancer_site
from penncloud.platform.config import Cluster, Lb
from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.listening import listen, port_of
from penncloud.rpc.registration import Registration, identity


class LbNode:
    """Listens on the balancer's port; `start` raises ConfigurationError when it cannot."""

    def __init__(
        self,
        environment: Environment,
        cluster: Cluster,
        role: Lb,
        directory: Directory,
        registry: CollectorRegistry,
    ) -> None:
        self._environment = environment
        self._cluster = cluster
        self._role = role
        self._directory = directory
        self._turns = RoundRobin()
        self._site = balancer_site(self._turns, registry, environment.reactor)
        self._listening: IListeningPort | None = None
        self._subscription: Watching | None = None
        self._registration: Registration | None = None

    @property
    def port(self) -> int:
        """The TCP port that is listened on, once started."""
        return port_of(self._listening)

    def trouble(self) -> str:
        """Why it cannot do its work just now; "" if it can."""
        if self._registration is None:
            return "it does not run"
        return self._registration.trouble() or (
            "" if self._turns.eligible else "no frontend can be given clients"
        )

    async def start(self) -> None:
        if self._role.mode != "redirect":
            raise ConfigurationError(
                f'[lb]: mode: "{self._role.mode}" is not built in yet; "redirect" is'
            )
        self._listening = await listen(
            self._environment.reactor, self._role.host, self._role.port, self._site
        )
        self._subscription = self._directory.subscribe(self._turns.update)
        me = identity("lb", self._role, self.port, self._environment.pid)
        self._registration = Registration(self._environment, self._cluster, me)
        self._registration.start()

    async def stop(self) -> None:
        if self._registration is not None:
            await self._registration.stop()
        if self._subscription is not None:
            self._subscription.stop()
        if self._listening is not None:
            await maybeDeferred(self._listening.stopListening)

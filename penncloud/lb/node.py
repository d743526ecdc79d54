"""The load balancer as a node: the directory tells who is there, HTTP clients are sent to them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.web.server import Site

from penncloud.client.directory import Directory, NodeInfo
from penncloud.client.table import Watching
from penncloud.lb.balance import RoundRobin
from penncloud.lb.proxy_site import ProxySite, proxy_site
from penncloud.lb.site import balancer_site, clear_site
from penncloud.platform.config import Cluster, Lb, Role
from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.listening import listen, port_of
from penncloud.platform.tls import ServerCertificate, over_https
from penncloud.platform.trusted import Trusted
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
        self._proxy: ProxySite | None = None
        self._site: Site
        if role.mode == "proxy":
            trusted = Trusted(role.trusted_proxies)
            self._site = self._proxy = proxy_site(environment, self._turns, registry, trusted)
        else:
            self._site = balancer_site(self._turns, registry, environment.reactor)
        self._listening: IListeningPort | None = None
        self._clear: IListeningPort | None = None
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

    def reload(self, role: Role) -> frozenset[str]:
        """Nothing of a balancer's configuration can be changed while it runs."""
        return frozenset()

    async def start(self) -> None:
        role, reactor = self._role, self._environment.reactor
        certificate = ServerCertificate.configured(role.tls_cert, role.tls_key, "[lb]")
        if role.clear_port and certificate is None:
            raise ConfigurationError("[lb]: clear_port: there is no HTTPS to lead to: set tls_cert")
        self._listening = await listen(
            reactor, role.host, role.port, over_https(reactor, certificate, self._site)
        )
        if role.clear_port:
            site = clear_site(self._itself, reactor)
            self._clear = await listen(reactor, role.host, role.clear_port, site)
        self._subscription = self._directory.subscribe(self._turns.update)
        me = identity("lb", self._role, self.port, self._environment.pid)
        self._registration = Registration(self._environment, self._cluster, me)
        self._registration.start()

    def _itself(self) -> NodeInfo:
        role = self._role
        return NodeInfo(
            "lb",
            role.id,
            role.public_host,
            self.port,
            self._environment.pid,
            "live",
            scheme="https",
        )

    async def stop(self) -> None:
        if self._registration is not None:
            await self._registration.stop()
        if self._subscription is not None:
            self._subscription.stop()
        for listening in (self._listening, self._clear):
            if listening is not None:
                await maybeDeferred(listening.stopListening)
        if self._proxy is not None:
            await self._proxy.proxy.frontends.close()

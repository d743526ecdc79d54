"""What the five roles have in common as `twistd` services: the world they run in, start and stop.

A role is a *node*: an object with `start()` and `stop()`, built from an `Environment` and its
configuration. `RoleService` makes the real environment, starts the node and turns every error that an
administrator can mend (`ConfigurationError`, a port that is taken) into one clear line and exit code 1.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from prometheus_client import CollectorRegistry
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.usage import UsageError

from penncloud.platform.config import SECTIONS, Cluster, Role
from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.listening import listen_internal
from penncloud.platform.metrics import Family, metrics_site, process_registry
from penncloud.platform.process import real_environment, use_monotonic_clock
from penncloud.platform.resources import version
from penncloud.platform.threads import BoundedPool
from penncloud.platform.tls import ANY_ROLE, Credentials, PeerName
from penncloud.rpc.auth import load_secret
from penncloud.taps._reload import reloaded
from penncloud.taps._supervision import Supervision

__all__ = ["Node", "RoleService", "WithWorkers", "stop_with_error", "world_of"]


class Node(Protocol):
    """One role at work."""

    async def start(self) -> None:
        """Begin to serve; raise ConfigurationError for what the administrator has to mend."""
        ...

    async def stop(self) -> None:
        """End in order: finish what runs, refuse what is new, release what is held."""
        ...

    def trouble(self) -> str:
        """Why it cannot do its work just now; "" if it can."""
        ...

    def reload(self, role: Role) -> frozenset[str]:
        """Take up what of the section can be changed while it runs; the names of those keys."""
        ...


@runtime_checkable
class WithWorkers(Protocol):
    """A node that has other processes, whose metrics are shown with its own."""

    async def worker_metrics(self) -> Mapping[str, Sequence[Family]]:
        """By what the label `worker` is to say; answers within a bound."""
        ...


Build = Callable[[Environment, CollectorRegistry], Node]


class RoleService(Service):
    """Runs the node that `build` makes, in the process's real environment."""

    log = Logger()

    def __init__(
        self,
        cluster: Cluster,
        role: Role,
        build: Build,
        reread: Callable[[], tuple[Cluster, Role]],
    ) -> None:
        self._reread = reread
        self._cluster = cluster
        self._role = role
        self._build = build
        self._node: Node | None = None
        self._pool: BoundedPool | None = None
        self._metrics_port: IListeningPort | None = None
        self._supervision: Supervision | None = None
        self._serves = False

    def startService(self) -> None:
        super().startService()
        Deferred.fromCoroutine(self._start()).addErrback(self._give_up)

    async def _start(self) -> None:
        from twisted.internet import reactor

        use_monotonic_clock(reactor)
        # Also while it starts: the signal would end the process.
        core: Any = reactor
        signal.signal(signal.SIGHUP, lambda *_: core.callFromThread(self._reload))
        self._pool = BoundedPool(reactor)
        self._pool.start()
        environment = world_of(reactor, self._pool, self._cluster, self._role)
        supervision = Supervision(environment.manager, reactor, self._role.id)
        self._supervision = supervision
        supervision.starting()
        registry = process_registry(environment.now, version())
        if self._role.metrics_port:
            site = metrics_site(registry, reactor, self._trouble, self._worker_metrics)
            self._metrics_port = await listen_internal(
                environment, self._role.host, self._role.metrics_port, site, ANY_ROLE
            )
        self._node = self._build(environment, registry)
        await self._node.start()
        self._serves = True
        supervision.serving()
        self.log.info("{id} serves", id=self._role.id)

    def _give_up(self, failure: Any) -> None:
        from twisted.internet import reactor

        if failure.check(ConfigurationError):
            # sys.stderr leads into the log by now.
            print(f"{self._role.id}: {failure.value}", file=sys.__stderr__, flush=True)
            self.log.error("{id}: {error}", id=self._role.id, error=str(failure.value))
        else:
            self.log.failure("{id} cannot start", failure, id=self._role.id)
        stop_with_error(reactor)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def _reload(self) -> None:
        """SIGHUP: read the configuration again; what is wrong with it leaves everything as it is."""
        if self._node is None or self._supervision is None or not self._serves:
            return
        self._supervision.reloading()
        try:
            cluster, role = self._reread()
        except (ConfigurationError, UsageError) as error:
            self.log.error("{id}: not reloaded: {error}", id=self._role.id, error=str(error))
        else:
            taken = self._node.reload(role)
            for line in reloaded(self._cluster, cluster, self._role, role, taken):
                self.log.warn("{id}: {line}", id=self._role.id, line=line)
            self.log.info("{id}: configuration reloaded", id=self._role.id)
        self._supervision.serving()

    def _trouble(self) -> str:
        if self._node is None or not self._serves:
            return "it starts or stops"
        return self._node.trouble()

    async def _worker_metrics(self) -> Mapping[str, Sequence[Family]]:
        node: object = self._node
        return await node.worker_metrics() if isinstance(node, WithWorkers) else {}

    async def _stop(self) -> None:
        self._serves = False
        if self._supervision is not None:
            self._supervision.stopping()
        if self._node is not None:
            await self._node.stop()
        if self._metrics_port is not None:
            await maybeDeferred(self._metrics_port.stopListening)
        if self._pool is not None:
            self._pool.stop()
        if self._supervision is not None:
            self._supervision.stopped()


def world_of(reactor: Any, pool: BoundedPool, cluster: Cluster, role: Role) -> Environment:
    """The environment of a real process of this role. Raises ConfigurationError."""
    load_secret(cluster, role.host)
    credentials = None
    if cluster.tls_dir:
        credentials = Credentials.at(cluster.tls_dir, role.id)
        _check_holder(credentials, role)
    return real_environment(reactor, pool, credentials)


def _check_holder(credentials: Credentials, role: Role) -> None:
    """A wrong certificate would be refused by all others; here it is said why."""
    section = next(name for name, kind in SECTIONS.items() if type(role) is kind)
    wanted = PeerName(section, role.id)
    if credentials.name != wanted:
        raise ConfigurationError(
            f"{credentials.certificate}: is the certificate of {credentials.name}, not of {wanted}"
        )


def stop_with_error(reactor: Any) -> None:
    """End the process in order, with exit code 1 (twistd itself always ends with 0)."""
    reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)
    if reactor.running:
        reactor.stop()
    else:
        reactor.callWhenRunning(reactor.stop)

"""A coordinator as a node: decisions on its disk, servers and clients on its port."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.coordinator.decisions import Decisions
from penncloud.coordinator.directory import DirectoryServer
from penncloud.coordinator.log import LogCorrupt
from penncloud.coordinator.members import Members
from penncloud.coordinator.messages import ClusterView
from penncloud.coordinator.metrics import export
from penncloud.coordinator.state import BeginTerm, RegisterNode, Rejected
from penncloud.coordinator.text import TextFactory, answer
from penncloud.coordinator.view import Observer
from penncloud.platform import config
from penncloud.platform.disk import Disk
from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError, DiskError
from penncloud.platform.listening import listen
from penncloud.rpc.auth import load_secret
from penncloud.rpc.calls import Calls
from penncloud.rpc.protocol import Hooks, RpcProtocol
from penncloud.rpc.registration import identity, new_incarnation
from penncloud.rpc.server import RpcServerFactory
from penncloud.rpc.switch import SwitchFactory
from penncloud.wire.messages import Reply, Request


class CoordinatorNode:
    """The cluster's coordinator. `disk` is its data directory; it is closed by `stop`.

    When the disk has failed (`disk.on_failure`) the node takes no decisions any more and has to be
    stopped. Raises ConfigurationError for values that cannot be used.
    """

    log = Logger()

    def __init__(
        self,
        environment: Environment,
        cluster: config.Cluster,
        role: config.Coordinator,
        registry: CollectorRegistry,
        disk: Disk,
    ) -> None:
        _check(cluster, role)
        self._environment = environment
        self._cluster = cluster
        self._role = role
        self._registry = registry
        self._disk = disk
        self._decisions = Decisions(disk, self._changed, environment.broken)
        self._members = Members(environment, role, self._decisions, self._changed)
        self._directory = DirectoryServer(environment, self._decisions, self._observer)
        self._text = TextFactory(environment.reactor, self._answer)
        self._rpc: RpcServerFactory | None = None
        self._listening: IListeningPort | None = None

    @property
    def port(self) -> int:
        """The TCP port that is listened on, once started."""
        assert self._listening is not None
        address = self._listening.getHost()
        assert isinstance(address, IPv4Address | IPv6Address)
        return int(address.port)

    async def start(self) -> None:
        """Bring the state back and serve. Raises ConfigurationError."""
        secret = load_secret(self._cluster, self._role.host)
        try:
            await self._decisions.open()
        except (LogCorrupt, DiskError) as error:
            where = f"data directory {self._role.data_dir}"
            raise ConfigurationError(f"{where}: the coordinator's state: {error}") from error
        self._members.start()
        calls = Calls()
        self._members.serve(calls)
        self._directory.serve(calls)
        self._rpc = RpcServerFactory(
            self._environment, calls, secret=secret, hooks=Hooks(closed=self._lost)
        )
        switch = SwitchFactory(self._environment.reactor, self._rpc, self._text)
        await self._begin_term(switch)
        export(self._registry, self.view)

    async def stop(self) -> None:
        """Take no more calls, finish the decisions under way, close the log."""
        if self._listening is not None:
            await maybeDeferred(self._listening.stopListening)
        self._members.stop()
        self._directory.stop()
        await self._decisions.close()
        await self._disk.close()
        self._text.close_all()
        if self._rpc is not None:
            self._rpc.close_all()

    def view(self) -> ClusterView:
        return self._observer().cluster(self._environment.reactor.seconds())

    async def _begin_term(self, switch: SwitchFactory) -> None:
        """Listen, then write down that a new term begins, with the port it really has."""
        role, environment = self._role, self._environment
        self._listening = await listen(environment.reactor, role.host, role.port, switch)
        now = environment.now()
        for command in (
            BeginTerm(now, role.id),
            RegisterNode(
                now,
                identity("coordinator", role, self.port, environment.pid),
                new_incarnation(environment),
            ),
        ):
            result = await self._decisions.propose(command)
            if isinstance(result, Rejected):
                raise ConfigurationError(f"[coordinator]: id: {result.text}")
        self.log.info(
            "{id} leads term {term} on port {port}",
            id=role.id,
            term=self._decisions.machine.state.term,
            port=self.port,
        )

    def _observer(self) -> Observer:
        members = self._members
        state = self._decisions.machine.state
        return Observer(self._role.id, state, members.detector, members.tips)

    def _answer(self, request: Request) -> Reply:
        return answer(request, self._decisions.machine.tablet_map, self._observer().address)

    def _changed(self) -> None:
        self._directory.changed()

    def _lost(self, connection: RpcProtocol, why: Failure) -> None:
        self._members.lost(connection)
        self._directory.lost(connection)


def _check(cluster: config.Cluster, role: config.Coordinator) -> None:
    if len(cluster.coordinators) > 1:
        raise ConfigurationError(
            "[cluster]: coordinators: this version runs with one coordinator; several would each"
            " decide for themselves"
        )
    for key in ("heartbeat_ms", "dead_after_missed", "expect_storage", "initial_tablets"):
        if getattr(role, key) < 1:
            raise ConfigurationError(f"[coordinator]: {key}: has to be at least 1")

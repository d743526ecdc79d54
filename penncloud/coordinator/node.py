"""A coordinator as a node: decisions on its disk, other coordinators, servers and clients on its port."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.coordinator.administration import Administration
from penncloud.coordinator.assignments import Assignments
from penncloud.coordinator.decisions import Decisions, Timing
from penncloud.coordinator.directory import DirectoryServer
from penncloud.coordinator.group import Group
from penncloud.coordinator.leader import Leader
from penncloud.coordinator.members import Members
from penncloud.coordinator.messages import ClusterView
from penncloud.coordinator.metrics import export
from penncloud.coordinator.peers import Peers
from penncloud.coordinator.proposals import Proposals
from penncloud.coordinator.raft_store import RaftStore, RaftStoreDamaged
from penncloud.coordinator.text import TextFactory, answer
from penncloud.coordinator.view import Observer
from penncloud.platform import config
from penncloud.platform.disk import Disk
from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError, DiskError
from penncloud.platform.listening import listen_internal, port_of
from penncloud.platform.tls import ANY_ROLE
from penncloud.rpc.auth import load_secret
from penncloud.rpc.calls import Calls
from penncloud.rpc.protocol import Hooks, RpcProtocol
from penncloud.rpc.registration import identity, new_incarnation
from penncloud.rpc.server import RpcServerFactory
from penncloud.rpc.switch import SwitchFactory
from penncloud.wire.messages import Reply, Request

# How long a coordinator that decides alone may take to begin: it needs nobody but its disk.
_ALONE_S = 30.0
_POLL_S = 0.01
# Every member acknowledges every write.
MAX_COPIES = 7
# Every server registers; those that ask where cells are are those that use them.
RPC_ROLES = ANY_ROLE - {"monitor"}
TEXT_ROLES = frozenset(("http", "smtp", "admin"))


class CoordinatorNode:
    """One of the cluster's coordinators. `disk` is its data directory; it is closed by `stop`.

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
        self._store = RaftStore(disk, environment.reactor)
        self._peers = Peers(environment, role.id, self._keep_up)
        tick_s = role.raft_heartbeat_ms / 1000
        timing = Timing(tick_s, round(role.election_timeout_ms / role.raft_heartbeat_ms))
        self.decisions = Decisions(
            environment,
            role.id,
            self._store,
            timing=timing,
            link=self._peers,
            changed=self._changed,
            compact_bytes=role.raft_log_bytes,
        )
        self.group = Group(environment, cluster, self._store, self.decisions, self._peers)
        self._members = Members(
            environment,
            role,
            self.decisions,
            changed=self._changed,
            beat=self._work,
            group=self.group.addresses,
        )
        copies = cluster.replication_factor
        self._assignments = Assignments(environment, copies, self.decisions, self._members)
        self._proposals = Proposals(environment, self.decisions, self._assignments)
        self._administration = Administration(environment, copies, self.decisions, self._members)
        self._leader = Leader(
            environment,
            role,
            copies,
            decisions=self.decisions,
            members=self._members,
            assignments=self._assignments,
        )
        self._directory = DirectoryServer(environment, self.decisions, self._observer)
        self._text = TextFactory(environment.reactor, self._answer, self.decisions.read_barrier)
        self._rpc: RpcServerFactory | None = None
        self._listening: IListeningPort | None = None
        self._serving = False

    @property
    def port(self) -> int:
        """The TCP port that is listened on, once started."""
        return port_of(self._listening)

    async def start(self) -> None:
        """Bring the state back and serve; the group is found, or founded, in the background.

        Raises ConfigurationError.
        """
        environment, role = self._environment, self._role
        secret = load_secret(self._cluster, role.host)
        where = f"data directory {role.data_dir}: the coordinator's state"
        if any(name.startswith("log-") for name in self._disk.listdir("")):
            raise ConfigurationError(f"{where}: was written by a version before the first release")
        try:
            kept = await self._store.open()
        except (RaftStoreDamaged, DiskError) as error:
            raise ConfigurationError(f"{where}: {error}") from error
        calls = Calls()
        self._members.serve(calls)
        self._directory.serve(calls)
        self.group.serve(calls)
        self._proposals.serve(calls)
        self._administration.serve(calls)
        self._rpc = RpcServerFactory(
            environment, calls, secret=secret, hooks=Hooks(closed=self._lost)
        )
        switch = SwitchFactory(
            environment.reactor, self._rpc, self._text, rpc_roles=RPC_ROLES, text_roles=TEXT_ROLES
        )
        self._listening = await listen_internal(
            environment, role.host, role.port, switch, RPC_ROLES
        )
        own = identity("coordinator", role, self.port, environment.pid)
        try:
            await self.group.start(own, new_incarnation(environment), kept, secret)
        except (RaftStoreDamaged, DiskError) as error:
            raise ConfigurationError(f"{where}: {error}") from error
        self._serving = True
        self._members.start()
        await self._begin_alone()
        export(self._registry, self.view)

    async def _begin_alone(self) -> None:
        """A coordinator without others leads before anybody is served."""
        clock = self._environment.reactor
        deadline = clock.seconds() + _ALONE_S
        while self.decisions.membership.voters == {self._role.id}:
            known = self.decisions.machine.state.nodes.get(self._role.id)
            if self.decisions.leads and known is not None:
                if known.node.role != "coordinator":
                    raise ConfigurationError(
                        f"[coordinator]: id: {self._role.id} is known as a server of role"
                        f" {known.node.role}"
                    )
                return
            if clock.seconds() >= deadline:
                raise ConfigurationError(f"{self._role.id}: its disk does not take its decisions")
            await deferLater(clock, _POLL_S)

    async def stop(self) -> None:
        """Hand leadership over, take no more calls, finish the decisions under way, close the log."""
        self._serving = False
        self.group.stop()
        self._members.stop()
        self._leader.stop()
        await self.decisions.close()
        if self._listening is not None:
            await maybeDeferred(self._listening.stopListening)
        self._directory.stop()
        await self._peers.stop()
        await self._disk.close()
        self._text.close_all()
        if self._rpc is not None:
            self._rpc.close_all()

    def trouble(self) -> str:
        """Why it cannot do its work just now; "" if it can."""
        if not self._serving:
            return "it does not run"
        return "" if self.decisions.leader else "no coordinator leads: is a majority of them up?"

    def reload(self, role: config.Role) -> frozenset[str]:
        """Nothing of a coordinator's configuration can be changed while it runs."""
        return frozenset()

    def view(self) -> ClusterView:
        """As this coordinator sees the cluster now, whether or not others have decided more."""
        return self._observer().cluster(self._environment.reactor.seconds())

    def _observer(self) -> Observer:
        members = self._members
        state = self.decisions.machine.state
        copies = self._cluster.replication_factor
        seen = self.group.coordinators()
        return Observer(
            state,
            members.detector,
            members.tips,
            seen,
            copies,
            members.mail,
            members.workers,
            self._leader.is_balanced,
        )

    def _answer(self, request: Request) -> Reply:
        return answer(request, self.decisions.machine.tablet_map, self._observer().address)

    def _changed(self) -> None:
        self._members.expect_known()
        self._directory.changed()
        self._leader.work_soon()
        self._keep_up()

    def _work(self) -> None:
        self._leader.work()

    def _keep_up(self) -> None:
        if self._serving:
            self.group.keep_up()

    def _lost(self, connection: RpcProtocol, why: Failure) -> None:
        self._members.lost(connection)
        self._directory.lost(connection)


def _check(cluster: config.Cluster, role: config.Coordinator) -> None:
    if not 1 <= cluster.replication_factor <= MAX_COPIES:
        raise ConfigurationError(f"[cluster]: replication_factor: from 1 to {MAX_COPIES}")
    for key in (
        "heartbeat_ms",
        "dead_after_missed",
        "raft_heartbeat_ms",
        "raft_log_bytes",
        "expect_storage",
        "initial_tablets",
        "moves_at_once",
    ):
        if getattr(role, key) < 1:
            raise ConfigurationError(f"[coordinator]: {key}: has to be at least 1")
    if role.repair_after_s < 0:
        raise ConfigurationError("[coordinator]: repair_after_s: has to be at least 0")
    if role.election_timeout_ms < 4 * role.raft_heartbeat_ms:
        raise ConfigurationError(
            "[coordinator]: election_timeout_ms: has to be at least four times raft_heartbeat_ms"
            f" ({4 * role.raft_heartbeat_ms}), so that one late heartbeat is no reason to elect"
        )

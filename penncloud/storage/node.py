"""A storage server as a node: tablets on its disk, clients and peers on its port."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from prometheus_client import CollectorRegistry
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater
from twisted.logger import Logger

from penncloud.lsm.compaction import Merger
from penncloud.lsm.engine import Engine
from penncloud.lsm.errors import NewerFormat, StoreDamaged
from penncloud.lsm.options import EngineOptions
from penncloud.platform import config
from penncloud.platform.disk import Disk
from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError, DiskError, DiskFull
from penncloud.platform.exclusive import Exclusive
from penncloud.platform.listening import listen_internal, port_of
from penncloud.replication.state import Options
from penncloud.rpc.auth import load_secret
from penncloud.rpc.calls import Calls
from penncloud.rpc.protocol import Hooks
from penncloud.rpc.registration import Assign, Registration, identity, new_incarnation
from penncloud.rpc.server import RpcServerFactory
from penncloud.rpc.switch import SwitchFactory
from penncloud.storage.assignment import Assignment
from penncloud.storage.backup import BackupServer, WriteGate
from penncloud.storage.backup_messages import HeldTablet
from penncloud.storage.checkpoints import Copies
from penncloud.storage.dedup import CorruptTable
from penncloud.storage.factory import TextFactory
from penncloud.storage.metrics import Sources, export
from penncloud.storage.peers import Peers
from penncloud.storage.proposals import Proposals
from penncloud.storage.quarantine import Quarantine
from penncloud.storage.replicas import Replicas
from penncloud.storage.splitter import Splitter
from penncloud.storage.standing import BadStandings, Standings
from penncloud.storage.surroundings import Surroundings
from penncloud.storage.tablets import Tablets

# At a stop: how long others may take to become primary, how long what is under way may take to be
# answered and clients to take the replies, and how long a disk may take to finish.
HAND_OVER_S: Final = 1.0
FAREWELL_S: Final = 2.0
STOP_WITHIN_S: Final = 10.0
_LOOK_S: Final = 0.02
# What a start may find in the data directory.
_UNUSABLE: Final = (
    StoreDamaged,
    NewerFormat,
    CorruptTable,
    BadStandings,
    DiskError,
)
# Who reads and writes cells, and who makes internal calls.
TEXT_ROLES: Final = frozenset(("http", "smtp", "admin"))
RPC_ROLES: Final = frozenset(("storage", "coordinator", "admin"))


class StorageNode:
    """One storage server. `disk` is its data directory; it is closed by `stop`. `merger` does large
    compactions (None: the engine does them itself, in slices).

    It registers with the coordinators, which assign tablets to it, and remembers them. After a restart
    it follows the primaries that it knew; it leads again when the coordinators say so. When the disk
    has failed (`disk.on_failure`) it writes nothing any more and has to be stopped. Raises
    ConfigurationError for values that cannot be used.
    """

    log = Logger()

    def __init__(
        self,
        environment: Environment,
        cluster: config.Cluster,
        role: config.Storage,
        registry: CollectorRegistry,
        disk: Disk,
        *,
        merger: Merger | None = None,
    ) -> None:
        _check(role)
        _check_cluster(cluster)
        self._environment = environment
        self._cluster = cluster
        self._role = role
        self._disk = disk
        clock = environment.reactor
        self._engine = Engine(disk, environment, _engine_options(role), registry, merger)
        self._copies = Copies(clock, disk, self._engine, role.transfer_bytes_per_s, role.transfers)
        quarantine = Quarantine(disk, environment.now, role.quarantine_bytes)
        around = Surroundings(
            role.id,
            clock,
            disk,
            self._engine,
            self._copies,
            quarantine,
            options=_options(cluster),
            broken=environment.broken,
        )
        self._outside = around.outside
        self._replicas = Replicas(around)
        self._splitter = Splitter(role.id, clock, self._engine, self._replicas, role.split_bytes)
        self._tablets = Tablets(self._replicas, around)
        gate = WriteGate(self._tablets)
        self._backup = BackupServer(clock, self._engine, gate, self._led)
        self._text = TextFactory(clock, gate, role.pipeline_depth, slow_s=role.slow_s)
        self._assignment: Assignment | None = None
        self._one_assignment = Exclusive()
        self._peers: Peers | None = None
        self._rpc: RpcServerFactory | None = None
        self._listening: IListeningPort | None = None
        self._registration: Registration | None = None
        self._opened = False
        sources = Sources(
            self._tablets, self._text, self._replicas, self._copies, self._splitter, quarantine
        )
        export(registry, sources)

    @property
    def port(self) -> int:
        """The TCP port that is listened on, once started."""
        return port_of(self._listening)

    @property
    def replicas(self) -> Replicas:
        """The replicas of this server, for whoever judges them."""
        return self._replicas

    @property
    def engine(self) -> Engine:
        """What holds their cells, for whoever judges them."""
        return self._engine

    def trouble(self) -> str:
        """Why it cannot do its work just now; "" if it can."""
        return "it does not run" if self._registration is None else self._registration.trouble()

    def reload(self, role: config.Role) -> frozenset[str]:
        """See `taps._service.Node`."""
        self._text.log_slower(role.slow_s)
        return frozenset(("log_slower_ms",))

    async def start(self) -> None:
        """Bring the replicas back, serve, and begin to register. Raises ConfigurationError."""
        role, environment = self._role, self._environment
        secret = load_secret(self._cluster, role.host)
        try:
            found = await self._engine.open()
            self._opened = True
            await self._copies.open()
            standings = Standings(self._disk)
            incarnation = await standings.begin(new_incarnation(environment))
            self._replicas.open(incarnation, standings, found)
            self._assignment = Assignment(self._disk)
        except _UNUSABLE as error:
            raise ConfigurationError(f"data directory {role.data_dir}: {error}") from error
        peers = Peers(
            environment,
            role.id,
            incarnation,
            secret,
            received=self._replicas.received,
            reconnected=self._replicas.reconnected,
        )
        proposals = Proposals(role.id, incarnation, self._replicas.applied, self._assigned)
        self._outside.connect_to(peers, proposals)
        self._peers = peers
        calls = Calls()
        peers.serve(calls)
        self._backup.serve(calls)
        self._rpc = RpcServerFactory(
            environment,
            calls,
            secret=secret,
            hooks=Hooks(closed=lambda connection, _why: peers.lost(connection)),
        )
        switch = SwitchFactory(
            environment.reactor,
            self._rpc,
            self._text,
            rpc_roles=RPC_ROLES,
            text_roles=TEXT_ROLES,
        )
        self._listening = await listen_internal(
            environment, role.host, role.port, switch, RPC_ROLES | TEXT_ROLES
        )
        self._act()
        self._replicas.start()
        self._registration = Registration(
            environment,
            self._cluster,
            identity("storage", role, self.port, environment.pid),
            on_assign=self._assigned,
            tips=self._replicas.tips,
            incarnation=incarnation,
        )
        proposals.registration = self._registration
        self._splitter.start(incarnation, self._registration.ask)
        self._registration.start()

    async def stop(self) -> None:
        """Let others lead, take leave, refuse what is new, answer what is under way, close the files."""
        clock = self._environment.reactor
        self._splitter.stop()
        if self._registration is not None and self._replicas.hand_over():
            await _until(clock, HAND_OVER_S, lambda: not self._replicas.hand_over())
        self._tablets.stopping = True
        if self._listening is not None:
            await maybeDeferred(self._listening.stopListening)
        if self._registration is not None:
            await self._registration.stop()
        self._backup.stop()
        await _until(clock, FAREWELL_S, lambda: not self._replicas.in_flight)
        self._replicas.stop()
        idle = self._replicas.journal.when_idle()
        await idle.addTimeout(STOP_WITHIN_S, clock, self._hung)
        self._copies.stop()
        try:
            if self._opened:
                await self._engine.close()
        except DiskError as error:
            self.log.error("{id}: closing the engine: {error}", id=self._role.id, error=error)
        if self._peers is not None:
            await self._peers.stop()
        await self._text.stop(FAREWELL_S)
        if self._rpc is not None:
            self._rpc.close_all()
        await self._disk.close()

    def _led(self) -> list[HeldTablet]:
        """The tablets that this server is the primary of and serves."""
        return [
            HeldTablet(tablet.id, tablet.lo, tablet.hi, tablet.cfg)
            for tablet in self._tablets.tablets
            if tablet.may_watch()
        ]

    def _hung(self, result: object, seconds: float) -> None:
        self.log.error("the disk has not finished within {seconds} s", seconds=seconds)

    async def _assigned(self, assign: Assign) -> None:
        # What is being dropped may come back with the next one, and has to be gone before.
        async with self._one_assignment:
            await self._follow(assign)

    async def _follow(self, assign: Assign) -> None:
        assert self._assignment is not None
        try:
            news = await self._assignment.update(assign, self._replicas.make)
        except DiskFull:
            # It is acted on; the coordinators send it again until it is remembered, too.
            self._act()
            raise
        if news:
            self._act()
            await self._replicas.drop(assign.dropped)

    def _act(self) -> None:
        assert self._assignment is not None
        self._replicas.act_on(self._assignment.news)
        self._tablets.assigned()


async def _until(clock: Any, within_s: float, done: Callable[[], bool]) -> None:
    """Look every moment whether it is done, for so many seconds at most."""
    deadline = clock.seconds() + within_s
    while not done() and clock.seconds() < deadline:
        await deferLater(clock, _LOOK_S)


def _options(cluster: config.Cluster) -> Options:
    return Options(
        mode=cluster.replication,
        read_mode=cluster.read_mode,
        min_members=cluster.min_members,
        async_max_lag=cluster.async_max_lag,
    )


def _check_cluster(cluster: config.Cluster) -> None:
    for key, value in (
        ("async_max_lag", cluster.async_max_lag),
        ("min_members", cluster.min_members),
    ):
        if value < 1:
            raise ConfigurationError(f"[cluster]: {key}: has to be at least 1")
    if cluster.min_members > cluster.replication_factor:
        raise ConfigurationError(
            f"[cluster]: min_members: {cluster.min_members}: a tablet has"
            f" replication_factor = {cluster.replication_factor} members"
        )


def _engine_options(role: config.Storage) -> EngineOptions:
    usual = EngineOptions()
    return EngineOptions(
        # With small memtables the log that they need is short, and so are its segments.
        segment_bytes=min(usual.segment_bytes, role.memtable_bytes),
        memtable_bytes=role.memtable_bytes,
        checkpoint_writes=role.checkpoint_writes,
        block_cache_bytes=role.block_cache_bytes,
        aside_bytes=role.aside_bytes,
        scrub_bytes_per_s=role.scrub_bytes_per_s,
        scrub_rest_s=role.scrub_rest_s,
    )


def _check(role: config.Storage) -> None:
    for key, least in (
        ("memtable_bytes", 64 * 1024),
        ("checkpoint_writes", 0),
        ("block_cache_bytes", 0),
        ("pipeline_depth", 1),
        ("transfer_bytes_per_s", 0),
        ("transfers", 1),
        ("quarantine_bytes", 0),
        ("aside_bytes", 0),
        ("scrub_bytes_per_s", 0),
        ("scrub_rest_s", 1),
        ("split_bytes", 64 * 1024),
    ):
        if getattr(role, key) < least:
            raise ConfigurationError(f"[storage]: {key}: has to be at least {least}")

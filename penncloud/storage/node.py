"""A storage server as a node: tablets on its disk, clients and peers on its port."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from penncloud.lsm.compaction import Merger
from penncloud.lsm.engine import Engine
from penncloud.lsm.errors import NewerFormat, StoreDamaged
from penncloud.lsm.options import EngineOptions
from penncloud.platform import config
from penncloud.platform.disk import Disk
from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError, DiskError
from penncloud.platform.listening import listen_internal, port_of
from penncloud.rpc.auth import load_secret
from penncloud.rpc.calls import Calls
from penncloud.rpc.registration import Assign, Registration, identity
from penncloud.rpc.server import RpcServerFactory
from penncloud.rpc.switch import SwitchFactory
from penncloud.storage.assignment import Assignment, BadAssignment
from penncloud.storage.backup import BackupServer, WriteGate
from penncloud.storage.backup_messages import HeldTablet
from penncloud.storage.dedup import CorruptTable
from penncloud.storage.factory import TextFactory
from penncloud.storage.metrics import export
from penncloud.storage.tablets import Tablets

# How long clients are given at a stop to take the replies to what they had asked.
FAREWELL_S: Final = 2.0
# Who reads and writes cells, and who makes internal calls.
TEXT_ROLES: Final = frozenset(("http", "smtp", "admin"))
RPC_ROLES: Final = frozenset(("storage", "coordinator", "admin"))


class StorageNode:
    """One storage server. `disk` is its data directory; it is closed by `stop`. `merger` does large
    compactions (None: the engine does them itself, in slices).

    It registers with the coordinators, which assign tablets to it, and remembers them: after a restart
    it serves them at once. When the disk has failed (`disk.on_failure`) it writes nothing any more and
    has to be stopped. Raises ConfigurationError for values that cannot be used.
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
        self._environment = environment
        self._cluster = cluster
        self._role = role
        self._disk = disk
        clock = environment.reactor
        engine = Engine(disk, environment, _engine_options(role), registry, merger)
        self._tablets = Tablets(role.id, clock, engine, environment.broken)
        gate = WriteGate(self._tablets)
        self._backup = BackupServer(clock, engine, gate, self._led)
        self._text = TextFactory(clock, gate, role.pipeline_depth, slow_s=role.slow_s)
        self._assignment: Assignment | None = None
        self._rpc: RpcServerFactory | None = None
        self._listening: IListeningPort | None = None
        self._registration: Registration | None = None
        export(registry, self._tablets, self._text)

    @property
    def port(self) -> int:
        """The TCP port that is listened on, once started."""
        return port_of(self._listening)

    def trouble(self) -> str:
        """Why it cannot do its work just now; "" if it can."""
        return "it does not run" if self._registration is None else self._registration.trouble()

    def reload(self, role: config.Role) -> frozenset[str]:
        """See `taps._service.Node`."""
        self._text.log_slower(role.slow_s)
        return frozenset(("log_slower_ms",))

    async def start(self) -> None:
        """Bring the tablets back, serve, and begin to register. Raises ConfigurationError."""
        role, environment = self._role, self._environment
        secret = load_secret(self._cluster, role.host)
        try:
            await self._tablets.open()
            self._assignment = Assignment(self._disk)
            self._tablets.serve(self._assignment.tablets)
        except (StoreDamaged, NewerFormat, CorruptTable, BadAssignment, DiskError) as error:
            raise ConfigurationError(f"data directory {role.data_dir}: {error}") from error
        calls = Calls()
        self._backup.serve(calls)
        self._rpc = RpcServerFactory(environment, calls, secret=secret)
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
        self._registration = Registration(
            environment,
            self._cluster,
            identity("storage", role, self.port, environment.pid),
            on_assign=self._assigned,
            tips=self._tablets.tips,
        )
        self._registration.start()

    async def stop(self) -> None:
        """Take leave, refuse what is new, answer what is under way, close the files."""
        if self._listening is not None:
            await maybeDeferred(self._listening.stopListening)
        if self._registration is not None:
            await self._registration.stop()
        self._backup.stop()
        try:
            await self._tablets.stop()
        except DiskError as error:
            self.log.error("{id}: closing the engine: {error}", id=self._role.id, error=error)
        await self._text.stop(FAREWELL_S)
        if self._rpc is not None:
            self._rpc.close_all()
        await self._disk.close()

    def _led(self) -> list[HeldTablet]:
        """The tablets that this server is the primary of and serves."""
        served = {tablet.id for tablet in self._tablets.tablets}
        assigned = self._assignment.tablets if self._assignment is not None else []
        return [HeldTablet(a.id, a.lo, a.hi, a.epoch) for a in assigned if a.id in served]

    async def _assigned(self, assign: Assign) -> None:
        assert self._assignment is not None
        if await self._assignment.update(assign, self._tablets.make):
            self._tablets.serve(self._assignment.tablets)


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
        ("split_bytes", 1024 * 1024),
    ):
        if getattr(role, key) < least:
            raise ConfigurationError(f"[storage]: {key}: has to be at least {least}")

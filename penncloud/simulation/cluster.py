"""A cluster of the real nodes on simulated hosts: the same classes that the taps run."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

from attrs import evolve, field, frozen
from prometheus_client import CollectorRegistry

from penncloud.client.coordinator_link import CoordinatorDirectory
from penncloud.client.router import RoutedTable
from penncloud.coordinator.commands import TabletRecord
from penncloud.coordinator.node import CoordinatorNode
from penncloud.judge.workloads import Access
from penncloud.platform import config
from penncloud.platform.disk import Disk
from penncloud.platform.environment import Environment
from penncloud.rpc.registration import Registration, identity
from penncloud.simulation.disk import DiskQuality
from penncloud.simulation.host import Host, Node
from penncloud.simulation.world import World
from penncloud.storage.node import StorageNode

COORDINATOR_PORT = 8600
STORAGE_PORT = 8700
HTTP_PORT = 8081
SMTP_PORT = 2500


@frozen
class Settings:
    """What one run's cluster is made of."""

    coordinators: int = 1
    storages: int = 3
    frontends: int = 1
    # Real web frontends, and a mail server; otherwise frontends only register.
    services: bool = False
    clients: int = 2
    tablets: int = 6
    heartbeat_ms: int = 100
    dead_after_missed: int = 5
    memtable_bytes: int = 64 * 1024
    checkpoint_writes: int = 0
    split_bytes: int = 50_000_000
    scrub_rest_s: float = 600.0
    # Small tablets are split in all runs, or in about half of them; else in none.
    splits: Literal["never", "sometimes", "always"] = "never"
    replication: Literal["2pc", "async"] = "2pc"
    read_mode: Literal["lease", "confirm"] = "lease"
    # In about half of the runs reads are confirmed by a round to the members.
    sometimes_confirm: bool = False
    raft_log_bytes: int = 4 * 1024 * 1024
    # In about half of the runs coordinators soon replace their logs by snapshots.
    sometimes_compact: bool = False
    # Coordinators give up on a server long before its leases end, and nothing takes long; one tablet.
    eager: bool = False
    pipeline_depth: int = 256
    # Clocks run by up to this share too fast or too slow.
    clock_error: float = 0.05
    disk: DiskQuality = field(factory=DiskQuality)
    disk_bytes: int = 2**30


# What a client's program does; what it awaits ends with its process.
Program = Callable[[Access], Awaitable[None]]


class ClientNode:
    """A program that uses the cluster as the web frontends do: by the real client."""

    def __init__(self, environment: Environment, cluster: config.Cluster, program: Program) -> None:
        table = RoutedTable(environment, cluster)
        self._access = Access(environment, table, CoordinatorDirectory(environment, cluster))
        self._program = program

    async def start(self) -> None:
        self._access.table.start()
        self._access.directory.start()
        await self._program(self._access)

    async def stop(self) -> None:
        self._access.table.stop()
        await self._access.directory.stop()


class FrontendNode:
    """A web frontend as the coordinator sees it: registered, and alive."""

    def __init__(
        self, environment: Environment, cluster: config.Cluster, role: config.Http
    ) -> None:
        self._registration = Registration(
            environment, cluster, identity("http", role, HTTP_PORT, environment.pid)
        )

    async def start(self) -> None:
        self._registration.start()

    async def stop(self) -> None:
        await self._registration.stop()


class Cluster:
    """The hosts by role. `program` runs on every client, `audit` on a client that no fault is aimed at."""

    def __init__(self, world: World, settings: Settings, program: Program, audit: Program) -> None:
        self.world = world
        self.settings = settings
        # What goes on by itself for a while looks here whether it may.
        self.calmed = False
        self._chance = world.random("cluster")
        # Addresses are given out in order: the coordinators' come first and are known beforehand.
        self.configuration = config.Cluster(
            coordinators=[
                f"127.0.1.{n + 1}:{COORDINATOR_PORT}" for n in range(settings.coordinators)
            ],
            replication=settings.replication,
            read_mode=settings.read_mode,
        )
        self.coordinators = [
            self._add(f"coordinator-{n + 1}", self._coordinator(f"coordinator-{n + 1}"))
            for n in range(settings.coordinators)
        ]
        self.storages = [
            self._add(f"storage-{n + 1}", self._storage(f"storage-{n + 1}"))
            for n in range(settings.storages)
        ]
        self.frontends = [
            self._add(f"http-{n + 1}", self._frontend(f"http-{n + 1}"))
            for n in range(settings.frontends)
        ]
        self.mail_servers = [
            self._add(name, self._mail_server(name)) for name in mail_servers(settings)
        ]
        if settings.services:
            # Twisted's web server stamps its answers with the machine's own clock.
            world.network.stamped_ports = {HTTP_PORT}
        self.clients = [
            self._add(f"client-{n + 1}", self._client(program)) for n in range(settings.clients)
        ]
        self.auditor = self._add("auditor", self._client(audit))

    @property
    def factor(self) -> int:
        """How many members a tablet has when all is well."""
        return min(self.configuration.replication_factor, len(self.storages))

    def tablets(self) -> Mapping[int, TabletRecord]:
        """Those that there are, as the coordinator knows that has applied most."""
        machines = [
            (host.node.decisions.node.log.applied, host.node.decisions.machine)
            for host in self.coordinators
            if isinstance(host.node, CoordinatorNode) and host.node.decisions.node is not None
        ]
        applied = max(machines, key=lambda one: one[0], default=None)
        return {} if applied is None else applied[1].state.tablets

    @property
    def servers(self) -> list[Host]:
        return [*self.coordinators, *self.storages, *self.frontends, *self.mail_servers]

    @property
    def hosts(self) -> list[Host]:
        return [*self.servers, *self.clients, self.auditor]

    def start(self, within_s: float) -> None:
        """Switch everything on, in any order, within a while."""
        for host in self.hosts:
            self.world.timeline.after(self._chance.uniform(0, within_s), host.start)

    def calm(self) -> None:
        """End every trouble; what is down comes back."""
        self.calmed = True
        network = self.world.network
        network.cut.clear()
        network.slow.clear()
        network.narrow.clear()
        network.quality.loss_rate = 0.0
        for host in self.hosts:
            host.disk.operations_left = None
            host.disk.slowness = 1.0
            host.disk.fail_next_sync = False
            host.full(False)
            host.resume()
            host.start()

    # -- the programs ----------------------------------------------------------------------------

    def _add(self, name: str, build: Callable[[Environment, Disk], Node]) -> Host:
        error = self.settings.clock_error
        return self.world.add_host(
            name,
            build,
            clock_rate=1 + self._chance.uniform(-error, error),
            wall_skew_s=self._chance.uniform(-30, 30),
            quality=self.settings.disk,
            capacity_bytes=self.settings.disk_bytes,
        )

    def _coordinator(self, name: str) -> Callable[[Environment, Disk], Node]:
        settings = self.settings

        def build(environment: Environment, disk: Disk) -> Node:
            role = config.Coordinator(
                id=name,
                host=self._address(name),
                port=COORDINATOR_PORT,
                data_dir=name,
                heartbeat_ms=settings.heartbeat_ms,
                dead_after_missed=settings.dead_after_missed,
                expect_storage=settings.storages,
                initial_tablets=settings.tablets,
                raft_log_bytes=settings.raft_log_bytes,
            )
            return CoordinatorNode(environment, self.configuration, role, CollectorRegistry(), disk)

        return build

    def _storage(self, name: str) -> Callable[[Environment, Disk], Node]:
        settings = self.settings

        def build(environment: Environment, disk: Disk) -> Node:
            role = config.Storage(
                id=name,
                host=self._address(name),
                port=STORAGE_PORT,
                data_dir=name,
                memtable_bytes=settings.memtable_bytes,
                checkpoint_writes=settings.checkpoint_writes,
                split_bytes=settings.split_bytes,
                scrub_rest_s=settings.scrub_rest_s,
                pipeline_depth=settings.pipeline_depth,
            )
            return StorageNode(environment, self.configuration, role, CollectorRegistry(), disk)

        return build

    def _frontend(self, name: str) -> Callable[[Environment, Disk], Node]:
        def build(environment: Environment, _disk: Disk) -> Node:
            role = config.Http(id=name, host=self._address(name), port=HTTP_PORT)
            if not self.settings.services:
                return FrontendNode(environment, self.configuration, role)
            from penncloud.simulation.role_nodes import web_frontend

            return web_frontend(environment, self.configuration, role)

        return build

    def _mail_server(self, name: str) -> Callable[[Environment, Disk], Node]:
        def build(environment: Environment, _disk: Disk) -> Node:
            from penncloud.simulation.role_nodes import mail_server

            role = config.Smtp(id=name, host=self._address(name), port=SMTP_PORT)
            return mail_server(environment, self.configuration, role)

        return build

    def _client(self, program: Program) -> Callable[[Environment, Disk], Node]:
        return lambda environment, _disk: ClientNode(environment, self.configuration, program)

    def _address(self, name: str) -> str:
        return self.world.hosts[name].address


def mail_servers(settings: Settings) -> tuple[str, ...]:
    """Their hosts' names."""
    return ("smtp-1",) if settings.services else ()


def drawn_settings(chance: random.Random, modes: random.Random, base: Settings) -> Settings:
    """`base` with other sizes and times, so that no run depends on the usual ones; `modes` is for those
    that not all scenarios have."""
    read_mode = base.read_mode
    if base.sometimes_confirm and modes.random() < 0.5:
        read_mode = "confirm"
    raft_log_bytes = base.raft_log_bytes
    if base.sometimes_compact and modes.random() < 0.5:
        raft_log_bytes = modes.choice((512, 2048))
    split_bytes, tablets = base.split_bytes, [1, 2, 6, 7]
    if base.splits == "always" or (base.splits == "sometimes" and chance.random() < 0.5):
        split_bytes, tablets = chance.choice((64, 128)) * 1024, [1, 2]
    heartbeats_ms, missed = [50, 100, 250], [3, 5]
    if base.eager:
        tablets, heartbeats_ms, missed = [1], [25, 50], [3]
    drawn = evolve(
        base,
        split_bytes=split_bytes,
        read_mode=read_mode,
        raft_log_bytes=raft_log_bytes,
        tablets=chance.choice(tablets),
        heartbeat_ms=chance.choice(heartbeats_ms),
        dead_after_missed=chance.choice(missed),
        memtable_bytes=chance.choice((64 * 1024, 256 * 1024)),
        checkpoint_writes=chance.choice((0, 0, 10, 50)),
        pipeline_depth=chance.choice((1, 4, 256)),
        clock_error=chance.choice((0.0, 0.05)),
        disk=DiskQuality(
            sync_s=chance.choice((0.0001, 0.001, 0.01)),
            stall_rate=chance.choice((0.0, 0.002, 0.02)),
        ),
    )
    return evolve(drawn, disk=DiskQuality(0.0001, 0.0)) if base.eager else drawn

"""Which servers a host runs, and on which ports. Pure: whether a port is free is asked by an argument.

The ports that people type are fixed: the balancer has the base port, the web frontends those behind it,
mail its own. The others are the first free ones above an offset from the base port, and are remembered,
so that a restart finds every server where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from attrs import evolve, frozen

from penncloud.lb.redirect import is_loopback
from penncloud.platform.errors import ConfigurationError

# The order in which servers are stopped: first those that take requests from outside, last those
# that the others need.
STOP_ORDER: Final = ("lb", "smtp", "http", "storage", "coordinator")
ROLES: Final = tuple(reversed(STOP_ORDER))

# They decide by majority: an even number survives no more losses than one less.
COORDINATOR_COUNTS: Final = (1, 3, 5, 7)

DEFAULT_BASE_PORT: Final = 8080
DEFAULT_SMTP_PORT: Final = 2500
DEFAULT_COUNTS: Final[Mapping[str, int]] = {
    "coordinator": 3,
    "storage": 3,
    "http": 2,
    "smtp": 1,
    "lb": 1,
}
# Where the search for a port begins, above the base port; metrics ports come behind all of them.
_OFFSETS: Final = {"agent": 420, "coordinator": 520, "storage": 620}
_METRICS_OFFSET: Final = 1000
_MAX_SERVERS: Final = 100
# How there come to be fewer of those that hold data.
_FEWER: Final = {
    "storage": "take one away by `penncloud node remove`",
    "coordinator": "`penncloud coordinator remove` takes one out of the group, and leaves its process",
}
# How far to search: a host that has more ports in use than that has another problem.
_SEARCH: Final = 500


@frozen
class Server:
    """One process: what it is and where it listens. `metrics_port` 0: nowhere."""

    role: str
    id: str
    port: int
    metrics_port: int = 0


@frozen
class Topology:
    """All the servers of one host and its agent."""

    domain: str
    host: str
    advertise: str
    agent_port: int
    servers: tuple[Server, ...]
    # Whether the servers' connections with each other are encrypted.
    tls: bool = True

    @property
    def public_host(self) -> str:
        return self.advertise or self.host

    def of(self, role: str) -> tuple[Server, ...]:
        return tuple(server for server in self.servers if server.role == role)


@frozen
class Wanted:
    """What the administrator asked for; None: as it was, and the default at the first time."""

    base_port: int | None = None
    smtp_port: int | None = None
    counts: Mapping[str, int | None] = {}
    domain: str | None = None
    host: str | None = None
    advertise: str | None = None
    tls: bool | None = None


IsFree = Callable[[str, int], bool]

# What a cluster is that was never started.
_UNPLANNED: Final = Topology("penncloud", "127.0.0.1", "", 0, ())


def plan(wanted: Wanted, remembered: Topology | None, is_free: IsFree) -> Topology:
    """The servers to run, with their ports. Raises ConfigurationError for what cannot be had."""
    before = remembered or _UNPLANNED
    counts = _counts(wanted, before)
    host = wanted.host or before.host
    advertise = before.advertise if wanted.advertise is None else wanted.advertise
    if host in ("0.0.0.0", "::") and not advertise:
        raise ConfigurationError(f"--host {host}: --advertise must say where others find it")
    tls = before.tls if wanted.tls is None else wanted.tls
    if not tls and not (is_loopback(host) and (not advertise or is_loopback(advertise))):
        raise ConfigurationError(
            f"--tls off: {advertise or host} is not a loopback address, and what goes to other"
            " machines has to be encrypted"
        )
    ports = _Ports(host, is_free, _chosen_ports(before))
    known = {server.id: server for server in before.servers}
    servers = _public(wanted, counts, before, ports)
    base = servers[0].port
    agent_port = ports.choose(before.agent_port, base + _OFFSETS["agent"])
    for role in ("coordinator", "storage"):
        for node_id in _ids(role, counts[role], before):
            was = known[node_id].port if node_id in known else 0
            servers.append(Server(role, node_id, ports.choose(was, base + _OFFSETS[role])))
    servers.sort(key=lambda server: ROLES.index(server.role))
    with_metrics = []
    for server in servers:
        was = known[server.id].metrics_port if server.id in known else 0
        port = ports.choose(was, base + _METRICS_OFFSET)
        with_metrics.append(evolve(server, metrics_port=port))
    return Topology(
        wanted.domain or before.domain, host, advertise, agent_port, tuple(with_metrics), tls
    )


def _chosen_ports(before: Topology) -> frozenset[int]:
    """The ports that were chosen earlier and so belong to somebody already."""
    chosen = [before.agent_port, *(server.metrics_port for server in before.servers)]
    chosen += [server.port for server in before.servers if server.role in _OFFSETS]
    return frozenset(chosen)


def _ids(role: str, count: int, before: Topology) -> list[str]:
    """Those that are there, and new ones with higher numbers: one that was removed is not taken again."""
    numbers = sorted(int(server.id.rpartition("-")[2]) for server in before.of(role))[:count]
    first = numbers[-1] + 1 if numbers else 1
    numbers += range(first, first + count - len(numbers))
    return [f"{role}-{number}" for number in numbers]


def _counts(wanted: Wanted, before: Topology) -> dict[str, int]:
    counts = {}
    for role, default in DEFAULT_COUNTS.items():
        running = len(before.of(role))
        asked = wanted.counts.get(role)
        count = (running or default) if asked is None else asked
        option = f"--{'coordinators' if role == 'coordinator' else role}"
        if not 1 <= count <= _MAX_SERVERS:
            raise ConfigurationError(f"{option} {count}: from 1 to {_MAX_SERVERS}")
        if role in ("storage", "coordinator") and count < running:
            raise ConfigurationError(
                f"{option} {count}: this cluster has {running}, and each holds data; {_FEWER[role]}"
            )
        counts[role] = count
    if counts["coordinator"] not in COORDINATOR_COUNTS:
        raise ConfigurationError(
            f"--coordinators {counts['coordinator']}: 1, 3, 5 or 7, as they decide by majority"
        )
    return counts


def _public(
    wanted: Wanted, counts: Mapping[str, int], before: Topology, ports: _Ports
) -> list[Server]:
    """The servers whose ports people know: balancer, frontends, mail."""
    known = {server.id: server for server in before.servers}
    base = DEFAULT_BASE_PORT if "lb-1" not in known else known["lb-1"].port
    base = base if wanted.base_port is None else wanted.base_port
    smtp = DEFAULT_SMTP_PORT if "smtp-1" not in known else known["smtp-1"].port
    smtp = smtp if wanted.smtp_port is None else wanted.smtp_port
    servers = [Server("lb", "lb-1", ports.take("lb-1", base, "--base-port"))]
    for role, first, option in (("http", base + 1, "--base-port"), ("smtp", smtp, "--smtp-port")):
        for number, node_id in enumerate(_ids(role, counts[role], before)):
            servers.append(Server(role, node_id, ports.take(node_id, first + number, option)))
    return servers


class _Ports:
    """Hands out each port once."""

    def __init__(self, host: str, is_free: IsFree, remembered: frozenset[int]) -> None:
        self._host = host
        self._is_free = is_free
        self._remembered = remembered
        self._taken: set[int] = set()

    def take(self, node_id: str, port: int, option: str) -> int:
        """Exactly this port, which people know."""
        if not 0 < port < 65536:
            raise ConfigurationError(f"{node_id}: {port} is no port: choose another {option}")
        if port in self._taken:
            raise ConfigurationError(
                f"{node_id}: port {port} is used twice: choose another {option}"
            )
        if not self._is_free(self._host, port):
            raise ConfigurationError(
                f"{node_id}: port {port} on {self._host} is in use by another program:"
                f" choose another {option}"
            )
        self._taken.add(port)
        return port

    def choose(self, remembered: int, start: int) -> int:
        """The remembered port (0: none) if it is free, else the first free one from `start` on."""
        search = range(start, min(start + _SEARCH, 65536))
        candidates = [port for port in search if port not in self._remembered]
        if remembered:
            candidates.insert(0, remembered)
        for port in candidates:
            if port not in self._taken and self._is_free(self._host, port):
                self._taken.add(port)
                return port
        raise ConfigurationError(
            f"no free port on {self._host} from {start} on: choose another --base-port"
        )


def grown(topology: Topology, role: str, is_free: IsFree) -> tuple[Topology, Server]:
    """The topology with one more server of the role, on free ports; nothing else changes.

    Raises ConfigurationError when there is no port left, or no more servers may be.
    """
    count = len(topology.of(role)) + 1
    if count > _MAX_SERVERS:
        raise ConfigurationError(f"at most {_MAX_SERVERS} servers of a role")
    ports = _Ports(topology.host, is_free, _chosen_ports(topology))
    base = topology.agent_port - _OFFSETS["agent"]
    port = ports.choose(0, base + _OFFSETS[role])
    metrics_port = ports.choose(0, base + _METRICS_OFFSET)
    server = Server(role, _ids(role, count, topology)[-1], port, metrics_port)
    servers = sorted([*topology.servers, server], key=lambda one: ROLES.index(one.role))
    return evolve(topology, servers=tuple(servers)), server


def without(topology: Topology, node_id: str) -> Topology:
    """The topology when that server is gone."""
    left = tuple(server for server in topology.servers if server.id != node_id)
    return evolve(topology, servers=left)


def in_stop_order(servers: Sequence[Server]) -> list[list[Server]]:
    """The servers in groups: those of one group stop together, one group after the other."""
    groups = ([server for server in servers if server.role == role] for role in STOP_ORDER)
    return [group for group in groups if group]

"""The cluster of a run: coordinators and storage servers, and what can be done to them.

Each server has a host with an address of its own where the network allows it, its own data directory and
clock, and is supervised as by an agent: one that ends by itself is started again.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from attrs import define, frozen
from twisted.internet.defer import gatherResults

from penncloud.cluster.authority import Authority
from penncloud.cluster.configuration import to_toml
from penncloud.cluster.layout import Layout, replace_file
from penncloud.cluster.ports import is_free
from penncloud.cluster.spawn import CHILD_MODULE, role_launch
from penncloud.cluster.topology import Server
from penncloud.platform import config
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.supervisor import Launch, Pace, Supervised
from penncloud.torture import skewed
from penncloud.torture.disks import SmallDisks, unmount
from penncloud.torture.lan import Lan, Loopback

Role = Literal["coordinator", "storage"]

# Where each server listens on its own host; where all share one, the first free port from here on.
_PORTS: Final[dict[Role, int]] = {"coordinator": 8600, "storage": 8700}
_SEARCH: Final = range(27_000, 28_000)
# As an agent does it, but for a server that has lost its disk for a moment and comes back at once.
_PACE: Final = Pace(restart_first_s=0.25, restart_longest_s=2.0, steady_s=10.0, stop_wait_s=10.0)


@frozen
class Size:
    """How many hosts of each kind."""

    coordinators: int = 3
    storages: int = 3
    members: int = 3


@define(eq=False)
class Station:
    """One server: its host's name, and its process."""

    server: Server
    address: str
    process: Supervised


class Bed:
    """See the module. `small_disks` None: disks cannot be made full; `clocks` whether they can be
    set.
    `now` is the wall clock.

    Everything that is made is in `layout.root`, in the network and among the mounts; `remove` takes it
    down, but for the logs and configuration files.
    """

    def __init__(
        self,
        reactor: Any,
        layout: Layout,
        lan: Lan,
        size: Size,
        *,
        now: Callable[[], float],
        small_disks: SmallDisks | None = None,
        clocks: bool = False,
        settings: Sequence[tuple[Role, str, Any]] = (),
        changed: Callable[[Supervised], None] = lambda _: None,
    ) -> None:
        self._reactor = reactor
        self._layout = layout
        self._lan = lan
        self._size = size
        self._authority = Authority(layout.authority, now)
        self._small_disks = small_disks
        self._clocks = clocks
        self._settings = settings
        self._changed = changed
        self._cuts: Counter[tuple[str, str]] = Counter()
        self.stations: dict[str, Station] = {}
        self.members = [f"member-{n + 1}" for n in range(size.members)]
        self.auditor = "auditor"
        self.cluster = config.Cluster()

    # -- making it -------------------------------------------------------------------------------

    def make(self) -> None:
        """Hosts, directories and configuration. Raises ConfigurationError, NoNamespaces, NoMounts."""
        self._layout.make()
        if not self._authority.exists:
            self._authority.init()
        servers = self._servers()
        addresses = {server.id: self._lan.add(server.id) for server in servers}
        for name in (*self.members, self.auditor):
            self._lan.add(name)
            self.certify("http", name)
        self.cluster = config.Cluster(
            coordinators=[
                f"{addresses[server.id]}:{server.port}"
                for server in servers
                if server.role == "coordinator"
            ],
            tls_dir=str(self._layout.tls),
        )
        for server in servers:
            self.certify(server.role, server.id)
            self._configure(server, addresses[server.id])
            self.stations[server.id] = Station(
                server,
                addresses[server.id],
                Supervised(server.id, self._launch(server), self._reactor, _PACE, self._changed),
            )

    def certify(self, role: str, node_id: str) -> None:
        """Make somebody a member of the cluster, in the eyes of the others."""
        self._authority.ensure(self._layout.tls, role, node_id, ())

    def _servers(self) -> list[Server]:
        counts: dict[Role, int] = {
            "coordinator": self._size.coordinators,
            "storage": self._size.storages,
        }
        shared = iter(port for port in _SEARCH if is_free("127.0.0.1", port))
        one_host = isinstance(self._lan, Loopback)
        servers = []
        for role, count in counts.items():
            for number in range(1, count + 1):
                port = next(shared, 0) if one_host else _PORTS[role]
                if not port:
                    raise ConfigurationError(f"no free port in {_SEARCH}")
                servers.append(Server(role, f"{role}-{number}", port))
        return servers

    def _configure(self, server: Server, address: str) -> None:
        data = self._layout.data(server.id)
        keys: dict[str, Any] = {
            "id": server.id,
            "host": address,
            "port": server.port,
            "data_dir": str(data),
        }
        if server.role == "coordinator":
            keys["expect_storage"] = self._size.storages
        keys |= {key: value for role, key, value in self._settings if role == server.role}
        cluster = {
            "coordinators": self.cluster.coordinators,
            "tls_dir": self.cluster.tls_dir,
        }
        text = to_toml({"cluster": cluster, server.role: keys})
        replace_file(self._layout.configuration(server.id), text.encode(), 0o600)
        unmount(data)
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(mode=0o700)
        if self._small_disks is not None and server.role == "storage":
            self._small_disks.add(data)
        if self._clocks:
            skewed.set_clock(self._clock(server.id), 0)

    def _launch(self, server: Server) -> Launch:
        variables, module = {}, CHILD_MODULE
        if self._clocks:
            variables = {skewed.VARIABLE: str(self._clock(server.id))}
            module = skewed.MODULE
        inside = self._lan.inside(server.id)
        return role_launch(
            self._reactor,
            self._layout,
            server,
            inside=inside,
            variables=variables,
            module=module,
        )

    def _clock(self, server_id: str) -> Path:
        return self._layout.etc / f"{server_id}.clock"

    def start(self) -> None:
        """Start every server."""
        for station in self.stations.values():
            station.process.start()

    async def remove(self) -> None:
        """End every process at once and take down what was made; nothing happens the second time."""
        for station in self.stations.values():
            station.process.kill()
        await gatherResults([station.process.stop() for station in self.stations.values()])
        if self._small_disks is not None:
            self._small_disks.remove()
        self._lan.remove()

    # -- what there is ---------------------------------------------------------------------------

    def of(self, role: Role) -> list[str]:
        """The servers of one role."""
        return [name for name, station in self.stations.items() if station.server.role == role]

    def inside(self, name: str) -> list[str]:
        """What a command line begins with, to be run on the host of a server or a member."""
        return self._lan.inside(name)

    def log(self, server_id: str) -> Path:
        return self._layout.log(server_id)

    # -- faults ----------------------------------------------------------------------------------

    async def kill(self, *server_ids: str) -> None:
        """SIGKILL to all of them, and they stay down until `revive`; returns when they have ended."""
        processes = [self.stations[server_id].process for server_id in server_ids]
        for process in processes:
            process.kill()
        await gatherResults([process.stop() for process in processes])

    def revive(self, server_id: str) -> None:
        self.stations[server_id].process.start()

    def pause(self, server_id: str) -> None:
        """SIGSTOP. Nothing happens to one that is down."""
        self._signal(server_id, signal.SIGSTOP)

    def resume(self, server_id: str) -> None:
        self._signal(server_id, signal.SIGCONT)

    def _signal(self, server_id: str, number: signal.Signals) -> None:
        process = self.stations[server_id].process
        if process.state == "running" and process.pid is not None:
            os.kill(process.pid, number)

    def cut(self, source: str, target: str) -> None:
        """Nothing gets from `source` to `target` any more; the other way it does.

        It may be cut several times, and then has to be mended as often.
        """
        self._cuts[source, target] += 1
        if self._cuts[source, target] == 1:
            self._lan.cut(source, target)

    def mend(self, source: str, target: str) -> None:
        self._cuts[source, target] -= 1
        if not self._cuts[source, target]:
            self._lan.mend(source, target)

    def wipe(self, server_id: str) -> None:
        """Remove all that a server which is down has stored."""
        assert self.stations[server_id].process.state == "down"
        data = self._layout.data(server_id)
        for path in data.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def fill_disk(self, server_id: str) -> None:
        assert self._small_disks is not None
        self._small_disks.fill(self._layout.data(server_id))

    def make_room(self, server_id: str) -> None:
        assert self._small_disks is not None
        self._small_disks.make_room(self._layout.data(server_id))

    def set_clock(self, server_id: str, ahead_s: int) -> None:
        assert self._clocks
        skewed.set_clock(self._clock(server_id), ahead_s)

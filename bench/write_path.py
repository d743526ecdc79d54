"""What a write costs in the storage servers alone, without kernel, disk and clients.

`python -m bench.write_path [--clients 1,16,64,256] [--seconds S] [--profile FILE]` lets the real storage
servers run in the simulation: three of them, six tablets, so many clients that each have a connection and
one write of 100 bytes under way, for S simulated seconds. What counts is the CPU time of this process in
turns of the three servers; the simulated sockets and disk that they call are part of it. Two runs of one
tree do exactly the same, so that two trees can be compared by their calls as well (`--profile`, for pstats).
"""

from __future__ import annotations

import argparse
import cProfile
import time
from collections.abc import Callable
from typing import Any, Final

from attrs import frozen

from penncloud.judge.workloads import Access
from penncloud.simulation.cluster import Cluster, Settings
from penncloud.simulation.disk import DiskQuality
from penncloud.simulation.process import Process
from penncloud.simulation.world import World

_WARM_UP_S: Final = 3.0
_VALUE: Final = b"x" * 100


class _Measured(World):
    """A world that knows what the turns of some hosts' processes cost."""

    def __init__(self) -> None:
        super().__init__(1)
        self.cpu_ns = 0
        self.turns = 0
        self.profile: cProfile.Profile | None = None

    def run_as(self, process: Process, call: Callable[..., object], *arguments: Any) -> None:
        if not process.host.name.startswith("storage"):
            super().run_as(process, call, *arguments)
            return
        self.turns += 1
        if self.profile is not None:
            self.profile.enable()
        begun = time.process_time_ns()
        try:
            super().run_as(process, call, *arguments)
        finally:
            self.cpu_ns += time.process_time_ns() - begun
            if self.profile is not None:
                self.profile.disable()


class _Load:
    """Clients that write without a pause, each to rows of its own."""

    def __init__(self) -> None:
        self.written = 0
        self._clients = 0

    async def run(self, access: Access) -> None:
        self._clients += 1
        number, count = self._clients, 0
        while True:
            count += 1
            await access.table.put(b"row%d-%d" % (number, count % 1000), b"col", _VALUE)
            self.written += 1


async def _nothing(access: Access) -> None:
    pass


@frozen
class Cost:
    """Of one write, in all three servers."""

    writes: int
    cpu_us: float
    turns: float
    disk_operations: float


def measure(clients: int, seconds: float, profile: cProfile.Profile | None = None) -> Cost:
    """Let so many clients write for so many simulated seconds. RuntimeError: a server had an error."""
    world, load = _Measured(), _Load()
    network = world.network.quality
    network.split_rate, network.least_s, network.most_s = 0.0, 0.00005, 0.0001
    settings = Settings(
        frontends=0,
        clients=clients,
        memtable_bytes=32 * 1024 * 1024,
        clock_error=0.0,
        disk=DiskQuality(stall_rate=0.0),
    )
    cluster = Cluster(world, settings, load.run, _nothing)
    cluster.start(1.0)
    world.run(_WARM_UP_S)
    written, turns, cpu_ns = load.written, world.turns, world.cpu_ns
    synced = sum(host.disk.operations for host in cluster.storages)
    world.profile = profile
    world.run(seconds)
    if world.errors:
        raise RuntimeError(world.errors[0])
    writes = load.written - written
    operations = sum(host.disk.operations for host in cluster.storages) - synced
    return Cost(
        writes,
        (world.cpu_ns - cpu_ns) / writes / 1000,
        (world.turns - turns) / writes,
        operations / writes,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.write_path", description=__doc__)
    parser.add_argument("--clients", default="1,16,64,256")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument(
        "--profile", metavar="FILE", help="calls in the servers' turns, all runs together"
    )
    arguments = parser.parse_args()
    profile = cProfile.Profile(time.process_time) if arguments.profile else None
    print(" clients   writes   CPU us/write  turns/write  disk operations/write")
    for clients in arguments.clients.split(","):
        cost = measure(int(clients), arguments.seconds, profile)
        print(
            f"{clients:>8} {cost.writes:>8} {cost.cpu_us:>13.0f} {cost.turns:>12.2f}"
            f" {cost.disk_operations:>22.2f}",
            flush=True,
        )
    if profile is not None:
        profile.dump_stats(arguments.profile)


if __name__ == "__main__":
    main()

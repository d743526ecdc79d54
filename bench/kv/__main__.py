"""Measures every point with each system in turn, and prints tables; see the package."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import product
from pathlib import Path

from attrs import asdict, define, field

from bench.kv.failover import gap_s
from bench.kv.load import Measured, Spec, middle
from bench.kv.systems import SYSTEMS, NotThere, System

LOADS = {"put": 0.0, "get": 1.0, "90/10": 0.9, "50/50": 0.5}
# Processes of clients: one cannot keep up with the fastest server, more take the servers' cores.
_LOADERS = 2
_KEYS = 10_000
# Keys whose values are large are fewer, so that filling does not take longer than measuring.
_FILL_BYTES = 64 * 1024 * 1024


@define
class Figures:
    """Of one system at one point; rates per second, times in milliseconds."""

    per_s: list[float] = field(factory=list)
    p50_ms: list[float] = field(factory=list)
    p99_ms: list[float] = field(factory=list)
    cpu_s: list[float] = field(factory=list)
    failed: int = 0


@define
class Point:
    size: int
    load: str
    clients: int

    def __str__(self) -> str:
        size = f"{self.size} B" if self.size < 1024 else f"{self.size // 1024} KiB"
        return f"{self.load}, {size}, {self.clients} clients"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kv", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="a few short points")
    add("--systems", default=",".join(SYSTEMS))
    add("--sizes", default="", help="bytes of a value, e.g. 100,4096,65536")
    add("--clients", default="", help="e.g. 1,16,64,256")
    add("--loads", default="", help=f"of {','.join(LOADS)}")
    add("--seconds", type=float, default=0.0, help="of each measurement")
    add("--runs", type=int, default=0, help="medians of so many")
    add("--failovers", type=int, default=-1, help="kills of a leader under load")
    add("--directory", default=tempfile.gettempdir(), help="on the disk to measure")
    add("--option", action="append", default=[], help="for PennCloud's servers, e.g. --x=y")
    add("--json", metavar="FILE", help="keep all figures here")
    arguments = parser.parse_args()
    quick = arguments.quick
    sizes = [int(n) for n in (arguments.sizes or ("100" if quick else "100,4096,65536")).split(",")]
    clients = [
        int(n) for n in (arguments.clients or ("1,64" if quick else "1,16,64,256")).split(",")
    ]
    loads = (arguments.loads or ("put,get" if quick else ",".join(LOADS))).split(",")
    seconds = arguments.seconds or (1.5 if quick else 4.0)
    runs = arguments.runs or (1 if quick else 3)
    failovers = arguments.failovers if arguments.failovers >= 0 else (1 if quick else 5)
    # Ended by a signal, too, we end what we have started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    root = Path(tempfile.mkdtemp(prefix="penncloud-bench-", dir=arguments.directory))
    systems: list[System] = []
    try:
        systems = _start(arguments, root)
        points = [Point(*values) for values in product(sizes, loads, clients)]
        found = _measure(systems, points, seconds, runs)
        idle = {s.name: [server.memory_mb(True) for server in s.servers.values()] for s in systems}
        _print(systems, points, found, idle)
        gaps = _failovers(arguments, systems, root, failovers)
        if arguments.json:
            figures = {f"{name}: {point}": asdict(value) for (name, point), value in found.items()}
            Path(arguments.json).write_text(
                json.dumps({"points": figures, "gaps_s": gaps}, indent=1)
            )
    finally:
        for system in systems:
            system.stop()
        shutil.rmtree(root, ignore_errors=True)


def _start(arguments: argparse.Namespace, root: Path) -> list[System]:
    systems: list[System] = []
    for name in arguments.systems.split(","):
        system = _make(arguments, name, root / name)
        try:
            system.start()
        except NotThere as error:
            system.stop()
            print(f"{name}: left out: {error}", file=sys.stderr)
        except BaseException:
            system.stop()
            for started in systems:
                started.stop()
            raise
        else:
            systems.append(system)
    time.sleep(2)
    for system in systems:
        idle = max(server.memory_mb(False) for server in system.servers.values())
        print(f"{system.name}: {idle:.0f} MB in the largest server when idle", file=sys.stderr)
    return systems


def _make(arguments: argparse.Namespace, name: str, root: Path) -> System:
    system = SYSTEMS[name](root)
    if name == "penncloud":
        system.options = list(arguments.option)  # type: ignore[union-attr]
    return system


# -- measuring -----------------------------------------------------------------------------------


def _measure(
    systems: list[System], points: list[Point], seconds: float, runs: int
) -> dict[tuple[str, str], Figures]:
    found: dict[tuple[str, str], Figures] = {}
    filled = 0
    for point in points:
        keys = max(100, min(_KEYS, _FILL_BYTES // point.size))
        if filled != point.size:
            for system in systems:
                _load(system, point, keys, 0, fill=True)
            filled = point.size
        for _ in range(runs):
            for system in systems:
                figures = found.setdefault((system.name, str(point)), Figures())
                _one(system, point, keys, seconds, figures)
        line = ", ".join(
            f"{system.name} {statistics.median(found[system.name, str(point)].per_s):,.0f}/s"
            for system in systems
        )
        print(f"{point}: {line}", file=sys.stderr, flush=True)
    return found


def _one(system: System, point: Point, keys: int, seconds: float, figures: Figures) -> None:
    done, latencies, cpu_s, failed = _load(system, point, keys, seconds)
    if not done:
        raise NotThere(f"{system.name} answers nothing at {point}")
    figures.per_s.append(done / seconds)
    figures.p50_ms.append(_percentile(latencies, 0.5) * 1e3)
    figures.p99_ms.append(_percentile(latencies, 0.99) * 1e3)
    figures.cpu_s.append(cpu_s / done * 1e3)
    figures.failed += failed


def _load(
    system: System, point: Point, keys: int, seconds: float, fill: bool = False
) -> tuple[int, Counter[int], float, int]:
    """Operations, their latencies by bucket, CPU-seconds of all servers, failures."""
    targets, tablets = system.targets()
    warm_s = min(1.0, seconds / 2)
    clients = 16 if fill else point.clients
    loaders = 1 if fill else min(_LOADERS, clients)
    children = []
    for number in range(loaders):
        share = clients // loaders + (number < clients % loaders)
        spec = Spec(
            system.name,
            targets,
            share,
            point.size,
            0.0 if fill else LOADS[point.load],
            seconds,
            warm_s,
            keys,
            os.getpid() % 1000 * 10 + number,
            fill,
            tablets,
        )
        command = [sys.executable, "-m", "bench.kv.load", json.dumps(asdict(spec))]
        children.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
    try:
        for child in children:
            assert child.stdout is not None
            if child.stdout.readline() != "ready\n":
                raise NotThere(f"the clients of {system.name} cannot connect")
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        time.sleep(warm_s)
        before = sum(server.cpu_s() for server in system.servers.values())
        time.sleep(seconds)
        cpu_s = sum(server.cpu_s() for server in system.servers.values()) - before
        told = []
        for child in children:
            assert child.stdout is not None
            told.append(Measured(**json.loads(child.stdout.readline())))
            child.wait(timeout=30)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
            child.wait()
    latencies: Counter[int] = Counter()
    for one in told:
        latencies.update({int(key): count for key, count in one.latencies.items()})
    return sum(one.done for one in told), latencies, cpu_s, sum(one.failed for one in told)


def _percentile(latencies: Counter[int], share: float) -> float:
    """Seconds below which this share of the operations took."""
    wanted = sum(latencies.values()) * share
    for number in sorted(latencies):
        wanted -= latencies[number]
        if wanted <= 0:
            return middle(number)
    return 0.0


def _failovers(
    arguments: argparse.Namespace, systems: list[System], root: Path, count: int
) -> dict[str, list[float]]:
    """The longest time without a written value after a kill -9 of the leader, several times."""
    gaps: dict[str, list[float]] = {}
    for system in systems:
        system.stop()
    for number in range(count):
        for name in (system.name for system in systems if system.name != "redis"):
            fresh = _make(arguments, name, root / f"{name}-{number}")
            try:
                fresh.start()
                gap = gap_s(fresh)
            except NotThere as error:
                print(f"{name}: no failover measured: {error}", file=sys.stderr)
            else:
                gaps.setdefault(name, []).append(gap)
            finally:
                fresh.stop()
    for name, found in gaps.items():
        shown = ", ".join(f"{gap:.2f}" for gap in sorted(found))
        middle_s = statistics.median(found)
        print(f"\nGap of writes after kill -9 of the leader, {name}: {middle_s:.2f} s ({shown})")
    return gaps


def _print(
    systems: list[System],
    points: list[Point],
    found: dict[tuple[str, str], Figures],
    memory: dict[str, list[float]],
) -> None:
    names = [system.name for system in systems]
    head = "| |" + "".join(f" {name} op/s | p50 ms | p99 ms | CPU s |" for name in names)
    print(f"\nCPU s: of all servers, for 1,000 operations.\n\n{head}")
    print("|---|" + "---|" * 4 * len(names))
    for point in points:
        cells = []
        for name in names:
            figures = found[name, str(point)]
            median = statistics.median
            cells.append(
                f" {median(figures.per_s):,.0f}{'!' * bool(figures.failed)} |"
                f" {median(figures.p50_ms):.2f} | {median(figures.p99_ms):.2f} |"
                f" {median(figures.cpu_s):.3f} |"
            )
        print(f"| {point} |{''.join(cells)}")
    failures = {f"{name} at {point}": f.failed for (name, point), f in found.items() if f.failed}
    if failures:
        print("\n! with failed operations: " + ", ".join(f"{k}: {v}" for k, v in failures.items()))
    print(
        "\nPeak memory of the largest server: "
        + ", ".join(f"{name} {max(values):.0f} MB" for name, values in memory.items())
    )


if __name__ == "__main__":
    main()

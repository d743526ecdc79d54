"""Runs every store in turn and prints medians beside each other; see the package."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile

from bench.engine.run import PEERS

LINES = {
    "load_us": "load, us/cell",
    "load_cpu_us": "load, CPU us/cell",
    "hit_us": "point read, hit, us",
    "hit_cpu_us": "point read, hit, CPU us",
    "miss_us": "point read, miss, us",
    "miss_cpu_us": "point read, miss, CPU us",
    "scan_row_cpu_us": "scan of a row of ten, CPU us",
    "scan_cell_cpu_us": "full scan, CPU us/cell",
    "mixed_us": "mixed, us/operation",
    "mixed_cpu_us": "mixed, CPU us/operation",
    "size_bytes": "on disk, MB",
    "amplification": "written to the disk while loading, times the data",
    "peak_mb": "peak memory, MB",
    "stall_ms": "longest reactor stall under writes, ms",
    "stall_cpu_ms": "the same in CPU, ms",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description=__doc__)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=1000, help="cells made durable together")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--directory", default=tempfile.gettempdir(), help="on the disk to measure")
    parser.add_argument("--stores", default="ours,ours-zstd," + ",".join(PEERS))
    arguments = parser.parse_args()
    names = []
    for name in arguments.stores.split(","):
        if name in PEERS and importlib.util.find_spec(name) is None:
            print(
                f"{name}: left out, not installed (pip install 'penncloud[bench]')", file=sys.stderr
            )
        else:
            names.append(name)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(arguments.runs):
        for name in names:
            runs[name].append(_run(name, arguments))
            # So that a run that is interrupted has shown something.
            print(name, json.dumps(runs[name][-1]), file=sys.stderr, flush=True)
    _print(runs, arguments)
    _print_memtable()


def _run(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.engine.run", name, str(arguments.cells)]
    command += [str(arguments.batch), arguments.directory]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _print(runs: dict[str, list[dict[str, float]]], arguments: argparse.Namespace) -> None:
    medians = {
        name: {key: statistics.median(run[key] for run in found) for key in found[0]}
        for name, found in runs.items()
        if found
    }
    print(
        f"{arguments.cells} cells of 100 bytes, {arguments.batch} made durable together, ", end=""
    )
    print(f"medians of {arguments.runs}")
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load average {load}\n")
    print("| | " + " | ".join(medians) + " |")
    print("|---|" + "---|" * len(medians))
    for key, title in LINES.items():
        shown = []
        for found in medians.values():
            value = found.get(key)
            if key == "size_bytes" and value is not None:
                value /= 1e6
            shown.append("" if value is None else f"{value:.3g}")
        print(f"| {title} | " + " | ".join(shown) + " |")
    for ours in (name for name in medians if name.startswith("ours")):
        _print_ratios(ours, runs)


def _print_ratios(ours: str, runs: dict[str, list[dict[str, float]]]) -> None:
    """The median over the rounds of our figure by a peer's of the same round: less is better."""
    peers = [name for name in runs if not name.startswith("ours") and runs[name]]
    print(f"\n| CPU of {ours} by that of | " + " | ".join(peers) + " |")
    print("|---|" + "---|" * len(peers))
    for key in (key for key in LINES if "_cpu_us" in key):
        shown = []
        for peer in peers:
            pairs = zip(runs[ours], runs[peer], strict=True)
            shown.append(f"{statistics.median(mine[key] / its[key] for mine, its in pairs):.2g}")
        print(f"| {LINES[key]} | " + " | ".join(shown) + " |")


def _print_memtable() -> None:
    command = [sys.executable, "-m", "bench.engine.run", "memtable"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(
        f"\nA full memtable takes {found['memtable']:.2f} times its rows, columns and values; "
        f"the engine counts {found['counted']:.2f} times."
    )


if __name__ == "__main__":
    main()

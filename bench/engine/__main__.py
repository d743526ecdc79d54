"""Runs every store in turn and prints medians beside each other; see the package."""

from __future__ import annotations

import argparse
import importlib.util
import json
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
    "peak_mb": "peak memory, MB",
    "stall_ms": "longest reactor stall, ms",
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
            print(f"{name}: left out, not installed", file=sys.stderr)
        else:
            names.append(name)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(arguments.runs):
        for name in names:
            runs[name].append(_run(name, arguments))
    _print(runs, arguments)


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
    print(f"medians of {arguments.runs}\n")
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


if __name__ == "__main__":
    main()

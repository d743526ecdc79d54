"""One run of one store, in a process of its own: prints its figures as one line of JSON."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import tracemalloc
from array import array
from collections.abc import Callable
from typing import Any

from bench.engine.stores import Cell, Lmdb, Ours, Plyvel, Rocksdict, Sqlite, Store

VALUE_BYTES = 100
PEERS: dict[str, Callable[[str], Store]] = {
    "rocksdict": Rocksdict,
    "plyvel": Plyvel,
    "sqlite3": Sqlite,
    "lmdb": Lmdb,
}


def _cpu() -> float:
    """CPU seconds of this process with all its threads and ended children."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _written() -> int:
    """Bytes that this process and its ended children have had written to the disk."""
    with open("/proc/self/io") as file:
        found = dict(line.split(": ") for line in file)
    return int(found["write_bytes"])


class Phase:
    """One phase: its wall clock and CPU, without what the bench itself does in `own`."""

    def __init__(self, values: dict[str, float], name: str, operations: int) -> None:
        self._values = values
        self._name = name
        self._operations = operations

    def __enter__(self) -> Phase:
        self._wall, self._cpu = time.monotonic(), _cpu()
        return self

    def own(self, work: Callable[[], list[Any]]) -> list[Any]:
        """Do something that is not to be measured: make the cells of a batch."""
        wall, cpu = time.monotonic(), time.thread_time()
        result = work()
        self._wall += time.monotonic() - wall
        self._cpu += time.thread_time() - cpu
        return result

    def __exit__(self, *_ignored: object) -> None:
        wall, cpu = time.monotonic() - self._wall, _cpu() - self._cpu
        self._values[f"{self._name}_us"] = wall / self._operations * 1e6
        self._values[f"{self._name}_cpu_us"] = cpu / self._operations * 1e6


class Figures:
    """Microseconds of wall clock and CPU per operation, by phase."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def phase(self, name: str, operations: int) -> Phase:
        return Phase(self.values, name, operations)


class Stalls:
    """The longest time in which the reactor did not turn, in wall clock and in its thread's CPU.

    The bench's own turns count too: batches are kept small while this is measured.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._running = True
        self.wall = self.cpu = 0.0
        self._turn(None)

    def _turn(self, before: tuple[float, float] | None) -> None:
        now = time.monotonic(), time.thread_time()
        if before is not None:
            self.wall = max(self.wall, now[0] - before[0] - 0.001)
            self.cpu = max(self.cpu, now[1] - before[1])
        if self._running:
            self._reactor.callLater(0.001, self._turn, now)

    def stop(self) -> None:
        self._running = False


def cells_of(count: int, seed: int) -> tuple[Callable[[int], Cell], int]:
    """Cell number n, ten to a row in random order of rows, and the number of rows."""
    rows = max(1, count // 10)
    pool = random.Random(seed).randbytes(2**20)
    # Not a list: looking through a million numbers for cycles would be the longest stall that is measured.
    order = array("I", range(count))
    random.Random(seed).shuffle(order)

    def cell(n: int) -> Cell:
        start = n * 7919 % (2**20 - VALUE_BYTES)
        value = pool[start : start + VALUE_BYTES]
        return b"row/%08d" % (order[n] % rows), b"col%d" % (order[n] // rows), value

    return cell, rows


async def measure(
    store: Store, path: str, count: int, batch: int, reactor: Any
) -> dict[str, float]:
    figures = Figures()
    cell, rows = cells_of(count, 1)
    chance = random.Random(2)
    if isinstance(store, Ours):
        await store.open()
    before, data_bytes = _written(), 0
    with figures.phase("load", count) as phase:
        for start in range(0, count, batch):
            numbers = range(start, min(count, start + batch))
            cells = phase.own(lambda numbers=numbers: [cell(n) for n in numbers])  # type: ignore[misc]
            data_bytes += sum(len(row) + len(col) + len(value) for row, col, value in cells)
            await store.write(cells)
        await store.settle()
    figures.values["amplification"] = (_written() - before) / data_bytes
    figures.values["size_bytes"] = _size(path)
    reads = min(count, 100_000)
    for name, suffix in (("hit", b""), ("miss", b"x")):
        keys = [cell(chance.randrange(count)) for _ in range(reads)]
        with figures.phase(name, reads):
            for row, col, _value in keys:
                assert (store.get(row, col + suffix) is None) == bool(suffix)
    scans = min(rows, 10_000)
    picked = [b"row/%08d" % chance.randrange(rows) for _ in range(scans)]
    with figures.phase("scan_row", scans):
        for row in picked:
            assert sum(1 for _ in store.scan_row(row)) >= 1
    with figures.phase("scan_cell", count):
        assert sum(1 for _ in store.scan_all()) == count
    await _mixed(store, figures, cell, count)
    if isinstance(store, Ours):
        stalls = Stalls(reactor)
        for _ in range(0, min(count, 300_000), 50):
            await store.write([cell(chance.randrange(count)) for _cell in range(50)])
        stalls.stop()
        figures.values["stall_ms"] = stalls.wall * 1e3
        figures.values["stall_cpu_ms"] = stalls.cpu * 1e3
    await store.close()
    figures.values["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures.values


async def _mixed(store: Store, figures: Figures, cell: Callable[[int], Cell], count: int) -> None:
    """As many reads as writes, in turns of 100."""
    chance = random.Random(3)
    operations = min(count, 50_000)
    with figures.phase("mixed", operations) as phase:
        for _ in range(operations // 200):
            cells = phase.own(lambda: [cell(chance.randrange(count)) for _ in range(200)])
            await store.write(cells[:100])
            for row, col, _value in cells[100:]:
                assert store.get(row, col) is not None


def _size(path: str) -> float:
    names = [os.path.join(where, name) for where, _, files in os.walk(path) for name in files]
    return float(sum(os.stat(name).st_blocks * 512 for name in names))


def memtable() -> dict[str, float]:
    """Memory of a full memtable of such cells, by byte of rows, columns and values in it.

    Row, column and value of each cell come as new objects, as from a connection.
    """
    from penncloud.lsm.entry import Entry, PutEffect
    from penncloud.lsm.memtable import Memtable

    count = 50_000
    cell, _rows = cells_of(count, 1)
    table, data_bytes = Memtable(0), 0
    tracemalloc.start()
    before, _peak = tracemalloc.get_traced_memory()
    for version in range(count):
        row, col, value = cell(version)
        data_bytes += len(row) + len(col) + len(value)
        effect = PutEffect(bytes(bytearray(row)), bytes(bytearray(col)), bytes(bytearray(value)))
        table.apply([Entry(1, version, 1, b"", 0, (effect,), b"")])
    after, _peak = tracemalloc.get_traced_memory()
    return {"memtable": (after - before) / data_bytes, "counted": table.size_bytes / data_bytes}


def main(name: str, count: int, batch: int, directory: str) -> None:
    from twisted.internet import defer, reactor

    path = tempfile.mkdtemp(dir=directory)
    outcome: list[Any] = []

    def start() -> None:
        if name.startswith("ours"):
            store: Store = Ours(path, reactor, "zstd" if name.endswith("zstd") else "none")
        else:
            store = PEERS[name](path)
        d = defer.ensureDeferred(measure(store, path, count, batch, reactor))
        d.addBoth(outcome.append)
        d.addBoth(lambda _ignored: reactor.stop())  # type: ignore[attr-defined]

    reactor.callWhenRunning(start)  # type: ignore[attr-defined]
    reactor.run()  # type: ignore[attr-defined]
    shutil.rmtree(path)
    if not isinstance(outcome[0], dict):
        outcome[0].raiseException()
    print(json.dumps(outcome[0]))


if __name__ == "__main__":
    if sys.argv[1] == "memtable":
        print(json.dumps(memtable()))
    else:
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])

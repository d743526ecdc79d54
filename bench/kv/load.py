"""The clients of one measurement, in a process of their own.

    python -m bench.kv.load SPEC

SPEC is JSON (`Spec`). It connects, prints `ready`, waits for a line on stdin, works for the warm-up and then
for the measured seconds, and prints one line of JSON (`Measured`).
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import sys
import time
from bisect import bisect_right
from collections import Counter
from typing import Any

import mmh3
from attrs import asdict, define, field

from bench.kv.wires import EtcdWire, PennCloudWire, RedisWire, Wire

# Buckets of latencies grow by 2 %.
GROWTH = 1.02


@define
class Spec:
    """`targets`: host:port of what is asked. `tablets`: PennCloud's map as (lo, index of target)."""

    system: str
    targets: list[str]
    clients: int
    value_bytes: int
    reads: float
    seconds: float
    warm_s: float
    keys: int
    seed: int
    fill: bool = False
    tablets: list[tuple[int, int]] = field(factory=list)


@define
class Measured:
    """`latencies`: operations by bucket of time, see `bucket`."""

    done: int = 0
    failed: int = 0
    latencies: dict[int, int] = field(factory=dict)


def bucket(seconds: float) -> int:
    """The number of the bucket, for a time above a microsecond."""
    return int(math.log(max(seconds * 1e6, 1.0), GROWTH))


def middle(number: int) -> float:
    """Seconds that a bucket stands for."""
    return GROWTH ** (number + 0.5) / 1e6


def key_of(number: int) -> bytes:
    return b"bench/%07d" % number


class Client:
    """One after the other, for ever: a key by chance, a request, its reply."""

    def __init__(self, spec: Spec, wires: list[Wire], work: Work, seed: int) -> None:
        self._spec = spec
        self._wires = wires
        self._work = work
        self._chance = random.Random(seed)
        self._starts = [lo for lo, _ in spec.tablets]
        self._value = self._chance.randbytes(spec.value_bytes)
        self._asked = 0.0

    def next(self) -> None:
        number = self._work.next_key(self._chance)
        if number is None:
            return
        key = key_of(number)
        wire = self._wires[self._place(key)]
        reads = self._spec.reads and self._chance.random() < self._spec.reads
        self._asked = time.perf_counter()
        if reads:
            wire.get(key, self._done)
        else:
            wire.put(key, self._value, self._done)

    def _place(self, key: bytes) -> int:
        if not self._starts:
            return 0
        at = bisect_right(self._starts, mmh3.hash(key, 0, signed=False)) - 1
        return self._spec.tablets[at][1]

    def _done(self, ok: bool) -> None:
        self._work.count(ok, time.perf_counter() - self._asked)
        if ok:
            self.next()
        else:
            # What refuses at once would otherwise be asked as fast as we can.
            asyncio.get_running_loop().call_later(0.002, self.next)


class Work:
    """What all clients of this process do together."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self.measured = Measured()
        self.counting = False
        self._latencies: Counter[int] = Counter()
        self._filled = 0
        self.filled: asyncio.Event = asyncio.Event()

    def next_key(self, chance: random.Random) -> int | None:
        spec = self._spec
        if not spec.fill:
            return chance.randrange(spec.keys)
        if self._filled >= spec.keys:
            self.filled.set()
            return None
        self._filled += 1
        return self._filled - 1

    def count(self, ok: bool, took_s: float) -> None:
        if not self.counting:
            return
        if ok:
            self.measured.done += 1
            self._latencies[bucket(took_s)] += 1
        else:
            self.measured.failed += 1

    def result(self) -> Measured:
        self.measured.latencies = dict(self._latencies)
        return self.measured


async def connect(spec: Spec) -> list[list[Wire]]:
    """The connections of each client."""
    loop = asyncio.get_running_loop()
    kinds: dict[str, Any] = {"penncloud": PennCloudWire, "etcd": EtcdWire, "redis": RedisWire}
    clients: list[list[Wire]] = []
    for _ in range(spec.clients):
        wires: list[Wire] = []
        for target in spec.targets:
            host, _, port = target.rpartition(":")
            _, wire = await loop.create_connection(kinds[spec.system], host, int(port))
            if isinstance(wire, PennCloudWire):
                wire.name(b"%d.%d." % (spec.seed, time.monotonic_ns()))
            wires.append(wire)
        clients.append(wires)
    return clients


async def work(spec: Spec) -> Measured:
    clients = await connect(spec)
    doing = Work(spec)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    for number, wires in enumerate(clients):
        Client(spec, wires, doing, spec.seed * 10_000 + number).next()
    if spec.fill:
        await doing.filled.wait()
        await asyncio.sleep(0.5)
        return doing.result()
    await asyncio.sleep(spec.warm_s)
    doing.counting = True
    await asyncio.sleep(spec.seconds)
    doing.counting = False
    return doing.result()


def main() -> None:
    spec = Spec(**json.loads(sys.argv[1]))
    print(json.dumps(asdict(asyncio.run(work(spec)))), flush=True)


if __name__ == "__main__":
    main()

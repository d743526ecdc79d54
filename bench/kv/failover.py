"""How long nobody can write after the leader is killed.

Sixteen writers, each with one write under way, that try again elsewhere at once when a write fails or
takes longer than `_ATTEMPT_S`, as any good client does. All write keys of one leader: for PennCloud rows
of one tablet, as those of others do not notice. The gap is the longest time between two successes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from itertools import pairwise

import mmh3

from bench.kv.load import key_of
from bench.kv.systems import Etcd, NotThere, PennCloud, System
from bench.kv.wires import EtcdWire, PennCloudWire

_WRITERS = 16
_ATTEMPT_S = 1.0
_BEFORE_S = 2.0
_AFTER_S = 8.0
_VALUE = b"x" * 100
_PAUSE_S = 0.005


class _Writer:
    """Writes one key for ever; `ends` takes the times of successes."""

    def __init__(self, system: System, number: int, ends: list[float]) -> None:
        self._system = system
        self._key = _key(system, number)
        self._number = number
        self._ends = ends
        self._turn = number
        self.over = False

    async def work(self) -> None:
        loop = asyncio.get_running_loop()
        kind = EtcdWire if isinstance(self._system, Etcd) else PennCloudWire
        while not self.over:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_ATTEMPT_S):
                    host, port = await self._where()
                    transport, wire = await loop.create_connection(kind, host, port)
                if isinstance(wire, PennCloudWire):
                    wire.name(b"w%d.%d." % (self._number, time.monotonic_ns()))
                try:
                    while not self.over and await self._write(wire):
                        self._ends.append(time.monotonic())
                finally:
                    transport.abort()
            await asyncio.sleep(_PAUSE_S)

    async def _write(self, wire: EtcdWire | PennCloudWire) -> bool:
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        wire.put(self._key, _VALUE, lambda ok: None if done.done() else done.set_result(ok))
        async with asyncio.timeout(_ATTEMPT_S):
            return await done

    async def _where(self) -> tuple[str, int]:
        """Any member of etcd, the next one each time; PennCloud's coordinators know the primary."""
        system = self._system
        if isinstance(system, Etcd):
            self._turn += 1
            ports = list(system.clients.values())
            return "127.0.0.1", ports[self._turn % len(ports)]
        assert isinstance(system, PennCloud)
        self._turn += 1
        coordinators = system.coordinators()
        host, _, port = coordinators[self._turn % len(coordinators)].rpartition(":")
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(host, int(port)), _ATTEMPT_S
        )
        try:
            writer.write(b"WHERE;%b;v\r\n" % self._key)
            line = await asyncio.wait_for(reader.readline(), _ATTEMPT_S)
        finally:
            writer.close()
        address = line.decode().strip().rpartition(";")[2]
        host, _, port = address.rpartition(":")
        if not line.startswith(b"+AT;") or not port.isdecimal():
            raise OSError("no primary at the moment")
        return host, int(port)


def _key(system: System, number: int) -> bytes:
    """A key of the first tablet."""
    if isinstance(system, Etcd):
        return key_of(number)
    found = [key for key in map(key_of, range(5_000)) if mmh3.hash(key, 0, signed=False) < 2**28]
    return found[number]


async def _gap_s(system: System) -> float:
    ends: list[float] = []
    writers = [_Writer(system, number, ends) for number in range(_WRITERS)]
    working = [asyncio.create_task(writer.work()) for writer in writers]
    await asyncio.sleep(_BEFORE_S)
    leader = await asyncio.to_thread(system.leader)
    if not ends or not leader:
        raise NotThere(f"{system.name} takes no writes")
    system.servers[leader].kill()
    killed = time.monotonic()
    await asyncio.sleep(_AFTER_S)
    for writer in writers:
        writer.over = True
    await asyncio.gather(*working)
    after = [end for end in sorted(ends) if end > killed - 0.5]
    if not after or after[-1] < killed:
        raise NotThere(f"{system.name} takes no writes within {_AFTER_S:g} s of the kill")
    return max(b - a for a, b in pairwise(after))


def gap_s(system: System) -> float:
    """Seconds; raises NotThere when there are no writes before or after the kill."""
    return asyncio.run(_gap_s(system))

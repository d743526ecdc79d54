"""Large compactions in a child process: `python -m penncloud.lsm.merge_process`.

Measured on two busy cores: merging a tablet of 50 MB in small cells takes one to two seconds of CPU. In
the reactor, in slices, that halves what the server does meanwhile; in a child, requests go on at full
rate while a core is free.

The child reads tables, which never change, and writes a file that nothing names yet. When parent or child
are killed at any moment, that file is a left-over which the next start removes.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import msgspec
from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from penncloud.lsm.building import write_table
from penncloud.lsm.cache import BlockCache
from penncloud.lsm.compaction import MergeJob, surviving
from penncloud.lsm.errors import TableDamaged
from penncloud.lsm.options import EngineOptions
from penncloud.lsm.table import Table
from penncloud.platform.child import Child, ChildFailed, child_main, spawn_child
from penncloud.platform.errors import DiskError, DiskFull
from penncloud.platform.real_disk import RealDisk

_CACHE_BYTES = 64 * 1024 * 1024


class _Request(msgspec.Struct, frozen=True):
    directory: str
    job: MergeJob


class _Merged(msgspec.Struct, frozen=True, tag="merged"):
    written: bool


class _Damaged(msgspec.Struct, frozen=True, tag="damaged"):
    path: str
    offset: int
    reason: str


class _Refused(msgspec.Struct, frozen=True, tag="refused"):
    full: bool
    text: str


class ProcessMerger:
    """See `compaction.Merger`. `reactor` has IReactorProcess; `directory` is the disk's."""

    def __init__(self, reactor: Any, directory: str) -> None:
        self._reactor = reactor
        self._directory = directory
        self._child: Child | None = None
        self._stopped = False

    def merge(self, job: MergeJob) -> Deferred[bool]:
        return Deferred.fromCoroutine(self._merge(job))

    async def _merge(self, job: MergeJob) -> bool:
        if self._stopped:
            raise ChildFailed("stopping")
        request = msgspec.msgpack.encode(_Request(self._directory, job))
        self._child = spawn_child(self._reactor, __name__, request)
        try:
            data = await self._child.answer
        finally:
            self._child = None
        match msgspec.msgpack.decode(data, type=_Merged | _Damaged | _Refused):
            case _Damaged(path, offset, reason):
                raise TableDamaged(path, offset, reason)
            case _Refused(full, text):
                # Whatever went wrong with that file, it is thrown away: nothing has to be trusted.
                raise DiskFull(text) if full else DiskError(text)
            case _Merged(written):
                pass
        return written

    def stop(self) -> None:
        self._stopped = True
        if self._child is not None:
            self._child.kill()


class _Turns:
    """As much of a reactor as the disk's thread needs: what it wants called is called by `run_until`."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def callFromThread(self, f: Callable[[], None]) -> None:
        self._calls.put(f)

    def run_until(self, result: Deferred[bool]) -> bool:
        outcome: list[bool | Failure] = []
        result.addBoth(outcome.append)
        while not outcome:
            self._calls.get()()
        if isinstance(outcome[0], Failure):
            outcome[0].raiseException()
        return bool(outcome[0])


def _merge(directory: str, job: MergeJob) -> bool:
    """Raises TableDamaged, DiskError."""
    turns = _Turns()
    disk = RealDisk(directory, turns)
    cache = BlockCache(_CACHE_BYTES)
    tables = [Table(disk, path, number, cache) for number, path in enumerate(job.inputs)]
    options = evolve(
        EngineOptions(),
        block_bytes=job.block_bytes,
        bloom_bits_per_key=job.bloom_bits_per_key,
        compression=job.compression,
    )
    at_most = sum(table.properties.cells for table in tables)
    cells = surviving(tables, job.low, job.high, job.drop_tombstones)
    file = disk.create(job.output)
    writing = write_table(file, cells, at_most, job.salt, options, None)
    return turns.run_until(Deferred.fromCoroutine(writing))


def _answer(data: bytes) -> bytes:
    request = msgspec.msgpack.decode(data, type=_Request)
    try:
        answer: _Merged | _Damaged | _Refused = _Merged(_merge(request.directory, request.job))
    except TableDamaged as error:
        answer = _Damaged(error.path, error.offset, error.reason)
    except (DiskError, FileExistsError) as error:
        answer = _Refused(isinstance(error, DiskFull), str(error))
    return msgspec.msgpack.encode(answer)


if __name__ == "__main__":
    child_main(_answer)

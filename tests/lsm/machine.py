"""A simulated machine for engine tests: clock, disk and engine, with crashes and restarts."""

from __future__ import annotations

import random
from collections.abc import Coroutine
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from penncloud.lsm.compaction import Merger
from penncloud.lsm.engine import Engine, TabletRecovery
from penncloud.lsm.entry import DeleteEffect, Effect, Entry, PutEffect
from penncloud.lsm.options import EngineOptions
from penncloud.platform.environment import Environment
from penncloud.platform.memory_disk import MemoryDisk

_T = TypeVar("_T")

# Small sizes, so that few writes fill a memtable, a segment and several blocks.
SMALL = EngineOptions(
    memtable_bytes=20_000, segment_bytes=8_000, block_bytes=500, block_cache_bytes=20_000
)


class Stuck(AssertionError):
    """Nothing is left to happen, and the result is not there."""


def put(row: str, col: str, value: bytes | str) -> PutEffect:
    return PutEffect(
        row.encode(), col.encode(), value.encode() if isinstance(value, str) else value
    )


def delete(row: str, col: str) -> DeleteEffect:
    return DeleteEffect(row.encode(), col.encode())


async def no_threads(f: Any, *args: Any, **kwargs: Any) -> Any:
    """The engine needs no thread pool."""
    raise AssertionError("the engine used a thread")


class Machine:
    """One simulated node. `run` lets time pass until a result is there."""

    def __init__(
        self, seed: int = 0, options: EngineOptions = SMALL, merger: Merger | None = None
    ) -> None:
        self.clock = Clock()
        self.random = random.Random(seed)
        self.options = options
        self.merger = merger
        self.registry = CollectorRegistry()
        self.disk = MemoryDisk(self.clock, self.random)
        self.engine: Engine = self._engine()

    def _engine(self) -> Engine:
        environment = Environment(
            self.clock, lambda: 0.0, self.random, self.random.randbytes, no_threads
        )
        self.registry = CollectorRegistry()
        return Engine(self.disk, environment, self.options, self.registry, self.merger)

    def metric(self, name: str) -> float:
        """Present value of one of the engine's metrics."""
        value = self.registry.get_sample_value(f"penncloud_lsm_{name}")
        assert value is not None, name
        return value

    def run(self, work: Coroutine[Any, Any, _T] | Deferred[_T]) -> _T:
        """The result of `work`; raises what it raises, and Stuck when it never comes."""
        d = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
        outcome: list[Any] = []
        d.addBoth(outcome.append)
        self.until(lambda: bool(outcome))
        if isinstance(outcome[0], Failure):
            outcome[0].raiseException()
        result: _T = outcome[0]
        return result

    def until(self, condition: Any) -> None:
        """Let time pass from event to event until `condition()` holds."""
        deadline = self.clock.seconds() + 60
        while not condition():
            calls = self.clock.getDelayedCalls()
            if not calls or self.clock.seconds() > deadline:
                raise Stuck
            self.clock.advance(max(0.0, calls[0].getTime() - self.clock.seconds()))

    def settle(self, seconds: float = 1.0) -> None:
        """Let everything happen that is due within `seconds`."""
        end = self.clock.seconds() + seconds
        while calls := self.clock.getDelayedCalls():
            if calls[0].getTime() > end:
                break
            self.clock.advance(max(0.0, calls[0].getTime() - self.clock.seconds()))

    def open(self) -> dict[int, TabletRecovery]:
        return {found.tablet: found for found in self.run(self.engine.open())}

    def reopen(self, crash: bool = False) -> dict[int, TabletRecovery]:
        """Stop in order, or by a power cut, and start again."""
        if not crash:
            self.run(self.engine.close())
            self.settle()
        self.disk = self.disk.crash()
        self.engine = self._engine()
        return self.open()

    def entry(self, tablet: int, version: int, *effects: Effect) -> Entry:
        return Entry(tablet, version, 1, b"client", version, effects, b"done")

    def write(self, tablet: int, version: int, *effects: Effect) -> None:
        """Append and commit one entry."""
        self.run(self.engine.append([self.entry(tablet, version, *effects)]))
        self.engine.commit(tablet, version)

    def cells(self, tablet: int) -> dict[tuple[bytes, bytes], tuple[int, bytes]]:
        """Everything a scan over the tablet sees."""
        return {
            (cell.row, cell.col): (cell.version, cell.value)
            for cell in self.engine.scan_tablet(tablet)
        }

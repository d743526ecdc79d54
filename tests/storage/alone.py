"""One storage server without its sockets, alone: the only member of its tablets."""

from __future__ import annotations

import random
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

import msgspec
from twisted.internet.defer import Deferred, succeed

from penncloud.lsm.engine import TabletRecovery
from penncloud.platform.memory_disk import MemoryDisk
from penncloud.replication.lease import LeaseTimes
from penncloud.replication.state import Options
from penncloud.rpc.registration import Assign, TabletAssignment
from penncloud.storage.checkpoints import Copies
from penncloud.storage.member import Member
from penncloud.storage.quarantine import Quarantine
from penncloud.storage.replicas import Replicas
from penncloud.storage.standing import Standing, Standings
from penncloud.storage.surroundings import Surroundings
from penncloud.storage.tablets import Tablets
from tests.storage.memory_engine import MemoryEngine

_T = TypeVar("_T")

# Nobody else may have promised anything, so nothing is waited for.
AT_ONCE = Options(leases=LeaseTimes(0.0, 0.0))


class PlainStandings(Standings):
    """They are durable at once, for as long as this object lives."""

    def __init__(self, known: dict[int, Standing] | None = None) -> None:
        self.known = known or {}
        self.incarnation = 1

    def __getitem__(self, tablet: int) -> Standing:
        return self.known.get(tablet, Standing())

    def update(self, changes: Mapping[int, Standing | None]) -> Deferred[None]:
        for tablet, standing in changes.items():
            if standing is None:
                self.known.pop(tablet, None)
            else:
                self.known[tablet] = standing
        return succeed(None)


class Alone:
    """storage-1 on `engine`; `clock` is a fake one. It leads what it is told to lead."""

    def __init__(
        self,
        clock: Any,
        engine: Any = None,
        *,
        incarnation: int = 1,
        standings: Standings | None = None,
        disk: Any = None,
        options: Options = AT_ONCE,
    ) -> None:
        self.clock = clock
        self.engine: Any = MemoryEngine() if engine is None else engine
        store: Any = self.engine
        disk = disk or MemoryDisk(clock, random.Random(1))
        self.around = Surroundings(
            "storage-1",
            clock,
            disk,
            self.engine,
            Copies(clock, disk, store, 0, 4),
            Quarantine(disk, lambda: 0.0, 2**20),
            options=options,
        )
        self.replicas = Replicas(self.around)
        self.tablets = Tablets(self.replicas, self.around)
        self.standings = standings or PlainStandings()
        self.incarnation = incarnation
        self.news = Assign(0, [])

    def open(self, found: list[TabletRecovery] | None = None) -> None:
        """Begin with what the engine found (a plain engine is asked here)."""
        if found is None:
            found = now(self.engine.open())
        self.replicas.open(self.incarnation, self.standings, found)

    def assign(self, tablets: list[TabletAssignment], **more: Any) -> None:
        """Take an assignment, as it is."""
        now(self.replicas.make(tuple(tablets)))
        self.news = Assign(self.news.map_version + 1, list(tablets), **more)
        self.replicas.act_on(self.news)
        self.tablets.assigned()

    def lead(self, tablets: list[TabletAssignment]) -> None:
        """Make tablets, and be their primary in the epochs that they have, all of them at once."""
        self.assign([msgspec.structs.replace(tablet, epoch=0) for tablet in tablets])
        self.assign(
            [msgspec.structs.replace(tablet, incarnation=self.incarnation) for tablet in tablets]
        )
        self.settle()

    def settle(self) -> None:
        """Let turns of the reactor go by until nothing happens, with everything that is written kept."""
        for _ in range(10):
            self.clock.advance(0)
            while getattr(self.engine, "waiting", None):
                self.engine.sync()
                self.clock.advance(0)

    def member(self, tablet: int = 1) -> Member:
        return self.replicas.members[tablet]


def now(coroutine: Coroutine[Deferred[Any], Any, _T]) -> _T:
    """The result of something that need not wait."""
    results: list[_T] = []
    Deferred.fromCoroutine(coroutine).addCallback(results.append)
    return results[0]

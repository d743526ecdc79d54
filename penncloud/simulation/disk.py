"""A host's disk: `platform.memory_disk` with moods.

What survives a power cut is the memory disk's business. Here are the times that things take, and the
troubles that a fault may switch on: slowness, a failing sync, a full disk, and a power cut after so
many operations from now, which finds the places between two syncs that a power cut at some time misses.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from attrs import frozen
from twisted.internet.interfaces import IReactorTime

from penncloud.platform.memory_disk import Fault, MemoryDisk

# However slow and stalled: what is under way when the troubles end has to end, too.
LONGEST_SYNC_S: Final = 5.0


@frozen
class DiskQuality:
    """`sync_s`: what a sync takes at least; `stall_rate`: how many take a hundred times as long."""

    sync_s: float = 0.0005
    stall_rate: float = 0.002


class SimulatedDisk(MemoryDisk):
    """`power_cut` is called when the power goes in the middle of an operation."""

    def __init__(
        self, clock: IReactorTime, chance: random.Random, quality: DiskQuality, capacity_bytes: int
    ) -> None:
        super().__init__(clock, chance, quality.sync_s, capacity_bytes)
        self.slowness = 1.0
        self.fail_next_sync = False
        # The power goes after so many operations; only those count whose name has `cut_in` in it.
        self.operations_left: int | None = None
        self.cut_in = ""
        self.power_cut: Callable[[], None] = lambda: None
        self._quality = quality

    def restarted(
        self, clock: IReactorTime, chance: random.Random, power_cut: Callable[[], None]
    ) -> SimulatedDisk:
        """What the next process finds; this disk is dead."""
        after = SimulatedDisk(clock, chance, self._quality, self.capacity_bytes)
        after.slowness = self.slowness
        after.power_cut = power_cut
        return self._crash_into(after)

    def fill(self) -> None:
        """Leave no room."""
        self.capacity_bytes -= self.free_bytes()

    def rot(self, where: float) -> str:
        """Flip one bit of what lies on the platter, at a share of all its bytes; in which file, if any."""
        files = [
            (path, inode.data) for path, inode in sorted(self._durable.items()) if inode is not None
        ]
        place = int(where * sum(len(data) for _, data in files))
        for path, data in files:
            if place < len(data):
                data[place] ^= 1 << place % 8
                return path
            place -= len(data)
        return ""

    def begin(self, what: str) -> Fault | None:
        if self.dead:
            return None
        self.operations += 1
        if self.operations_left is not None and self.cut_in in what:
            self.operations_left -= 1
            if self.operations_left < 0:
                self.dead = True
                self.power_cut()
                return None
        if self.fail_next_sync and what.startswith("sync"):
            self.fail_next_sync = False
            return Fault.FAIL
        return None

    def later(self, fault: Fault | None, f: Callable[[], None]) -> None:
        if self.dead:
            return
        chance = self._chance
        delay_s = self._quality.sync_s * chance.uniform(1, 3) * self.slowness
        if chance.random() < self._quality.stall_rate:
            delay_s *= 100
        delay_s = min(delay_s, LONGEST_SYNC_S)
        self._clock.callLater(delay_s, lambda: None if self.dead else f())

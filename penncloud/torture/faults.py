"""What is done to a run's cluster: each fault a value with a time, a length and victims.

A round's faults are drawn before it begins, from the seed and the round's number. What the machine's
scheduler does with them is not repeatable; what is tried is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from attrs import frozen

from penncloud.torture.bed import Bed

# The longest that a fault lasts, and the pause between two that do not overlap.
LONGEST_S: Final = 6.0
_PAUSE_S: Final = (0.3, 3.0)
# The share of faults that begin before the last one has ended.
_OVERLAPS: Final = 0.35
_JUMPS_S: Final = (-86_400, -3_600, -300, -5, 5, 300, 3_600, 86_400)


class Fault(Protocol):
    """`str()` of it says what it is. `begin` at `at_s` of the round, `end` after `for_s` more.

    One that is `alone` needs a whole cluster to begin, and no other fault until the cluster is whole
    again.
    """

    @property
    def at_s(self) -> float: ...

    @property
    def for_s(self) -> float: ...

    @property
    def kind(self) -> str: ...

    @property
    def alone(self) -> bool: ...

    async def begin(self, bed: Bed) -> None: ...

    def end(self, bed: Bed) -> None: ...


@frozen
class Kill:
    """SIGKILL to all of these at once."""

    at_s: float
    for_s: float
    servers: tuple[str, ...]
    kind = "kill"
    alone = False

    async def begin(self, bed: Bed) -> None:
        await bed.kill(*self.servers)

    def end(self, bed: Bed) -> None:
        for server in self.servers:
            bed.revive(server)

    def __str__(self) -> str:
        return f"kill {', '.join(self.servers)}"


@frozen
class Pause:
    """SIGSTOP, and SIGCONT in the end."""

    at_s: float
    for_s: float
    server: str
    kind = "pause"
    alone = False

    async def begin(self, bed: Bed) -> None:
        bed.pause(self.server)

    def end(self, bed: Bed) -> None:
        bed.resume(self.server)

    def __str__(self) -> str:
        return f"pause {self.server}"


@frozen
class Partition:
    """Nothing gets from any of `sources` to any of `targets`; `both_ways` nor back."""

    at_s: float
    for_s: float
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    both_ways: bool
    kind = "partition"
    alone = False

    def links(self) -> set[tuple[str, str]]:
        there = {(a, b) for a in self.sources for b in self.targets if a != b}
        return there | {(b, a) for a, b in there} if self.both_ways else there

    async def begin(self, bed: Bed) -> None:
        for source, target in sorted(self.links()):
            bed.cut(source, target)

    def end(self, bed: Bed) -> None:
        for source, target in sorted(self.links()):
            bed.mend(source, target)

    def __str__(self) -> str:
        arrow = "<->" if self.both_ways else "->"
        return f"cut {', '.join(self.sources)} {arrow} {', '.join(self.targets)}"


@frozen
class Wipe:
    """A server is killed, all that it has stored is gone, and it comes back with nothing."""

    at_s: float
    for_s: float
    server: str
    kind = "wipe"
    alone = True

    async def begin(self, bed: Bed) -> None:
        await bed.kill(self.server)
        bed.wipe(self.server)

    def end(self, bed: Bed) -> None:
        bed.revive(self.server)

    def __str__(self) -> str:
        return f"wipe {self.server}"


@frozen
class FullDisk:
    """There is no room on a server's disk."""

    at_s: float
    for_s: float
    server: str
    kind = "disk-full"
    alone = False

    async def begin(self, bed: Bed) -> None:
        bed.fill_disk(self.server)

    def end(self, bed: Bed) -> None:
        bed.make_room(self.server)

    def __str__(self) -> str:
        return f"fill the disk of {self.server}"


@frozen
class ClockJump:
    """A server's wall clock jumps, and back in the end."""

    at_s: float
    for_s: float
    server: str
    ahead_s: int
    kind = "clock"
    alone = False

    async def begin(self, bed: Bed) -> None:
        bed.set_clock(self.server, self.ahead_s)

    def end(self, bed: Bed) -> None:
        bed.set_clock(self.server, 0)

    def __str__(self) -> str:
        return f"set the clock of {self.server} by {self.ahead_s:+d} s"


# -- drawing them --------------------------------------------------------------------------------


@frozen
class Who:
    """Those that something may be done to."""

    coordinators: tuple[str, ...]
    storages: tuple[str, ...]
    members: tuple[str, ...]

    @property
    def servers(self) -> tuple[str, ...]:
        return self.coordinators + self.storages

    def one(self, chance: random.Random) -> str:
        """A server; mostly one of those that hold data."""
        return chance.choice(self.storages if chance.random() < 0.75 else self.coordinators)


Draw = Callable[[random.Random, Who, float, float], Fault]


def _kill(chance: random.Random, who: Who, at_s: float, for_s: float) -> Fault:
    roll = chance.random()
    if roll < 0.1:
        return Kill(at_s, for_s, who.storages)
    if roll < 0.15:
        return Kill(at_s, for_s, who.servers)
    if roll < 0.25:
        return Kill(at_s, for_s, tuple(chance.sample(who.storages, min(2, len(who.storages)))))
    return Kill(at_s, for_s, (who.one(chance),))


def _pause(chance: random.Random, who: Who, at_s: float, for_s: float) -> Fault:
    return Pause(at_s, for_s, who.one(chance))


def _partition(chance: random.Random, who: Who, at_s: float, for_s: float) -> Fault:
    both_ways = chance.random() < 0.6
    shape = chance.choice(("alone", "pair", "halves", "member", "storages"))
    if shape == "alone":
        victim = who.one(chance)
        others = tuple(name for name in who.servers + who.members if name != victim)
        sides = [(victim,), others]
    elif shape == "halves":
        mixed = chance.sample(who.servers + who.members, len(who.servers + who.members))
        at = chance.randrange(1, len(mixed))
        sides = [tuple(mixed[:at]), tuple(mixed[at:])]
    elif shape == "member":
        sides = [(chance.choice(who.members),), (who.one(chance),)]
    elif shape == "storages" and len(who.storages) > 1:
        # Only from the other copies, not from those who decide who is primary.
        victim = chance.choice(who.storages)
        sides = [(victim,), tuple(name for name in who.storages if name != victim)]
    else:
        first, second = chance.sample(who.servers, 2)
        sides = [(first,), (second,)]
    chance.shuffle(sides)
    return Partition(at_s, for_s, sides[0], sides[1], both_ways)


def _wipe(chance: random.Random, who: Who, at_s: float, for_s: float) -> Fault:
    return Wipe(at_s, for_s, chance.choice(who.storages))


def _full_disk(chance: random.Random, who: Who, at_s: float, for_s: float) -> Fault:
    return FullDisk(at_s, for_s, chance.choice(who.storages))


def _clock(chance: random.Random, who: Who, at_s: float, for_s: float) -> Fault:
    return ClockJump(at_s, for_s, who.one(chance), chance.choice(_JUMPS_S))


NEMESES: Final[Mapping[str, Draw]] = {
    "kill": _kill,
    "pause": _pause,
    "partition": _partition,
    "wipe": _wipe,
    "disk-full": _full_disk,
    "clock": _clock,
}


def draw(chance: random.Random, who: Who, nemeses: tuple[str, ...], length_s: float) -> list[Fault]:
    """The faults of a round of `length_s`, by time. The last one ends before the round does."""
    faults: list[Fault] = []
    at_s = chance.uniform(0.2, 2.0)
    while at_s < length_s - 0.5 and nemeses:
        for_s = min(chance.choice((0.3, 1.0, 2.0, 4.0, LONGEST_S)), length_s - at_s)
        faults.append(NEMESES[chance.choice(nemeses)](chance, who, at_s, for_s))
        overlaps = chance.random() < _OVERLAPS
        at_s += chance.uniform(0.0, for_s) if overlaps else for_s + chance.uniform(*_PAUSE_S)
    return faults

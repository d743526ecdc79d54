"""Where the replicas of tablets shall be: the next steps towards it. Pure and deterministic.

Theory of operation
    `plan` looks at how things are and gives a few steps; nothing is remembered between two calls, so
    that another leader goes on where one has stopped. A step is a wish (who shall join a tablet as
    learner, who shall leave it) or a new primary among the members. Each tablet gets one step at most.

    Copies are never given up before others are there. A move is: name a learner; it catches up and joins,
    so that the tablet has one member more than it should; then the most loaded member is named as leaving.
    Whoever is primary and has to leave hands that over first.

    When a tablet has too few members:
        a live server holds a copy of it, maybe an old one    it joins at once: it lacks only what is new
        a member is drained, or no server is missing          another one joins at once
        a server is missing                                   it is waited for, for `repair_after_s`: to
                                                              bring it back is cheaper than a new copy

    Evening out begins only when no tablet is short and nobody is drained. A replica moves from a server
    to one whose load is less by clearly more than the tablet's weight, and by more than a tenth of the
    mean: the target stays below what the source had, so nothing moves back. Primaries move one step at a time
    towards equal numbers, along members; a tablet whose configuration has changed lately, and a server
    that has come back lately, rest.

    The weight of a tablet is its size and `UNIT_BYTES`, so that many small tablets are spread by number and
    large ones by size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

from attrs import define, evolve, field, frozen

UNIT_BYTES: Final = 1024 * 1024
# New copies that one server makes at a time, and old copies that it brings up to date.
MAX_COPYING: Final = 2
MAX_REJOINING: Final = 32
# Gaps below this share of the mean load are left.
SLACK: Final = 0.1
# Steps in one plan; the next one is made soon.
MAX_STEPS: Final = 64
# Servers that a chain of primaries may lead over.
MAX_CHAIN: Final = 4


@frozen
class Server:
    """A storage server. `steady`: it has lived without a gap for a while."""

    id: str
    live: bool = True
    draining: bool = False
    steady: bool = True


@frozen
class Replicas:
    """A tablet. `usable`: those of its members that live and whose copy may become primary. `holders`:
    live servers that have a copy of it, of whatever age. `short_for_s`: for how long it has had too few
    members (0: it has not). `quiet_for_s`: since its configuration has last changed."""

    id: int
    primary: str
    members: tuple[str, ...]
    learners: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    usable: frozenset[str] = frozenset()
    holders: frozenset[str] = frozenset()
    size_bytes: int = 0
    short_for_s: float = 0.0
    quiet_for_s: float = 3600.0

    @property
    def weight(self) -> int:
        return self.size_bytes + UNIT_BYTES

    @property
    def is_calm(self) -> bool:
        """Whether all of its members are in order and nobody comes or goes."""
        return not self.learners and not self.leaving and set(self.members) <= self.usable


@frozen
class Limits:
    """`copies`: members of a tablet, if there are so many servers. `moves_at_once`: tablets that are moved
    at a time to even out load. `rest_s`: how long a tablet keeps its primary after a change."""

    copies: int = 3
    repair_after_s: float = 60.0
    moves_at_once: int = 4
    rest_s: float = 30.0


@frozen
class Wish:
    """Who shall join, and who shall leave; members themselves stay who they are."""

    tablet: int
    learners: tuple[str, ...]
    leaving: tuple[str, ...]


@frozen
class MovePrimary:
    """Another member becomes primary."""

    tablet: int
    to: str


Step = Wish | MovePrimary


def wanted_copies(servers: Iterable[Server], copies: int) -> int:
    """How many members a tablet can have now."""
    return min(copies, sum(server.live and not server.draining for server in servers))


def plan(servers: Sequence[Server], tablets: Sequence[Replicas], limits: Limits) -> list[Step]:
    """The steps that are due now, at most MAX_STEPS."""
    return _Plan.of(servers, tablets, limits).steps()


def is_balanced(servers: Sequence[Server], tablets: Sequence[Replicas], limits: Limits) -> bool:
    """Whether every tablet has its copies in order, none is on its way, and none would be moved once all
    servers that live are steady. Primaries may still change."""
    steady = [evolve(server, steady=server.live) for server in servers]
    return _Plan.of(steady, tablets, limits).is_balanced()


@define
class _Plan:
    servers: Mapping[str, Server]
    tablets: list[Replicas]
    limits: Limits
    wanted: int
    load: dict[str, int] = field(factory=dict)
    primaries: dict[str, int] = field(factory=dict)
    copying: dict[str, int] = field(factory=dict)
    rejoining: dict[str, int] = field(factory=dict)

    @classmethod
    def of(cls, servers: Sequence[Server], tablets: Sequence[Replicas], limits: Limits) -> _Plan:
        known = {server.id: server for server in sorted(servers, key=lambda one: one.id)}
        ordered = sorted(tablets, key=lambda tablet: tablet.id)
        made = cls(known, ordered, limits, wanted_copies(servers, limits.copies))
        for table in (made.load, made.primaries, made.copying, made.rejoining):
            table.update(dict.fromkeys(known, 0))
        for tablet in ordered:
            made._count(tablet)
        return made

    def _count(self, tablet: Replicas) -> None:
        for one in (*tablet.members, *tablet.learners):
            if one in self.load and one not in tablet.leaving:
                self.load[one] += tablet.weight
        if tablet.primary in self.primaries:
            self.primaries[tablet.primary] += 1
        for learner in tablet.learners:
            if learner in self.copying:
                held = learner in tablet.holders
                (self.rejoining if held else self.copying)[learner] += 1

    def steps(self) -> list[Step]:
        if not self.wanted:
            return []
        found: list[Step] = []
        for tablet in self.tablets:
            step = self._keep(tablet)
            if step is not None:
                found.append(step)
            if len(found) >= MAX_STEPS:
                return found
        if not found and self._all_is_well():
            found += self._even_out_replicas()
            if not found:
                found += self._even_out_primaries()
        return found

    def is_balanced(self) -> bool:
        return (
            self.wanted > 0
            and not any(tablet.learners or tablet.leaving for tablet in self.tablets)
            and self._all_is_well()
            and not any(self._keep(tablet) for tablet in self.tablets)
            and not self._even_out_replicas()
        )

    # -- what a tablet needs ---------------------------------------------------------------------

    def _keep(self, tablet: Replicas) -> Step | None:
        """The right number of members, none of them drained."""
        if tablet.primary not in tablet.usable:
            return None  # first it gets a primary that acts on what is wished
        learners = tuple(one for one in tablet.learners if self._may_hold(one))
        staying = [one for one in tablet.members if not self._drains(one)]
        # One more than wanted is a move under way.
        room = max(0, self.wanted + 1 - len(staying))
        learners = learners[:room]
        missing = self.wanted - len(staying) - len(learners)
        if missing > 0:
            learners += tuple(self._newcomers(tablet, learners, missing))
        leaving = self._leavers(tablet)
        if leaving is None:
            return self._hand_over(tablet)
        if (learners, leaving) != (tablet.learners, tablet.leaving):
            return Wish(tablet.id, learners, leaving)
        return None

    def _newcomers(self, tablet: Replicas, learners: tuple[str, ...], missing: int) -> list[str]:
        """Who joins, the least loaded first; of new copies a server makes a few at a time."""
        apart = {*tablet.members, *learners}
        able = [
            one.id
            for one in self.servers.values()
            if self._may_hold(one.id) and one.id not in apart
        ]
        able.sort(key=lambda one: (one not in tablet.holders, self.load[one], one))
        found: list[str] = []
        for one in able:
            if len(found) == missing:
                break
            held = one in tablet.holders
            count, most = (self.rejoining, MAX_REJOINING) if held else (self.copying, MAX_COPYING)
            if (held or self._is_due(tablet)) and count[one] < most:
                count[one] += 1
                self.load[one] += tablet.weight
                found.append(one)
        return found

    def _is_due(self, tablet: Replicas) -> bool:
        """Whether a new copy is made: nobody can be waited for, or it was long enough."""
        drained = any(self._drains(member) for member in tablet.members)
        complete = all(server.live for server in self.servers.values())
        return drained or complete or tablet.short_for_s >= self.limits.repair_after_s

    def _leavers(self, tablet: Replicas) -> tuple[str, ...] | None:
        """Who leaves, so that `wanted` members in order are left; None: the primary should, it hands over
        first."""
        keep = set(tablet.members)
        order = sorted(
            tablet.members,
            key=lambda one: (
                not self._drains(one),
                one in tablet.usable,
                one not in tablet.leaving,
                -self.load.get(one, 0),
                one == tablet.primary,
                one,
            ),
        )
        leaving: list[str] = []
        for one in order:
            left = keep - {one}
            in_order = sum(other in tablet.usable for other in left)
            # A good copy is given up only for another one, also while too few servers live.
            needed = self.limits.copies if one in tablet.usable else self.wanted
            if in_order < needed:
                break
            if one == tablet.primary:
                if not leaving:
                    return None
                break
            keep.discard(one)
            leaving.append(one)
        return tuple(one for one in tablet.members if one in leaving)

    def _hand_over(self, tablet: Replicas) -> Step | None:
        heirs = [
            one
            for one in tablet.members
            if one != tablet.primary and one in tablet.usable and self._may_hold(one)
        ]
        if not heirs:
            return None
        to = min(heirs, key=lambda one: (self.primaries[one], one))
        self.primaries[to] += 1
        return MovePrimary(tablet.id, to)

    # -- evening out -----------------------------------------------------------------------------

    def _all_is_well(self) -> bool:
        return all(
            len(tablet.members) - len(tablet.leaving) >= self.wanted
            and set(tablet.members) <= tablet.usable
            and not any(self._drains(member) for member in tablet.members)
            for tablet in self.tablets
        )

    def _even_out_replicas(self) -> list[Step]:
        found: list[Step] = []
        under_way = sum(bool(tablet.learners or tablet.leaving) for tablet in self.tablets)
        tablets = [tablet for tablet in self.tablets if tablet.is_calm]
        while under_way + len(found) < self.limits.moves_at_once:
            move = self._best_move(tablets)
            if move is None:
                break
            tablet, source, target = move
            self.load[source] -= tablet.weight
            self.load[target] += tablet.weight
            self.copying[target] += 1
            tablets.remove(tablet)
            found.append(Wish(tablet.id, (target,), ()))
        return found

    def _best_move(self, tablets: Sequence[Replicas]) -> tuple[Replicas, str, str] | None:
        """The one that narrows the widest gap most."""
        able = [one for one in self.servers if self._may_hold(one) and self.servers[one].steady]
        if not able:
            return None
        slack = SLACK * sum(self.load[one] for one in able) / len(able)
        sources = sorted(able, key=lambda one: (-self.load[one], one))
        targets = sorted(able, key=lambda one: (self.load[one], one))
        for source in sources:
            for target in targets:
                gap = self.load[source] - self.load[target]
                if gap <= slack or gap < 2 * UNIT_BYTES:
                    break
                fitting = [
                    tablet
                    for tablet in tablets
                    if source in tablet.members
                    and target not in tablet.members
                    and 4 * tablet.weight <= 3 * gap
                ]
                if fitting and self.copying[target] < MAX_COPYING:
                    # A primary would have to hand over before it leaves.
                    best = min(
                        fitting,
                        key=lambda t: (t.primary == source, abs(2 * t.weight - gap), t.id),
                    )
                    return best, source, target
        return None

    def _even_out_primaries(self) -> list[Step]:
        """The shortest chain from a server to one that has two primaries less."""
        able = [one for one in self.servers if self._may_hold(one) and self.servers[one].steady]
        edges: dict[str, dict[str, int]] = {one: {} for one in able}
        for tablet in self.tablets:
            rested = tablet.quiet_for_s >= self.limits.rest_s
            if tablet.is_calm and rested and tablet.primary in edges:
                for member in tablet.members:
                    if member != tablet.primary and member in edges:
                        edges[tablet.primary].setdefault(member, tablet.id)
        chains = [
            chain
            for source in sorted(able, key=lambda one: (-self.primaries[one], one))
            if (chain := self._chain(source, edges)) is not None
        ]
        if not chains:
            return []
        chain = min(chains, key=len)
        return [MovePrimary(edges[one][other], other) for one, other in pairwise(chain)]

    def _chain(self, source: str, edges: Mapping[str, Mapping[str, int]]) -> list[str] | None:
        waiting = deque([[source]])
        reached = {source}
        while waiting:
            chain = waiting.popleft()
            for other in sorted(edges[chain[-1]], key=lambda one: (self.primaries[one], one)):
                if other in reached:
                    continue
                reached.add(other)
                longer = [*chain, other]
                if self.primaries[source] - self.primaries[other] >= 2:
                    return longer
                if len(longer) < MAX_CHAIN:
                    waiting.append(longer)
        return None

    # -- servers ---------------------------------------------------------------------------------

    def _drains(self, node_id: str) -> bool:
        server = self.servers.get(node_id)
        return server is None or server.draining

    def _may_hold(self, node_id: str) -> bool:
        server = self.servers.get(node_id)
        return server is not None and server.live and not server.draining

"""Where replicas go: single plans, and whole histories of plans that are carried out."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from attrs import define, evolve, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from penncloud.placement.planner import (
    UNIT_BYTES,
    Limits,
    MovePrimary,
    Replicas,
    Server,
    Step,
    Wish,
    is_balanced,
    plan,
    wanted_copies,
)

A, B, C, D, E = "abcde"
MEMBERS = (A, B, C)
MIB = 2**20


def servers(*names: str, dead: str = "", draining: str = "", unsteady: str = "") -> list[Server]:
    return [
        Server(name, name not in dead, name in draining, name not in unsteady) for name in names
    ]


def tablet(number: int = 1, members: tuple[str, ...] = MEMBERS, **more: Any) -> Replicas:
    """A tablet in order, whose first member is the primary."""
    usable = frozenset(members)
    usual = Replicas(number, members[0], members, usable=usable, holders=usable)
    return evolve(usual, **more)


class RepairTests(SynchronousTestCase):
    """Three members are wanted."""

    def _plan(self, those: list[Server], *tablets: Replicas) -> list[Step]:
        return plan(those, tablets, Limits())

    def test_nothing_to_do(self) -> None:
        """What is in order stays, also where there are fewer servers than copies wanted."""
        self.assertEqual(self._plan(servers(A, B, C), tablet()), [])
        self.assertEqual(self._plan(servers(A, B), tablet(members=(A, B))), [])
        self.assertEqual(self._plan(servers(A, B, dead=B), tablet(members=(A,))), [])
        self.assertEqual(self._plan([]), [])

    def test_a_missing_server_is_waited_for(self) -> None:
        """A new copy is made when the missing one has not come back for a while, not before."""
        short = tablet(members=(A, B), short_for_s=59.0)
        those = servers(A, B, C, D, dead=C)
        self.assertEqual(self._plan(those, short), [])
        self.assertEqual(self._plan(those, evolve(short, short_for_s=60.0)), [Wish(1, (D,), ())])

    def test_who_comes_back_joins_at_once(self) -> None:
        """A server that holds an old copy lacks only what is new."""
        short = tablet(members=(A, B), short_for_s=0.1, holders=frozenset({A, B, C}))
        self.assertEqual(self._plan(servers(A, B, C, D, E, dead=E), short), [Wish(1, (C,), ())])

    def test_a_wiped_server(self) -> None:
        """With nobody missing there is nobody to wait for."""
        short = tablet(members=(A, B), short_for_s=0.1)
        self.assertEqual(self._plan(servers(A, B, C), short), [Wish(1, (C,), ())])

    def test_without_a_primary(self) -> None:
        """As long as nobody acts on a wish none is told."""
        headless = tablet(members=(A, B), usable=frozenset({B}), short_for_s=999.0)
        self.assertEqual(self._plan(servers(A, B, C, dead=A), headless), [])

    def test_few_copies_at_a_time(self) -> None:
        """One server does not make all of its new copies at once; old copies are cheap."""
        short = [tablet(n, (A, B), short_for_s=99.0) for n in range(1, 9)]
        self.assertEqual(len(self._plan(servers(A, B, C), *short)), 2)
        held = [evolve(one, holders=frozenset(MEMBERS)) for one in short]
        self.assertEqual(len(self._plan(servers(A, B, C), *held)), 8)

    def test_a_learner_that_died(self) -> None:
        """It is withdrawn, and another one takes its place when that is due."""
        short = tablet(members=(A, B), learners=(C,), short_for_s=1.0)
        self.assertEqual(self._plan(servers(A, B, C, D, dead=C), short), [Wish(1, (), ())])
        late = evolve(short, short_for_s=61.0)
        self.assertEqual(self._plan(servers(A, B, C, D, dead=C), late), [Wish(1, (D,), ())])

    def test_one_too_many(self) -> None:
        """The member that cannot use its copy leaves first, else the one with the highest load."""
        four = tablet(members=(A, B, C, D))
        other = tablet(2, members=(C, A, B), size_bytes=9 * MIB)
        self.assertEqual(self._plan(servers(A, B, C, D), four, other), [Wish(1, (), (B,))])
        unusable = evolve(four, usable=frozenset({A, B, C}))
        self.assertEqual(self._plan(servers(A, B, C, D), unusable, other), [Wish(1, (), (D,))])

    def test_the_primary_hands_over_before_it_leaves(self) -> None:
        """It becomes a member like others first."""
        four = tablet(members=(A, B, C, D))
        others = [tablet(n, (A, B, C), primary=B) for n in (2, 3)]
        those = servers(A, B, C, D, draining=A)
        self.assertEqual(self._plan(those, four, *others)[0], MovePrimary(1, C))

    def test_a_leaver_is_needed_again(self) -> None:
        """When another one is lost meanwhile nobody leaves."""
        four = tablet(members=(A, B, C, D), leaving=(B,), usable=frozenset({A, B, C}))
        self.assertEqual(self._plan(servers(A, B, C, D, E, dead=D), four), [Wish(1, (), (D,))])

    def test_draining(self) -> None:
        """A drained server's copy is made elsewhere first, at once; then it leaves."""
        those = servers(A, B, C, D, draining=B)
        self.assertEqual(self._plan(those, tablet()), [Wish(1, (D,), ())])
        joined = tablet(members=(A, B, C, D))
        self.assertEqual(self._plan(those, joined), [Wish(1, (), (B,))])

    def test_draining_with_nowhere_to_go(self) -> None:
        """Nobody leaves while too few others are there; copies are not given up."""
        self.assertEqual(self._plan(servers(A, B, C, D, dead=D, draining=C), tablet()), [])


class EveningOutTests(SynchronousTestCase):
    def test_a_new_server(self) -> None:
        """It gets copies until the load is even, a few at a time, rather not of primaries."""
        tablets = [tablet(n, (A, B, C)) for n in range(1, 9)]
        steps = plan(servers(A, B, C, D), tablets, Limits())
        self.assertEqual([type(step) for step in steps], [Wish, Wish])
        self.assertEqual({step.learners for step in steps if isinstance(step, Wish)}, {(D,)})

    def test_not_while_something_is_short(self) -> None:
        """Repair comes first."""
        tablets = [tablet(n, (A, B, C)) for n in range(1, 9)]
        tablets.append(tablet(9, (A, B), short_for_s=1.0))
        self.assertEqual(plan(servers(A, B, C, D, E, dead=E), tablets, Limits()), [])

    def test_a_server_that_has_just_come_back(self) -> None:
        """It is given nothing more for a while: it may go again."""
        tablets = [tablet(n, (A, B, C)) for n in range(1, 9)]
        tablets = [evolve(one, quiet_for_s=0.0) for one in tablets]
        self.assertEqual(plan(servers(A, B, C, D, unsteady=D), tablets, Limits()), [])

    def test_balanced(self) -> None:
        """All copies are there and none would move, also not once all servers are steady."""

        def balanced(those: list[Server], *tablets: Replicas) -> bool:
            return is_balanced(those, tablets, Limits())

        eight = [tablet(n, (A, B, C)) for n in range(1, 9)]
        self.assertTrue(balanced(servers(A, B, C), *eight))
        self.assertTrue(balanced(servers(A, B, C, D, dead=D), *eight))
        self.assertFalse(balanced(servers(A, B, C, D), *eight))
        self.assertFalse(balanced(servers(A, B, C, D, unsteady=D), *eight))
        self.assertFalse(balanced(servers(A, B, C, D, draining=A), *eight))
        self.assertFalse(balanced(servers(A, B, C), tablet(1, (A, B), short_for_s=1.0)))
        self.assertFalse(balanced(servers(A, B, C), tablet(1, learners=(D,))))
        self.assertFalse(balanced(servers(A, B, C, D), tablet(1, (A, B, C, D))))
        self.assertFalse(balanced(servers(A, B, C), tablet(usable=frozenset({A, B}))))
        self.assertFalse(balanced([], tablet()))

    def test_by_size(self) -> None:
        """Few large tablets weigh as much as many small ones."""
        large = [tablet(n, (A,), size_bytes=100 * MIB) for n in (1, 2)]
        small = [tablet(n, (B,)) for n in range(3, 23)]
        [step] = plan(servers(A, B), [*large, *small], Limits(copies=1, moves_at_once=1))
        self.assertEqual(step, Wish(1, (B,), ()))

    def test_primaries(self) -> None:
        """After a return primaries spread again, one step at a time, and not those changed lately."""
        tablets = [tablet(n) for n in (1, 2, 3)]
        recent = evolve(tablets[0], quiet_for_s=1.0)
        steps = plan(servers(A, B, C), [recent, *tablets[1:]], Limits())
        self.assertEqual(steps, [MovePrimary(2, B)])
        spread = [recent, evolve(tablets[1], primary=B), tablets[2]]
        self.assertEqual(plan(servers(A, B, C), spread, Limits()), [MovePrimary(3, C)])

    def test_primaries_over_a_third_server(self) -> None:
        """Where two servers have no tablet in common the chain leads over one that has."""
        tablets = [
            *(tablet(n, (A, B)) for n in (1, 2, 3)),
            tablet(4, (B, C), primary=B),
            tablet(5, (B, C), primary=B),
            tablet(6, (B, C), primary=C),
        ]
        steps = plan(servers(A, B, C), tablets, Limits(copies=2, moves_at_once=0))
        self.assertEqual(steps, [MovePrimary(1, B), MovePrimary(4, C)])


# -- histories ------------------------------------------------------------------------------------


@define
class _World:
    """Servers and tablets as the coordinators would have them; primaries and learners do their part."""

    chance: random.Random
    servers: dict[str, Server]
    tablets: dict[int, Replicas]
    limits: Limits = field(factory=lambda: Limits(repair_after_s=3.0, rest_s=2.0))
    copies_made: int = 0

    def live(self, name: str) -> bool:
        return self.servers[name].live

    def round(self) -> list[Step]:
        """One second: what dies is noticed, what was wished happens, more is planned."""
        for number in self.tablets:
            self._settle(number)
        servers, tablets = list(self.servers.values()), list(self.tablets.values())
        steps = plan(servers, tablets, self.limits)
        if is_balanced(servers, tablets, self.limits):
            assert all(isinstance(step, MovePrimary) for step in steps), steps
        for step in steps:
            one = self.tablets[step.tablet]
            if isinstance(step, MovePrimary):
                assert step.to in one.usable, step
                self.tablets[one.id] = evolve(one, primary=step.to, quiet_for_s=0.0)
            else:
                assert one.primary not in step.leaving, step
                stay = set(one.members) - set(step.leaving)
                wanted = wanted_copies(self.servers.values(), self.limits.copies)
                if step.leaving:
                    assert len(stay & one.usable) >= min(wanted, len(one.usable)), (step, one)
                self.tablets[one.id] = evolve(one, learners=step.learners, leaving=step.leaving)
        return steps

    def _settle(self, number: int) -> None:
        one = self.tablets[number]
        before = one.members
        members = [name for name in one.members if self.live(name)]
        if not members:
            self.tablets[number] = evolve(one, usable=frozenset())
            return
        primary = one.primary if one.primary in members else members[0]
        members = [name for name in members if name not in one.leaving or name == primary]
        learners = list(one.learners)
        for name in one.learners:
            if self.live(name) and self.chance.random() < 0.5:
                learners.remove(name)
                members.append(name)
                self.copies_made += 1
        short = len(members) < min(
            self.limits.copies, sum(not one.draining for one in self.servers.values())
        )
        changed = tuple(members) != before or primary != one.primary
        self.tablets[number] = Replicas(
            number,
            primary,
            tuple(members),
            tuple(learners),
            tuple(name for name in one.leaving if name in members and name != primary),
            frozenset(members),
            frozenset(name for name in (*members, *one.holders) if self.live(name)),
            one.size_bytes,
            one.short_for_s + 1.0 if short else 0.0,
            0.0 if changed else one.quiet_for_s + 1.0,
        )

    def until_quiet(self) -> None:
        quiet = 0
        for _ in range(600):
            quiet = 0 if self.round() or self._is_moving() else quiet + 1
            if quiet > 6:
                return
        raise AssertionError(f"never at rest: {self.tablets}")

    def _is_moving(self) -> bool:
        return any(one.learners or one.leaving for one in self.tablets.values())

    def load(self) -> Counter[str]:
        found: Counter[str] = Counter(dict.fromkeys(self._able(), 0))
        for one in self.tablets.values():
            for member in one.members:
                found[member] += one.weight
        return found

    def _able(self) -> list[str]:
        return [one.id for one in self.servers.values() if one.live and not one.draining]

    def primaries(self) -> Counter[str]:
        found: Counter[str] = Counter(dict.fromkeys(self._able(), 0))
        found.update(one.primary for one in self.tablets.values())
        return found


def _world(seed: int, count: int, tablets: int, sizes: bool) -> _World:
    chance = random.Random(seed)
    names = [f"storage-{n}" for n in range(1, count + 1)]
    copies = min(3, count)
    return _World(
        chance,
        {name: Server(name) for name in names},
        {
            n: tablet(
                n,
                tuple(chance.sample(names, copies)),
                size_bytes=chance.randrange(50 * MIB) if sizes else 0,
            )
            for n in range(1, tablets + 1)
        },
    )


class HistoryTests(SynchronousTestCase):
    """Plans carried out one after the other, from any state, with servers that come, go and are drained."""

    def _in_order(self, world: _World) -> None:
        able = world._able()
        wanted = min(3, len(able))
        for one in world.tablets.values():
            self.assertEqual(len(one.members), wanted, one)
            self.assertLessEqual(set(one.members), set(able), one)
        load = world.load()
        heaviest = max((one.weight for one in world.tablets.values()), default=0)
        gap = max(load.values()) - min(load.values())
        slack = 0.1 * sum(load.values()) / len(load)
        self.assertLessEqual(gap, max(2 * heaviest, slack + 1), load)
        if len(able) == wanted:
            primaries = world.primaries()
            self.assertLessEqual(max(primaries.values()) - min(primaries.values()), 1)

    @given(st.integers(0, 2**32), st.integers(1, 7), st.integers(1, 24), st.booleans())
    @settings(max_examples=60, deadline=None)
    def test_comes_to_rest_evenly(self, seed: int, count: int, number: int, sizes: bool) -> None:
        """From any placement load and primaries become even, then nothing moves any more."""
        world = _world(seed, count, number, sizes)
        world.until_quiet()
        self._in_order(world)
        made = world.copies_made
        for _ in range(20):
            self.assertEqual(world.round(), [])
        self.assertEqual(world.copies_made, made)
        servers, tablets = list(world.servers.values()), list(world.tablets.values())
        self.assertTrue(is_balanced(servers, tablets, world.limits))

    @given(st.integers(0, 2**32), st.integers(3, 6), st.integers(1, 16))
    @settings(max_examples=60, deadline=None)
    def test_servers_come_and_go(self, seed: int, count: int, number: int) -> None:
        """With servers that die, return, are added and drained all tablets get whole again, and are
        never without a copy while one server at a time is gone."""
        world = _world(seed, count, number, sizes=True)
        for event in range(8):
            able = world._able()
            kind = world.chance.choice(("kill", "add", "drain"))
            if kind == "kill" and len(able) == len(world.servers):
                victim = world.chance.choice(able)
                world.servers[victim] = evolve(world.servers[victim], live=False)
                for _ in range(world.chance.randrange(10)):
                    world.round()
                    for one in world.tablets.values():
                        self.assertTrue(one.usable, one)
                world.servers[victim] = evolve(world.servers[victim], live=True)
            elif kind == "add":
                name = f"storage-{10 + event}"
                world.servers[name] = Server(name)
            elif kind == "drain" and len(able) > 3:
                victim = world.chance.choice(able)
                world.servers[victim] = evolve(world.servers[victim], draining=True)
            for _ in range(world.chance.randrange(20)):
                world.round()
        world.until_quiet()
        self._in_order(world)

    @given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 12))
    @settings(max_examples=30, deadline=None)
    def test_depends_on_nothing_else(self, seed: int, count: int, number: int) -> None:
        """The order in which servers and tablets are given makes no difference."""
        world = _world(seed, count, number, sizes=True)
        those, tablets = list(world.servers.values()), list(world.tablets.values())
        expected = plan(those, tablets, Limits())
        world.chance.shuffle(those)
        world.chance.shuffle(tablets)
        self.assertEqual(plan(those, tablets, Limits()), expected)

    def test_weight_of_nothing(self) -> None:
        """An empty tablet counts for something, so that many of them are spread by number."""
        self.assertEqual(tablet().weight, UNIT_BYTES)

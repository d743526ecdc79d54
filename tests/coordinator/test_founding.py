"""How a group begins: every step, and that no order of steps and losses lets a forgetful one vote."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from penncloud.coordinator.founding import (
    Begin,
    Found,
    Join,
    Lost,
    Misfit,
    Step,
    Wait,
    next_step,
)
from penncloud.coordinator.group_messages import Phase, Who

ALL = ["c1", "c2", "c3"]


def blank(node_id: str) -> Who:
    return Who(node_id, "blank")


def founded(node_id: str, members: list[str] = ALL) -> Who:
    return Who(node_id, "founded", members)


def begun(node_id: str, members: list[str] = ALL) -> Who:
    return Who(node_id, "begun", members)


class StepTests(SynchronousTestCase):
    def test_steps(self) -> None:
        """The table of the module."""
        cases: list[tuple[Who, list[Who | None], type[Step]]] = [
            (blank("c1"), [None, blank("c3")], Wait),
            (blank("c1"), [blank("c2"), blank("c3")], Found),
            (blank("c1"), [founded("c2"), blank("c3")], Found),
            (blank("c1"), [begun("c2"), None], Lost),
            (blank("c4"), [begun("c1"), begun("c2"), None], Join),
            (blank("c1"), [blank("c2"), blank("c2")], Misfit),
            (blank("c1"), [founded("c2", ["c2", "c9"]), blank("c3")], Misfit),
            (founded("c1"), [blank("c2"), founded("c3")], Wait),
            (founded("c1"), [None, founded("c3")], Wait),
            (founded("c1"), [founded("c2"), founded("c3")], Begin),
            (founded("c1"), [None, begun("c3")], Begin),
        ]
        for own, others, expected in cases:
            self.assertIsInstance(next_step(own, others), expected, (own, others))

    def test_joins_only_by_what_a_majority_says(self) -> None:
        """One that has missed the last changes cannot tell who is no member: a coordinator that was added
        since and has lost its disk would vote again. Nor can it keep out one that was removed since."""
        more = [*ALL, "c4"]
        learning = Who("c2", "begun", ALL, ["c4"])
        removed = [begun("c2", ["c2", "c4"]), begun("c4", ["c2", "c4"])]
        cases: list[tuple[Who, list[Who | None], type[Step]]] = [
            (blank("c4"), [None, None, begun("c3")], Wait),
            (blank("c4"), [None, begun("c2", more), begun("c3")], Lost),
            (blank("c4"), [begun("c1", more), begun("c2", more), begun("c3", more)], Lost),
            (blank("c4"), [None, begun("c3"), learning], Lost),
            (blank("c3"), [begun("c1"), *removed], Join),
        ]
        for own, others, expected in cases:
            self.assertIsInstance(next_step(own, others), expected, (own, others))

    def test_members(self) -> None:
        """The founders are those who answered."""
        step = next_step(blank("c1"), [blank("c2"), blank("c3")])
        self.assertEqual(step, Found(frozenset(ALL)))

    @given(st.lists(st.tuples(st.sampled_from(ALL), st.integers(0, 7), st.booleans()), max_size=60))
    def test_nobody_forgets_and_votes(self, moves: list[tuple[str, int, bool]]) -> None:
        """In whatever order they ask, and whoever does not answer: once one has begun, one whose
        disk is lost never takes part again by itself."""
        phases: dict[str, Phase] = dict.fromkeys(ALL, "blank")
        forgetful: set[str] = set()
        for node_id, reachable, lose in moves:
            if lose and "begun" in phases.values():
                phases[node_id] = "blank"
                forgetful.add(node_id)
                continue
            others = [
                self._who(other, phases[other]) if reachable >> bit & 1 else None
                for bit, other in enumerate(ALL)
                if other != node_id
            ]
            step = next_step(self._who(node_id, phases[node_id]), others)
            if phases[node_id] == "begun":
                continue
            if isinstance(step, Found):
                phases[node_id] = "founded"
            elif isinstance(step, Begin):
                phases[node_id] = "begun"
                self.assertNotIn("blank", {phases[o] for o in ALL if o not in forgetful})
            self.assertNotIsInstance(step, Join)
            survivors = {other for other in ALL if phases[other] == "begun"} - forgetful
            answered = {other.id for other in others if other is not None}
            if node_id in forgetful and survivors & answered:
                self.assertIsInstance(step, Lost)

    @staticmethod
    def _who(node_id: str, phase: Phase) -> Who:
        return Who(node_id, phase, [] if phase == "blank" else ALL)

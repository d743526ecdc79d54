"""The files service against a model: long histories by one actor, and two actors interleaved."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from hypothesis import given, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from penncloud.services.files import ROOT, FilesError, Item
from tests.services.files_case import ROW, World
from tests.services.files_model import Model

NAMES = st.sampled_from(["a", "A", "b.x", "é", "z z", ".."])
Step = dict[str, Any]


@st.composite
def steps(draw: st.DrawFn) -> Step:
    """One change; folders are numbers, taken modulo the folders there are."""
    number = st.integers(0, 20)
    return {
        "do": draw(st.sampled_from(["folder", "upload", "move", "move", "rename", "delete"])),
        "folder": draw(number),
        "target": draw(number),
        "name": draw(NAMES),
        "new_name": draw(NAMES),
        "data": draw(st.binary(max_size=3)),
        "seen": draw(st.booleans()),
        "keep_both": draw(st.booleans()),
        "pick": draw(st.none() | number),
    }


BLANK: Step = {
    "do": "folder",
    "folder": 0,
    "target": 0,
    "name": "a",
    "new_name": "a",
    "data": b"x",
    "seen": False,
    "keep_both": False,
    "pick": None,
}


class Both:
    """The service and the model in the same state; ids of folders are the service's."""

    def __init__(self) -> None:
        self.world = World()
        self.model = Model()

    def bind(self, step: Step) -> Step:
        """The step with the ids and versions that a browser would have seen by now."""
        folders = self.model.folders()
        bound = dict(step)
        bound["folder"] = folders[step["folder"] % len(folders)]
        bound["target"] = folders[step["target"] % len(folders)]
        things = [(folder, name) for folder in folders for name in self.model.inside[folder]]
        if step["pick"] is not None and things and step["do"] in {"move", "rename", "delete"}:
            # Mostly something that exists: refusals are quickly tested.
            bound["folder"], bound["name"] = things[step["pick"] % len(things)]
        bound["version"] = bound["stamp"] = None
        thing = self.model.inside[bound["folder"]].get(bound["name"])
        if step["seen"] and thing is not None:
            entry = now(self.world.home.find(bound["folder"], bound["name"]))
            bound["version"], bound["stamp"] = entry.version, thing.stamp
        return bound

    def really(self, step: Step) -> Coroutine[Any, Any, Any]:
        home, folder, name = self.world.home, step["folder"], step["name"]
        item = Item(folder, name, step["version"])
        match step["do"]:
            case "folder":
                return home.create_folder(folder, name)
            case "upload":
                return self.world.put(
                    folder, name, step["data"], step["version"], step["keep_both"]
                )
            case "move":
                return home.rename(item, name, step["target"])
            case "rename":
                return home.rename(item, step["new_name"])
            case _:
                return self._delete(item)

    async def _delete(self, item: Item) -> None:
        (await self.world.home.delete([item])).only()

    @staticmethod
    def in_model(model: Model, step: Step, new_id: str) -> type[FilesError] | None:
        folder, name, stamp = step["folder"], step["name"], step["stamp"]
        try:
            match step["do"]:
                case "folder":
                    model.create_folder(folder, name, new_id)
                case "upload":
                    model.upload(folder, name, step["data"], stamp, step["keep_both"])
                case "move":
                    model.move_one(folder, name, step["target"], name, stamp)
                case "rename":
                    model.move_one(folder, name, folder, step["new_name"], stamp)
                case _:
                    model.delete_one(folder, name, stamp)
        except FilesError as error:
            return type(error)
        return None

    def apply(self, step: Step) -> None:
        """The step in both; they must agree on the outcome."""
        bound = self.bind(step)
        result = settled(Deferred.fromCoroutine(self.really(bound)))
        new_id = getattr(result, "id", "")
        expected = self.in_model(self.model, bound, new_id)
        found = type(result.value) if isinstance(result, Failure) else None
        assert found == expected, (bound, found, expected)

    def check(self) -> None:
        assert now(self.world.snapshot()) == self.model.snapshot()


def settled(deferred: Deferred[Any]) -> Any:
    """The result or the failure of a deferred that has one."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    return results[0]


def now(coroutine: Coroutine[Any, Any, Any]) -> Any:
    result = settled(Deferred.fromCoroutine(coroutine))
    if isinstance(result, Failure):
        result.raiseException()
    return result


class History(RuleBasedStateMachine):
    """Any history of changes gives the model's tree; at the end nothing unused is left."""

    @initialize()
    def begin(self) -> None:
        self.both = Both()

    @rule(step=steps())
    def change(self, step: Step) -> None:
        self.both.apply(step)

    @rule()
    def sweep(self) -> None:
        self.both.world.time += 300
        now(self.both.world.files.collect("ann"))

    @invariant()
    def same_tree(self) -> None:
        if hasattr(self, "both"):
            self.both.check()

    def teardown(self) -> None:
        if not hasattr(self, "both"):
            return
        world = self.both.world
        now(world.files.collect("ann"))
        world.time += 5 * 86_400
        now(world.files.collect("ann"))
        self.both.check()
        things = [t for inside in self.both.model.inside.values() for t in inside.values()]
        assert len(world.table.chunk_rows()) == sum(bool(thing.data) for thing in things)
        columns = [col for col in world.table.columns(ROW) if col != b"tree"]
        folders = sum(thing.data is None for thing in things)
        assert len(columns) == len(things) + folders, columns


class OneActor(SynchronousTestCase):
    def test_history(self) -> None:
        """Every outcome and every tree is the model's, and collection leaves exactly what is used."""
        run_state_machine_as_test(
            History, settings=settings(max_examples=40, stateful_step_count=30, deadline=None)
        )


class TwoActors(SynchronousTestCase):
    @settings(max_examples=300, deadline=None)
    @given(
        st.lists(steps(), max_size=5),
        steps(),
        steps(),
        st.lists(st.integers(0, 3), max_size=60),
    )
    def test_linearizable(
        self, history: list[Step], one: Step, two: Step, order: list[int]
    ) -> None:
        """Two changes at once have the outcome of one after the other, in one order or the other."""
        both = Both()
        # Some depth to begin with: most of what two actors can spoil is further down.
        for name, folder in (("a", 0), ("A", 1), ("é", 0), ("b.x", 2)):
            do = "upload" if name == "b.x" else "folder"
            both.apply({**BLANK, "do": do, "name": name, "folder": folder})
        for step in history:
            both.apply(step)
        first, second = both.bind(one), both.bind(two)
        table = both.world.table
        table.hold = lambda row: row == ROW
        running = [Deferred.fromCoroutine(both.really(each)) for each in (first, second)]
        choices = iter(order)
        while table.held:
            table.release_one(next(choices, 0) % len(table.held))
        table.hold = lambda row: False
        done = [not isinstance(settled(each), Failure) for each in running]
        tree = now(both.world.snapshot())
        allowed = []
        for steps_in_order in ((0, 1), (1, 0)):
            model = both.model.copy()
            succeeded = [False, False]
            for index in steps_in_order:
                new_id = f"new{index}"
                step = (first, second)[index]
                succeeded[index] = both.in_model(model, step, new_id) is None
            allowed.append((succeeded, model.snapshot()))
        note(f"{first}\n{second}\n{done} {tree}\n{allowed}")
        self.assertIn((done, tree), allowed)
        self.assertNotIn(ROOT, both.model.inside[ROOT])

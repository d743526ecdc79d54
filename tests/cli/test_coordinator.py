"""Twin of `penncloud.cli.coordinator`: what the coordinators are asked, and what is waited for."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from contextlib import redirect_stderr
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.cli import coordinator
from penncloud.cli._directory import DirectoryCommand
from penncloud.cli._main import parser, run
from penncloud.client.directory import ClusterView, CoordinatorInfo, MemoryDirectory
from penncloud.client.table import Refused, Unavailable
from tests.rpc.world import environment


class _Directory(MemoryDirectory):
    """Remembers what the coordinators are asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[object, ...]] = []
        self.refused = ""

    def roles(self, **roles: Any) -> None:
        """What the coordinators are, e.g. c1="leader"."""
        self.current = ClusterView(
            [],
            [CoordinatorInfo(id, "127.0.0.1", 8600, 7, role, 3) for id, role in roles.items()],
            [],
        )

    def _ask(self, *what: object) -> None:
        self.asked.append(what)
        if self.refused:
            raise Refused(self.refused, "it is not there")

    async def add_coordinator(self, node_id: str, host: str, port: int) -> None:
        self._ask("add", node_id, host, port)

    async def remove_coordinator(self, node_id: str) -> None:
        self._ask("remove", node_id)

    async def transfer_leadership(self, node_id: str = "") -> None:
        self._ask("transfer", node_id)


class CoordinatorCommandTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.directory = _Directory()
        self.directory.roles(c1="leader", c2="follower", c3="follower")
        self.begun: list[Deferred[int]] = []
        self.patch(coordinator, "with_directory", self._with_directory)

    def _with_directory(self, arguments: argparse.Namespace, command: DirectoryCommand) -> int:
        directory: Any = self.directory
        asking: Any = command(directory, environment(self.clock))
        self.begun.append(Deferred.fromCoroutine(asking))
        return 0

    def _begin(self, *arguments: str) -> Deferred[int]:
        parsed = parser().parse_args(["coordinator", *arguments])
        act: Callable[[argparse.Namespace], int] = parsed.run
        act(parsed)
        return self.begun.pop()

    def test_add(self) -> None:
        """It is done once the new one votes: not while it is not started, nor while it catches up."""
        self.directory.refused = "NOT_STARTED"
        done = self._begin("add", "c4", "10.0.0.4:8600")
        self.clock.advance(1)
        self.assertNoResult(done)
        self.directory.refused = ""
        self.directory.roles(c1="leader", c2="follower", c3="follower", c4="learner")
        self.clock.advance(1)
        self.assertNoResult(done)
        self.directory.roles(c1="leader", c2="follower", c3="follower", c4="follower")
        self.clock.advance(1)
        self.assertEqual(self.successResultOf(done), 0)
        self.assertEqual(set(self.directory.asked), {("add", "c4", "10.0.0.4", 8600)})

    def test_add_in_vain(self) -> None:
        """Who does not start, or is refused for another reason, is told of; so is an address that is none."""
        self.directory.refused = "NOT_STARTED"
        done = self._begin("add", "c4", "10.0.0.4:8600", "--timeout", "2")
        self.clock.pump([0.5] * 5)
        self.assertIn("not there", str(self.failureResultOf(done, Unavailable).value))
        self.directory.refused = "TOO_MANY"
        self.failureResultOf(self._begin("add", "c4", "10.0.0.4:8600"), Refused)
        with redirect_stderr(io.StringIO()) as told:
            self.assertEqual(run(["coordinator", "add", "c4", "10.0.0.4"]), 2)
        self.assertIn("10.0.0.4", told.getvalue())

    def test_remove(self) -> None:
        """One question; what is refused is told."""
        self.assertEqual(self.successResultOf(self._begin("remove", "c2")), 0)
        self.assertEqual(self.directory.asked, [("remove", "c2")])
        self.directory.refused = "LAST"
        self.failureResultOf(self._begin("remove", "c1"), Refused)

    def test_transfer(self) -> None:
        """It is done once the one that is named leads, or any other one where none is."""
        for named, next_one in (("c2", "c2"), ("", "c3")):
            self.directory.roles(c1="leader", c2="follower", c3="follower")
            done = self._begin("transfer", *([named] if named else []))
            self.clock.advance(1)
            self.assertNoResult(done)
            self.directory.roles(**{"c1": "follower", next_one: "leader"})
            self.clock.advance(1)
            self.assertEqual(self.successResultOf(done), 0)
            self.assertEqual(self.directory.asked[-1], ("transfer", named))

    def test_transfer_in_vain(self) -> None:
        """Who leads already is not asked; one that is not elected in time is told of."""
        self.assertEqual(self.successResultOf(self._begin("transfer", "c1")), 0)
        self.assertEqual(self.directory.asked, [])
        done = self._begin("transfer", "c3", "--timeout", "2")
        self.clock.pump([0.5] * 5)
        self.assertIn("c1 leads", str(self.failureResultOf(done, Unavailable).value))

"""Twins of `penncloud.cli.node` and `penncloud.cli.tablet`: storage servers that come and go."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.cli import node, tablet
from penncloud.cli._main import parser
from penncloud.client.agents import NOT_SUPERVISED, SupervisedServer
from penncloud.client.directory import (
    ClusterView,
    MemoryDirectory,
    NodeInfo,
    NoSuchNode,
    TabletInfo,
)
from penncloud.client.table import Refused, Unavailable
from penncloud.platform.config import Cluster
from penncloud.platform.errors import ConfigurationError
from penncloud.rpc.errors import Refusal
from tests.rpc.world import environment


class _Directory(MemoryDirectory):
    """Remembers what the coordinators are asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[object] = []
        self.gone = False

    async def drain_server(self, node_id: str, draining: bool) -> None:
        self.asked.append(("drain", node_id, draining))

    async def remove_server(self, node_id: str, accept_data_loss: bool) -> None:
        self.asked.append(("remove", node_id, accept_data_loss))
        if self.gone:
            raise Refused("NO_SUCH_NODE", "it is not there")


class _Control:
    """The agents: `remove` leaves the server dead, as the coordinators see it soon."""

    def __init__(self, directory: MemoryDirectory) -> None:
        self._directory = directory
        self.refusal = ""
        self.stopped: list[str] = []

    async def remove(self, node_id: str) -> None:
        if self.refusal:
            raise Refusal(self.refusal, "no")
        await self.stop(node_id)

    async def add(self, role: str) -> SupervisedServer:
        return SupervisedServer(f"{role}-2", role, "running", 77, 0, "")

    async def stop(self, node_id: str) -> None:
        self.stopped.append(node_id)
        state: Any = {"state": "dead"}
        nodes = self._directory.current.nodes
        self._directory.set(
            *(msgspec.structs.replace(n, **state) if n.id == node_id else n for n in nodes)
        )


def _tablet(number: int, *members: str, **more: Any) -> TabletInfo:
    return TabletInfo(number, 0, 1, 3, members[0], list(members), {}, "ok", **more)


class NodeCommandTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.environment = environment(self.clock)
        self.directory = _Directory()
        self.control = _Control(self.directory)
        self.out = io.StringIO()
        self._view(_tablet(1, "storage-1", "storage-2"), _tablet(2, "storage-1"))

    def _view(self, *tablets: TabletInfo) -> None:
        nodes = [
            NodeInfo("storage", f"storage-{n}", "127.0.0.1", 8700, n, "live", agent="127.0.0.1:1")
            for n in (1, 2)
        ]
        nodes.append(NodeInfo("coordinator", "coordinator-1", "127.0.0.1", 8600, 9, "live"))
        nodes.append(NodeInfo("http", "http-1", "127.0.0.1", 8081, 9, "live"))
        self.directory.current = ClusterView(nodes, [], list(tablets))

    def _begin(self, *arguments: str) -> Deferred[None]:
        parsed: Any = parser().parse_args(["node", *arguments])
        directory, control, world = self.directory, self.control, self.environment
        calls: dict[str, Any] = {
            "add": lambda: node._add(parsed, directory, control, world, Cluster()),  # type: ignore[arg-type]
            "drain": lambda: node._drain(parsed, directory, world),  # type: ignore[arg-type]
            "remove": lambda: node._remove(parsed, directory, control, world),  # type: ignore[arg-type]
        }
        with contextlib.redirect_stdout(self.out):
            return Deferred.fromCoroutine(calls[arguments[0]]())

    def _pass(self, seconds: float = 0.5) -> None:
        with contextlib.redirect_stdout(self.out):
            self.clock.advance(seconds)

    def test_add(self) -> None:
        """A server that takes its time to register is waited for, and then until nothing has to be moved."""
        self.patch(node, "agents_of", lambda _arguments: ["127.0.0.1:1"])
        known = self.directory.current
        self.directory.set(*(one for one in known.nodes if one.id != "storage-2"))
        done = self._begin("add")
        for _ in range(120):
            self._pass()
        self.assertNoResult(done)
        self.directory.current = msgspec.structs.replace(known, balanced=True)
        self._pass()
        self.successResultOf(done)
        self.assertEqual(
            self.out.getvalue().splitlines(),
            ["storage-2 is started (pid 77)", "it has not registered yet"],
        )

    def test_drain(self) -> None:
        """What is left is told whenever it changes, until nothing is."""
        done = self._begin("drain", "storage-2")
        self._pass()
        self._view(_tablet(1, "storage-1", "storage-2", learners=["storage-3"]))
        self._pass()
        self.assertNoResult(done)
        self._view(_tablet(1, "storage-1", "storage-3"))
        self._pass()
        self.successResultOf(done)
        self.assertEqual(
            self.out.getvalue().splitlines(),
            [
                "storage-2 holds 1 tablets, 0 are moving",
                "storage-2 holds 1 tablets, 1 are moving",
                "storage-2 is drained",
            ],
        )
        self.assertEqual(self.directory.asked, [("drain", "storage-2", True)])

    def test_drain_takes_long(self) -> None:
        """Who waits is told that it goes on; who does not want to wait does not."""
        done = self._begin("drain", "storage-2", "--within", "1")
        for _ in range(4):
            self._pass()
        self.assertIn("goes on", str(self.failureResultOf(done, Unavailable).value))
        self.successResultOf(self._begin("drain", "storage-2", "--no-wait"))
        self.successResultOf(self._begin("drain", "storage-2", "--undo"))
        self.assertEqual(self.directory.asked[-1], ("drain", "storage-2", False))

    def test_remove(self) -> None:
        """A drained server is stopped by its agent and forgotten by the coordinators."""
        self._view(_tablet(1, "storage-1"))
        self.successResultOf(self._begin("remove", "storage-2"))
        self.assertEqual(self.control.stopped, ["storage-2"])
        self.assertEqual(self.directory.asked, [("remove", "storage-2", False)])

    def test_remove_again(self) -> None:
        """If the answer was lost, and it is done, then it is done."""
        self._view()
        self.directory.gone = True
        self.successResultOf(self._begin("remove", "storage-2"))

    def test_remove_with_tablets(self) -> None:
        """Not while it holds any, unless that is meant."""
        text = str(self.failureResultOf(self._begin("remove", "storage-1"), Refused).value)
        self.assertIn("holds 2 tablets: penncloud node drain storage-1", text)
        self.assertEqual(self.control.stopped, [])
        self.successResultOf(self._begin("remove", "storage-1", "--accept-data-loss"))
        self.assertEqual(self.directory.asked, [("remove", "storage-1", True)])

    def test_remove_where_a_service_manager_starts_servers(self) -> None:
        """It is stopped, and the administrator told what is left to do."""
        self._view()
        self.control.refusal = NOT_SUPERVISED
        self.successResultOf(self._begin("remove", "storage-2"))
        self.assertEqual(self.control.stopped, ["storage-2"])
        self.assertIn("disable its unit", self.out.getvalue())

    def test_remove_others(self) -> None:
        """Only storage servers are removed here."""
        for node_id, words in (
            ("coordinator-1", "penncloud coordinator remove"),
            ("http-1", "no "),
        ):
            failure = self.failureResultOf(self._begin("remove", node_id), Refused)
            self.assertIn(words, str(failure.value))
        self.failureResultOf(self._begin("remove", "storage-9"), NoSuchNode)

    def test_balanced(self) -> None:
        """A new server is followed until the coordinators would move nothing any more, be it long."""
        with contextlib.redirect_stdout(self.out):
            done = Deferred.fromCoroutine(
                node._until_balanced(self.environment, self.directory, "storage-2", 600)
            )
        for _ in range(60):
            self._pass(0.5)
        self._view(_tablet(1, "storage-1", learners=["storage-2"]))
        self._pass()
        self._view(_tablet(1, "storage-1", "storage-2"))
        self._pass()
        self.assertNoResult(done)
        self.directory.current = msgspec.structs.replace(self.directory.current, balanced=True)
        self._pass()
        self.successResultOf(done)
        self.assertEqual(
            self.out.getvalue().splitlines(),
            [
                "storage-2 holds 1 of 2 tablets, 0 are being copied",
                "storage-2 holds 0 of 1 tablets, 1 are being copied",
                "storage-2 holds 1 of 1 tablets, 0 are being copied",
            ],
        )

    def test_elsewhere(self) -> None:
        """On other machines servers are started by hand: the text has what the file needs."""
        text = node._how_elsewhere(Cluster(coordinators=["10.0.0.1:8600", "10.0.0.2:8600"]))
        self.assertIn('coordinators = ["10.0.0.1:8600", "10.0.0.2:8600"]', text)
        self.assertIn("twistd -n penncloud-storage", text)

    def test_force_primary_is_meant(self) -> None:
        """Without the flag nothing is asked."""
        parsed = parser().parse_args(["tablet", "force-primary", "3", "storage-1"])
        with self.assertRaisesRegex(ConfigurationError, "would be lost"):
            tablet.run(parsed)

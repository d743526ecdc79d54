"""Twins of `penncloud.cli.lb` and `penncloud.cli.status`, on the directory's fake."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Awaitable, Callable

import msgspec
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from penncloud.cli import lb, status
from penncloud.cli._main import parser
from penncloud.client.directory import (
    ClusterView,
    CoordinatorInfo,
    Directory,
    MemoryDirectory,
    NodeInfo,
    NoSuchNode,
    TabletInfo,
    Worker,
)
from tests.lb.test_balance import http

Command = Callable[[Directory, argparse.Namespace], Awaitable[int]]


class DirectoryCommandTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = MemoryDirectory()
        storage = msgspec.structs.replace(http(1, role="storage"), state="suspected")
        coordinator = CoordinatorInfo("coordinator-1", "127.0.0.1", 8600, 7, "leader", 3)
        tablet = TabletInfo(
            id=4,
            lo=0,
            hi=2**31,
            epoch=2,
            primary="storage-1",
            members=["storage-1", "storage-2"],
            lag={"storage-2": 5},
            state="degraded",
        )
        self.directory.current = ClusterView([http(2), http(1), storage], [coordinator], [tablet])

    def ran(self, command: Command, *arguments: str) -> str:
        parsed = parser().parse_args(arguments)
        out = io.StringIO()

        async def run() -> int:
            return await command(self.directory, parsed)

        with contextlib.redirect_stdout(out):
            self.assertEqual(self.successResultOf(Deferred.fromCoroutine(run())), 0)
        return out.getvalue()

    def test_disable_and_enable(self) -> None:
        """A frontend is taken out and put back; the list shows which are in."""
        self.ran(lb.disable, "lb", "disable", "http-2")
        rows = json.loads(self.ran(lb.list_frontends, "lb", "list", "--json"))
        self.assertEqual(
            [(row["id"], row["enabled"]) for row in rows], [("http-1", True), ("http-2", False)]
        )
        self.assertEqual(rows[0]["port"], 8081)
        text = self.ran(lb.list_frontends, "lb", "list")
        self.assertRegex(text, r"http-2 +127\.0\.0\.1:8082 +live +disabled")
        self.ran(lb.enable, "lb", "enable", "http-2")
        self.assertNotIn("disabled", self.ran(lb.list_frontends, "lb", "list"))

    def test_only_frontends(self) -> None:
        """Servers of other roles, and those that are not there, cannot be enabled."""
        for node_id in ("storage-1", "http-9"):
            parsed = parser().parse_args(["lb", "enable", node_id])
            failure = self.failureResultOf(
                Deferred.fromCoroutine(lb.enable(self.directory, parsed)), NoSuchNode
            )
            self.assertIn(node_id, str(failure.value))

    def test_workers(self) -> None:
        """What the processes of a frontend do can be seen at a glance, and each by itself in JSON."""
        workers = (
            Worker(1, 51, "serving"),
            Worker(1, 50, "retiring"),
            Worker(2, 52, "serving"),
            Worker(3, 0, "waiting"),
        )
        node = NodeInfo("http", "http-1", "127.0.0.1", 8081, 5, "live", workers=workers)
        self.directory.set(node)
        text = self.ran(status.show, "status")
        self.assertIn("live, 2 workers, 1 retiring, 1 waiting", text)
        [shown] = json.loads(self.ran(status.show, "status", "--json"))["nodes"]
        self.assertEqual(shown["workers"][1], {"number": 1, "pid": 50, "state": "retiring"})

    def test_status_json(self) -> None:
        """One document with exactly the keys that scripts rely on."""
        document = json.loads(self.ran(status.show, "status", "--json"))
        self.assertEqual(set(document), {"balanced", "nodes", "coordinators", "tablets"})
        self.assertEqual(
            document["nodes"][2],
            {
                "role": "storage",
                "id": "storage-1",
                "host": "127.0.0.1",
                "port": 8081,
                "pid": 1001,
                "state": "suspected",
                "mail": "",
                "workers": [],
            },
        )
        self.assertEqual(
            document["coordinators"],
            [
                {
                    "id": "coordinator-1",
                    "host": "127.0.0.1",
                    "port": 8600,
                    "pid": 7,
                    "role": "leader",
                    "term": 3,
                }
            ],
        )
        self.assertEqual(
            document["tablets"],
            [
                {
                    "id": 4,
                    "range": [0, 2**31],
                    "cfg": 2,
                    "primary": "storage-1",
                    "members": ["storage-1", "storage-2"],
                    "learners": [],
                    "leaving": [],
                    "lag": {"storage-2": 5},
                    "state": "degraded",
                }
            ],
        )

    def test_status_text(self) -> None:
        """For people: who is there, who leads, who has which tablet, who stands by for mail."""
        first, second, storage = self.directory.current.nodes
        second = msgspec.structs.replace(second, mail="stands by for mail")
        self.directory.set(first, second, storage)
        text = self.ran(status.show, "status")
        self.assertRegex(text, r"storage +storage-1 +127\.0\.0\.1:8081 +1001 +suspected")
        self.assertRegex(text, r"http +http-1 .* live, stands by for mail\n")
        self.assertRegex(text, r"coordinator-1 +127\.0\.0\.1:8600 +7 +leader +3")
        self.assertRegex(
            text, r"4 +00000000-80000000 +2 +storage-1 +storage-2 +storage-2:5 +degraded"
        )

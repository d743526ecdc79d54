"""What the admin sees of the cluster, what is said before an action, and what an action does."""

from __future__ import annotations

import random
from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.client.directory import (
    ClusterView,
    CoordinatorInfo,
    MemoryDirectory,
    NodeInfo,
    NodeState,
    NoSuchNode,
    TabletInfo,
    Worker,
)
from penncloud.client.memory import MemoryTable
from penncloud.client.table import Unavailable
from penncloud.platform.environment import Environment
from penncloud.platform.errors import PennCloudError
from penncloud.services.admin import Administration, NotApplicable, effect, servers_of
from penncloud.services.audit import AuditLog
from tests.services.recording_control import RecordingControl

_T = TypeVar("_T")


def node(node_id: str, state: NodeState = "live", **more: Any) -> NodeInfo:
    """A server whose role is the beginning of its id."""
    return NodeInfo(
        node_id.split("-", maxsplit=1)[0], node_id, "127.0.0.1", 9000, 77, state, **more
    )


def tablet(number: int, *members: str) -> TabletInfo:
    """One of 16 equal tablets."""
    size = 2**28
    lo = size * number
    return TabletInfo(number, lo, lo + size, 1, members[0], list(members), {}, "ok")


def environment_of(clock: Clock) -> Environment:
    """A world on a fake clock, whose wall clock begins in 2023."""

    def no_threads(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("nothing here blocks")

    chance = random.Random(2)
    return Environment(clock, lambda: 1.7e9 + clock.seconds(), chance, chance.randbytes, no_threads)


class WorkersTests(SynchronousTestCase):
    def test_restart_of_a_frontend(self) -> None:
        """With workers nobody is hit, and no name has to be typed."""
        workers = [Worker(1, 5, "serving"), Worker(2, 6, "serving"), Worker(2, 4, "retiring")]
        view = ClusterView([node("http-1", workers=workers), node("http-2")], [], [])
        found = effect(view, "http-1", "restart", "http-2")
        self.assertFalse(found.destructive)
        self.assertIn("2 workers are replaced one by one", found.lines[0])
        self.assertTrue(effect(view, "http-1", "stop", "http-2").destructive)
        self.assertTrue(effect(view, "http-2", "restart", "http-1").destructive)


class SilentDirectory(MemoryDirectory):
    """A directory whose coordinators can fall silent."""

    silent = False
    hangs = False

    async def view(self) -> ClusterView:
        if self.hangs:
            await Deferred()
        if self.silent:
            raise Unavailable("no coordinator answers")
        return await super().view()


class EffectTests(SynchronousTestCase):
    """The words before the deed."""

    def view(self, *nodes: NodeInfo, tablets: list[TabletInfo] | None = None) -> ClusterView:
        return ClusterView(list(nodes), [], tablets or [])

    def test_stopping_the_only_member_names_the_tablets(self) -> None:
        """Tablets that nobody else holds are said to become unavailable, with their rows."""
        tablets = [tablet(0, "storage-1"), tablet(1, "storage-2"), tablet(3, "storage-1")]
        view = self.view(node("storage-1"), node("storage-2"), tablets=tablets)
        said = effect(view, "storage-1", "stop", "http-1")
        self.assertTrue(said.destructive)
        self.assertIn("2 tablets become unavailable", said.lines[0])
        self.assertIn("tablet 3 (rows hashed to 30000000\N{EN DASH}3fffffff)", said.lines[0])
        self.assertNotIn("tablet 1", said.lines[0])

    def test_a_live_replica_keeps_a_tablet(self) -> None:
        """With another live member a tablet only loses a replica; a dead one does not count."""
        tablets = [tablet(0, "storage-1", "storage-2"), tablet(1, "storage-1", "storage-3")]
        view = self.view(
            node("storage-1"), node("storage-2"), node("storage-3", "dead"), tablets=tablets
        )
        lines = effect(view, "storage-1", "stop", "http-1").lines
        self.assertIn("1 tablet becomes unavailable: tablet 1", lines[0])
        self.assertIn("1 tablet loses one replica: tablet 0", lines[1])

    def test_stopping_the_own_frontend_says_so(self) -> None:
        """Who stops the frontend under his own page is told where to come back."""
        view = self.view(node("http-1"), node("http-2"))
        text = " ".join(effect(view, "http-1", "stop", "http-1").lines)
        self.assertIn("http-2", text)
        self.assertIn("this very page", text)

    def test_disabling_is_destructive_for_the_last_frontend_only(self) -> None:
        """A dead or disabled frontend is no place for visitors to go."""
        both = self.view(node("http-1"), node("http-2"))
        self.assertFalse(effect(both, "http-1", "disable", "").destructive)
        for other in (node("http-2", "dead"), node("http-2", enabled=False)):
            said = effect(self.view(node("http-1"), other), "http-1", "disable", "")
            self.assertTrue(said.destructive)
            self.assertIn("nobody can enter", said.lines[-1])

    def test_every_role_has_its_words(self) -> None:
        """Stopping and restarting tell the effect for each role, alone and in company."""
        for role in ("lb", "http", "smtp", "coordinator", "storage"):
            for view in (
                self.view(node(f"{role}-1")),
                self.view(node(f"{role}-1"), node(f"{role}-2")),
            ):
                for action in ("stop", "restart"):
                    said = effect(view, f"{role}-1", action, "")
                    self.assertGreaterEqual(len(said.lines), 2)
                    self.assertTrue(said.destructive)

    def test_what_does_not_apply_is_refused(self) -> None:
        """A live server is not started, a dead one not stopped, an agent neither."""
        view = self.view(
            node("http-1", enabled=False),
            node("storage-1"),
            node("smtp-1", "dead"),
            node("agent-1"),
        )
        for node_id, action in (
            ("http-1", "disable"),
            ("http-1", "start"),
            ("storage-1", "disable"),
            ("smtp-1", "stop"),
            ("agent-1", "stop"),
            ("agent-1", "start"),
        ):
            with self.assertRaises(NotApplicable):
                effect(view, node_id, action, "")  # type: ignore[arg-type]
        with self.assertRaises(NoSuchNode):
            effect(view, "storage-9", "stop", "")

    def test_what_may_have_stopped_unseen_can_be_started(self) -> None:
        """With no coordinator answering a server shown as live may be dead: above all they."""
        view = self.view(node("coordinator-1"), node("http-1"), node("agent-1"))
        shown = {server.id: server for server in servers_of(view, stale=True)}
        self.assertEqual(shown["coordinator-1"].state, "suspected")
        self.assertEqual(shown["http-1"].state, "live")
        for node_id in ("coordinator-1", "http-1"):
            self.assertFalse(effect(view, node_id, "start", "", stale=True).destructive)
        with self.assertRaisesRegex(NotApplicable, "No coordinator answers"):
            effect(view, "http-1", "disable", "", stale=True)
        self.assertEqual(shown["agent-1"].actions, ())

    def test_servers_are_ordered_and_complete(self) -> None:
        """By role and number; coordinators are there though they are no nodes of the view."""
        coordinator = CoordinatorInfo("coordinator-1", "::1", 8600, 5, "leader", 3)
        view = ClusterView(
            [node("storage-10"), node("storage-9"), node("http-1")], [coordinator], []
        )
        servers = servers_of(view)
        self.assertEqual(
            [server.id for server in servers],
            ["http-1", "coordinator-1", "storage-9", "storage-10"],
        )
        self.assertEqual(servers[1].address, "[::1]:8600")


class AdministrationTests(SynchronousTestCase):
    """The view, the actions and their log."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.table = MemoryTable()
        self.directory = SilentDirectory()
        self.directory.set(node("http-1"), node("http-2"), node("storage-1"))
        self.control = RecordingControl()
        environment = environment_of(self.clock)
        self.audit = AuditLog(self.table, environment)
        self.admin = Administration(environment, self.directory, self.control, self.audit, "http-1")

    def result(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self.successResultOf(Deferred.fromCoroutine(work))

    def test_a_silent_coordinator_leaves_a_stale_view(self) -> None:
        """The last view stays, marked, with its age; it is fresh again when one answers."""
        self.assertFalse(self.result(self.admin.overview()).stale)
        self.directory.silent = True
        self.clock.advance(12.0)
        overview = self.result(self.admin.overview())
        self.assertTrue(overview.stale)
        self.assertEqual(overview.age_s, 12.0)
        self.assertEqual(len(overview.servers), 3)
        self.directory.silent = False
        self.clock.advance(2.0)
        overview = self.result(self.admin.overview())
        self.assertEqual((overview.stale, overview.age_s), (False, 0.0))

    def test_a_coordinator_that_hangs_does_not_hang_the_page(self) -> None:
        """With an older view at hand two seconds are enough, and the next look does not wait."""
        self.result(self.admin.overview())
        self.directory.hangs = True
        looking = Deferred.fromCoroutine(self.admin.overview())
        self.assertNoResult(looking)
        self.clock.advance(2.0)
        self.assertTrue(self.successResultOf(looking).stale)
        self.assertTrue(self.result(self.admin.overview()).stale)

    def test_a_view_never_seen_is_an_error(self) -> None:
        """Nothing is invented when no coordinator ever answered."""
        self.directory.silent = True
        work = Deferred.fromCoroutine(self.admin.overview())
        self.failureResultOf(work, Unavailable)

    def test_actions_reach_the_agents_and_the_directory(self) -> None:
        """Stop and restart go to the agent, enable and disable to the coordinators."""
        self.result(self.admin.perform("admin", "storage-1", "stop"))
        self.result(self.admin.perform("admin", "http-2", "restart"))
        self.assertEqual(self.control.asked, [("stop", "storage-1"), ("restart", "http-2")])
        self.result(self.admin.perform("admin", "http-2", "disable"))
        enabled = {server.id: server.enabled for server in self.directory.current.nodes}
        self.assertEqual(enabled, {"http-1": True, "http-2": False, "storage-1": True})

    def test_the_log_has_every_action_newest_first(self) -> None:
        """With time, actor, target and outcome, over pages without gap or repetition."""
        for action in ("disable", "enable", "disable"):
            self.clock.advance(1.0)
            self.result(self.admin.perform("admin", "http-2", action))
        first = self.result(self.audit.page(limit=2))
        rest = self.result(self.audit.page(first.older, limit=2))
        entries = first.entries + rest.entries
        self.assertEqual([entry.action for entry in entries], ["disable", "enable", "disable"])
        self.assertEqual({entry.outcome for entry in entries}, {"done"})
        self.assertEqual([entry.at - 1.7e9 for entry in entries], [3.0, 2.0, 1.0])
        self.assertEqual(rest.older, "")

    def test_a_failure_is_told_and_logged(self) -> None:
        """What the agent says reaches the caller and the log."""
        self.control.problem = PennCloudError("the agent does not know storage-1")
        work = Deferred.fromCoroutine(self.admin.perform("admin", "storage-1", "stop"))
        self.failureResultOf(work, PennCloudError)
        (entry,) = self.result(self.audit.page()).entries
        self.assertEqual(entry.outcome, "failed: the agent does not know storage-1")

    def test_an_unreachable_log_does_not_forbid_a_start(self) -> None:
        """The server that holds the log is startable; the entry is written when the log is back."""
        self.directory.set(node("storage-1", "dead"))
        self.table.unavailable = True
        self.result(self.admin.perform("admin", "storage-1", "start"))
        self.assertEqual(self.control.asked, [("start", "storage-1")])
        self.assertEqual(self.audit.waiting, 1)
        self.table.unavailable = False
        (entry,) = self.result(self.audit.page()).entries
        self.assertEqual((entry.action, entry.outcome), ("start", "done"))
        self.assertEqual(self.audit.waiting, 0)

    def test_one_action_at_a_time_per_server(self) -> None:
        """A second click while the first is under way is refused, other servers are not held up."""
        self.control.until = Deferred()
        first = Deferred.fromCoroutine(self.admin.perform("admin", "storage-1", "restart"))
        second = Deferred.fromCoroutine(self.admin.perform("admin", "storage-1", "stop"))
        self.failureResultOf(second, NotApplicable)
        self.result(self.admin.perform("admin", "http-2", "disable"))
        until, self.control.until = self.control.until, None
        until.callback(None)
        self.successResultOf(first)
        self.result(self.admin.perform("admin", "storage-1", "stop"))

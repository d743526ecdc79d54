"""Twin of `penncloud.lb.balance`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from penncloud.client.directory import NodeInfo, NodeState
from penncloud.lb.balance import RoundRobin


def http(
    number: int, state: NodeState = "live", enabled: bool = True, role: str = "http"
) -> NodeInfo:
    return NodeInfo(
        role=role,
        id=f"{role}-{number}",
        host="127.0.0.1",
        port=8080 + number,
        pid=1000 + number,
        state=state,
        enabled=enabled,
    )


def draw(turns: RoundRobin, count: int) -> list[str]:
    found = (turns.next() for _ in range(count))
    return [node.id if node else "-" for node in found]


class RoundRobinTests(SynchronousTestCase):
    def test_takes_turns(self) -> None:
        """Clients are dealt out evenly, in the order of the ids, whatever order the directory has."""
        turns = RoundRobin()
        turns.update([http(3), http(1), http(2)])
        self.assertEqual(draw(turns, 5), ["http-1", "http-2", "http-3", "http-1", "http-2"])

    def test_nobody_there(self) -> None:
        """Without a server there is no answer, and no error."""
        turns = RoundRobin()
        self.assertEqual(draw(turns, 2), ["-", "-"])
        turns.update([])
        self.assertEqual(draw(turns, 2), ["-", "-"])

    def test_only_active_and_enabled_http_servers(self) -> None:
        """The dead, the drained, the disabled and servers of other roles are given nobody."""
        turns = RoundRobin()
        turns.update(
            [
                http(1, "dead"),
                http(2, enabled=False),
                http(3),
                http(4, "drained"),
                http(5, role="storage"),
                http(6, role="lb"),
            ]
        )
        self.assertEqual(draw(turns, 3), ["http-3"] * 3)
        self.assertEqual((turns.known, turns.disabled), (4, 1))

    def test_suspected_only_for_want_of_a_live_one(self) -> None:
        """A suspected server is handed out when no live one is left, and then only if enabled."""
        turns = RoundRobin()
        turns.update([http(1, "suspected"), http(2)])
        self.assertEqual(draw(turns, 2), ["http-2", "http-2"])
        turns.update([http(1, "suspected"), http(2, "dead"), http(3, "suspected", enabled=False)])
        self.assertEqual(draw(turns, 2), ["http-1", "http-1"])

    def test_turn_survives_changes(self) -> None:
        """A server that comes or goes does not make another one be skipped or drawn twice."""
        turns = RoundRobin()
        turns.update([http(1), http(2), http(4)])
        self.assertEqual(draw(turns, 2), ["http-1", "http-2"])
        turns.update([http(2), http(3), http(4)])
        self.assertEqual(draw(turns, 3), ["http-3", "http-4", "http-2"])

    @given(st.integers(1, 7), st.integers(0, 40))
    def test_fair(self, servers: int, clients: int) -> None:
        """No server ever gets more than one client more than another."""
        turns = RoundRobin()
        turns.update([http(n) for n in range(servers)])
        drawn = draw(turns, clients)
        counts = [drawn.count(f"http-{n}") for n in range(servers)]
        self.assertLessEqual(max(counts) - min(counts), 1)

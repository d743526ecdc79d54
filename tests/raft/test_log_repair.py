"""A follower's log becomes its leader's, whatever it held, and the place where they part is soon found."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from penncloud.raft.log import RaftLog
from penncloud.raft.messages import (
    Appended,
    Entry,
    HardState,
    Membership,
    Message,
    Snapshot,
    Vote,
)
from penncloud.raft.node import Options, RaftNode

# The term in which the follower is told; all entries are older.
_NOW = 100
_MEMBERS = Membership(frozenset({"a", "b", "c"}))


def _terms(parity: int) -> st.SearchStrategy[list[int]]:
    """Of entries behind each other. No two leaders share a term: one log has even ones, another odd ones."""
    runs = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 6)), max_size=4)
    return runs.map(
        lambda drawn: [2 * t + parity for t, count in sorted(drawn) for _ in range(count)]
    )


def _log(terms: list[int]) -> list[Entry]:
    return [Entry(i, t, "command", b"%d/%d" % (i, t)) for i, t in enumerate(terms, 1)]


def _node(name: str, terms: list[int], window: int) -> RaftNode:
    first = Snapshot(0, 0, _MEMBERS, b"")
    options = Options(max_message_entries=window)
    return RaftNode(name, RaftLog(first, _log(terms)), HardState(_NOW), random.Random(1), options)


def _said(node: RaftNode) -> list[Message]:
    """Let it do all it has to do; what it says."""
    said: list[Message] = []
    while (ready := node.ready()) is not None:
        said += ready.messages
        node.advance(ready)
    return said


def _repaired(ours: list[int], theirs: list[int], window: int) -> tuple[RaftNode, RaftNode, int]:
    """A leader with the log `ours` and a follower that had `theirs`, and how often it refused."""
    leader, follower = _node("a", ours, window), _node("b", theirs, window)
    leader.campaign()
    _said(leader)
    for pre in (True, False):
        leader.step(Vote("c", "a", _NOW + 1, True, pre))
        if pre:
            _said(leader)
    refusals = 0
    waiting = [message for message in _said(leader) if message.to == "b"]
    while waiting:
        for message in waiting:
            follower.step(message)
        answers = [message for message in _said(follower) if message.to == "a"]
        refusals += sum(isinstance(one, Appended) and not one.ok for one in answers)
        for answer in answers:
            leader.step(answer)
        waiting = [message for message in _said(leader) if message.to == "b"]
    return leader, follower, refusals


class RepairTests(SynchronousTestCase):
    """Two logs that agree up to some place and hold what different leaders appended behind it."""

    @given(_terms(0), st.integers(0, 30), _terms(1), st.sampled_from((1, 3, 256)))
    def test_repair(self, ours: list[int], shared: int, theirs: list[int], window: int) -> None:
        """In the end they are equal, and it took a refusal per term at most, not one per entry."""
        common = ours[:shared]
        behind = [term for term in theirs if not common or term > common[-1]]
        leader, follower, refusals = _repaired(ours, common + behind, window)
        self.assertEqual(leader.role, "leader")
        last = leader.log.last_index
        self.assertEqual(follower.log.slice(1, last, 2**62), leader.log.slice(1, last, 2**62))
        self.assertEqual(follower.log.last_index, last)
        self.assertLessEqual(refusals, len({*ours[shared:], *behind}) + 1)

    @given(_terms(0), st.data())
    def test_late_messages(self, terms: list[int], data: st.DataObject) -> None:
        """Entries that come late or twice, in any order, cut nothing off that came after them."""
        entries = _log(terms)
        log = RaftLog(Snapshot(0, 0, _MEMBERS, b""), entries)
        for _ in range(3):
            first = data.draw(st.integers(0, len(entries)))
            log.merge(entries[first : first + data.draw(st.integers(0, 5))])
        self.assertEqual(list(log.slice(1, len(entries) + 1, 2**62)), entries)

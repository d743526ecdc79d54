"""Histories of several processes put together, and what is counted of them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from penncloud.judge.history import History, Operation
from penncloud.judge.workloads import Registers
from penncloud.torture.evidence import (
    Evidence,
    FaultSeen,
    longest_gap,
    put_together,
    read_reports,
    verdict,
)
from penncloud.torture.member import TimedHistory
from penncloud.torture.messages import Seen, TabletSeen, WorkloadSeen, heard, told
from penncloud.torture.picture import svg


class _Hands:
    """A clock that is set by hand, in seconds."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def _done(
    history: TimedHistory, hands: _Hands, span_s: tuple[float, float], *what: Any, result: Any
) -> Operation:
    hands.now_s = span_s[0]
    operation = history.begin("user", span_s[0], *what)
    hands.now_s = span_s[1]
    history.done(operation, result)
    return operation


def _seen(*histories: History, name: str = "registers") -> list[WorkloadSeen]:
    return [WorkloadSeen(name, [told(o) for o in history.operations], []) for history in histories]


class PutTogetherTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.hands = _Hands()
        self.one = TimedHistory(clock=self.hands)
        self.other = TimedHistory(clock=self.hands)

    def _judge(self) -> list[str]:
        workload = Registers(random.Random(1))
        workload.history = put_together(_seen(self.one, self.other))
        return workload.check()

    def test_stale_read_in_another_process_is_found(self) -> None:
        """A write that was answered in one process has to be seen by a later read of another."""
        _done(self.one, self.hands, (1.0, 2.0), "r", "put", b"new", result=None)
        _done(self.other, self.hands, (2.5, 3.0), "r", "get", result=None)
        self.assertEqual(len(self._judge()), 1)

    def test_read_at_the_same_time_may_be_early(self) -> None:
        """A read of another process that was asked for before the write was answered may miss it."""
        _done(self.one, self.hands, (1.0, 2.0), "r", "put", b"new", result=None)
        _done(self.other, self.hands, (1.5, 3.0), "r", "get", result=None)
        self.assertEqual(self._judge(), [])

    def test_same_instant_accuses_nobody(self) -> None:
        """An end and a beginning that cannot be told apart count as having been at the same time."""
        _done(self.one, self.hands, (1.0, 2.0), "r", "put", b"new", result=None)
        _done(self.other, self.hands, (2.0, 3.0), "r", "get", result=None)
        self.assertEqual(self._judge(), [])

    def test_operations_survive_the_way_through_a_file(self) -> None:
        """Bytes, tuples and open outcomes come back as they were."""
        conflict = _done(
            self.one, self.hands, (1.0, 2.0), "r", "cput", b"a", b"b", result=(b"\xff",)
        )
        self.one.begin("user", 3.0, "r", "put", b"c")
        path = self.mktemp()
        Path(path).write_bytes(msgspec.msgpack.encode(Seen(_seen(self.one))))
        [seen] = read_reports([path])
        back = [heard(one) for one in seen.operations]
        self.assertEqual(list(map(str, back)), list(map(str, self.one.operations)))
        self.assertEqual(back[0].result, conflict.result)
        self.assertIsNone(back[1].returned)


class EvidenceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.hands = _Hands()
        self.history = TimedHistory(clock=self.hands)
        self.evidence = Evidence()

    def test_gap_lasts_to_the_end_of_the_troubles(self) -> None:
        """Silence after the last answer counts as much as silence between two."""
        for end_s in (1.0, 1.5, 4.0):
            _done(self.history, self.hands, (end_s - 0.1, end_s), "r", "put", b"", result=None)
        operations = self.history.operations
        self.assertEqual(longest_gap(operations, 0.0, 4.5), (1.5, 4.0))
        self.assertEqual(longest_gap(operations, 0.0, 9.0), (4.0, 9.0))

    def test_a_gap_is_explained(self) -> None:
        """The verdict says when it was, and what was being done to the cluster then."""
        for end_s in (1.0, 2.0, 9.0):
            _done(self.history, self.hands, (end_s - 0.1, end_s), "r", "put", b"", result=None)
        self.evidence.faults = [
            FaultSeen("kill", "kill all", 2.5, 8.0),
            FaultSeen("pause", "pause one", 0.0, 1.5),
        ]
        self.evidence.add_round(_seen(self.history), 0.0, 9.0)
        lines = verdict(self.evidence)
        self.assertIn("that was from 2.0 s to 9.0 s, during: kill all (2.5 s to 8.0 s)", lines)

    def test_a_takeover_is_a_new_primary(self) -> None:
        """A new epoch with the same primary, or with none for a while, is no takeover."""
        for epoch, primary in ((1, "a"), (1, "a"), (2, "a"), (3, ""), (4, "b"), (5, "a")):
            self.evidence.look_at([TabletSeen(7, epoch, primary, 3, "ok")], float(epoch))
        self.assertEqual(self.evidence.takeovers, [4.0, 5.0])

    def test_counts_and_picture(self) -> None:
        """What was answered during a fault is told apart; the picture is well-formed and shows both."""
        _done(self.history, self.hands, (1.0, 1.1), "r", "put", b"", result=None)
        _done(self.history, self.hands, (5.0, 5.1), "r", "put", b"", result=None)
        self.history.begin("user", 5.5, "r", "put", b"lost")
        self.evidence.faults.append(FaultSeen("kill", "kill <storage-1>", 4.0, 6.0))
        self.evidence.takeovers.append(4.5)
        self.evidence.add_round(_seen(self.history), 0.0, 8.0)
        self.assertEqual(
            self.evidence.counts,
            {"operations": 3, "ok": 2, "ok during faults": 1, "unknown": 1},
        )
        self.assertIn("everything that was promised was kept", verdict(self.evidence)[-1])
        drawn = ElementTree.fromstring(svg(self.evidence, "a < b"))
        texts = [text for element in drawn.iter() if (text := element.text)]
        self.assertIn("a < b", texts)
        self.assertIn("kill <storage-1>, 4.0 to 6.0 s", texts)
        colours = [element.get("fill") for element in drawn.iter()]
        self.assertEqual([colours.count("#27ae60"), colours.count("#e74c3c")], [2, 1])

    def test_a_violation_is_the_verdict(self) -> None:
        """What was found stands in the verdict, word for word."""
        self.evidence.violated(["round 1: the sum is wrong"])
        lines = verdict(self.evidence)
        self.assertIn("VIOLATED round 1: the sum is wrong", lines)
        self.assertEqual(lines[-1], "verdict: 1 violations")

    def test_a_run_without_anything_can_be_drawn(self) -> None:
        """A run that never came to its first operation has a picture, too."""
        ElementTree.fromstring(svg(self.evidence, "nothing"))

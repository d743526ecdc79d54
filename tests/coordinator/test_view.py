"""What was decided and what is observed, side by side."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from penncloud.coordinator.commands import Configure, DrainNode, ForgetNode
from penncloud.coordinator.detector import Detector
from penncloud.coordinator.state import StateMachine
from penncloud.coordinator.view import Observer
from penncloud.rpc.registration import Tip
from tests.coordinator.commands import FOUNDING


class TabletStateTests(SynchronousTestCase):
    """Two tablets, one at storage-1, one at storage-2."""

    def setUp(self) -> None:
        self.machine = StateMachine()
        for command in FOUNDING:
            self.machine.apply(command)
        self.detector = Detector(5, 5)
        for name in ("storage-1", "storage-2"):
            self.detector.registered(name, 1, 0.0)
        self.tips: dict[str, dict[int, Tip]] = {
            "storage-1": {1: Tip(1, 1, 7)},
            "storage-2": {2: Tip(2, 1, 0, damaged=True)},
        }

    def _seen(self) -> Observer:
        return Observer(self.machine.state, self.detector, self.tips, {}, copies=2)

    def _states(self) -> list[str]:
        return [tablet.state for tablet in self._seen().cluster(0.0).tablets]

    def _second_member(self) -> None:
        members = ["storage-1", "storage-2"]
        self.machine.apply(Configure(9.0, 1, 1, "storage-1", members, 1))
        self.tips["storage-1"][1] = Tip(1, 1, 7, lag={"storage-2": 3})

    def test_damaged(self) -> None:
        """A tablet that a member cannot use is shown as damaged."""
        self.assertEqual(self._states(), ["degraded", "damaged"])
        self._second_member()
        self.assertEqual(self._states()[0], "ok")
        self.tips["storage-2"][1] = Tip(1, 1, 0, damaged=True)
        self.assertEqual(self._states()[0], "damaged")

    def test_degraded(self) -> None:
        """One that serves with fewer members that live than it should have is degraded; where there are
        not so many servers, it is not."""
        self._second_member()
        self.detector.left("storage-2")
        self.assertEqual(self._states()[0], "degraded")
        self.machine.apply(ForgetNode(9.0, "storage-2", True, {2: "storage-1"}))
        self.assertEqual(self._states()[0], "ok")

    def test_given_up(self) -> None:
        """A primary that has given up its epoch serves no more."""
        self.tips["storage-1"][1] = Tip(1, 1, 7, declined=1)
        self.assertEqual(self._states()[0], "unavailable")
        self.tips["storage-1"][1] = Tip(1, 1, 7, declined=0)
        self.assertEqual(self._states()[0], "degraded")

    def test_lag(self) -> None:
        """The primary says how far the others are behind; a tip that is older says less."""
        self._second_member()
        [tablet, _] = self._seen().cluster(0.0).tablets
        self.assertEqual(tablet.lag, {"storage-1": 0, "storage-2": 3})

    def test_drained(self) -> None:
        """A server that gives its tablets away is drained when it holds none any more."""
        self.machine.apply(DrainNode(9.0, "storage-2", True, 1))
        state = lambda: {n.id: n.state for n in self._seen().nodes(0.0)}["storage-2"]  # noqa: E731
        self.assertEqual(state(), "live")
        self.machine.apply(Configure(9.0, 2, 1, "storage-1", ["storage-1"], 1))
        self.assertEqual(state(), "drained")

    def test_unavailable(self) -> None:
        """One whose primary is dead is unavailable, whatever that had told."""
        self.detector.left("storage-2")
        self.assertEqual(self._states(), ["degraded", "unavailable"])

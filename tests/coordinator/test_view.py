"""What was decided and what is observed, side by side."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

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

    def _states(self) -> list[str]:
        observer = Observer(self.machine.state, self.detector, self.tips, {})
        return [tablet.state for tablet in observer.cluster(0.0).tablets]

    def test_damaged(self) -> None:
        """A tablet that its primary cannot use is shown as damaged."""
        self.assertEqual(self._states(), ["ok", "damaged"])

    def test_unavailable(self) -> None:
        """One whose primary is dead is unavailable, whatever that had told."""
        self.detector.left("storage-2")
        self.assertEqual(self._states(), ["ok", "unavailable"])

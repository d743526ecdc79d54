"""Twin of `penncloud.taps._supervision`: what the service manager hears, and when."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.platform.service_manager import ServiceManager
from penncloud.taps._supervision import Supervision


class SupervisionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.heard: list[str] = []

    def supervision(self, watchdog_s: float = 20.0) -> Supervision:
        manager = ServiceManager(self.heard.append, watchdog_s)
        return Supervision(manager, self.clock, "storage-1")

    def hears(self) -> list[str]:
        heard, self.heard[:] = list(self.heard), []
        return heard

    def test_slow_start(self) -> None:
        """A start that takes long asks for more time as long as the reactor turns."""
        self.supervision().starting()
        self.assertEqual(self.hears(), ["STATUS=storage-1 starts", "EXTEND_TIMEOUT_USEC=30000000"])
        self.clock.pump([10, 10])
        self.assertEqual(self.hears(), ["EXTEND_TIMEOUT_USEC=30000000"] * 2)

    def test_alive(self) -> None:
        """Once it serves, the watchdog is fed at half of its time, and asks for no more time."""
        supervision = self.supervision()
        supervision.starting()
        self.hears()
        supervision.serving()
        self.assertEqual(self.hears(), ["READY=1\nSTATUS=storage-1 serves", "WATCHDOG=1"])
        self.clock.pump([10, 10, 10])
        self.assertEqual(self.hears(), ["WATCHDOG=1"] * 3)

    def test_no_watchdog(self) -> None:
        """A manager that does not watch is told of readiness only."""
        supervision = self.supervision(0)
        supervision.serving()
        self.hears()
        self.clock.pump([10] * 10)
        self.assertEqual(self.hears(), [])

    def test_stop(self) -> None:
        """A stop that takes long is known to be one; after it nothing is told any more."""
        supervision = self.supervision()
        supervision.serving()
        self.hears()
        supervision.stopping()
        self.assertEqual(
            self.hears(),
            ["STOPPING=1\nSTATUS=storage-1 stops", "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=30000000"],
        )
        self.clock.advance(10)
        self.assertEqual(self.hears(), ["WATCHDOG=1\nEXTEND_TIMEOUT_USEC=30000000"])
        supervision.stopped()
        self.clock.pump([10] * 3)
        self.assertEqual(self.hears(), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

"""Twin of `penncloud.platform.supervisor`."""

from __future__ import annotations

import errno

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from penncloud.platform.supervisor import Ended, Pace, State, Supervised
from tests.platform.fake_process import FakeLauncher

PACE = Pace(restart_first_s=1.0, restart_longest_s=10.0, steady_s=60.0, stop_wait_s=5.0)
CRASH = Ended(1, None, "first line\nport taken\n")


class SupervisedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.launcher = FakeLauncher()
        self.seen: list[State] = []
        self.process = Supervised(
            "storage-1",
            self.launcher.launch,
            self.clock,
            PACE,
            lambda process: self.seen.append(process.state),
        )

    def test_starts(self) -> None:
        """A start launches once, however often it is asked for, and tells the pid."""
        self.process.start()
        self.process.start()
        self.assertEqual(len(self.launcher.started), 1)
        self.assertEqual((self.process.state, self.process.pid), ("running", 100))
        self.assertEqual(self.seen, ["running"])

    def test_started_again_with_growing_pauses(self) -> None:
        """A process that dies comes back after 1, 2, 4, 8 and then always 10 seconds."""
        self.process.start()
        for pause_s in (1, 2, 4, 8, 10, 10):
            count = len(self.launcher.started)
            self.launcher.last.end(CRASH)
            self.assertEqual(self.process.state, "waiting")
            self.clock.advance(pause_s - 0.01)
            self.assertEqual(len(self.launcher.started), count)
            self.clock.advance(0.01)
            self.assertEqual(len(self.launcher.started), count + 1)
            self.assertEqual(self.process.state, "running")

    def test_steady_run_forgets_deaths(self) -> None:
        """A death after a long steady run is a first death."""
        self.process.start()
        for _ in range(4):
            self.launcher.last.end(CRASH)
            self.clock.advance(10)
        self.assertEqual(self.process.deaths, 4)
        self.clock.advance(PACE.steady_s)
        self.assertEqual(self.process.deaths, 0)
        self.launcher.last.end(CRASH)
        self.clock.advance(PACE.restart_first_s)
        self.assertEqual(self.process.state, "running")

    def test_start_does_not_wait_for_the_pause(self) -> None:
        """An administrator who says start means now."""
        self.process.start()
        self.launcher.last.end(CRASH)
        self.process.start()
        self.assertEqual(self.process.state, "running")
        self.clock.advance(100)
        self.assertEqual(len(self.launcher.started), 2)

    def test_stops_in_order(self) -> None:
        """A stop asks by TERM, fires when the process has ended, and it stays down."""
        self.process.start()
        done = self.process.stop()
        self.assertEqual(self.launcher.last.signals, ["TERM"])
        self.successResultOf(done)
        self.clock.advance(1000)
        self.assertEqual(len(self.launcher.started), 1)
        self.assertEqual(self.process.state, "down")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_killed_when_it_does_not_end(self) -> None:
        """A process that ignores TERM is killed once the bound is over, not before."""
        self.launcher.stubborn = True
        self.process.start()
        first, second = self.process.stop(), self.process.stop()
        self.clock.advance(PACE.stop_wait_s - 0.01)
        self.assertNoResult(first)
        self.assertEqual(self.process.state, "stopping")
        self.clock.advance(0.01)
        self.assertEqual(self.launcher.last.signals, ["TERM", "KILL"])
        self.successResultOf(first)
        self.successResultOf(second)

    def test_stop_while_waiting(self) -> None:
        """A stop ends the restarting, too."""
        self.process.start()
        self.launcher.last.end(CRASH)
        self.successResultOf(self.process.stop())
        self.clock.advance(1000)
        self.assertEqual(len(self.launcher.started), 1)
        self.assertEqual(self.process.state, "down")

    def test_restart(self) -> None:
        """A restart ends the old process before it starts the new one."""
        self.launcher.stubborn = True
        self.process.start()
        done = self.process.restart()
        self.assertNoResult(done)
        self.assertEqual(len(self.launcher.started), 1)
        self.launcher.started[0].end(Ended(0, None))
        self.successResultOf(done)
        self.assertEqual((self.process.state, self.process.pid), ("running", 101))
        self.assertEqual(self.process.deaths, 0)

    def test_restart_of_one_that_is_down(self) -> None:
        """A restart of a process that does not run is a start."""
        self.successResultOf(self.process.restart())
        self.assertEqual(self.process.state, "running")

    def test_last_wish_counts(self) -> None:
        """A stop after a restart that is under way leaves the process down."""
        self.launcher.stubborn = True
        self.process.start()
        self.process.restart()
        done = self.process.stop()
        self.launcher.last.end(Ended(0, None))
        self.successResultOf(done)
        self.assertEqual((self.process.state, len(self.launcher.started)), ("down", 1))

    def test_launch_refused(self) -> None:
        """No room for another process is a death like any other: tried again later."""
        self.launcher.fails = OSError(errno.EAGAIN, "Resource temporarily unavailable")
        self.process.start()
        self.assertEqual(self.process.state, "waiting")
        self.launcher.fails = None
        self.clock.advance(1)
        self.assertEqual(self.process.state, "running")

    def test_says_why(self) -> None:
        """A death is logged once, with the last line that the process wrote."""
        events: list[str] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            if event.get("id") == "storage-1":
                events.append(str(event["how"]))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        self.process.start()
        self.launcher.last.end(CRASH)
        self.assertEqual(events, ["port taken (exit code 1)"])
        self.assertEqual(str(Ended(None, 9)), "signal 9")


class SupervisedMachine(RuleBasedStateMachine):
    """Whatever is asked in whatever order: one process at most, and the last wish comes true."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.launcher = FakeLauncher()
        self.process = Supervised(
            "x-1", self.launcher.launch, self.clock, PACE, lambda process: None
        )
        self.wanted = False

    @rule()
    def start(self) -> None:
        self.process.start()
        self.wanted = True

    @rule()
    def stop(self) -> None:
        self.process.stop()
        self.wanted = False

    @rule()
    def restart(self) -> None:
        self.process.restart()
        self.wanted = True

    @rule(stubborn=st.booleans())
    def next_is_stubborn(self, stubborn: bool) -> None:
        self.launcher.stubborn = stubborn

    @rule()
    def die(self) -> None:
        if self.launcher.started and self.launcher.last.alive:
            self.launcher.last.end(CRASH)

    @rule(seconds=st.sampled_from([0.5, 1.0, 5.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def at_most_one(self) -> None:
        assert sum(process.alive for process in self.launcher.started) <= 1

    @invariant()
    def state_is_true(self) -> None:
        alive = bool(self.launcher.started) and self.launcher.last.alive
        assert alive == (self.process.state in ("running", "stopping"))

    def teardown(self) -> None:
        for _ in range(4):
            self.clock.advance(PACE.stop_wait_s + PACE.restart_longest_s)
        alive = bool(self.launcher.started) and self.launcher.last.alive
        assert alive == self.wanted


SupervisedProperties = SupervisedMachine.TestCase

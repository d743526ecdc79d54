"""Twin of `penncloud.web.workers.pool`."""

from __future__ import annotations

import random
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.platform.config import Cluster, Http
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.metrics import Family, Sample
from penncloud.platform.supervisor import Ended
from penncloud.web.workers.pool import GRACE_S, PULSE_S, START_S, RenewalFailed, WorkerPool
from penncloud.web.workers.words import Retire, UseCoordinators
from tests.web.workers.fake_worker import FakeSpawner, FakeWorker

ROLE: Final = Http(id="http-1", drain_s=120)
CRASH: Final = Ended(1, None, "bad luck\n")
KILLED: Final = Ended(None, 9)


class _PoolCase(SynchronousTestCase):
    count = 2

    def setUp(self) -> None:
        self.clock = Clock()
        self.spawner = FakeSpawner()
        self.pool = WorkerPool(
            self.clock,
            self.spawner.spawn,
            cluster=Cluster(coordinators=["127.0.0.1:1"]),
            role=ROLE,
            count=self.count,
        )

    def started(self) -> list[FakeWorker]:
        """Start, and let all serve."""
        starting = Deferred.fromCoroutine(self.pool.start())
        for worker in self.spawner.started:
            worker.serve()
        self.successResultOf(starting)
        return list(self.spawner.started)

    def states(self) -> list[tuple[int, int, str]]:
        return [(one.number, one.pid, one.state) for one in self.pool.states()]


class StartTests(_PoolCase):
    def test_serves_with_the_first(self) -> None:
        """All are started at once, and the frontend serves as soon as one of them does."""
        starting = Deferred.fromCoroutine(self.pool.start())
        self.assertEqual([worker.begin.number for worker in self.spawner.started], [1, 2])
        self.assertNoResult(starting)
        self.spawner.last.serve()
        self.successResultOf(starting)
        self.assertEqual(self.states(), [(1, 500, "starting"), (2, 501, "serving")])

    def test_mistake_in_the_configuration(self) -> None:
        """What a worker cannot serve with is the administrator's to mend, in its words."""
        starting = Deferred.fromCoroutine(self.pool.start())
        self.spawner.started[0].fail("[http]: tls_cert: no such file")
        failure = self.failureResultOf(starting, ConfigurationError)
        self.assertIn("tls_cert: no such file", str(failure.value))

    def test_crash_at_the_start(self) -> None:
        """A program that cannot run is told, too, with its last words."""
        starting = Deferred.fromCoroutine(self.pool.start())
        self.spawner.started[0].end(CRASH)
        failure = self.failureResultOf(starting, ConfigurationError)
        self.assertIn("bad luck", str(failure.value))

    def test_start_that_hangs(self) -> None:
        """A worker that never comes to serve is not waited for without a bound."""
        starting = Deferred.fromCoroutine(self.pool.start())
        self.clock.advance(START_S - 0.1)
        self.assertNoResult(starting)
        self.clock.advance(0.1)
        self.failureResultOf(starting, ConfigurationError)


class DeathTests(_PoolCase):
    def test_replaced(self) -> None:
        """A worker that dies is followed by another of its number, with the same work."""
        first, _ = self.started()
        first.end(KILLED)
        self.assertEqual(self.states()[0][2], "waiting")
        self.assertEqual(self.pool.serving, 1)
        self.clock.advance(0.1)
        self.assertEqual(self.spawner.last.begin, first.begin)
        self.spawner.last.serve()
        self.assertEqual(self.states(), [(1, 502, "serving"), (2, 501, "serving")])

    def test_growing_pauses(self) -> None:
        """Workers that die at once again and again cost little: the pauses double, up to ten seconds."""
        _, other = self.started()
        for pause_s in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0):
            count = len(self.spawner.started)
            worker = next(one for one in self.spawner.alive if one.begin.number == 1)
            worker.end(CRASH)
            self.clock.advance(pause_s - 0.01)
            self.assertEqual(len(self.spawner.started), count, pause_s)
            self.clock.advance(0.02)
            self.assertEqual(len(self.spawner.started), count + 1, pause_s)
            other.report()

    def test_steady_again(self) -> None:
        """A death after half a minute of work counts as the first."""
        self.started()
        for _ in range(5):
            self.spawner.alive[0].end(CRASH)
            self.clock.advance(10)
        last = self.spawner.last
        last.serve()
        for _ in range(8):
            self.clock.advance(PULSE_S)
            for worker in self.spawner.alive:
                worker.report()
        last.end(CRASH)
        self.clock.advance(0.1)
        self.assertIsNot(self.spawner.last, last)

    def test_one_that_stands_still(self) -> None:
        """A worker whose reactor does not turn is killed after four missing answers, not before."""
        first, second = self.started()
        self.clock.advance(PULSE_S)
        for _ in range(3):
            second.report()
            self.clock.advance(PULSE_S)
            self.assertEqual(first.questions, 1)
        self.assertEqual(first.signals, [])
        second.report()
        self.clock.advance(PULSE_S)
        self.assertEqual(first.signals, ["KILL"])
        self.assertEqual(second.signals, [])

    def test_late_answer_counts(self) -> None:
        """A worker that answers at last begins with a clean record."""
        first, second = self.started()
        for _ in range(12):
            self.clock.advance(PULSE_S * 3)
            first.report()
            second.report()
        self.assertEqual(first.signals + second.signals, [])


class RenewalTests(_PoolCase):
    def renew(self, role: Http = ROLE) -> Deferred[None]:
        return Deferred.fromCoroutine(self.pool.renew(role))

    def test_one_after_the_other(self) -> None:
        """Each one retires only when its successor serves; at no moment does one less serve."""
        first, second = self.started()
        renewed = self.renew(msgspec.structs.replace(ROLE, session_hours=1))
        self.assertEqual((self.pool.serving, len(self.spawner.alive)), (2, 3))
        self.assertEqual(first.retirements, [])
        third = self.spawner.last
        self.assertEqual((third.begin.number, third.begin.role.session_hours), (1, 1))
        third.serve()
        self.assertEqual(first.retirements, [Retire(120, patient=True)])
        self.assertEqual(second.retirements, [])
        self.spawner.last.serve()
        self.successResultOf(renewed)
        self.assertEqual(second.retirements, [Retire(120, patient=True)])
        self.assertEqual(self.pool.serving, 2)
        self.assertEqual(
            self.states(),
            [(1, 502, "serving"), (1, 500, "retiring"), (2, 503, "serving"), (2, 501, "retiring")],
        )
        first.end(Ended(0, None))
        second.end(Ended(0, None))
        self.assertEqual(self.states(), [(1, 502, "serving"), (2, 503, "serving")])
        self.clock.advance(1000)
        self.assertEqual(len(self.spawner.started), 4)

    def test_successor_that_cannot_serve(self) -> None:
        """A new configuration that is wrong stops the renewal: the old workers go on, and so does their
        configuration when one of them dies later."""
        first, second = self.started()
        renewed = self.renew(msgspec.structs.replace(ROLE, session_hours=1))
        self.spawner.last.fail("[http]: what a number")
        failure = self.failureResultOf(renewed, RenewalFailed)
        self.assertIn("what a number", str(failure.value))
        self.clock.advance(10)
        self.assertEqual(self.states(), [(1, 500, "serving"), (2, 501, "serving")])
        self.assertEqual(first.retirements + second.retirements, [])
        first.end(KILLED)
        self.clock.advance(0.1)
        self.assertEqual(self.spawner.last.begin.role, ROLE)

    def test_asked_for_again(self) -> None:
        """A renewal during a renewal is one more afterwards, with the newest configuration."""
        self.started()
        renewed = self.renew()
        again = self.renew(msgspec.structs.replace(ROLE, session_hours=7))
        self.successResultOf(again)
        for _ in range(4):
            self.assertNoResult(renewed)
            self.spawner.last.serve()
        self.successResultOf(renewed)
        hours = [worker.begin.role.session_hours for worker in self.spawner.started[-2:]]
        self.assertEqual(hours, [7, 7])

    def test_the_one_before_the_last_is_hurried(self) -> None:
        """Of each number only one may take its time to retire."""
        first, _ = self.started()
        for _ in range(2):
            self.renew()
            self.spawner.last.serve()
            self.spawner.last.serve()
        self.assertEqual(first.retirements[-1], Retire(GRACE_S, patient=False))
        self.assertTrue(self.spawner.started[2].retirements[-1].patient)

    def test_retirement_is_bounded(self) -> None:
        """A worker that does not end when its time is over is killed."""
        first, _ = self.started()
        self.renew()
        self.spawner.last.serve()
        self.spawner.last.serve()
        for _ in range(int((120 + GRACE_S) / PULSE_S) + 1):
            for worker in self.spawner.alive:
                worker.report()
            self.clock.advance(PULSE_S)
        self.assertEqual(first.signals, ["KILL"])

    def test_of_a_dead_worker(self) -> None:
        """A renewal also mends a worker that keeps dying."""
        first, _ = self.started()
        first.end(CRASH)
        renewed = self.renew()
        self.spawner.last.serve()
        self.spawner.last.serve()
        self.successResultOf(renewed)
        self.spawner.started[1].end(Ended(0, None))
        self.assertEqual(self.states(), [(1, 502, "serving"), (2, 503, "serving")])
        self.clock.advance(1)
        self.assertEqual(len(self.spawner.started), 4)


class EndTests(_PoolCase):
    def test_all_are_hurried(self) -> None:
        """Each is asked to end soon, also one that retires in peace; then nothing is left."""
        self.started()
        Deferred.fromCoroutine(self.pool.renew(ROLE))
        self.spawner.last.serve()
        self.spawner.last.serve()
        ended = Deferred.fromCoroutine(self.pool.stop())
        for worker in self.spawner.alive:
            self.assertEqual(worker.retirements[-1], Retire(GRACE_S, patient=False))
            self.assertNoResult(ended)
            worker.end(Ended(0, None))
        self.successResultOf(ended)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stubborn_ones_are_killed(self) -> None:
        """What has not ended shortly after its time is killed, before the agent loses its patience."""
        first, _ = self.started()
        ended = Deferred.fromCoroutine(self.pool.stop())
        self.clock.advance(GRACE_S)
        self.assertEqual(first.signals, [])
        self.clock.advance(1.5)
        self.successResultOf(ended)
        self.assertEqual(first.signals, ["KILL"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_in_the_middle_of_a_renewal(self) -> None:
        """A renewal that is under way ends quietly."""
        self.started()
        renewed = Deferred.fromCoroutine(self.pool.renew(ROLE))
        ended = Deferred.fromCoroutine(self.pool.stop())
        for worker in self.spawner.alive:
            worker.end(Ended(0, None))
        self.successResultOf(ended)
        self.successResultOf(renewed)

    def test_dead_ones_stay_dead(self) -> None:
        """A worker that waits for its pause is not started any more."""
        first, second = self.started()
        first.end(CRASH)
        ended = Deferred.fromCoroutine(self.pool.stop())
        second.end(Ended(0, None))
        self.successResultOf(ended)
        self.clock.advance(100)
        self.assertEqual(len(self.spawner.started), 2)


class TellingTests(_PoolCase):
    def test_coordinators(self) -> None:
        """A change of the coordinators' group reaches those who are there and those who come."""
        first, _ = self.started()
        self.pool.use_coordinators(["10.0.0.1:1", "10.0.0.2:1"])
        self.assertEqual(first.heard, [UseCoordinators(["10.0.0.1:1", "10.0.0.2:1"])])
        first.end(KILLED)
        self.clock.advance(0.1)
        self.assertEqual(self.spawner.last.begin.coordinators, ["10.0.0.1:1", "10.0.0.2:1"])

    def test_metrics(self) -> None:
        """Each worker's metrics are told under its number; one that does not answer in time is left out."""
        first, _ = self.started()
        found = Deferred.fromCoroutine(self.pool.report())
        first.report(Family("x", "", "gauge", [Sample("x", {}, "1.0")]))
        self.assertNoResult(found)
        self.clock.advance(2)
        self.assertEqual(self._labels(found), ["1"])

    def test_metrics_of_one_that_dies(self) -> None:
        """The others' are told without waiting."""
        first, second = self.started()
        found = Deferred.fromCoroutine(self.pool.report())
        first.end(KILLED)
        second.report()
        self.assertEqual(self._labels(found), ["2"])

    def _labels(self, found: Deferred[dict[str, list[Family]]]) -> list[str]:
        result: Any = found
        return list(self.successResultOf(result))


class AnyOrderTests(_PoolCase):
    def test_always_somebody(self) -> None:
        """Whatever dies and is renewed in whatever order, the pool comes back to two that serve."""
        for seed in range(60):
            self.setUp()
            chance = random.Random(seed)
            self.started()
            for _ in range(40):
                alive = self.spawner.alive
                worker = chance.choice(alive) if alive else None
                match chance.randrange(6):
                    case 0:
                        renewing = Deferred.fromCoroutine(self.pool.renew(ROLE))
                        renewing.addErrback(lambda failure: failure.trap(RenewalFailed))
                    case 1 if worker is not None:
                        worker.end(KILLED)
                    case 2 if worker is not None:
                        worker.fail("no")
                    case _:
                        self._work(chance.choice([0.1, 1.0, 5.0]))
            for _ in range(100):
                self._work(5.0)
            self.assertEqual([one.state for one in self.pool.states()], ["serving"] * 2, seed)
            self.assertEqual(len(self.spawner.alive), 2, seed)
            self.assertEqual({one.begin.number for one in self.spawner.alive}, {1, 2}, seed)

    def _work(self, seconds: float) -> None:
        """Everybody does what is asked."""
        for worker in self.spawner.alive:
            worker.report()
            if worker.retirements:
                worker.end(Ended(0, None))
            else:
                worker.serve()
        self.clock.advance(seconds)

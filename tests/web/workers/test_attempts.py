"""Attempts to get in, counted by the front for all workers."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from penncloud.web.workers.attempts import CountedByFront, NotCounted
from penncloud.web.workers.words import Counted
from tests.web.workers.fake_worker import FakeWorker
from tests.web.workers.test_pool import _PoolCase


class AttemptsTests(_PoolCase):
    def worker(self, process: FakeWorker) -> CountedByFront:
        """What a worker counts with, its words going to the pool and back."""
        attempts = CountedByFront(process._say, self.clock)

        def hear() -> None:
            for word in process.heard:
                if isinstance(word, Counted):
                    attempts.heard(word)
            process.heard.clear()

        self.hear = getattr(self, "hear", [])
        self.hear.append(hear)
        return attempts

    def asked(self, attempts: CountedByFront, name: str, address: str = "10.0.0.1") -> float:
        asking = Deferred.fromCoroutine(
            attempts.log_in(name, address) if name else attempts.sign_up(address)
        )
        for hear in self.hear:
            hear()
        return self.successResultOf(asking)

    def test_one_count(self) -> None:
        """Ten attempts for all workers together, whichever is asked; a right password forgives them."""
        first, second = map(self.worker, self.started())
        for number in range(10):
            self.assertEqual(self.asked((first, second)[number % 2], "ada"), 0.0)
        for attempts in (first, second):
            self.assertGreater(self.asked(attempts, "ada"), 0.0)
        self.assertEqual(self.asked(first, "bob"), 0.0)
        self.assertEqual(self.asked(first, "ada", "10.0.0.2"), 0.0)
        second.was_legitimate("ada", "10.0.0.1")
        self.assertEqual(self.asked(first, "ada"), 0.0)

    def test_sign_ups(self) -> None:
        """They are counted by themselves; no name is taken for them."""
        first, second = map(self.worker, self.started())
        for number in range(200):
            self.assertEqual(self.asked((first, second)[number % 2], ""), 0.0)
        self.assertGreater(self.asked(first, ""), 0.0)
        asking = Deferred.fromCoroutine(first.log_in("", "10.0.0.1"))
        self.hear[0]()
        self.assertEqual(self.successResultOf(asking), 0.0)

    def test_survives_renewal(self) -> None:
        """Whoever was throttled is so at a new worker, too."""
        first, _ = map(self.worker, self.started())
        for _number in range(11):
            self.asked(first, "ada")
        Deferred.fromCoroutine(self.pool.renew(self.spawner.last.begin.role))
        self.spawner.last.serve()
        self.assertGreater(self.asked(self.worker(self.spawner.started[2]), "ada"), 0.0)


class NoAnswerTests(_PoolCase):
    def test_front_hangs(self) -> None:
        """Without the count nobody gets in, and is told to try again; nothing is kept."""
        clock = Clock()
        attempts = CountedByFront(lambda word: None, clock)
        asking = Deferred.fromCoroutine(attempts.log_in("ada", "10.0.0.1"))
        clock.advance(5)
        failure = self.failureResultOf(asking, NotCounted)
        self.assertTrue(failure.value.retryable)
        attempts.heard(Counted(1, 0.0))
        self.assertEqual((attempts._waiting, clock.getDelayedCalls()), ({}, []))

    def test_bound(self) -> None:
        """Questions that nobody answers do not pile up."""
        attempts = CountedByFront(lambda word: None, Clock())
        waiting = [Deferred.fromCoroutine(attempts.log_in("ada", "10.0.0.1")) for _ in range(1000)]
        self.failureResultOf(Deferred.fromCoroutine(attempts.log_in("ada", "a")), NotCounted)
        for one in waiting:
            one.addErrback(lambda _: None)

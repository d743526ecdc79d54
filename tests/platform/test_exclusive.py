"""The lock for coroutines that may be thrown away."""

from __future__ import annotations

import gc

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from penncloud.platform.exclusive import Exclusive


class ExclusiveTests(SynchronousTestCase):
    """`Exclusive`: one at a time, and nobody once its holder was thrown away."""

    def setUp(self) -> None:
        self.lock = Exclusive()
        self.seen: list[str] = []

    async def _hold(self, name: str, until: Deferred[None]) -> None:
        async with self.lock:
            self.seen.append(name)
            await until

    def test_in_turn(self) -> None:
        """The next one begins when the one before has ended, well or not."""
        gates: list[Deferred[None]] = [Deferred() for _ in range(3)]
        ends = [Deferred.fromCoroutine(self._hold(str(n), gate)) for n, gate in enumerate(gates)]
        self.assertEqual(self.seen, ["0"])
        gates[0].errback(ValueError("on purpose"))
        self.failureResultOf(ends[0], ValueError)
        self.assertEqual(self.seen, ["0", "1"])
        gates[1].callback(None)
        gates[2].callback(None)
        self.assertEqual(self.seen, ["0", "1", "2"])
        self.successResultOf(ends[2])

    def test_thrown_away(self) -> None:
        """Coroutines that are closed in any order do not wake each other."""
        for closed_first in (0, 1):
            self.lock = Exclusive()
            coroutines = [self._hold(str(number), Deferred()) for number in range(2)]
            ends = [Deferred.fromCoroutine(coroutine) for coroutine in coroutines]
            coroutines[closed_first].close()
            coroutines[1 - closed_first].close()
            del coroutines
            self.seen.clear()
            for end in ends:
                self.assertNoResult(end)
            del ends
            gc.collect()
            self.assertEqual(self.seen, [])
            self.assertEqual(self.flushLoggedErrors(), [])

"""So many bytes a second, first come first served: what is done for others beside the clients' work."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from twisted.internet.defer import Deferred

from penncloud.lsm.errors import Overloaded

# What may go at once after a rest, in seconds' worth.
_BURST_S: Final = 0.05


class Throttle:
    """Lets `bytes_per_s` pass (0: any number), and at most `waiting` wait. `clock` has IReactorTime."""

    def __init__(self, clock: Any, bytes_per_s: int, waiting: int) -> None:
        self._clock = clock
        self._bytes_per_s = bytes_per_s
        self._waiting = waiting
        self._queue: deque[Deferred[None]] = deque()
        # When the next one may pass.
        self._free_at = 0.0
        self._call: Any = None
        self._sizes: deque[int] = deque()

    def pass_bytes(self, size: int) -> Deferred[None]:
        """Fire when `size` bytes may pass. Fails with Overloaded at once when too many wait."""
        waiter: Deferred[None] = Deferred(self._given_up)
        if len(self._queue) >= self._waiting:
            waiter.errback(Overloaded("too much waits for its share of the throughput"))
            return waiter
        self._queue.append(waiter)
        self._sizes.append(size)
        self._work()
        return waiter

    def _given_up(self, waiter: Deferred[None]) -> None:
        if waiter in self._queue:
            index = self._queue.index(waiter)
            del self._queue[index]
            del self._sizes[index]

    def _work(self) -> None:
        while self._queue and self._call is None:
            now = self._clock.seconds()
            if self._bytes_per_s and self._free_at > now:
                self._call = self._clock.callLater(self._free_at - now, self._again)
                return
            size, waiter = self._sizes.popleft(), self._queue.popleft()
            if self._bytes_per_s:
                earliest = max(self._free_at, now - _BURST_S)
                self._free_at = earliest + size / self._bytes_per_s
            waiter.callback(None)

    def _again(self) -> None:
        self._call = None
        self._work()

    def stop(self) -> None:
        """Refuse whatever waits."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        queue, self._queue = self._queue, deque()
        self._sizes.clear()
        for waiter in queue:
            waiter.errback(Overloaded("the server is stopping"))

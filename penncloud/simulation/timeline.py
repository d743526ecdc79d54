"""What is going to happen, in order: a heap of events at whole nanoseconds.

The world steps from event to event; nothing happens in between. Events of the same nanosecond happen in
the order in which they were entered, so that a run is the same every time. Whole numbers, because sums
of floats would let a timer fire a hair before the time that its owner computed.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

NS: Final = 1_000_000_000
# Events at one and the same instant after which the world is taken to stand still.
MAX_EVENTS_AT_ONCE: Final = 200_000


class Standstill(Exception):
    """Events go on causing each other without time passing: somebody waits for nothing in a loop."""


class Event:
    """Something that will happen, unless `cancel` is called before."""

    __slots__ = ("arguments", "call", "time_ns")

    def __init__(self, time_ns: int, call: Callable[..., object], arguments: Any) -> None:
        self.time_ns = time_ns
        self.call: Callable[..., object] | None = call
        self.arguments = arguments

    def cancel(self) -> None:
        self.call = None
        self.arguments = ()


class Timeline:
    """`now_ns` begins at 0."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.count = 0
        self._numbers = 0
        self._at_once = 0
        self._heap: list[tuple[int, int, Event]] = []

    @property
    def now_s(self) -> float:
        return self.now_ns / NS

    def at(self, time_ns: int, call: Callable[..., object], *arguments: Any) -> Event:
        """Call at `time_ns`, or now if that is past."""
        event = Event(max(time_ns, self.now_ns), call, arguments)
        self._numbers += 1
        heappush(self._heap, (event.time_ns, self._numbers, event))
        return event

    def after(self, delay_s: float, call: Callable[..., object], *arguments: Any) -> Event:
        """Call in `delay_s` seconds; any delay above zero takes at least a nanosecond."""
        delay_ns = int(delay_s * NS) + 1 if delay_s > 0 else 0
        return self.at(self.now_ns + delay_ns, call, *arguments)

    def run(self, until_ns: int, done: Callable[[], bool] = lambda: False) -> bool:
        """Let happen what is due up to `until_ns`, or until `done`; whether it was done.

        Raises Standstill.
        """
        while self._heap and self._heap[0][0] <= until_ns:
            if done():
                return True
            time_ns, _, event = heappop(self._heap)
            if event.call is None:
                continue
            self._at_once = self._at_once + 1 if time_ns == self.now_ns else 0
            if self._at_once > MAX_EVENTS_AT_ONCE:
                raise Standstill(f"{event.call!r} at {self.now_s:.9f} s")
            self.now_ns = time_ns
            self.count += 1
            event.call(*event.arguments)
        if not done():
            self.now_ns = max(self.now_ns, until_ns)
            return False
        return True

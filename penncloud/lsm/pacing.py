"""Long work in the reactor, cut into slices between which everything else goes on.

A flush or compaction in a thread would take the interpreter's lock away from requests for milliseconds
at a time; a slice gives it back on its own.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

# Longest stretch of work, and the rest after it: work at most half of the time.
_SLICE_S: Final = 0.002
_PAUSE_S: Final = 0.002
# Steps (blocks of a table) in one slice, whatever the clock says.
_SLICE_STEPS: Final = 32


class Pacer:
    """Ask `due` after every small piece of work, and `rest` when it is."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._steps = 0
        self._started = clock.seconds()

    def due(self) -> bool:
        """Whether it is time to rest; cheaper than awaiting each time."""
        self._steps += 1
        return self._steps >= _SLICE_STEPS or self._clock.seconds() - self._started >= _SLICE_S

    async def rest(self) -> None:
        waiting: Deferred[None] = Deferred()
        self._clock.callLater(_PAUSE_S, waiting.callback, None)
        await waiting
        self.restart()

    def restart(self) -> None:
        """A slice begins, after a wait of another sort."""
        self._steps = 0
        self._started = self._clock.seconds()

"""Frontends that have just failed: passed over for a moment, before any heartbeat has noticed."""

from __future__ import annotations

from typing import Any, Final

from attrs import define, field

FIRST_S: Final = 0.5
LONGEST_S: Final = 8.0


@define
class _Failed:
    until: float
    pause_s: float


@define
class Failures:
    """What requests saw of the frontends. `clock` has IReactorTime.

    One that failed is passed over, twice as long each time, up to LONGEST_S; a success forgets it. One
    that was started again has another incarnation, and a clean record.
    """

    _clock: Any
    _failed: dict[tuple[str, int], _Failed] = field(factory=dict)

    def failed(self, node_id: str, incarnation: int) -> None:
        before = self._failed.get((node_id, incarnation))
        pause_s = FIRST_S if before is None else min(LONGEST_S, 2 * before.pause_s)
        for known in [key for key in self._failed if key[0] == node_id]:
            del self._failed[known]
        now = self._clock.seconds()
        self._failed[node_id, incarnation] = _Failed(now + pause_s, pause_s)

    def worked(self, node_id: str, incarnation: int) -> None:
        self._failed.pop((node_id, incarnation), None)

    def is_passed_over(self, node_id: str, incarnation: int) -> bool:
        found = self._failed.get((node_id, incarnation))
        return found is not None and self._clock.seconds() < found.until

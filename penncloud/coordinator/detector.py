"""Who lives: counted by pings that were not answered. Pure; time is an argument.

Every `tick` stands for one round of pings. A server whose last ping is unanswered at the next tick has
missed one; from SUSPECTED_AFTER on it is suspected, from `dead_after` on it is dead. Any answer makes it
live again. Misses are counted in rounds, not in seconds, so that a coordinator that stood still for a
while does not take everybody for dead.

    event                   state after it
    expected (known from    suspected, and dead when it has not come for `grace` rounds: the servers
    an earlier run)         of a restarted coordinator need a moment to find it again
    registered              live
    tick, ping unanswered   live -> suspected -> dead
    heard                   live
    left (orderly stop)     dead at once, until it registers anew
"""

from __future__ import annotations

from typing import Final, Literal

from attrs import define

Liveness = Literal["live", "suspected", "dead"]

# The second ping missed in a row.
SUSPECTED_AFTER: Final = 2


@define
class _Watched:
    missed: int
    awaiting: bool
    # Before its first answer: rounds until it counts as dead.
    grace: int
    incarnation: int
    heard_at: float
    left: bool = False


class Detector:
    """`dead_after`: pings missed in a row after which a server is dead; `grace`: see the module."""

    def __init__(self, dead_after: int, grace: int) -> None:
        self._dead_after = max(dead_after, 1)
        self._grace = grace
        self._watched: dict[str, _Watched] = {}

    def knows(self, node_id: str) -> bool:
        """Whether it is expected or was heard of in this run."""
        return node_id in self._watched

    def expect(self, node_id: str, incarnation: int, now: float) -> None:
        """A server that is known but has not been heard of in this run."""
        self._watched[node_id] = _Watched(SUSPECTED_AFTER, False, self._grace, incarnation, now)

    def registered(self, node_id: str, incarnation: int, now: float) -> bool:
        """It is here. True when it is another incarnation than the one known: it had ended."""
        known = self._watched.get(node_id)
        self._watched[node_id] = _Watched(0, False, 0, incarnation, now)
        return known is not None and known.incarnation != incarnation

    def heard(self, node_id: str, incarnation: int, now: float) -> bool:
        """An answer to a ping. False when it is not from the incarnation that registered, or from one
        that has taken leave: it does not count."""
        watched = self._watched.get(node_id)
        if watched is None or watched.left or watched.incarnation != incarnation:
            return False
        watched.missed = 0
        watched.awaiting = False
        watched.heard_at = now
        return True

    def left(self, node_id: str) -> None:
        """It stopped in order."""
        if node_id in self._watched:
            watched = self._watched[node_id]
            watched.missed = self._dead_after
            watched.grace = 0
            watched.left = True

    def tick(self) -> list[str]:
        """One round of pings begins; the ids whose state has changed by what the last one missed."""
        return [node_id for node_id, watched in self._watched.items() if self._missed(watched)]

    def _missed(self, watched: _Watched) -> bool:
        before = self._liveness(watched)
        if watched.grace:
            watched.grace -= 1
            if not watched.grace:
                watched.missed = self._dead_after
        elif watched.awaiting:
            watched.missed = min(watched.missed + 1, self._dead_after)
        watched.awaiting = True
        return self._liveness(watched) != before

    def state(self, node_id: str) -> Liveness:
        watched = self._watched.get(node_id)
        return "dead" if watched is None else self._liveness(watched)

    def seen_s(self, node_id: str, now: float) -> float:
        """Seconds since the last answer; for one not yet heard of, since this run began."""
        watched = self._watched.get(node_id)
        return 0.0 if watched is None else max(0.0, now - watched.heard_at)

    def _liveness(self, watched: _Watched) -> Liveness:
        if watched.missed >= self._dead_after and not watched.grace:
            return "dead"
        return "suspected" if watched.missed >= min(SUSPECTED_AFTER, self._dead_after) else "live"

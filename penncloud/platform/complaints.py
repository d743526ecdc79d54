"""Saying in the log who was turned away, without letting them fill the disk."""

from __future__ import annotations

from typing import Any, Final

from twisted.logger import Logger

PAUSE_S: Final = 60.0
# Peers of whom it is remembered when they were last complained of.
_MAX_REMEMBERED: Final = 1024


class Complaints:
    """Warns of each peer at most once in `PAUSE_S`, and counts the rest. `reactor` has IReactorTime."""

    def __init__(self, reactor: Any, log: Logger) -> None:
        self._reactor = reactor
        self._log = log
        self._last: dict[str, float] = {}
        self._unsaid = 0

    def warn(self, peer: str, why: str) -> None:
        """`peer` was refused because of `why`."""
        now = self._reactor.seconds()
        if now - self._last.get(peer, float("-inf")) < PAUSE_S:
            self._unsaid += 1
            return
        self._last.pop(peer, None)
        self._last[peer] = now
        if len(self._last) > _MAX_REMEMBERED:
            self._last.pop(next(iter(self._last)))
        unsaid, self._unsaid = self._unsaid, 0
        self._log.warn(
            "connection from {peer} refused: {why} ({unsaid} others since the last such line)",
            peer=peer,
            why=why,
            unsaid=unsaid,
        )

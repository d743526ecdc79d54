"""What happened: a digest by which two runs are compared, and a text that a person can read.

The digest is of facts: times, names, sizes and contents. Log lines are for people only: some hold the
address of an object in memory, which differs from run to run.
"""

from __future__ import annotations

import hashlib
from collections import deque

from penncloud.simulation.timeline import Timeline

# Lines kept for people; the last ones, as those are nearest to what went wrong.
MAX_LINES = 200_000


class Trace:
    """`keep`: whether to keep the text."""

    def __init__(self, timeline: Timeline, keep: bool = False) -> None:
        self._timeline = timeline
        self._hash = hashlib.blake2b(digest_size=16)
        self._lines: deque[str] | None = deque(maxlen=MAX_LINES) if keep else None

    def fact(self, who: str, what: str) -> None:
        """Something that every run of this seed has to have in common."""
        self._hash.update(b"%d %s %s\n" % (self._timeline.now_ns, who.encode(), what.encode()))
        self.note(who, what)

    def note(self, who: str, what: str) -> None:
        """Something for people."""
        if self._lines is not None:
            self._lines.append(f"{self._timeline.now_s:12.6f}  {who:<14} {what}")

    @property
    def keeps(self) -> bool:
        """Whether text is kept: there is no use in making it otherwise."""
        return self._lines is not None

    @property
    def lines(self) -> list[str]:
        return list(self._lines or ())

    def digest(self) -> str:
        return self._hash.hexdigest()

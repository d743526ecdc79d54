"""What a leader knows of one follower's log (etcd's `Progress`).

`probe`: the place where the logs agree is not known; one message at a time looks for it. `replicate`: it is
known; messages are pipelined and `next` runs ahead. `snapshot`: the follower needs what the log no longer
has; its snapshot is sent piece by piece.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from attrs import define, field

# AppendEntries messages with entries that may be unanswered.
WINDOW = 16


@define
class Progress:
    """One follower. `match`: known equal; `next`: the first entry to send."""

    next: int
    match: int = 0
    state: Literal["probe", "replicate", "snapshot"] = "probe"
    # Heard from since the last check of the quorum.
    active: bool = False
    # The latest heartbeat round that it answered.
    round: int = 0
    probe_sent: bool = False
    snapshot_index: int = 0
    snapshot_offset: int = 0
    _inflight: deque[int] = field(factory=deque)

    @property
    def paused(self) -> bool:
        """Nothing more may be sent before an answer, or a heartbeat's time, comes."""
        if self.state == "probe":
            return self.probe_sent
        return self.state == "snapshot" or len(self._inflight) >= WINDOW

    def sent(self, last: int) -> None:
        """A message with entries up to `last` is on its way."""
        if self.state == "replicate":
            self.next = last + 1
            self._inflight.append(last)
        else:
            self.probe_sent = True

    def matched(self, index: int) -> bool:
        """It has everything up to `index`; true when that is news."""
        news = index > self.match
        self.match = max(self.match, index)
        self.next = max(self.next, self.match + 1)
        while self._inflight and self._inflight[0] <= index:
            self._inflight.popleft()
        if self.state == "probe" or (self.state == "snapshot" and index >= self.snapshot_index):
            self.become_replicate()
        return news

    def refused(self, next_index: int) -> None:
        """Its log differs before `next`: look from `next_index` on."""
        upper = self.next
        self.become_probe()
        self.next = max(self.match + 1, min(next_index, upper))

    def become_probe(self) -> None:
        self.state = "probe"
        self.probe_sent = False
        self._inflight.clear()
        self.next = self.match + 1

    def become_replicate(self) -> None:
        self.state = "replicate"
        self.probe_sent = False
        self._inflight.clear()
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        self.state = "snapshot"
        self._inflight.clear()
        self.snapshot_index = index
        self.snapshot_offset = 0

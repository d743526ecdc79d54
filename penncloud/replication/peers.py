"""What a primary knows of one other replica.

`probe`: the place where the logs agree is not known, one PREP at a time looks for it. `replicate`: it is
known; PREPs are pipelined and `next` runs ahead of `acked`. `checkpoint`: the log does not reach back to
it. `refused`: it said that it cannot keep anything, or has lost what it had promised to keep.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from attrs import define, field

from penncloud.replication.messages import Checkpoint


@define(eq=False)
class Peer:
    """One member or learner. `acked` counts only in this primary's time, so it begins at 0."""

    id: str
    member: bool
    next: int
    heard_at: float
    # Of the process that registered as a learner.
    incarnation: int = 0
    state: Literal["probe", "replicate", "checkpoint", "refused"] = "probe"
    acked: int = 0
    # The coordinators take it for dead, and it has not been heard of here since.
    suspected: bool = False
    lease_until: float = float("-inf")
    round: int = 0
    probe_sent: bool = False
    committed_sent: int = 0
    # Since when it has had to keep something without getting further.
    behind_since: float | None = None
    offered_at: float = float("-inf")
    # What it was offered, until that is gone: a newer checkpoint would make it begin anew.
    offered: Checkpoint | None = None
    checkpoint_version: int = 0
    # For how long others have waited for it, by one late ACK after the other; one in time begins anew.
    waited_s: float = 0.0
    _acked_at: float = float("-inf")
    # The last version of each PREP under way, and when it was sent.
    _in_flight: deque[tuple[int, float]] = field(factory=deque)

    def may_send(self, window: int) -> bool:
        """Whether entries may be sent now."""
        if self.state == "probe":
            return not self.probe_sent
        return self.state == "replicate" and len(self._in_flight) < window

    def sent(self, last: int, now: float) -> None:
        """A PREP with entries up to `last` is on its way."""
        if self.state == "replicate":
            self.next = last + 1
            self._in_flight.append((last, now))
        else:
            self.probe_sent = True

    def advanced(self, version: int, now: float, last: int, late_s: float) -> None:
        """It has everything up to `version`; the primary's log ends at `last`. An ACK is late `late_s` after
        its PREP."""
        if version > self.acked or version == last:
            self.behind_since = None
        self.acked = max(self.acked, version)
        if self.state != "replicate":
            self.state = "replicate"
            self._in_flight.clear()
            self.next = version + 1
        self.next = max(self.next, self.acked + 1)
        sent_at = now
        while self._in_flight and self._in_flight[0][0] <= version:
            _, sent_at = self._in_flight.popleft()
        if sent_at < now:
            late = now - sent_at > late_s
            self.waited_s = self.waited_s + now - max(sent_at, self._acked_at) if late else 0.0
            self._acked_at = now
        if version < last and self.behind_since is None:
            self.behind_since = now

    def is_late(self, now: float, forgotten_s: float) -> bool:
        """Whether its last ACK came late, and not so long ago with nothing since."""
        idle = not self._in_flight and now - self._acked_at > forgotten_s
        return self.waited_s > 0 and not idle

    def look_from(self, next_version: int) -> None:
        """The logs may differ from here on."""
        self.state = "probe"
        self.probe_sent = False
        self._in_flight.clear()
        self.next = next_version

    def reconnected(self) -> None:
        """Everything that was on its way is lost."""
        if self.state in ("probe", "replicate"):
            self.look_from(min(self.next, self.acked + 1) if self.acked else self.next)

    def refuses(self) -> None:
        """It cannot keep anything: whether it still has what it had ACKed, nobody knows."""
        self.state = "refused"
        self.acked = 0
        self._in_flight.clear()

    def needs_checkpoint(self, version: int) -> None:
        self.state = "checkpoint"
        self.offered = None
        self.checkpoint_version = version
        self._in_flight.clear()

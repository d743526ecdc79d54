"""Leases: how a primary knows that nobody else serves, by clocks of which only the rate matters.

An ACK gives the primary a lease until `send_time + lease_s` on the primary's clock. The acking node
promises for `promise_s` from receipt, on its own clock, not to serve as primary and not to ACK another
one. Receipt is later than sending, so the lease ends first if clocks run right up to `drift`: lease_s(1 +
drift) <= promise_s(1 - drift). The safety of writes does not depend on any of this.
"""

from __future__ import annotations

from attrs import define, field, frozen


@frozen
class LeaseTimes:
    """Seconds. Raises ValueError where the lease could outlive the promise."""

    lease_s: float = 0.4
    promise_s: float = 0.5
    drift: float = 0.05

    def __attrs_post_init__(self) -> None:
        if self.lease_s * (1 + self.drift) > self.promise_s * (1 - self.drift):
            raise ValueError(
                f"a lease of {self.lease_s} s may outlive a promise of {self.promise_s} s"
                f" on clocks that are off by {self.drift:.0%}"
            )


@define
class Promise:
    """What one replica has promised. It is kept in memory only: hence the wait after a restart."""

    times: LeaseTimes
    holder: str = ""
    until: float = field(default=float("-inf"))

    def forbids(self, other: str, now: float) -> bool:
        """Whether `other` must not be served (by an ACK, or by becoming it)."""
        return self.holder != other and now < self.until

    def give(self, holder: str, now: float) -> None:
        """Promise to `holder` from now on."""
        self.holder = holder
        self.until = now + self.times.promise_s

    def forget_with_restart(self, now: float) -> None:
        """Nobody knows what was promised before: as if it had been to somebody else just now."""
        self.holder = ""
        self.until = now + self.times.promise_s

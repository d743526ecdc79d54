"""The coordinators as these tests have them: one consistent configuration, changed by compare-and-set.

Their consensus is Raft's and tested there. Here they are one object that can be unreachable, whose
answers get lost, and that judges by pongs which may be old.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, evolve, field

from penncloud.placement.successor import choose_successor
from penncloud.replication.messages import Configuration, Tip

DEAD_AFTER_S = 0.5


@define(eq=False)
class Council:
    """Rules 1, 2 and 4 of the design's "Coordinator"."""

    config: Configuration
    broken: Callable[[str], bool]
    takeovers: int = 0
    tips: dict[str, Tip] = field(factory=dict)
    heard_at: dict[str, float] = field(factory=dict)
    # As of the last change of the primary.
    dead: list[str] = field(factory=list)

    def pong(self, host: str, tip: Tip, now: float) -> None:
        self.tips[host] = tip
        self.heard_at[host] = now

    def propose(self, new: Configuration) -> None:
        """CONFIG(group, expect, new): applies only if the current cfg is the one before."""
        if new.cfg != self.config.cfg + 1 and not self.broken("compare-and-set"):
            return
        if new.primary != self.config.primary:
            tip = self.tips.get(new.primary)
            if tip is None or not tip.eligible:
                return
            new = evolve(new, incarnation=tip.incarnation)
            self.takeovers += 1
        self.config = new

    def judge(self, now: float) -> None:
        """Replace a primary that is dead, was restarted, or gave up."""
        live = {
            host: self.tips[host] for host, at in self.heard_at.items() if now - at <= DEAD_AFTER_S
        }
        config = self.config
        tip = live.get(config.primary)
        if (
            tip is not None
            and tip.incarnation == config.incarnation
            and tip.declined < config.cfg
            and tip.eligible
        ):
            return
        members = tuple(sorted(live)) if self.broken("members-only") else config.members
        self.dead = [member for member in config.members if member not in live]
        next_one = choose_successor(members, live)
        if next_one is not None:
            self.takeovers += 1
            self.config = Configuration(
                config.group,
                config.cfg + 1,
                next_one.primary,
                config.members,
                next_one.incarnation,
            )

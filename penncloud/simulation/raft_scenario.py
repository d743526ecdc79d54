"""The Raft core alone: no clock, no sockets, thousands of steps a second, every property at every step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from attrs import frozen

from penncloud.platform.environment import nothing_broken
from penncloud.simulation.raft_world import Focus, Violation, World
from penncloud.simulation.scenario import UNCUT, Limits, Result

STEPS: Final = 3000
# What a second of trouble means here, where there is no time.
STEPS_PER_S: Final = 100


@frozen
class RaftScenario:
    """Part of `scenario.Scenario`. Its troubles are drawn step by step: only their time can be cut."""

    name: str = "raft"
    about: str = "the Raft core alone, its five properties checked at every step"
    focus: Focus = ""

    def play(
        self,
        seed: int,
        broken: Callable[[str], bool] = nothing_broken,
        limits: Limits = UNCUT,
        keep_trace: bool = False,
    ) -> Result:
        """See `Scenario`."""
        steps = STEPS if limits.until_s is None else int(limits.until_s * STEPS_PER_S)
        result = Result(self.name, seed, trouble_s=steps / STEPS_PER_S)
        size = 4 if self.focus == "members" else 3 + 2 * (seed % 2)
        world = World(
            seed, size, broken, result.trace.append if keep_trace else None, focus=self.focus
        )
        result.plan = [f"{size} voters, {steps} steps of trouble, then peace"]
        try:
            for _ in range(steps):
                world.step()
            world.check_logs()
            world.converge()
            if len(world.voters) >= 3:
                world.deafen()
                world.converge()
        except Violation as violation:
            result.violations.append(str(violation))
        except ValueError as error:
            # The core says so itself when it is told what cannot be.
            result.violations.append(f"internal error: {error}")
        history = sorted(
            (entry.index, entry.term, entry.data) for entry in world.committed.values()
        )
        result.digest = hashlib.blake2b(repr(history).encode(), digest_size=16).hexdigest()
        result.counts = {
            "elections": world.elections,
            "crashes": world.crashes,
            "committed": len(world.committed),
            "reads": world.reads_answered,
        }
        return result

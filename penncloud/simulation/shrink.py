"""The shortest failing run: fewer faults, less time.

A failing run is played again with half of its faults, and so on, as in a bisection; then with less time.
Runs are not monotonous (one fault less may hide what two less show), so what is found is some short
failing run, not always the shortest; but it is one that fails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import frozen

from penncloud.platform.environment import nothing_broken
from penncloud.simulation.scenario import Limits, Result, Scenario

# Runs that are spent on it.
MAX_RUNS: Final = 16


@frozen
class Shrunk:
    """A failing run, cut short by `limits`, and how many runs it took to find it."""

    limits: Limits
    result: Result
    runs: int


def shrink(
    scenario: Scenario,
    failing: Result,
    broken: Callable[[str], bool] = nothing_broken,
    max_runs: int = MAX_RUNS,
) -> Shrunk:
    """Play shorter and shorter forms of a run that failed."""
    best = Shrunk(Limits(failing.fault_count, failing.trouble_s), failing, 0)
    runs = 0

    def fails(limits: Limits) -> bool:
        nonlocal best, runs
        runs += 1
        result = scenario.play(failing.seed, broken, limits)
        if result.failed:
            best = Shrunk(limits, result, runs)
        return result.failed

    passing, failing_at = -1, failing.fault_count
    while failing_at - passing > 1 and runs < max_runs * 2 // 3:
        middle = (passing + failing_at) // 2
        if fails(Limits(middle, best.limits.until_s)):
            failing_at = middle
        else:
            passing = middle
    shortest_s, longest_s = 0.0, failing.trouble_s
    while longest_s - shortest_s > 0.5 and runs < max_runs:
        middle_s = round((shortest_s + longest_s) / 2, 2)
        if fails(Limits(best.limits.faults, middle_s)):
            longest_s = middle_s
        else:
            shortest_s = middle_s
    return Shrunk(best.limits, best.result, runs)

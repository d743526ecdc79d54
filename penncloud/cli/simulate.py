"""`penncloud simulate`: whole clusters in simulated time, seed after seed, looking for a failure.

Seeds are played side by side in processes. For one that fails, the shortest failing form of it is looked
for and the command that plays just that, with a readable trace, is printed. Exit code 0: no violation;
1: at least one; 2: usage.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import count
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field
from twisted.logger import globalLogBeginner

from penncloud.cli._exits import DONE, FAILED
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.parent import end_with

# Every server is imported by the simulation, which the other commands should not have to wait for.
if TYPE_CHECKING:
    from penncloud.simulation.scenario import Limits, Result, Scenario
    from penncloud.simulation.shrink import Shrunk

_SEEDS: Final = 100
# Failures that are shrunk and shown; after so many it is enough.
_MAX_FAILURES: Final = 5


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "simulate",
        help="look for failures in simulated clusters",
        description="Plays seeds of simulated clusters and judges what their users saw.",
        epilog="The scenarios are described in docs/simulation.md.",
    )
    parser.add_argument("--seeds", type=int, metavar="N", help=f"how many (default {_SEEDS})")
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="S", help="first seed")
    parser.add_argument("--scenario", metavar="NAME", help="only this one (default: all, in turn)")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes (default: one per core)")
    parser.add_argument("--minutes", type=float, metavar="M", help="go on for so long")
    parser.add_argument(
        "--break", dest="rule", default="", metavar="RULE", help="switch a rule off"
    )
    parser.add_argument("--faults", type=int, metavar="K", help="only the first K faults of a run")
    parser.add_argument("--until", type=float, metavar="T", help="end the trouble after T seconds")
    parser.add_argument(
        "--trace", action="store_true", help="print the plan and the trace of a run"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    for name in ("seeds", "jobs", "minutes"):
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            raise ConfigurationError(f"--{name} has to be above 0")
    if arguments.scenario is not None and arguments.scenario not in _scenarios():
        known = ", ".join(sorted(_scenarios()))
        raise ConfigurationError(f"--scenario: there is no {arguments.scenario}; there are {known}")
    if arguments.trace:
        return _show(arguments)
    return _Sweep(arguments).run()


def _scenarios() -> Mapping[str, Scenario]:
    from penncloud.simulation.scenarios import SCENARIOS

    return SCENARIOS


# -- one run -------------------------------------------------------------------------------------


def _quiet() -> None:
    """The nodes' log is part of the trace; it goes nowhere else."""
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)


def _begin_worker(parent: int) -> None:
    # Whoever kills the command means its workers too.
    end_with(parent)
    _quiet()


def _play(scenario: str, seed: int, rule: str, limits: Limits) -> Result:
    result = _scenarios()[scenario].play(seed, rule.__eq__, limits)
    gc.collect()
    return result


def _shrink(result: Result, rule: str) -> Shrunk:
    from penncloud.simulation.shrink import shrink

    return shrink(_scenarios()[result.scenario], result, rule.__eq__)


def _show(arguments: argparse.Namespace) -> int:
    _quiet()
    from penncloud.simulation.scenario import Limits

    name = arguments.scenario or next(iter(_scenarios()))
    limits = Limits(arguments.faults, arguments.until)
    result = _scenarios()[name].play(
        arguments.first, arguments.rule.__eq__, limits, keep_trace=True
    )
    print(*result.plan, "", *result.trace, "", _summary(result.counts), sep="\n")
    print(f"digest {result.digest}")
    for violation in result.violations:
        print(f"VIOLATED {violation}")
    return FAILED if result.failed else DONE


# -- many runs -----------------------------------------------------------------------------------


@define
class _Sweep:
    _arguments: argparse.Namespace
    _totals: Counter[str] = field(factory=Counter)
    _played: int = 0
    _failures: int = 0
    _begun_s: float = field(factory=time.monotonic)
    _tty: bool = field(factory=sys.stderr.isatty)

    def run(self) -> int:
        from penncloud.simulation.scenario import Limits

        arguments = self._arguments
        jobs = arguments.jobs or os.cpu_count() or 1
        limits = Limits(arguments.faults, arguments.until)
        tasks = self._tasks()
        context = get_context("spawn")
        with ProcessPoolExecutor(jobs, context, _begin_worker, (os.getpid(),)) as pool:
            running: set[Future[Any]] = set()
            while True:
                while len(running) < 2 * jobs and (task := next(tasks, None)) is not None:
                    running.add(pool.submit(_play, *task, arguments.rule, limits))
                if not running:
                    break
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    shrinking = self._take(future.result(), pool)
                    if shrinking is not None:
                        running.add(shrinking)
                self._progress()
        self._progress(last=True)
        return FAILED if self._failures else DONE

    def _tasks(self) -> Iterator[tuple[str, int]]:
        arguments = self._arguments
        names = [arguments.scenario] if arguments.scenario else list(_scenarios())
        seeds = arguments.seeds
        if seeds is None and arguments.minutes is None:
            seeds = _SEEDS
        for number in count() if seeds is None else range(seeds):
            late = arguments.minutes is not None and self._elapsed_s() > 60 * arguments.minutes
            if late or self._failures >= _MAX_FAILURES:
                return
            yield names[number % len(names)], arguments.first + number

    def _take(self, ended: Result | Shrunk, pool: ProcessPoolExecutor) -> Future[Any] | None:
        """Count a run; one that failed is to be shrunk, and then shown."""
        from penncloud.simulation.scenario import Result

        if not isinstance(ended, Result):
            self._report(ended)
            return None
        self._played += 1
        self._totals.update(ended.counts)
        if not ended.failed:
            return None
        self._failures += 1
        self._clear()
        print(f"FAILED scenario {ended.scenario}, seed {ended.seed}:")
        for violation in ended.violations[:3]:
            print(f"  {violation}")
        return pool.submit(_shrink, ended, self._arguments.rule)

    def _report(self, shrunk: Shrunk) -> None:
        self._clear()
        result, limits = shrunk.result, shrunk.limits
        cut = "" if limits.faults is None else f" --faults {limits.faults}"
        cut += "" if limits.until_s is None else f" --until {limits.until_s:g}"
        rule = f" --break {self._arguments.rule}" if self._arguments.rule else ""
        print(f"seed {result.seed} also fails, after {shrunk.runs} more runs, with less:")
        print(f"  {result.violations[0]}")
        print("  play it again with")
        print(
            f"    penncloud simulate --scenario {result.scenario} --from {result.seed}"
            f"{cut}{rule} --trace"
        )

    # -- what one sees ---------------------------------------------------------------------------

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._begun_s

    def _clear(self) -> None:
        if self._tty:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _progress(self, last: bool = False) -> None:
        text = (
            f"{self._played} runs, {self._failures} failed, {self._elapsed_s():.0f} s; "
            + _summary(self._totals)
        )
        if last:
            self._clear()
            print(text)
        elif self._tty:
            share = self._share()
            bar = "#" * round(20 * share)
            print(f"\r\x1b[K[{bar:<20}] {text[:110]}", end="", file=sys.stderr, flush=True)

    def _share(self) -> float:
        arguments = self._arguments
        by_time = 0.0 if arguments.minutes is None else self._elapsed_s() / 60 / arguments.minutes
        seeds = arguments.seeds or (None if arguments.minutes else _SEEDS)
        by_seeds = self._played / seeds if seeds else 0.0
        return min(1.0, max(by_time, by_seeds))


def _summary(counts: Any) -> str:
    return ", ".join(f"{value:,.0f} {name}" for name, value in counts.items())

"""The main program of a server whose wall clock can be set: `cluster.child`, with another `time.time`.

What Python code takes for the wall clock is the machine's and what a file says to add, in seconds; the
file is named by the environment. The monotonic clock stays as it is, as it does where an administrator or NTP
sets the time. So do the clocks of C libraries, such as the one that certificates are checked by.

libfaketime would do it for those, too, but it also stands between a process and its waiting: with the
monotonic clock left alone its `clock_nanosleep` fails, and timed waits come back late.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from penncloud.cluster import child

MODULE: Final = "penncloud.torture.skewed"
VARIABLE: Final = "PENNCLOUD_TORTURE_CLOCK"
# How old may be what is known of the file.
_FRESH_S: Final = 0.2


def skewed(
    file: Path, wall: Callable[[], float], monotonic: Callable[[], float]
) -> Callable[[], float]:
    """`wall`, and what the file says; one that cannot be read says nothing new."""
    ahead_s, looked_s = 0, float("-inf")

    def now() -> float:
        nonlocal ahead_s, looked_s
        moment_s = monotonic()
        if moment_s - looked_s > _FRESH_S:
            looked_s = moment_s
            try:
                ahead_s = int(file.read_text("ascii"))
            except (OSError, ValueError):
                return wall() + ahead_s
        return wall() + ahead_s

    return now


def set_clock(file: Path, ahead_s: int) -> None:
    """Let the clock of those that follow `file` be so many seconds ahead (negative: behind)."""
    new = file.with_name(file.name + ".new")
    new.write_text(f"{ahead_s}\n", "ascii")
    new.replace(file)


if __name__ == "__main__":
    real = time.time, time.monotonic  # noqa: TID251 - the very place where a process's clock is made
    time.time = skewed(Path(os.environ[VARIABLE]), *real)  # noqa: TID251
    child.main(sys.argv[1:])

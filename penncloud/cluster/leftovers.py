"""Processes of an agent that was killed: they end by themselves, and this waits until they have.

The kernel sends them SIGTERM when their agent dies (`child`), and each data directory is locked by its
server. But a new agent must not start a server while its predecessor still holds the port, and one that
hangs has to be ended. They are known by their command line, which names our configuration file.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any, Final

from twisted.internet.task import deferLater
from twisted.logger import Logger

from penncloud.cluster.layout import Layout
from penncloud.cluster.spawn import CHILD_MODULE
from penncloud.platform.errors import ConfigurationError
from penncloud.taps.http import WORKER_MODULE

# The main programs of servers and of frontends' workers, which have the port of theirs.
_PROGRAMS: Final = {CHILD_MODULE.encode(), WORKER_MODULE.encode()}
_POLL_S: Final = 0.05
# A process that was killed is gone at once, unless the kernel holds it in the middle of I/O.
_KILLED_WAIT_S: Final = 5.0

_log = Logger()


def find(layout: Layout, proc: Path = Path("/proc")) -> list[int]:
    """The pids of role processes of this data directory, whoever started them as an agent."""
    ours = f"{layout.etc}{os.sep}".encode()
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # It has ended meanwhile, or is not ours to see.
        if _PROGRAMS & set(arguments) and any(part.startswith(ours) for part in arguments):
            found.append(int(entry.name))
    return found


async def end_all(layout: Layout, clock: Any, patience_s: float) -> int:
    """Return how many there were once all have ended; after `patience_s` they are killed.

    Raises ConfigurationError when one does not even end then.
    """
    first = find(layout)
    if first:
        _log.warn("waiting for processes of an earlier agent to end: {pids}", pids=first)
    if not await _gone(layout, clock, patience_s):
        _kill(find(layout))
        if not await _gone(layout, clock, _KILLED_WAIT_S):
            raise ConfigurationError(
                f"processes of an earlier start do not end: {find(layout)}; end them first"
            )
    return len(first)


async def _gone(layout: Layout, clock: Any, patience_s: float) -> bool:
    deadline = clock.seconds() + patience_s
    while find(layout):
        if clock.seconds() >= deadline:
            return False
        await deferLater(clock, _POLL_S)
    return True


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # It has ended meanwhile.
            os.kill(pid, signal.SIGKILL)

"""`penncloud down`: stop the local cluster in order."""

from __future__ import annotations

import argparse
import os
import signal
from typing import Any, Final

from twisted.internet.task import deferLater

from penncloud.cli._exits import DONE
from penncloud.cli._reactor import run_command
from penncloud.cli._target import add_data
from penncloud.cluster import leftovers
from penncloud.cluster.launch import holder
from penncloud.cluster.layout import Layout
from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError, DirectoryLocked, PennCloudError
from penncloud.platform.lockfile import DirectoryLock

_POLL_S: Final = 0.1
# Five groups of servers, each of which may take the agent's patience before it is killed.
_WAIT_S: Final = 60.0


class StillRunning(PennCloudError):
    """The agent has not ended within the bound."""


def add_to(commands: Any) -> None:
    parser = commands.add_parser("down", help="stop the local cluster in order")
    add_data(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    layout = Layout.at(arguments.data)
    if not layout.etc.is_dir():
        raise ConfigurationError(f"there is no cluster in {layout.root}")
    return run_command(lambda environment: _down(environment, layout))


async def _down(environment: Environment, layout: Layout) -> int:
    clock = environment.reactor
    deadline = clock.seconds() + _WAIT_S
    told: int | None = None
    while (lock := _try_lock(layout)) is None:
        pid = holder(layout)
        if pid is not None and pid != told:
            told = pid
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                told = None  # It ended between our two looks.
            except PermissionError as error:
                raise ConfigurationError(f"agent (pid {pid}) belongs to another user") from error
        if clock.seconds() >= deadline:
            raise StillRunning(f"the agent (pid {pid}) has not ended within {_WAIT_S:g} s")
        await deferLater(clock, _POLL_S)
    try:
        found = await leftovers.end_all(layout, clock, _WAIT_S / 4)
    finally:
        lock.release()
    print("stopped" if told or found else "was not running")
    return DONE


def _try_lock(layout: Layout) -> DirectoryLock | None:
    try:
        return DirectoryLock(str(layout.root))
    except DirectoryLocked:
        return None

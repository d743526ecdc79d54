"""Running one asynchronous command on the reactor of this process."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

from penncloud.platform.environment import Environment
from penncloud.platform.process import real_environment, use_monotonic_clock
from penncloud.platform.threads import BoundedPool
from penncloud.platform.tls import Credentials


def run_command(
    command: Callable[[Environment], Awaitable[int]], credentials: Credentials | None = None
) -> int:
    """The exit code that `command` returns; what it raises is raised here.

    `credentials` are what the command shows the servers, where they ask for any.

    Raises KeyboardInterrupt when the process was told to end first.
    """
    outcome: list[int | BaseException] = []

    async def main(reactor: Any) -> None:
        use_monotonic_clock(reactor)
        pool = BoundedPool(reactor)
        pool.start()
        # react calls us before the reactor runs; commands find it running, with its signal handlers.
        await deferLater(reactor, 0)
        try:
            outcome.append(await command(real_environment(reactor, pool, credentials)))
        except Exception as error:  # noqa: BLE001 - it is raised again, outside of the reactor
            outcome.append(error)
        finally:
            pool.stop()

    with contextlib.suppress(SystemExit):  # react always ends so; our own outcome says more.
        react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
    if not outcome:
        raise KeyboardInterrupt
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]

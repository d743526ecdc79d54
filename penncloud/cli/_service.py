"""Running a command as a service: until it is told to end, with its log on stdout."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import globalLogBeginner

from penncloud.cli._exits import DONE
from penncloud.cli._reactor import run_command
from penncloud.platform import json_log
from penncloud.platform.environment import Environment
from penncloud.platform.tls import Credentials
from penncloud.taps._supervision import Supervision


class Node(Protocol):
    async def start(self) -> None: ...

    async def stop(self) -> None: ...


def run_service(
    node_id: str, build: Callable[[Environment], Node], credentials: Credentials | None = None
) -> int:
    """Start what `build` makes, wait for SIGTERM or SIGINT, stop it; the exit code."""
    return run_command(
        lambda environment: _serve(environment, node_id, build(environment)), credentials
    )


async def _serve(environment: Environment, node_id: str, node: Node) -> int:
    # stderr stays as it is: `penncloud: what is wrong` goes there.
    observer = json_log.observer(sys.stdout, os.environ)
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    supervision = Supervision(environment.manager, environment.reactor, node_id)
    stop = _told_to_stop(environment.reactor)
    supervision.starting()
    try:
        await node.start()
        supervision.serving()
        await stop
    finally:
        supervision.stopping()
        await node.stop()
        supervision.stopped()
    return DONE


def _told_to_stop(reactor: Any) -> Deferred[None]:
    """Fires at the first SIGTERM or SIGINT; the reactor itself does not see it."""
    stop: Deferred[None] = Deferred()

    def told(*_: object) -> None:
        reactor.callFromThread(lambda: None if stop.called else stop.callback(None))

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told)
    return stop

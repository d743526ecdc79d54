"""The world of a real process: its clocks, its entropy, its threads."""

from __future__ import annotations

import random
import secrets
import time
from typing import Any

from penncloud.platform.environment import Environment
from penncloud.platform.service_manager import of_this_process
from penncloud.platform.threads import BoundedPool
from penncloud.platform.tls import Credentials


def use_monotonic_clock(reactor: Any) -> None:
    """Let the reactor's timers follow the monotonic clock.

    They follow the wall clock by default, and a wall clock that is set back stops every LoopingCall for
    as long. Must run before the first timer.
    """
    reactor.seconds = time.monotonic


def real_environment(
    reactor: Any, pool: BoundedPool, credentials: Credentials | None = None
) -> Environment:
    """The environment of this process; the pool is started and stopped by the caller."""
    return Environment(
        reactor=reactor,
        now=time.time,
        random=random.Random(secrets.randbits(64)),
        entropy=secrets.token_bytes,
        run_in_thread=pool,
        manager=of_this_process(),
        credentials=credentials,
    )

"""What a node gets from the world, in one value: clock, network, chance, disk.

Assemblies (`taps`, the tests, the simulation) make an `Environment` and pass it down. Nothing below
asks the process for the time, for randomness or for the global reactor.
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from attrs import field, frozen

from penncloud.platform.service_manager import NOBODY, ServiceManager
from penncloud.platform.tls import Credentials

_T = TypeVar("_T")


class RunInThread(Protocol):
    """Run a blocking function off the reactor, in a bounded pool.

    Raises `platform.threads.PoolBusy` (retryable) at once when too many calls already wait.
    """

    def __call__(self, f: Callable[..., _T], *args: Any, **kwargs: Any) -> Awaitable[_T]: ...


def nothing_broken(rule: str) -> bool:  # noqa: ARG001
    """Every rule holds: the only answer outside the simulation."""
    return False


@frozen
class Environment:
    """The world of one node.

    `reactor` has IReactorTime (monotonic seconds: for intervals only), IReactorTCP and, in real
    processes, everything else. `now` is the wall clock in Unix seconds: for stamps that people
    read and for expiry, never for intervals. `random` is for jitter and tests. `entropy(n)` gives n
    unpredictable bytes: for identifiers that must not be guessed. `pid` is what the process is known by
    to an administrator. `broken(rule)` is true where the simulation has switched a rule off on purpose,
    to see that its checkers notice. `manager` is who started the process and wants to hear how it is.
    `credentials` are what the node shows its peers; None: connections inside the cluster are in the clear.
    """

    reactor: Any
    now: Callable[[], float]
    random: random.Random
    entropy: Callable[[int], bytes]
    run_in_thread: RunInThread
    pid: int = field(factory=os.getpid)
    broken: Callable[[str], bool] = nothing_broken
    manager: ServiceManager = NOBODY
    credentials: Credentials | None = None

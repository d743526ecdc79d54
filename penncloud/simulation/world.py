"""Everything that there is in one run: hosts, the network between them, time, chance, and the trace.

All chance comes from one seed, by generators with names: one for the network, one for each disk, and so
on, so that a change in one place changes as little as possible elsewhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final, cast

from twisted.logger import ILogObserver, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure

from penncloud.platform.environment import nothing_broken
from penncloud.platform.errors import DiskError
from penncloud.simulation.host import Build, Host
from penncloud.simulation.network import Network
from penncloud.simulation.process import Process
from penncloud.simulation.timeline import NS, Timeline
from penncloud.simulation.trace import Trace

# Errors that are ordered here, and that a server rightly logs.
TO_BE_EXPECTED: Final = (DiskError,)


class World:
    """`broken` tells which rules are switched off; `keep_trace` keeps the text of the trace."""

    def __init__(
        self,
        seed: int | str,
        broken: Callable[[str], bool] = nothing_broken,
        keep_trace: bool = False,
    ) -> None:
        self.broken = broken
        self.timeline = Timeline()
        self.trace = Trace(self.timeline, keep_trace)
        self.hosts: dict[str, Host] = {}
        # What no program may do: an exception that nobody caught, a critical log line.
        self.errors: list[str] = []
        # Called after each turn of a process, while no code of any process runs: to see, and to strike.
        self.observers: dict[object, Callable[[Process], None]] = {}
        self._seed = seed
        self._pids = 1000
        self._running: Process | None = None
        self.network = Network(self.timeline, self.random("network"))

    def random(self, name: str) -> random.Random:
        """The generator of that name."""
        return random.Random(f"{self._seed}/{name}")

    def next_pid(self) -> int:
        self._pids += 1
        return self._pids

    def add_host(self, name: str, build: Build, **details: Any) -> Host:
        """A new host, not yet started; see `Host` for the details."""
        # Addresses of the loopback network, where a cluster needs no shared secret.
        host = Host(self, name, f"127.0.1.{len(self.hosts) + 1}", build, **details)
        self.hosts[name] = host
        self.network.add(host)
        return host

    # -- running ---------------------------------------------------------------------------------

    def run(self, seconds: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Let so many seconds go by, or less if it is `done` before; whether it was.

        Raises timeline.Standstill.
        """
        observer = cast(ILogObserver, self._observe)
        globalLogPublisher.addObserver(observer)
        try:
            return self.timeline.run(self.timeline.now_ns + int(seconds * NS), done)
        finally:
            globalLogPublisher.removeObserver(observer)

    def run_as(self, process: Process, call: Callable[..., object], *arguments: Any) -> None:
        """Run code of a process; an exception is its defect, and does not end the world."""
        before, self._running = self._running, process
        try:
            call(*arguments)
        except Exception:  # noqa: BLE001 (a reactor would log it and go on; here it fails the run)
            self.internal_error(process.host.name, Failure())
        finally:
            self._running = before
        if before is None and self.observers:
            for observe in list(self.observers.values()):
                observe(process)

    def internal_error(self, who: str, failure: Failure) -> None:
        """A program has done what no program may do."""
        self.errors.append(f"{who}: {failure.getTraceback()}")
        self.trace.note(who, f"internal error: {failure.getErrorMessage()}")

    def _observe(self, event: Any) -> None:
        host = self._running.host if self._running is not None else None
        who = "-" if host is None else host.name
        failure = event.get("log_failure")
        if failure is not None and not failure.check(*TO_BE_EXPECTED):
            self.errors.append(f"{who}: {formatEvent(event)}\n{failure.getTraceback()}")
        elif (
            failure is None
            and event.get("log_level") is LogLevel.critical
            and not (host is not None and host.decayed)
        ):
            self.errors.append(f"{who}: {formatEvent(event)}")
        if self.trace.keeps and event.get("log_level") is not LogLevel.debug:
            self.trace.note(who, formatEvent(event))

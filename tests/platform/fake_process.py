"""Processes that do what a test tells them."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field

from penncloud.platform.supervisor import Ended, Signal


@define
class FakeProcess:
    """One process. TERM ends it at once unless it is stubborn; KILL always does."""

    pid: int
    _ended: Callable[[Ended], None]
    stubborn: bool = False
    signals: list[str] = field(factory=list)
    alive: bool = True

    def signal(self, name: Signal) -> None:
        self.signals.append(name)
        if self.alive and name != "HUP" and (name == "KILL" or not self.stubborn):
            self.end(Ended(None, 9 if name == "KILL" else 15))

    def end(self, how: Ended) -> None:
        self.alive = False
        self._ended(how)


@define
class FakeLauncher:
    """`launch` is what a supervisor takes; `started` are the processes it made, in order."""

    started: list[FakeProcess] = field(factory=list)
    stubborn: bool = False
    fails: OSError | None = None

    def launch(self, ended: Callable[[Ended], None]) -> FakeProcess:
        if self.fails is not None:
            raise self.fails
        process = FakeProcess(100 + len(self.started), ended, self.stubborn)
        self.started.append(process)
        return process

    @property
    def last(self) -> FakeProcess:
        return self.started[-1]

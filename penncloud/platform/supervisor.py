"""Keeping one process alive: the machine that starts it, starts it again, and ends it.

    state      start()    stop()                  it ended                     timer
    down       launch     -                                                    -
    running    -          TERM -> stopping        pause -> waiting             (steady) forget deaths
    waiting    launch     down                                                 (pause) launch
    stopping   start      -                       down, or launch if `start`   (patience) KILL
               afterwards                         came meanwhile

A process that dies is started again after a pause that doubles at each death, up to a longest one;
one that had run steadily begins with the first pause again. So a server that cannot start (its port
is taken, its disk is full) costs little and is back by itself once the cause is gone.

The machine knows neither processes nor the wall clock: it is given a function that launches, and a
clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from penncloud.platform.config import Agent

State = Literal["down", "running", "waiting", "stopping"]
Signal = Literal["TERM", "KILL", "HUP"]


@frozen
class Ended:
    """How a process ended. `last_words` is the end of what it wrote to stdout and stderr."""

    exit_code: int | None
    signal: int | None
    last_words: str = ""

    def __str__(self) -> str:
        how = f"signal {self.signal}" if self.signal is not None else f"exit code {self.exit_code}"
        lines = self.last_words.strip().splitlines()
        return f"{lines[-1]} ({how})" if lines else how


class Running(Protocol):
    """A process that was launched."""

    @property
    def pid(self) -> int: ...

    def signal(self, name: Signal) -> None:
        """Send it a signal; nothing happens when it has ended already."""
        ...


# Starts the process and calls back, once and never before it returns, when it has ended.
# Raises OSError when the system has no room for another process.
Launch = Callable[[Callable[[Ended], None]], Running]


@frozen
class Pace:
    """How patient the supervisor is, all in seconds; see `platform.config.Agent`."""

    restart_first_s: float
    restart_longest_s: float
    steady_s: float
    stop_wait_s: float

    @classmethod
    def of(cls, agent: Agent) -> Pace:
        return cls(
            agent.restart_first_s, agent.restart_longest_s, agent.steady_s, agent.stop_wait_s
        )


@define(eq=False)
class Supervised:
    """One process and what is wanted of it. `changed` is called after each change of state."""

    id: str
    _launch: Launch
    _clock: Any
    _pace: Pace
    _changed: Callable[[Supervised], None]
    state: State = "down"
    pid: int | None = None
    """Of the process as last started."""
    deaths: int = 0
    """How often it died by itself since it last ran steadily."""
    last_end: Ended | None = None
    """How it ended the last time, if it ever did."""
    _process: Running | None = None
    _timer: IDelayedCall | None = None
    _start_again: bool = False
    _stopping: list[Deferred[None]] = field(factory=list)

    log = Logger()

    def start(self) -> None:
        """Want it to run."""
        if self.state in ("down", "waiting"):
            self.deaths = 0
            self._start()
        elif self.state == "stopping":
            self._start_again = True

    def stop(self) -> Deferred[None]:
        """Want it to be down; fires when it is, at the latest shortly after `stop_wait_s`."""
        done: Deferred[None] = Deferred()
        self._start_again = False
        if self.state == "running" and self._process is not None:
            self._set("stopping")
            self._time(self._pace.stop_wait_s, self._kill)
            self._stopping.append(done)
            self._process.signal("TERM")
        elif self.state == "stopping":
            self._stopping.append(done)
        else:
            self._cancel()
            if self.state == "waiting":
                self._set("down")
            done.callback(None)
        return done

    def restart(self) -> Deferred[None]:
        """Stop, then start; fires when it has been started (or was stopped by a later `stop`)."""
        done = self.stop()
        self.start()
        return done

    def renew(self) -> bool:
        """Have a process that replaces its own workers do so (SIGHUP); False when it does not run."""
        if self.state != "running" or self._process is None:
            return False
        self._process.signal("HUP")
        return True

    def kill(self) -> None:
        """End it without waiting; it is down, or was to be, in any case."""
        if self._process is not None:
            self._process.signal("KILL")

    def _start(self) -> None:
        self._cancel()
        try:
            self._process = self._launch(self._ended)
        except OSError as error:
            self._died(Ended(None, None, f"cannot be started: {error.strerror}"))
            return
        self.pid = self._process.pid
        self._time(self._pace.steady_s, self._steady)
        self._set("running")

    def _ended(self, how: Ended) -> None:
        self._process = None
        self._cancel()
        if self.state == "stopping":
            self.last_end = how
            waiting, self._stopping = self._stopping, []
            again, self._start_again = self._start_again, False
            self._set("down")
            if again:
                self.start()
            for done in waiting:
                done.callback(None)
        else:
            self._died(how)

    def _died(self, how: Ended) -> None:
        self.last_end = how
        pause_s = min(self._pace.restart_longest_s, self._pace.restart_first_s * 2**self.deaths)
        # The exponent stays small: beyond this the pause is the longest one anyway.
        self.deaths = min(self.deaths + 1, 64)
        self.log.error(
            "{id} died: {how}; starting it again in {pause:g} s",
            id=self.id,
            how=str(how),
            pause=pause_s,
        )
        self._time(pause_s, self._start)
        self._set("waiting")

    def _steady(self) -> None:
        self._timer = None
        self.deaths = 0

    def _kill(self) -> None:
        self._timer = None
        self.log.error(
            "{id} (pid {pid}) did not end within {wait:g} s and is killed",
            id=self.id,
            pid=self.pid,
            wait=self._pace.stop_wait_s,
        )
        self.kill()

    def _time(self, delay_s: float, call: Callable[[], None]) -> None:
        self._cancel()
        self._timer = self._clock.callLater(delay_s, call)

    def _cancel(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _set(self, state: State) -> None:
        self.state = state
        self._changed(self)

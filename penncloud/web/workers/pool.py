"""Keeping a number of workers alive, and renewing them without a gap. Knows no processes, only a clock.

Each number from 1 to `count` has a current worker; while it is renewed also a successor that does not serve
yet; and after that, for a while, the one that retires. `Supervised` starts each one's process again when it
dies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, Protocol

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from penncloud.platform.config import Cluster, Http
from penncloud.platform.errors import ConfigurationError, PennCloudError
from penncloud.platform.metrics import Family
from penncloud.platform.supervisor import Ended, Launch, Pace, Running, Signal, Supervised
from penncloud.rpc.registration import Worker
from penncloud.web.attempts import CountedHere
from penncloud.web.workers.attempts import count
from penncloud.web.workers.words import (
    Attempt,
    Begin,
    Failed,
    FromWorker,
    Report,
    Reported,
    Retire,
    Serves,
    ToWorker,
    UseCoordinators,
)

# A worker that died is replaced after such pauses; the first is short, as people may be waiting.
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 10.0
_STEADY_S: Final = 30.0
# From its start until it serves: it only has to load the program, on a machine that may be busy.
START_S: Final = 60.0
# Workers are asked for a report so often, and killed when one is missing so many times: 20 s, as systemd has
# it for the servers themselves.
PULSE_S: Final = 5.0
_MISSED: Final = 4
# What requests under way get when the whole frontend ends, in seconds, and how much later what still lives
# is killed: together less than an agent waits.
GRACE_S: Final = 8.0
_KILL_S: Final = 1.0
# Whoever looks at the metrics does not wait longer for a worker.
_REPORT_S: Final = 2.0


class RenewalFailed(PennCloudError):
    """A successor did not come to serve; the workers that were not renewed go on."""


class WorkerRunning(Running, Protocol):
    """A worker's process."""

    def tell(self, word: ToWorker) -> None: ...


# Starts a process, tells it to begin, and calls back with what it says and, once, when it has ended (never
# before it returns). Raises OSError when the system has no room for another process.
Spawn = Callable[[Begin, Callable[[FromWorker], None], Callable[[Ended], None]], WorkerRunning]


@define(eq=False)
class _Member:
    """One worker: its process, and the ones that follow when that dies. `role` is how it is configured."""

    number: int
    role: Http
    supervised: Supervised = field(init=False)
    running: WorkerRunning | None = None
    serves: bool = False
    retires: bool = False
    # Fires with "" when it serves for the first time, or with the reason when it ends before.
    outcome: Deferred[str] = field(factory=Deferred)
    failure: str = ""
    late: IDelayedCall | None = None
    reports: list[Deferred[list[Family]]] = field(factory=list)
    missed: int = 0

    def tell(self, word: ToWorker) -> None:
        if self.running is not None:
            self.running.tell(word)

    def decide(self, reason: str) -> None:
        if not self.outcome.called:
            self.outcome.callback(reason)


class _Told:
    """A process that is ended by a word: TERM would not say how long it may take."""

    def __init__(self, process: WorkerRunning, drain_s: float) -> None:
        self._process = process
        self._drain_s = drain_s

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, name: Signal) -> None:
        if name == "TERM":
            self._process.tell(Retire(self._drain_s, patient=True))
        else:
            self._process.signal(name)


class WorkerPool:
    """`count` workers of a frontend. `clock` has IReactorTime."""

    log = Logger()

    def __init__(
        self, clock: Any, spawn: Spawn, *, cluster: Cluster, role: Http, count: int
    ) -> None:
        self._clock = clock
        self._spawn = spawn
        self._cluster = cluster
        self._role = role
        self._coordinators = list(cluster.coordinators)
        self._count = count
        self._current: dict[int, _Member] = {}
        # Those to come and those that retire as well.
        self._members: list[_Member] = []
        self._pulse = LoopingCall(self._look)
        self._pulse.clock = clock
        self._attempts = CountedHere(clock)
        self._renewing = False
        self._again = False
        self._stopping = False

    # -- what there is ---------------------------------------------------------------------------

    @property
    def serving(self) -> int:
        """How many accept connections now."""
        return sum(one.serves and not one.retires for one in self._members)

    def states(self) -> list[Worker]:
        """Every worker, by number; one that retires comes after its successor."""
        found = sorted(self._members, key=lambda one: (one.number, one.retires))
        return [Worker(one.number, one.supervised.pid or 0, _state(one)) for one in found]

    async def report(self) -> dict[str, list[Family]]:
        """The metrics of all that answer in time, by number."""
        asked = [one for one in self._members if one.running is not None and one.serves]
        waits = [self._ask(one).addTimeout(_REPORT_S, self._clock) for one in asked]
        answers = await DeferredList(waits, consumeErrors=True)
        found: dict[str, list[Family]] = {}
        for member, (answered, families) in zip(asked, answers, strict=True):
            if answered:
                label = f"{member.number} retiring" if member.retires else str(member.number)
                found[label] = families
        return found

    # -- what is done to it ----------------------------------------------------------------------

    async def start(self) -> None:
        """Start all workers; returns when one of them serves.

        Raises ConfigurationError when one ends before that: a mistake that waiting does not mend.
        """
        for number in range(1, self._count + 1):
            self._current[number] = self._add(number)
        self._pulse.start(PULSE_S, now=False).addErrback(
            lambda failure: self.log.failure("looking after the workers", failure)
        )
        first: Any = await DeferredList(
            [one.outcome for one in self._current.values()], fireOnOneCallback=True
        )
        reason: str = first[0]
        if reason:
            raise ConfigurationError(f"a worker cannot serve: {reason}")

    def use_coordinators(self, addresses: Sequence[str]) -> None:
        """The coordinators' group has changed."""
        self._coordinators = list(addresses)
        for member in self._members:
            member.tell(UseCoordinators(self._coordinators))

    async def renew(self, role: Http) -> None:
        """Replace every worker, one after the other, by one configured with `role`.

        Asked for again meanwhile, it begins anew at its end. Raises RenewalFailed; then the old
        configuration stays in use for those that come later.
        """
        before, self._role = self._role, role
        if self._renewing:
            self._again = True
            return
        self._renewing = True
        try:
            while True:
                self._again = False
                for number in range(1, self._count + 1):
                    await self._renew_one(number)
                if not self._again:
                    return
        except RenewalFailed:
            self._role = before
            raise
        finally:
            self._renewing = False

    async def _renew_one(self, number: int) -> None:
        if self._is_over():
            return
        for one in self._members:
            # Not more than one of each number retires at the same time.
            if one.number == number and one.retires:
                one.tell(Retire(GRACE_S, patient=False))
        successor = self._add(number)
        reason = await successor.outcome
        if self._is_over():
            return
        if reason:
            self._forget(successor)
            raise RenewalFailed(f"worker {number} cannot be renewed, the old one goes on: {reason}")
        old, self._current[number] = self._current[number], successor
        self._retire(old)

    async def stop(self) -> None:
        """End all: what is under way has GRACE_S."""
        self._stopping = True
        if self._pulse.running:
            self._pulse.stop()
        members = list(self._members)
        ends = [one.supervised.stop() for one in members]
        for one in members:
            one.tell(Retire(GRACE_S, patient=False))
        kill = self._clock.callLater(GRACE_S + _KILL_S, self._kill, members)
        await DeferredList(ends)
        if kill.active():
            kill.cancel()
        self._members.clear()

    def _is_over(self) -> bool:
        return self._stopping

    def _kill(self, members: Sequence[_Member]) -> None:
        for member in members:
            if member.running is not None:
                self.log.warn("worker {number} is killed: it does not end", number=member.number)
            member.supervised.kill()

    # -- one worker ------------------------------------------------------------------------------

    def _add(self, number: int) -> _Member:
        member = _Member(number, self._role)
        drain_s = self._role.drain_s
        pace = Pace(_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _STEADY_S, drain_s + GRACE_S)
        member.supervised = Supervised(
            f"{self._role.id} worker {number}",
            self._launch_of(member, drain_s),
            self._clock,
            pace,
            lambda process: self._changed(member, process),
        )
        self._members.append(member)
        member.supervised.start()
        return member

    def _launch_of(self, member: _Member, drain_s: float) -> Launch:
        def launch(ended: Callable[[Ended], None]) -> Running:
            def over(how: Ended) -> None:
                self._over(member)
                ended(how)

            begin = Begin(member.number, self._cluster, member.role, list(self._coordinators))
            process = self._spawn(begin, lambda word: self._heard(member, word), over)
            member.running = process
            member.late = self._clock.callLater(START_S, self._too_late, member)
            return _Told(process, drain_s)

        return launch

    def _heard(self, member: _Member, word: FromWorker) -> None:
        if isinstance(word, Serves):
            member.serves = True
            self._stop_waiting(member)
            member.decide("")
        elif isinstance(word, Failed):
            member.failure = word.text
        elif isinstance(word, Reported):
            member.missed = 0
            reports, member.reports = member.reports, []
            for report in reports:
                report.callback(word.families)
        elif isinstance(word, Attempt):
            member.tell(count(self._attempts, word))
        else:
            self._attempts.was_legitimate(word.name, word.address)

    def _over(self, member: _Member) -> None:
        member.running = None
        member.serves = False
        member.missed = 0
        self._stop_waiting(member)
        reports, member.reports = member.reports, []
        for report in reports:
            report.errback(RenewalFailed("the worker has ended"))

    def _changed(self, member: _Member, process: Supervised) -> None:
        if process.state == "waiting":
            member.decide(member.failure or str(process.last_end))
        elif process.state == "down":
            member.decide("it was stopped")
            if member.retires and member in self._members:
                self._members.remove(member)

    def _retire(self, member: _Member) -> None:
        member.retires = True
        member.supervised.stop()

    def _forget(self, member: _Member) -> None:
        """It has ended without ever having served: it is not started again."""
        self._members.remove(member)
        member.supervised.stop()

    def _too_late(self, member: _Member) -> None:
        member.late = None
        member.failure = f"it does not serve after {START_S:g} s"
        member.supervised.kill()

    def _stop_waiting(self, member: _Member) -> None:
        if member.late is not None and member.late.active():
            member.late.cancel()
        member.late = None

    def _ask(self, member: _Member) -> Deferred[list[Family]]:
        """Its report: the one under way, or a new one."""
        answer: Deferred[list[Family]] = Deferred()
        member.reports.append(answer)
        if len(member.reports) == 1:
            member.tell(Report())
        return answer

    def _look(self) -> None:
        """Every worker has to answer: its reactor may stand still."""
        for member in list(self._members):
            if member.running is None or not member.serves:
                continue
            if not member.reports:
                self._ask(member).addErrback(lambda _: None)
                continue
            member.missed += 1
            if member.missed >= _MISSED:
                self.log.error(
                    "worker {number} (pid {pid}) does not answer and is killed",
                    number=member.number,
                    pid=member.supervised.pid,
                )
                member.supervised.kill()


def _state(member: _Member) -> Literal["starting", "serving", "retiring", "waiting"]:
    if member.retires:
        return "retiring"
    if member.serves:
        return "serving"
    return "waiting" if member.supervised.state == "waiting" else "starting"

"""One run: a cluster is made, used and disturbed in rounds, judged after each, and removed.

    begin      users of a new round start, with names that no round before has used
    trouble    faults come and go while they work
    calm       all faults have ended; users go on for a moment, then stop
    settle     everything has to work within bounds, and every tablet has its copies again
    judge      what all users saw is put together and checked

A round is short, so that the search for an order of its operations stays small, and so does what is kept in
memory. The run ends with the first round that finds something, or when its time is over.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from penncloud.platform.environment import Environment
from penncloud.torture.bed import Bed
from penncloud.torture.crew import Hired, MemberLost
from penncloud.torture.evidence import Evidence, FaultSeen, read_reports
from penncloud.torture.faults import Fault, Who, draw
from penncloud.torture.member import WORKLOADS
from penncloud.torture.messages import (
    Begin,
    Judge,
    Plan,
    Report,
    Settle,
    Stop,
    TabletSeen,
    View,
    frontend_of,
)
from penncloud.torture.stolen import Stolen

# How long a round's faults go on, at most; users go on for CALM_S after the last.
ROUND_S: Final = 60.0
CALM_S: Final = 3.0
# Within so many seconds a new cluster serves, and one whose faults have ended is whole again.
READY_S: Final = 90.0
# What does not work within its bounds is tried so often anew while the machine itself was away for more than
# this share of the time.
_TRIES: Final = 10
_AWAY: Final = 0.3
# How often the coordinators are asked for the tablets.
_LOOK_S: Final = 0.25
# How long a fault that needs a whole cluster waits for it.
_WHOLE_S: Final = 15.0
# Internal errors that are told of one server.
_MAX_ERRORS: Final = 3
# Lines of a server's log that say that something happened that nobody had thought of.
_INTERNAL: Final = re.compile(r"#critical\]|Unhandled [Ee]rror|Traceback \(most recent call last\)")

_T = TypeVar("_T")


@frozen
class Order:
    """What a run was asked for. `length_s` bounds the troubles, not the start and the end."""

    seed: int
    length_s: float
    nemeses: tuple[str, ...]
    gap_s: float = 0.05
    deadline_s: float = 10.0
    workers: int = 4
    readers: int = 2


@define(eq=False)
class _Active:
    """A fault that goes on; `timer` ends it."""

    fault: Fault
    begun_s: float
    timer: IDelayedCall | None = None


@define(eq=False)
class Run:
    """See the module. `say` is given lines for people."""

    _environment: Environment
    _bed: Bed
    _order: Order
    _directory: Path
    _say: Callable[[str], None]
    evidence: Evidence = field(factory=Evidence)
    _begun_s: float = 0.0
    _members: list[Hired] = field(factory=list)
    _auditor: Hired | None = None
    _tablets: list[TabletSeen] | None = None
    _copies: int = 1
    _active: list[_Active] = field(factory=list)
    _looking: bool = False

    log = Logger()

    async def play(self) -> None:
        """Raises MemberLost; everything that was started has to be ended by `end` in any case."""
        clock = self._environment.reactor
        self._begun_s = clock.seconds()
        self._bed.start()
        self._hire()
        await self._ready()
        looks = LoopingCall(self._look)
        looks.clock = clock
        looks.start(_LOOK_S).addErrback(lambda failure: self.log.failure("looking", failure))
        try:
            end_s = clock.seconds() + self._order.length_s
            while clock.seconds() < end_s - 1 and not self.evidence.violations:
                await self._round(min(ROUND_S, end_s - clock.seconds()))
        finally:
            looks.stop()

    async def end(self) -> None:
        """End all processes and take down what was made."""
        crew = [*self._members, *([self._auditor] if self._auditor else [])]
        for member in crew:
            member.dismiss()
        await gatherResults([member.ended for member in crew])
        await self._bed.remove()
        self.evidence.violated(self._internal_errors())

    # -- the beginning ---------------------------------------------------------------------------

    def _hire(self) -> None:
        for name in (*self._bed.members, self._bed.auditor):
            hired = Hired(name, self._environment.reactor)
            is_auditor = name == self._bed.auditor
            plan = Plan(
                name=name,
                parent=os.getpid(),
                coordinators=self._bed.cluster.coordinators,
                tls_dir=self._bed.cluster.tls_dir,
                begun_s=self._begun_s,
                node=is_auditor,
            )
            hired.hire(plan, self._bed.inside(name))
            if is_auditor:
                self._auditor = hired
            else:
                self._members.append(hired)

    async def _ready(self) -> None:
        """Wait until there are tablets and each has its primary. Raises MemberLost."""
        if not await self._whole_within(READY_S):
            raise MemberLost(f"the cluster does not serve after {READY_S:g} s")
        assert self._tablets is not None
        self._copies = min(tablet.copies for tablet in self._tablets)
        self._say(
            f"the cluster serves: {len(self._tablets)} tablets, copies of each: {self._copies}"
        )

    # -- what the coordinators say ---------------------------------------------------------------

    @property
    def _now_s(self) -> float:
        """Seconds of the run."""
        seconds: float = self._environment.reactor.seconds()
        return seconds - self._begun_s

    async def _ask_for_tablets(self) -> None:
        assert self._auditor is not None
        answer = await self._auditor.ask(View)
        self._tablets = answer.tablets
        if answer.tablets is not None:
            self.evidence.look_at(answer.tablets, self._now_s)

    def _look(self) -> None:
        """One look at a time: it takes long while the coordinators are in trouble."""
        if not self._looking:
            self._looking = True
            looking = Deferred.fromCoroutine(self._ask_for_tablets())
            looking.addErrback(lambda failure: failure.trap(MemberLost) and None)
            looking.addBoth(self._looked)

    def _looked(self, _: object) -> None:
        self._looking = False

    def _is_whole(self) -> bool:
        return bool(self._tablets) and all(
            tablet.state == "ok" and tablet.copies >= self._copies for tablet in self._tablets or ()
        )

    async def _whole_within(self, seconds: float) -> bool:
        clock = self._environment.reactor
        until_s = clock.seconds() + seconds
        while True:
            await self._ask_for_tablets()
            if self._is_whole():
                return True
            if clock.seconds() >= until_s:
                return False
            await deferLater(clock, _LOOK_S)

    # -- a round ---------------------------------------------------------------------------------

    async def _round(self, length_s: float) -> None:
        number = self.evidence.rounds + 1
        auditor, crew = self._auditor, self._members
        assert auditor is not None
        begun_s = self._now_s
        names = list(WORKLOADS)
        seed = f"{self._order.seed}/{number}"
        asked: dict[str, Any] = {
            "prefix": f"r{number}-",
            "workloads": names,
            "seed": seed,
            "gap_s": self._order.gap_s,
            "deadline_s": self._order.deadline_s,
        }
        self._bed.certify("http", frontend_of(asked["prefix"]))
        await auditor.ask(Begin, **asked, workers=0, readers=0)
        working = {"workers": self._order.workers, "readers": self._order.readers}
        await self._all(crew, Begin, **asked, **working)
        await self._trouble(random.Random(seed), length_s)
        trouble_s = self._now_s - begun_s
        await deferLater(self._environment.reactor, CALM_S)
        await self._all(crew, Stop)
        trouble = await self._settle([*crew, auditor])
        files = [str(self._directory / f"{member.name}.report") for member in crew]
        await _together(
            [member.ask(Report, file=file) for member, file in zip(crew, files, strict=True)]
        )
        self.evidence.add_round(read_reports(files), begun_s, trouble_s)
        if not trouble:
            judged = await auditor.ask(Judge, files=files)
            trouble += judged.trouble
            self.evidence.counts["undecided"] += len(judged.undecided)
        self.evidence.violated(f"round {number}: {text}" for text in trouble)
        for file in files:
            if not trouble:
                Path(file).unlink()
        counts = self.evidence.counts
        self._say(
            f"round {number}: {counts['operations']:,} operations so far, {counts['ok']:,} ok;"
            f" {len(self.evidence.faults)} faults, {len(self.evidence.takeovers)} takeovers,"
            f" {len(self.evidence.violations)} violations"
        )

    async def _settle(self, crew: list[Hired]) -> list[str]:
        """What does not work within its bounds, on a machine that is there to do it."""
        for left in reversed(range(_TRIES)):
            stolen, trouble = Stolen(), []
            if not await self._whole_within(READY_S):
                trouble.append(
                    f"liveness: {READY_S:g} s after the last fault {self._what_is_missing()}"
                )
            for member in crew:
                trouble += (await member.ask(Settle)).trouble
            share = stolen.share
            if not trouble or not left or share < _AWAY:
                break
            self._say(
                f"tried again, as this machine was without its processors for {share:.0%}"
                f" of the time: {trouble[0]}"
            )
        return trouble

    async def _all(self, crew: list[Hired], order: type[Any], **fields: Any) -> None:
        await _together([member.ask(order, **fields) for member in crew])

    def _what_is_missing(self) -> str:
        if not self._tablets:
            return "the coordinators do not answer"
        bad = [
            f"tablet {tablet.id} is {tablet.state} with {tablet.copies} copies"
            for tablet in self._tablets
            if tablet.state != "ok" or tablet.copies < self._copies
        ]
        return ", ".join(bad[:3])

    # -- faults ----------------------------------------------------------------------------------

    async def _trouble(self, chance: random.Random, length_s: float) -> None:
        """Let the faults of a round come and go; returns when all have ended."""
        clock, bed = self._environment.reactor, self._bed
        who = Who(tuple(bed.of("coordinator")), tuple(bed.of("storage")), tuple(bed.members))
        begun_s = clock.seconds()
        try:
            for fault in draw(chance, who, self._order.nemeses, length_s):
                await deferLater(clock, max(0.0, begun_s + fault.at_s - clock.seconds()))
                if fault.alone and not await self._quiet():
                    self.evidence.counts["faults left out"] += 1
                    continue
                if clock.seconds() - begun_s >= length_s:
                    break
                await self._begin(fault)
                if fault.alone:
                    await self._none_active()
                    await self._whole_within(_WHOLE_S)
            await self._none_active()
            await deferLater(clock, max(0.0, begun_s + length_s - clock.seconds()))
        finally:
            self._end_all()

    async def _begin(self, fault: Fault) -> None:
        self.log.info("{fault} for {seconds:.1f} s", fault=str(fault), seconds=fault.for_s)
        active = _Active(fault, self._now_s)
        self._active.append(active)
        # On a busy machine that may take longer than the fault is to last: it ends what has begun.
        await fault.begin(self._bed)
        active.timer = self._environment.reactor.callLater(fault.for_s, self._end, active)

    def _end(self, active: _Active) -> None:
        if active.timer is not None and active.timer.active():
            active.timer.cancel()
        self._active.remove(active)
        fault = active.fault
        fault.end(self._bed)
        seen = FaultSeen(fault.kind, str(fault), active.begun_s, self._now_s)
        self.evidence.faults.append(seen)

    def _end_all(self) -> None:
        for active in list(self._active):
            self._end(active)

    async def _none_active(self) -> None:
        while self._active:
            await deferLater(self._environment.reactor, 0.05)

    async def _quiet(self) -> bool:
        """Wait until no fault is active and the cluster has more than one copy of everything."""
        if self._copies < 2:
            return False
        await self._none_active()
        return await self._whole_within(_WHOLE_S)

    # -- the end ---------------------------------------------------------------------------------

    def _internal_errors(self) -> Iterator[str]:
        """What the servers' logs tell of errors that nobody had thought of."""
        for server in self._bed.stations:
            path = self._bed.log(server)
            found = 0
            for file in sorted(path.parent.glob(f"{path.name}*")):
                for line in file.read_text("utf-8", "replace").splitlines():
                    if _INTERNAL.search(line) and found < _MAX_ERRORS:
                        found += 1
                        yield f"internal error: {server}: {line.strip()[:200]} (see {file})"


async def _together(asked: Sequence[Deferred[_T]]) -> list[_T]:
    """The results of all; raises what the first failure raises."""
    try:
        return await gatherResults(asked, consumeErrors=True)
    except FirstError as error:
        error.subFailure.raiseException()
        raise AssertionError from error

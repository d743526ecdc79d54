"""One run of a cluster under faults: drawn from a seed, played, judged.

    boot      all hosts are switched on; the troubles may begin before the cluster serves
    trouble   users work while faults come and go
    calm      all faults end, everything that is down comes back, users go on for a moment
    settle    the users have stopped; everything has to work, within bounds, and the end state is read
    check     what the users saw is judged

A run can be cut short, by the number of its faults and by the time at which the troubles end: that is how
the shortest failing run is found.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from typing import Any, Final, Protocol

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from penncloud.judge.workloads import Access, NotLive, User, Workload
from penncloud.lsm.entry import PutEffect
from penncloud.platform.environment import nothing_broken
from penncloud.simulation.cluster import Cluster, Settings, drawn_settings
from penncloud.simulation.faults import Fault, Nemesis, Who, draw
from penncloud.simulation.process import Process
from penncloud.simulation.raft_oracle import RaftOracle
from penncloud.simulation.replica_oracle import ReplicaOracle
from penncloud.simulation.timeline import Standstill
from penncloud.simulation.world import World
from penncloud.storage.quarantine import kept_cuts, kept_entries

# Users go on so long after the last fault.
CALM_S: Final = 2.0
# The longest that an operation may take when it is given its usual deadline, and then some.
STOP_S: Final = 30.0
# After that everything has to work: bound of the whole of `settle`.
SETTLED_WITHIN_S: Final = 120.0
# And then, without users, until all replicas have the same.
AGREED_WITHIN_S: Final = 60.0
# Different errors of programs that are reported of one run.
MAX_ERRORS: Final = 5


@frozen
class Limits:
    """How a run is cut short; None: not."""

    faults: int | None = None
    until_s: float | None = None


UNCUT: Final = Limits()


@define
class Result:
    """What became of one run. Two runs of one seed have the same `digest`."""

    scenario: str
    seed: int
    violations: list[str] = field(factory=list)
    digest: str = ""
    plan: list[str] = field(factory=list)
    # What was seen and done, by name: operations, kills, seconds.
    counts: dict[str, float] = field(factory=dict)
    fault_count: int = 0
    trouble_s: float = 0.0
    trace: list[str] = field(factory=list)

    @property
    def failed(self) -> bool:
        return bool(self.violations)


class Scenario(Protocol):
    """Something that can be played with any seed."""

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str:
        """One line for people."""
        ...

    def play(
        self,
        seed: int,
        broken: Callable[[str], bool] = nothing_broken,
        limits: Limits = UNCUT,
        keep_trace: bool = False,
    ) -> Result: ...


@frozen
class ClusterScenario:
    """A cluster, its users and its troubles; a seed picks some of the workloads and nemeses."""

    name: str
    about: str
    workloads: tuple[Callable[[random.Random], Workload], ...]
    nemeses: tuple[Nemesis, ...]
    settings: Settings = field(factory=Settings)
    # Seconds of trouble, drawn between these.
    trouble_s: tuple[float, float] = (5.0, 25.0)
    # Workloads that are there in each run, besides those that are picked.
    always: tuple[Callable[[random.Random], Workload], ...] = ()

    def play(
        self,
        seed: int,
        broken: Callable[[str], bool] = nothing_broken,
        limits: Limits = UNCUT,
        keep_trace: bool = False,
    ) -> Result:
        """Raises nothing: whatever goes wrong is a violation."""
        world = World(f"{self.name}/{seed}", broken, keep_trace)
        run = _Run(self, world, seed, limits)
        # Cycles that are collected at some time or other would run `finally` blocks then: what comes of
        # programs that end halfway when the world is thrown away is nobody's fault.
        gc.collect()
        gc.disable()
        try:
            run.play()
            return run.judge()
        except Standstill as standstill:
            run.result.violations.append(f"liveness: the world stands still: {standstill}")
            return run.judge()
        finally:
            gc.enable()


class _Run:
    def __init__(self, scenario: ClusterScenario, world: World, seed: int, limits: Limits) -> None:
        self.result = Result(scenario.name, seed)
        self._world = world
        chance = world.random("plan")
        self._settings = drawn_settings(chance, world.random("modes"), scenario.settings)
        self._gap_s = chance.choice((0.05, 0.2, 0.5))
        self._workers = chance.choice((1, 3))
        self._readers = chance.choice((0, 1, 2))
        self._deadline_s = chance.choice((2.0, 5.0, 15.0))
        chosen = [kind for kind in scenario.workloads if chance.random() < 0.6]
        kinds = [*scenario.always, *chosen] or [chance.choice(scenario.workloads)]
        self._workloads = [kind(world.random(f"workload/{n}")) for n, kind in enumerate(kinds)]
        network = world.network.quality
        network.most_s = chance.choice((0.0005, 0.005, 0.05))
        if scenario.settings.eager:
            network.most_s, self._gap_s, self._readers = 0.0005, 0.05, 2
        network.split_rate = chance.choice((0.05, 0.5))
        trouble_s = chance.uniform(*scenario.trouble_s)
        first_s = chance.uniform(0.0, 4.0)
        who = Who.of(self._settings)
        faults = (
            draw(world.random("faults"), who, scenario.nemeses, first_s, trouble_s)
            if scenario.nemeses
            else []
        )
        self._trouble_s = trouble_s if limits.until_s is None else limits.until_s
        self._faults = [f for f in faults if f.at_s < self._trouble_s][: limits.faults]
        self._stopping = False
        self._working: dict[object, Process] = {}
        self._access: Access | None = None
        self._cluster = Cluster(world, self._settings, self._program, self._audit)
        self._raft = RaftOracle(self._cluster.coordinators)
        world.observers["raft"] = self._raft.observe
        self._replicas = ReplicaOracle(
            self._cluster.storages, self._cluster.factor, self._cluster.tablets
        )
        world.observers["replicas"] = self._replicas.observe
        self.result.fault_count = len(self._faults)
        self.result.trouble_s = self._trouble_s
        self.result.plan = [
            f"{self._settings}",
            f"users pause up to {self._gap_s} s; deadline {self._deadline_s} s; workloads "
            + ", ".join(workload.name for workload in self._workloads),
            *(f"{fault}" for fault in self._faults),
        ]

    # -- the phases ------------------------------------------------------------------------------

    def play(self) -> None:
        world, cluster = self._world, self._cluster
        cluster.start(world.random("boot").choice((0.0, 2.0)))
        for fault in self._faults:
            world.timeline.after(fault.at_s, self._begin, fault)
        self._run(self._trouble_s)
        answered = self._answered()
        world.trace.fact("-", "calm")
        cluster.calm()
        self._run(CALM_S)
        self._stopping = True
        if not self._run(STOP_S, self._stopped):
            self._violated("liveness: operations take longer than their deadline")
            return
        self._settle()
        self.result.counts["answered during trouble"] = answered
        if not self.result.violations and not self._run(AGREED_WITHIN_S, self._raft.settled):
            self._violated(f"liveness: the coordinators do not agree within {AGREED_WITHIN_S} s")
        if not self.result.violations and not self._run(AGREED_WITHIN_S, self._replicas.settled):
            why = self._replicas.unsettled()
            self._violated(f"liveness: replicas do not agree within {AGREED_WITHIN_S} s: {why}")

    def _run(self, seconds: float, done: Callable[[], bool] = lambda: False) -> bool:
        return self._world.run(seconds, done)

    def _begin(self, fault: Fault) -> None:
        self._world.trace.fact("-", f"{fault}")
        fault.begin(self._cluster)
        end_s = min(fault.for_s, max(0.0, self._trouble_s - self._world.timeline.now_s))
        self._world.timeline.after(end_s, self._end, fault)

    def _end(self, fault: Fault) -> None:
        fault.end(self._cluster)

    def _stopped(self) -> bool:
        return not any(not process.dead for process in self._working.values())

    def _settle(self) -> None:
        world = self._world
        process, access = self._cluster.auditor.process, self._access
        assert process is not None
        assert access is not None
        user = self._user("auditor", access)
        ended: list[object] = []

        def begin() -> None:
            settling = Deferred.fromCoroutine(self._settle_all(user))
            settling.addBoth(ended.append)

        world.timeline.after(0, process.execute, begin)
        if not self._run(SETTLED_WITHIN_S, lambda: bool(ended)):
            self._violated(f"liveness: not settled within {SETTLED_WITHIN_S} s")
        elif isinstance(ended[0], Failure):
            failure = ended[0]
            if failure.check(NotLive):
                self._violated(f"liveness: {failure.getErrorMessage()}")
            else:
                world.internal_error("auditor", failure)

    async def _settle_all(self, user: User) -> None:
        for workload in self._workloads:
            await workload.settle(user)

    def _violated(self, what: str) -> None:
        self.result.violations.append(what)

    # -- users -----------------------------------------------------------------------------------

    def _user(self, name: str, access: Access) -> User:
        timeline = self._world.timeline
        return User(
            name,
            access,
            self._world.random(f"user/{name}"),
            lambda: timeline.now_s,
            self._deadline_s,
        )

    async def _audit(self, access: Access) -> None:
        self._access = access

    async def _program(self, access: Access) -> None:
        """Of a client's host: several users, each of whom does one thing after the other."""
        process: Process = access.environment.reactor
        host = process.host
        for number in range(self._workers + self._readers):
            user = self._user(f"{host.name}/{host.counts.starts}/{number}", access)
            if number == 0:
                for workload in self._workloads:
                    workload.join(user)
            key = object()
            self._working[key] = process
            working = Deferred.fromCoroutine(self._work(user, number >= self._workers))
            working.addErrback(lambda failure: self._world.internal_error(host.name, failure))
            working.addCallback(self._worker_ended, key)

    async def _work(self, user: User, only_reads: bool) -> None:
        clock: Any = user.access.environment.reactor
        while not self._stopping:
            await deferLater(clock, user.chance.uniform(0, self._gap_s))
            workload = user.chance.choice(self._workloads)
            if not self._stopping:
                await (workload.look(user) if only_reads else workload.step(user))

    def _worker_ended(self, _: object, key: object) -> None:
        self._working.pop(key, None)

    def _answered(self) -> int:
        return sum(workload.counts()[0] for workload in self._workloads)

    def _not_kept(self) -> list[str]:
        """Answered writes that are gone have to be in the quarantine of whoever had them."""
        lost = {value for workload in self._workloads for value in workload.lost}
        for host in self._cluster.storages if lost else ():
            for cut in kept_cuts(host.disk):
                for entry in kept_entries(host.disk, cut.name):
                    written = [e.value for e in entry.effects if isinstance(e, PutEffect)]
                    lost -= {value.partition(b" ")[0] for value in written}
        if not lost:
            return []
        return [f"{len(lost)} answered writes are gone and in no quarantine, as {min(lost)!r}"]

    # -- judgement -------------------------------------------------------------------------------

    def judge(self) -> Result:
        world, result = self._world, self.result
        if not result.violations:
            for workload in self._workloads:
                result.violations.extend(workload.check())
                # No verdict is no all-clear.
                result.violations.extend(f"undecided: {what}" for what in workload.undecided)
        result.violations.extend(self._not_kept())
        result.violations.extend(self._raft.check())
        result.violations.extend(self._replicas.check())
        # Once each: a server that cannot start tries again and again.
        errors = list(dict.fromkeys(world.errors))[:MAX_ERRORS]
        result.violations.extend(f"internal error: {error}" for error in errors)
        hosts = self._cluster.hosts
        result.counts |= {
            "operations": sum(workload.counts()[1] for workload in self._workloads),
            "answered": self._answered(),
            "faults": len(self._faults),
            "kills": sum(host.counts.kills for host in hosts),
            "pauses": sum(host.counts.pauses for host in hosts),
            "disk failures": sum(host.counts.disk_failures for host in hosts),
            "elections": self._raft.elections,
            "snapshots installed": self._raft.installed,
            "takeovers": self._replicas.takeovers,
            "rejoins": self._replicas.rejoins,
            "checkpoints fetched": self._replicas.fetched,
            "splits": self._replicas.splits,
            "answered writes lost": sum(len(workload.lost) for workload in self._workloads),
            "simulated s": round(world.timeline.now_s, 3),
            "events": world.timeline.count,
        }
        result.digest = world.trace.digest()
        result.trace = world.trace.lines
        return result

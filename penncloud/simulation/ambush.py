"""Faults that wait for a moment: they watch a part of the cluster, and strike when something happens there.

Chance alone seldom hits the few microseconds in which a rule matters. An ambush is drawn like any other
fault, and lies in wait from its begin to its end.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal, Protocol

from attrs import frozen

from penncloud.simulation import faults
from penncloud.simulation.cluster import Cluster
from penncloud.simulation.faults import Fault, Who
from penncloud.simulation.host import Host
from penncloud.simulation.process import Process
from penncloud.simulation.raft_oracle import raft_of
from penncloud.simulation.replica_oracle import members_of
from penncloud.storage.member import Member


@frozen
class ElectionAmbush:
    """At the moment at which a coordinator is elected it stands still, and its voters are killed.

    To have an election, the leader is killed first, for `vacancy_s`. The voters, and who was down, come
    back after `back_in_s`: they elect somebody among themselves, while the one that was elected still
    believes in its own term. Whoever forgot its vote may give it twice in one term.
    """

    at_s: float
    for_s: float
    vacancy_s: float
    back_in_s: float
    power: bool

    def begin(self, cluster: Cluster) -> None:
        leaders = [host for host in cluster.coordinators if _leads(host)]
        for leader in leaders:
            leader.kill(self.power, back_in_s=self.vacancy_s)
        known = max((_term(host) for host in cluster.coordinators), default=0)
        elected = leaders[0].name if leaders else ""

        def observe(process: Process) -> None:
            winner = process.host
            if process.dead or winner.name == elected or not _leads(winner):
                return
            raft = raft_of(winner)
            if raft is None or raft.term <= known or len(raft.membership.voters) < 3:
                return
            self._strike(cluster, winner)

        cluster.world.observers[self] = observe

    def _strike(self, cluster: Cluster, winner: Host) -> None:
        cluster.world.observers.pop(self, None)
        raft = raft_of(winner)
        assert raft is not None
        winner.pause()
        for host in cluster.coordinators:
            other = raft_of(host)
            if host is winner:
                continue
            if other is None:
                host.start()
            elif (other.hard_state.term, other.hard_state.vote) == (raft.term, winner.name):
                host.kill(self.power, back_in_s=self.back_in_s)

    def end(self, cluster: Cluster) -> None:
        cluster.world.observers.pop(self, None)
        for host in cluster.coordinators:
            host.resume()


class _Ambush(Protocol):
    """A fault that waits until a replica's stage changes from `before` (None: it was not there)."""

    def is_it(self, before: str | None, after: str) -> bool: ...

    def strike(self, cluster: Cluster, host: Host, member: Member) -> None: ...


def _lie_in_wait(ambush: _Ambush, cluster: Cluster, stage_of: Callable[[Member], str]) -> None:
    """Let an ambush strike once, at the first change of any replica's stage that it waits for."""
    known = {
        (host.name, tablet): stage_of(member)
        for host in cluster.storages
        for tablet, member in members_of(host).items()
    }

    def observe(process: Process) -> None:
        host = process.host
        if process.dead:
            return
        for tablet, member in members_of(host).items():
            before, stage = known.get((host.name, tablet)), stage_of(member)
            known[host.name, tablet] = stage
            if stage != before and ambush.is_it(before, stage):
                cluster.world.observers.pop(ambush, None)
                ambush.strike(cluster, host, member)
                return

    cluster.world.observers[ambush] = observe


# Moments at which a storage server may be struck.
Moment = Literal["takes over", "serves", "learns", "joins"]


@frozen
class ReplicaAmbush:
    """At the moment at which a replica takes over, has taken over, begins to learn or has joined, a server
    is killed: that one, or with `primary` the primary from which it learns."""

    at_s: float
    for_s: float
    moment: Moment
    primary: bool
    power: bool
    back_in_s: float

    def begin(self, cluster: Cluster) -> None:
        _lie_in_wait(self, cluster, _stage)

    def is_it(self, before: str | None, after: str) -> bool:
        """See `_Ambush`."""
        if self.moment == "takes over":
            return after == "taking over"
        if self.moment == "serves":
            return after == "primary"
        if self.moment == "learns":
            return after == "learner" and before is not None
        return before == "learner" and after == "secondary"

    def strike(self, cluster: Cluster, host: Host, member: Member) -> None:
        """See `_Ambush`."""
        config = member.replica.config
        victim = config.primary if self.primary and config is not None else host.name
        cluster.world.hosts[victim].kill(self.power, back_in_s=self.back_in_s)

    def end(self, cluster: Cluster) -> None:
        cluster.world.observers.pop(self, None)


def _stage(member: Member) -> str:
    return member.replica.role


# Moments of a split: its entry is in the primary's log; it is committed there, or at another member; a
# copy is cut.
SplitMoment = Literal["freezes", "splits", "hears", "is cut"]
Victim = Literal["itself", "primary", "leader", "coordinators", "all"]
Blow = Literal[
    "kill", "power", "power in", "pause", "cut off", "from coordinators", "full", "reset"
]


@frozen
class SplitAmbush:
    """At a moment of a split something is done to somebody, for `blow_s`: every fault at the worst time.

    `after` is a number of disk operations for "power in", which cuts the power in the middle of them.
    """

    at_s: float
    for_s: float
    moment: SplitMoment
    victim: Victim
    blow: Blow
    blow_s: float
    after: int

    def begin(self, cluster: Cluster) -> None:
        _lie_in_wait(self, cluster, _split_stage)

    def is_it(self, before: str | None, after: str) -> bool:
        """See `_Ambush`."""
        if self.moment == "is cut":
            return before is None and after == "half"
        return after == self.moment

    def strike(self, cluster: Cluster, host: Host, member: Member) -> None:
        """See `_Ambush`."""
        for victim in self._victims(cluster, host, member):
            blow = self._blow(cluster, victim)
            cluster.world.trace.fact(victim, f"is struck as a tablet {self.moment}: {self.blow}")
            blow.begin(cluster)
            cluster.world.timeline.after(self.blow_s, blow.end, cluster)

    def _victims(self, cluster: Cluster, host: Host, member: Member) -> list[str]:
        config = member.replica.config
        match self.victim:
            case "primary" if config is not None and config.primary:
                return [config.primary]
            case "leader":
                return [one.name for one in cluster.coordinators if _leads(one)]
            case "coordinators":
                lost = len(cluster.coordinators) // 2 + 1
                return [one.name for one in cluster.coordinators][:lost]
            case "all":
                return [one.name for one in cluster.storages]
        return [host.name]

    def _blow(self, cluster: Cluster, victim: str) -> Fault:
        coordinators = tuple(host.name for host in cluster.coordinators if host.name != victim)
        others = tuple(host.name for host in cluster.servers if host.name != victim)
        match self.blow:
            case "power in":
                return faults.PowerCutAfter(0.0, self.blow_s, victim, self.after)
            case "pause":
                return faults.Pause(0.0, self.blow_s, victim)
            case "cut off":
                return faults.Cut(0.0, self.blow_s, (victim,), others, True)
            case "from coordinators":
                return faults.Cut(0.0, self.blow_s, (victim,), coordinators, True)
            case "full":
                return faults.FullDisk(0.0, self.blow_s, victim)
            case "reset":
                return faults.Resets(0.0, min(self.blow_s, 1.0), victim, 0.003)
        return faults.Kill(0.0, self.blow_s, victim, self.blow == "power")

    def end(self, cluster: Cluster) -> None:
        cluster.world.observers.pop(self, None)


def _split_stage(member: Member) -> str:
    tablet = member.tablet
    leads = member.replica.role == "primary"
    if tablet.split is not None:
        return "splits" if leads else "hears"
    if tablet.frozen:
        return "freezes"
    return "half" if not member.blank and member.replica.committed else ""


@frozen
class PowerCutIn:
    """The power goes in the middle of what the disk does in files of this name: checkpoints, transfers."""

    at_s: float
    for_s: float
    host: str
    file: str
    operations: int

    def begin(self, cluster: Cluster) -> None:
        disk = cluster.world.hosts[self.host].disk
        disk.cut_in = self.file
        disk.operations_left = self.operations

    def end(self, cluster: Cluster) -> None:
        disk = cluster.world.hosts[self.host].disk
        disk.cut_in = ""
        disk.operations_left = None


def _leads(host: Host) -> bool:
    raft = raft_of(host)
    return raft is not None and raft.role == "leader"


def _term(host: Host) -> int:
    raft = raft_of(host)
    return raft.term if raft is not None else 0


def elections(chance: random.Random, _who: Who, at_s: float) -> Fault:
    vacancy_s, back_in_s = chance.uniform(0.2, 1.5), chance.choice((0.0, 0.01, 0.1))
    return ElectionAmbush(at_s, chance.uniform(2, 4), vacancy_s, back_in_s, chance.random() < 0.5)


def takeovers(chance: random.Random, _who: Who, at_s: float) -> Fault:
    return _replica(chance, at_s, chance.choice(("takes over", "serves")), primary=False)


def rejoins(chance: random.Random, _who: Who, at_s: float) -> Fault:
    return _replica(chance, at_s, chance.choice(("learns", "joins")), primary=chance.random() < 0.5)


def _replica(chance: random.Random, at_s: float, moment: Moment, primary: bool) -> Fault:
    back_in_s, power = chance.choice((0.05, 1.0, 3.0)), chance.random() < 0.5
    return ReplicaAmbush(at_s, 4.0, moment, primary, power, back_in_s)


def splits(chance: random.Random, _who: Who, at_s: float) -> Fault:
    moments: tuple[SplitMoment, ...] = ("freezes", "splits", "hears", "is cut")
    victims: tuple[Victim, ...] = ("itself", "itself", "primary", "leader", "coordinators", "all")
    blows: tuple[Blow, ...] = (
        "kill",
        "power",
        "power in",
        "pause",
        "cut off",
        "from coordinators",
        "full",
        "reset",
    )
    moment, victim, blow = chance.choice(moments), chance.choice(victims), chance.choice(blows)
    blow_s = chance.choice((0.05, 0.8, 3.0)) * chance.uniform(0.5, 1.5)
    return SplitAmbush(at_s, 8.0, moment, victim, blow, blow_s, chance.randint(0, 12))


def checkpoints(chance: random.Random, who: Who, at_s: float) -> Fault:
    file = chance.choice(("MANIFEST", "tables", "replicas", "incoming", "quarantine", "ends"))
    return PowerCutIn(at_s, 6.0, chance.choice(who.storages), file, chance.randint(0, 6))

"""What is done to a cluster: each fault a value with a time, a length and a victim.

A run's faults are drawn before it begins, so that a failing run can be tried again with fewer of them.
A `Nemesis` draws faults of one kind; a scenario mixes them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from attrs import evolve, frozen

from penncloud.coordinator.commands import TabletRecord
from penncloud.coordinator.node import CoordinatorNode
from penncloud.raft.node import RaftNode
from penncloud.replication.primary import Primary
from penncloud.simulation.cluster import Cluster, Settings, mail_servers
from penncloud.simulation.host import Host
from penncloud.simulation.raft_oracle import raft_of
from penncloud.simulation.replica_oracle import members_of

# Somebody looks after a server so often, and takes its disk for lost when it has refused so often to start.
LOOK_S: Final = 1.0
REFUSALS: Final = 2


class Fault(Protocol):
    """`str()` of it says what it is. `begin` at `at_s`, `end` after `for_s` more."""

    @property
    def at_s(self) -> float: ...

    @property
    def for_s(self) -> float: ...

    def begin(self, cluster: Cluster) -> None: ...

    def end(self, cluster: Cluster) -> None: ...


@frozen
class Kill:
    """SIGKILL; with `power` the machine, too."""

    at_s: float
    for_s: float
    host: str
    power: bool

    def begin(self, cluster: Cluster) -> None:
        cluster.world.hosts[self.host].kill(self.power)

    def end(self, cluster: Cluster) -> None:
        cluster.world.hosts[self.host].start()


@frozen
class KillAll:
    """All of these at once, as when the power of a rack fails."""

    at_s: float
    for_s: float
    hosts: tuple[str, ...]

    def begin(self, cluster: Cluster) -> None:
        for name in self.hosts:
            cluster.world.hosts[name].kill(power=True)

    def end(self, cluster: Cluster) -> None:
        for name in self.hosts:
            cluster.world.hosts[name].start()


@frozen
class PowerCutAfter:
    """The power goes in the middle of what the disk does: after so many operations from now."""

    at_s: float
    for_s: float
    host: str
    operations: int

    def begin(self, cluster: Cluster) -> None:
        cluster.world.hosts[self.host].disk.operations_left = self.operations

    def end(self, cluster: Cluster) -> None:
        cluster.world.hosts[self.host].disk.operations_left = None


@frozen
class Restart:
    """Stopped in order and started again."""

    at_s: float
    for_s: float
    host: str

    def begin(self, cluster: Cluster) -> None:
        cluster.world.hosts[self.host].restart()

    def end(self, cluster: Cluster) -> None:
        """It comes back by itself."""


@frozen
class Pause:
    """SIGSTOP, and SIGCONT in the end."""

    at_s: float
    for_s: float
    host: str

    def begin(self, cluster: Cluster) -> None:
        cluster.world.hosts[self.host].pause()

    def end(self, cluster: Cluster) -> None:
        cluster.world.hosts[self.host].resume()


@frozen
class Cut:
    """Nothing gets from any of `sources` to any of `targets`; `both_ways` nor back."""

    at_s: float
    for_s: float
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    both_ways: bool

    def _links(self) -> set[tuple[str, str]]:
        there = {(a, b) for a in self.sources for b in self.targets}
        return there | {(b, a) for a, b in there} if self.both_ways else there

    def begin(self, cluster: Cluster) -> None:
        cluster.world.network.cut |= self._links()

    def end(self, cluster: Cluster) -> None:
        cluster.world.network.cut -= self._links()


@frozen
class SlowLink:
    """Everything from `source` to `target` takes `by_s` seconds more."""

    at_s: float
    for_s: float
    source: str
    target: str
    by_s: float

    def begin(self, cluster: Cluster) -> None:
        cluster.world.network.slow[self.source, self.target] = self.by_s

    def end(self, cluster: Cluster) -> None:
        cluster.world.network.slow.pop((self.source, self.target), None)


@frozen
class NarrowLink:
    """Only so much gets from `source` to `target`."""

    at_s: float
    for_s: float
    source: str
    target: str
    bytes_per_s: float

    def begin(self, cluster: Cluster) -> None:
        cluster.world.network.narrow[self.source, self.target] = self.bytes_per_s

    def end(self, cluster: Cluster) -> None:
        cluster.world.network.narrow.pop((self.source, self.target), None)


@frozen
class Lossy:
    """Segments everywhere have to be sent again at this rate."""

    at_s: float
    for_s: float
    rate: float

    def begin(self, cluster: Cluster) -> None:
        cluster.world.network.quality.loss_rate = self.rate

    def end(self, cluster: Cluster) -> None:
        cluster.world.network.quality.loss_rate = 0.0


@frozen
class Resets:
    """Connections of a host break, `every_s` seconds one."""

    at_s: float
    for_s: float
    host: str
    every_s: float

    def begin(self, cluster: Cluster) -> None:
        self._break_one(cluster, cluster.world.timeline.now_s + self.for_s)

    def _break_one(self, cluster: Cluster, until_s: float) -> None:
        if cluster.calmed:
            return
        process = cluster.world.hosts[self.host].process
        if process is not None and process.sockets:
            cluster.world.network.chance.choice(list(process.sockets)).break_off()
        if cluster.world.timeline.now_s + self.every_s < until_s:
            cluster.world.timeline.after(self.every_s, self._break_one, cluster, until_s)

    def end(self, cluster: Cluster) -> None:
        """It has ended by itself."""


@frozen
class SlowDisk:
    """Syncs take `factor` times as long."""

    at_s: float
    for_s: float
    host: str
    factor: float

    def begin(self, cluster: Cluster) -> None:
        cluster.world.hosts[self.host].disk.slowness = self.factor

    def end(self, cluster: Cluster) -> None:
        cluster.world.hosts[self.host].disk.slowness = 1.0


@frozen
class FailSync:
    """The next sync fails: the program has to end."""

    at_s: float
    for_s: float
    host: str

    def begin(self, cluster: Cluster) -> None:
        cluster.world.hosts[self.host].disk.fail_next_sync = True

    def end(self, cluster: Cluster) -> None:
        cluster.world.hosts[self.host].disk.fail_next_sync = False


@frozen
class FullDisk:
    """There is no room on the disk."""

    at_s: float
    for_s: float
    host: str

    def begin(self, cluster: Cluster) -> None:
        cluster.world.hosts[self.host].full(True)

    def end(self, cluster: Cluster) -> None:
        cluster.world.hosts[self.host].full(False)


@frozen
class WallJump:
    """Somebody sets the wall clock of a machine, and later sets it right again."""

    at_s: float
    for_s: float
    host: str
    by_s: float

    def begin(self, cluster: Cluster) -> None:
        cluster.world.hosts[self.host].wall_skew_s += self.by_s

    def end(self, cluster: Cluster) -> None:
        cluster.world.hosts[self.host].wall_skew_s -= self.by_s


@frozen
class Rot:
    """One bit of what lies on a disk is wrong, `where` (0 to 1) among all of its bytes.

    Nobody mends it: what was lost has to be fetched from others, if there are others that have it. The
    machine is switched off meanwhile, so that what is wrong is read. Coordinators need all of them to begin:
    until they have, nothing happens.
    """

    at_s: float
    for_s: float
    host: str
    where: float

    def begin(self, cluster: Cluster) -> None:
        host = cluster.world.hosts[self.host]
        rafts = [raft_of(coordinator) for coordinator in cluster.coordinators]
        if not any(raft is not None and raft.log.commit for raft in rafts):
            return
        _flip(cluster, host, self.where)

    def end(self, cluster: Cluster) -> None:
        cluster.world.hosts[self.host].start()


def _flip(cluster: Cluster, host: Host, where: float) -> None:
    """Switch a machine off, and make one bit on its disk wrong."""
    host.kill(power=True)
    path = host.disk.rot(where)
    cluster.world.trace.fact(host.name, f"has a wrong bit in {path or 'nothing'}")


@frozen
class Decay:
    """`Rot` on a storage server's disk, unless it may be the only one that has all.

    Should its program refuse to start with what it finds, somebody puts in an empty disk, as soon as the
    others have all.
    """

    at_s: float
    for_s: float
    host: str
    where: float

    def begin(self, cluster: Cluster) -> None:
        host = cluster.world.hosts[self.host]
        if not can_be_spared(cluster, host):
            return
        _flip(cluster, host, self.where)
        host.decayed = True

    def end(self, cluster: Cluster) -> None:
        host = cluster.world.hosts[self.host]
        host.start()
        self._look(cluster, host)

    def _look(self, cluster: Cluster, host: Host) -> None:
        if host.refusals >= REFUSALS and can_be_spared(cluster, host):
            host.kill(power=True)
            host.wipe()
            host.start()
        elif host.refusals or not host.serves:
            cluster.world.timeline.after(LOOK_S, self._look, cluster, host)


@frozen
class Wipe:
    """The disk of a storage server is replaced by an empty one, unless it may be the only one that has all.

    Whoever else is a member of one of its tablets has to run, and not to be blank itself. The clock of the
    machine with the new disk is behind by `back_s`.
    """

    at_s: float
    for_s: float
    host: str
    back_s: float = 0.0

    def begin(self, cluster: Cluster) -> None:
        host = cluster.world.hosts[self.host]
        if not can_be_spared(cluster, host):
            return
        host.kill(power=True)
        host.wipe()
        host.wall_skew_s -= self.back_s

    def end(self, cluster: Cluster) -> None:
        cluster.world.hosts[self.host].start()


@frozen
class RollingKill:
    """One after the other, each down for as long as it takes until the next one goes."""

    at_s: float
    for_s: float
    hosts: tuple[str, ...]
    power: bool

    def begin(self, cluster: Cluster) -> None:
        each_s = self.for_s / len(self.hosts)
        for number, name in enumerate(self.hosts):
            cluster.world.timeline.after(number * each_s, self._next, cluster, name, each_s)

    def _next(self, cluster: Cluster, name: str, each_s: float) -> None:
        if not cluster.calmed:
            cluster.world.hosts[name].kill(self.power, back_in_s=each_s)

    def end(self, cluster: Cluster) -> None:
        """They come back by themselves."""


@frozen
class PowerCutWhileSlow:
    """Syncs take `factor` times as long, then the power goes: much was under way.

    It may go for those who wait, too: then nobody asks again, and what is lost stays lost.
    """

    at_s: float
    for_s: float
    host: str
    factor: float
    others: tuple[str, ...]

    def begin(self, cluster: Cluster) -> None:
        cluster.world.hosts[self.host].disk.slowness = self.factor

    def end(self, cluster: Cluster) -> None:
        host = cluster.world.hosts[self.host]
        host.disk.slowness = 1.0
        host.kill(power=True, back_in_s=0.1)
        for name in self.others:
            cluster.world.hosts[name].kill(power=True, back_in_s=0.1)


@frozen
class Estrange:
    """A tablet's primary is cut off from all servers, while some clients still reach it.

    `parted_s` later the connections of every other client, from the first on, to it break, and cannot be
    made again: these ask who is primary now, and write there, while the rest still reads from the old one.
    With `restarted` the other storage servers are killed just before, and come back at once: they have
    forgotten what they had promised.
    """

    at_s: float
    for_s: float
    tablet: int
    parted_s: float
    restarted: bool

    def begin(self, cluster: Cluster) -> None:
        record = cluster.tablets().get(self.tablet)
        network = cluster.world.network
        if record is None or record.primary not in cluster.world.hosts or network.cut:
            return  # Two at a time would leave nobody to lead.
        primary = record.primary
        network.cut |= _links((primary,), [h.name for h in cluster.servers if h.name != primary])
        if self.restarted:
            for host in cluster.storages:
                if host.name != primary:
                    host.kill(power=False, back_in_s=0.01)
        cluster.world.timeline.after(self.parted_s, self._part, cluster, primary)

    def _part(self, cluster: Cluster, primary: str) -> None:
        process = cluster.world.hosts[primary].process
        leavers = [host.name for host in cluster.clients[::2]]
        if cluster.calmed or process is None:
            return
        cluster.world.network.cut |= _links((primary,), leavers)
        for name in leavers:
            client = cluster.world.hosts[name].process
            for socket in list(client.sockets) if client is not None else ():
                socket.break_off()

    def end(self, cluster: Cluster) -> None:
        everyone = [host.name for host in cluster.hosts]
        for host in cluster.storages:
            cluster.world.network.cut -= _links((host.name,), everyone)


def _links(some: Sequence[str], others: Sequence[str]) -> set[tuple[str, str]]:
    """All links between some hosts and others, both ways."""
    there = {(a, b) for a in some for b in others}
    return there | {(b, a) for a, b in there}


def can_be_spared(cluster: Cluster, host: Host) -> bool:
    """Whether each of a server's tablets has another member that runs, is not blank, and stays one.

    Nothing may be under way that changes members: all coordinators run (one that is down may know of a
    later configuration), one of them leads and has applied all of its log, some of it from its own term (a
    coordinator that has just started has applied nothing yet), and the tablet's primary serves and has
    proposed nothing.
    """
    nodes = [coordinator.node for coordinator in cluster.coordinators]
    if not all(isinstance(node, CoordinatorNode) for node in nodes):
        return False
    leaders = [c for c in cluster.coordinators if _has_applied_all(raft_of(c))]
    if not leaders:
        return False
    leader = max(leaders, key=_term_of)
    assert isinstance(leader.node, CoordinatorNode)
    if _term_of(leader) < max(_term_of(coordinator) for coordinator in cluster.coordinators):
        return False
    tablets = leader.node.decisions.machine.state.tablets
    return all(
        not _joins(cluster, host.name, tablet)
        and (
            host.name not in record.members
            or (
                _is_settled(cluster, record)
                and any(
                    name != host.name and _holds(cluster, name, tablet) for name in record.members
                )
            )
        )
        for tablet, record in tablets.items()
    )


def _has_applied_all(raft: RaftNode | None) -> bool:
    if raft is None or raft.role != "leader":
        return False
    log = raft.log
    return log.applied == log.last_index and log.last_term == raft.term


def _term_of(coordinator: Host) -> int:
    raft = raft_of(coordinator)
    return raft.term if raft is not None else 0


def _is_settled(cluster: Cluster, record: TabletRecord) -> bool:
    """Whether a tablet's primary serves in this very configuration, and has proposed no other."""
    primary = cluster.world.hosts.get(record.primary)
    member = members_of(primary).get(record.id) if primary is not None else None
    part = member.replica.part if member is not None else None
    return (
        isinstance(part, Primary)
        and part.serving
        and part.config.cfg == record.epoch
        and part.membership.pending is None
    )


def _joins(cluster: Cluster, name: str, tablet: int) -> bool:
    """Whether a primary counts this learner's ACKs already, as it is about to be a member."""
    for host in cluster.storages:
        member = members_of(host).get(tablet)
        part = member.replica.part if member is not None else None
        if isinstance(part, Primary) and part.membership.joint == name:
            return True
    return False


def _holds(cluster: Cluster, name: str, tablet: int) -> bool:
    member = members_of(cluster.world.hosts[name]).get(tablet)
    return member is not None and not member.blank


@frozen
class Who:
    """The hosts of a run by name, for choosing victims."""

    coordinators: tuple[str, ...]
    storages: tuple[str, ...]
    frontends: tuple[str, ...]  # and mail servers
    clients: tuple[str, ...]

    @classmethod
    def of(cls, settings: Settings) -> Who:
        def names(role: str, count: int) -> tuple[str, ...]:
            return tuple(f"{role}-{n + 1}" for n in range(count))

        return cls(
            names("coordinator", settings.coordinators),
            names("storage", settings.storages),
            names("http", settings.frontends) + mail_servers(settings),
            names("client", settings.clients),
        )

    def server(self, chance: random.Random) -> str:
        """Storage servers and coordinators alike; sometimes a frontend."""
        roles = [self.storages, self.coordinators, self.frontends]
        return chance.choice(chance.choices(roles, (6, 3, 1))[0])

    def member(self, chance: random.Random) -> str:
        """A server that has a disk."""
        return chance.choice(chance.choices([self.storages, self.coordinators], (2, 1))[0])

    @property
    def everyone(self) -> tuple[str, ...]:
        return self.coordinators + self.storages + self.frontends + self.clients


Nemesis = Callable[[random.Random, Who, float], Fault]


def _length(chance: random.Random) -> float:
    """Mostly short, sometimes longer than every timeout."""
    longest_s = chance.choice((0.3, 2.0, 2.0, 8.0))
    return chance.uniform(0.05, longest_s)


def kills(chance: random.Random, who: Who, at_s: float) -> Fault:
    return Kill(at_s, _length(chance), who.server(chance), chance.random() < 0.4)


def coordinator_kills(chance: random.Random, who: Who, at_s: float) -> Fault:
    victim = chance.choice(who.coordinators)
    return Kill(at_s, _length(chance), victim, chance.random() < 0.4)


def coordinator_pauses(chance: random.Random, who: Who, at_s: float) -> Fault:
    return Pause(at_s, _length(chance), chance.choice(who.coordinators))


def coordinator_cuts(chance: random.Random, who: Who, at_s: float) -> Fault:
    """One coordinator from the others, in one direction or both; servers still reach it."""
    victim = chance.choice(who.coordinators)
    others = tuple(name for name in who.coordinators if name != victim)
    return Cut(at_s, _length(chance), (victim,), others, chance.random() < 0.6)


def client_kills(chance: random.Random, who: Who, at_s: float) -> Fault:
    return Kill(at_s, _length(chance), chance.choice(who.clients), chance.random() < 0.4)


def blackouts(chance: random.Random, who: Who, at_s: float) -> Fault:
    servers = who.storages + chance.choice(((), who.coordinators))
    return KillAll(at_s, _length(chance), servers)


def power_cuts_in_writes(chance: random.Random, who: Who, at_s: float) -> Fault:
    return PowerCutAfter(at_s, 5.0, who.member(chance), chance.randint(0, 40))


def power_cuts_while_slow(chance: random.Random, who: Who, at_s: float) -> Fault:
    factor = chance.choice((30, 300))
    others = (chance.choice(who.clients),) if chance.random() < 0.5 else ()
    return PowerCutWhileSlow(at_s, _length(chance), who.member(chance), factor, others)


def restarts(chance: random.Random, who: Who, at_s: float) -> Fault:
    return Restart(at_s, 1.0, who.server(chance))


def pauses(chance: random.Random, who: Who, at_s: float) -> Fault:
    return Pause(at_s, _length(chance), chance.choice(who.everyone))


def cuts(chance: random.Random, who: Who, at_s: float) -> Fault:
    everyone = list(who.everyone)
    chance.shuffle(everyone)
    size = chance.choice((1, 1, len(everyone) // 2))
    sources, targets = tuple(sorted(everyone[:size])), tuple(sorted(everyone[size:]))
    if chance.random() < 0.3:
        targets = (chance.choice(targets),)
    return Cut(at_s, _length(chance), sources, targets, chance.random() < 0.6)


def slow_links(chance: random.Random, who: Who, at_s: float) -> Fault:
    source, target = chance.sample(who.everyone, 2)
    return SlowLink(at_s, _length(chance), source, target, chance.choice((0.02, 0.3, 2.0)))


def narrow_links(chance: random.Random, who: Who, at_s: float) -> Fault:
    source, target = chance.sample(who.everyone, 2)
    return NarrowLink(at_s, _length(chance), source, target, chance.choice((1e3, 1e4, 1e5)))


def wall_jumps(chance: random.Random, who: Who, at_s: float) -> Fault:
    by_s = chance.choice((-86_400, -300, -5, 5, 300, 86_400)) * chance.uniform(0.5, 1)
    return WallJump(at_s, _length(chance), chance.choice(who.everyone), round(by_s, 3))


def rot(chance: random.Random, who: Who, at_s: float) -> Fault:
    """Of one coordinator, the same in every fault: of three one may be lost for good."""
    return Rot(at_s, _length(chance), who.coordinators[-1], chance.random())


def decays(chance: random.Random, who: Who, at_s: float) -> Fault:
    """Of one storage server, the same in every fault: what is wrong may long lie there unnoticed."""
    return Decay(at_s, _length(chance), who.storages[-1], chance.random())


def with_one_spared(nemesis: Nemesis) -> Nemesis:
    """Faults that leave one storage server alone, which has everything all the time."""

    def drawn(chance: random.Random, who: Who, at_s: float) -> Fault:
        storages = tuple(name for name in who.storages if name != who.storages[1])
        return nemesis(chance, evolve(who, storages=storages), at_s)

    return drawn


def wipes(chance: random.Random, who: Who, at_s: float) -> Fault:
    # Drawn apart: it came later than the seeds that stand in tests.
    back_s = random.Random(f"wipe at {at_s}").choice((0.0, 0.0, 300.0))
    return Wipe(at_s, _length(chance), chance.choice(who.storages), back_s)


def estrangements(chance: random.Random, _who: Who, at_s: float) -> Fault:
    """Long enough for another primary, at most until leases would end, before clients part."""
    parted_s, restarted = chance.uniform(0.15, 0.3), chance.random() < 0.5
    return Estrange(at_s, chance.uniform(1.0, 2.5), 1, parted_s, restarted)


def storage_kills(chance: random.Random, who: Who, at_s: float) -> Fault:
    return Kill(at_s, _length(chance), chance.choice(who.storages), chance.random() < 0.4)


def storage_pauses(chance: random.Random, who: Who, at_s: float) -> Fault:
    return Pause(at_s, _length(chance), chance.choice(who.storages))


def storage_cuts(chance: random.Random, who: Who, at_s: float) -> Fault:
    """One storage server from the others, or from the coordinators, in one direction or both."""
    victim = chance.choice(who.storages)
    others = tuple(name for name in who.storages if name != victim)
    targets = chance.choice((others, others, who.coordinators, (chance.choice(others),)))
    sources: tuple[str, ...] = (victim,)
    if chance.random() < 0.5:
        sources, targets = targets, sources
    return Cut(at_s, _length(chance), sources, targets, chance.random() < 0.5)


def rolling_kills(chance: random.Random, who: Who, at_s: float) -> Fault:
    hosts = list(who.storages)
    chance.shuffle(hosts)
    return RollingKill(at_s, chance.uniform(0.5, 6), tuple(hosts), chance.random() < 0.4)


def majority_losses(chance: random.Random, who: Who, at_s: float) -> Fault:
    """Most of the coordinators."""
    lost = len(who.coordinators) // 2 + 1
    return KillAll(at_s, _length(chance), tuple(chance.sample(who.coordinators, lost)))


def losses(chance: random.Random, _who: Who, at_s: float) -> Fault:
    return Lossy(at_s, _length(chance), chance.choice((0.01, 0.2)))


def resets(chance: random.Random, who: Who, at_s: float) -> Fault:
    every_s = chance.choice((0.01, 0.1, 0.5))
    return Resets(at_s, _length(chance), chance.choice(who.everyone), every_s)


def storage_resets(chance: random.Random, who: Who, at_s: float) -> Fault:
    """Answers get lost on their way."""
    every_s = chance.choice((0.003, 0.02, 0.1))
    return Resets(at_s, _length(chance), chance.choice(who.storages), every_s)


def slow_disks(chance: random.Random, who: Who, at_s: float) -> Fault:
    return SlowDisk(at_s, _length(chance), who.member(chance), chance.choice((10, 100, 1000)))


def failing_syncs(chance: random.Random, who: Who, at_s: float) -> Fault:
    return FailSync(at_s, _length(chance), who.member(chance))


def full_disks(chance: random.Random, who: Who, at_s: float) -> Fault:
    return FullDisk(at_s, _length(chance), who.member(chance))


def draw(
    chance: random.Random,
    who: Who,
    nemeses: Sequence[Nemesis],
    from_s: float,
    to_s: float,
) -> list[Fault]:
    """The faults of one run: some of the nemeses, each with a weight, all at one rate."""
    chosen = [nemesis for nemesis in nemeses if chance.random() < 0.5] or [chance.choice(nemeses)]
    weights = [chance.uniform(0.1, 1) for _ in chosen]
    pause_s = chance.choice((0.3, 1.0, 3.0))
    faults: list[Fault] = []
    at_s = from_s
    while True:
        at_s += chance.uniform(0, 2 * pause_s)
        if at_s >= to_s:
            return faults
        nemesis = chance.choices(chosen, weights)[0]
        faults.append(nemesis(chance, who, round(at_s, 6)))

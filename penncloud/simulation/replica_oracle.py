"""What the replicas of all tablets promise each other, looked at after every turn of every storage server.

The oracle sees what nobody in the cluster can: who is primary in which configuration, and what each replica
has committed. It checks, of replication.md,

    I1  what any replica commits, the primary committed first, and every member had it on its disk then,
        by its own configuration and by that of the coordinators; after a crash every one of those members
        still has it
    I2  a primary is a member of its configuration
    I3  one configuration has one primary
    I4  all commit the same entry at the same version

and of splits, that only what is committed is carried out, and both halves begin where it stands, with all
that the whole had committed up to there; and in the end that all members of a tablet hold the same, byte
for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from attrs import define, field, frozen

from penncloud.coordinator.commands import TabletRecord
from penncloud.coordinator.node import CoordinatorNode
from penncloud.lsm import entry as lsm
from penncloud.lsm.errors import TabletDamaged
from penncloud.replication.primary import Primary
from penncloud.simulation.host import Host
from penncloud.simulation.process import Process
from penncloud.storage.member import Member
from penncloud.storage.node import StorageNode
from penncloud.storage.split import Split, split_of

# How many of a tablet's last entries are looked for on a disk that comes back.
_LOOKED_FOR: Final = 200


def members_of(host: Host) -> dict[int, Member]:
    """The replicas that run on a host, by tablet."""
    return host.node.replicas.members if isinstance(host.node, StorageNode) else {}


@frozen
class _Committed:
    """An entry, and on whose disks it had to be when it was committed."""

    entry: Any
    members: tuple[str, ...]


@define
class _Seen:
    """What was last seen of one replica in one process."""

    replica: Any
    committed: int
    role: str = ""
    cfg: int = 0
    installing: bool = False


@define(eq=False)
class ReplicaOracle:
    """`hosts` are the storage servers', `factor` how many members a tablet has in the end; `current` gives
    the tablets that there are, as the coordinators have them."""

    hosts: Sequence[Host]
    factor: int
    current: Callable[[], Mapping[int, TabletRecord]]
    violations: list[str] = field(factory=list)
    takeovers: int = 0
    rejoins: int = 0
    # Checkpoints that were fetched from another server.
    fetched: int = 0
    # Tablets that were replaced by two.
    splits: int = 0
    _by_name: dict[str, Host] = field(factory=dict)
    _chosen: dict[int, list[_Committed]] = field(factory=dict)
    _primaries: dict[tuple[int, int], str] = field(factory=dict)
    _last: dict[int, str] = field(factory=dict)
    _seen: dict[tuple[str, int], _Seen] = field(factory=dict)
    # What a disk had before it was lost.
    _wiped: dict[tuple[str, int], Any] = field(factory=dict)
    # Since when a host's disk holds nothing that was committed before, by tablet: the version.
    _lost_before: dict[tuple[str, int], int] = field(factory=dict)
    # What each tablet that comes of a committed split is a half of.
    _halves: dict[int, tuple[int, Split]] = field(factory=dict)
    # The engine of a host whose disk decays, and how often it had read all its files when it was first
    # looked at, or last found damage.
    _scrubs: dict[str, tuple[object, int]] = field(factory=dict)
    # The latest configuration of each tablet that any coordinator has applied.
    _decided: dict[int, TabletRecord] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self._by_name = {host.name: host for host in self.hosts}

    def observe(self, process: Process) -> None:
        """A process has done something."""
        host = process.host
        if isinstance(host.node, CoordinatorNode):
            self._decides(host.node)
        if host.name not in self._by_name or process.dead:
            return
        for tablet, member in members_of(host).items():
            replica = member.replica
            seen = self._seen.get((host.name, tablet))
            if seen is None or seen.replica is not replica:
                if seen is not None and member.blank and not seen.replica.state.blank:
                    self._wiped[host.name, tablet] = seen.replica.state.log
                seen = self._seen[host.name, tablet] = _Seen(replica, replica.committed)
                self._begins(host.name, tablet, member)
            config = replica.config
            cfg = config.cfg if config is not None else 0
            role, before = replica.role, seen.role
            if (role, cfg) != (seen.role, seen.cfg):
                self._plays(host.name, tablet, member, seen.role)
                seen.role, seen.cfg = role, cfg
            if replica.state.installing != seen.installing:
                seen.installing = replica.state.installing
                self.fetched += not seen.installing
                if seen.installing:
                    # A learner's own log makes way for a checkpoint: a crash may leave neither.
                    self._lost_before[host.name, tablet] = len(self._history(tablet))
            if replica.committed != seen.committed:
                self._commits(host.name, tablet, member, seen.committed, before)
                seen.committed = replica.committed

    # -- as things happen ------------------------------------------------------------------------

    def _history(self, tablet: int) -> list[_Committed]:
        """All that a tablet has committed, also as a part of what it is a half of."""
        if tablet not in self._chosen:
            begun: list[_Committed] = []
            if tablet in self._halves:
                whole, split = self._halves[tablet]
                begun = self._history(whole)[: split.version]
                self.splits += tablet == split.low
            self._chosen[tablet] = begun
        return self._chosen[tablet]

    def _begins(self, name: str, tablet: int, member: Member) -> None:
        """After a crash: what this disk had to have is still there."""
        begun_at = member.replica.state.log.base_version
        new = tablet not in self._chosen and tablet not in self._halves
        if new and begun_at and not member.blank:
            self._violated(f"{name} has tablet {tablet}, of a split that is not committed")
        chosen = self._history(tablet)
        if tablet in self._halves:
            whole, split = self._halves[tablet]
            lost = self._lost_before.get((name, whole), 0)
            self._lost_before.setdefault((name, tablet), lost)
            if not member.blank and begun_at < split.version:
                self._violated(f"{name} begins tablet {tablet} at {begun_at}, before {split}")
        if member.blank or self._by_name[name].decayed:
            # Nobody counts it; what it had is gone, and known to be. Or a wrong bit may be taken for an end
            # of the log that was never synced: its primary notices, and sends what is missing again.
            self._lost_before[name, tablet] = len(chosen)
            return
        lost = self._lost_before.get((name, tablet), 0)
        for known in chosen[max(lost, len(chosen) - _LOOKED_FOR) :]:
            if name in known.members and not _has(member, known.entry):
                self._violated(f"I1: {name} has lost {_shown(known.entry)} of tablet {tablet}")
                return

    def _decides(self, node: CoordinatorNode) -> None:
        """A coordinator may have applied a configuration: its members have all that is committed."""
        for tablet, record in node.decisions.machine.state.tablets.items():
            known = self._decided.get(tablet)
            if known is not None and record.epoch <= known.epoch:
                continue
            self._decided[tablet] = record
            chosen = self._history(tablet)
            for name in record.members if chosen else ():
                # A member whose disk decays may have lost its last entries, and not have them again yet.
                if not self._by_name[name].decayed:
                    self._has_joined(name, tablet, chosen[-1].entry)

    def _has_joined(self, name: str, tablet: int, entry: Any) -> None:
        """A member by the coordinators' word has an entry, unless it has lost its state."""
        host = self._by_name.get(name)
        member = members_of(host).get(tablet) if host is not None else None
        if member is None or member.blank:
            return
        if not _keeps(member, entry):
            self._violated(f"I1: {_shown(entry)} of tablet {tablet} is not on the disk of {name}")

    def _plays(self, name: str, tablet: int, member: Member, before: str) -> None:
        config, role, part = member.replica.config, member.replica.role, member.replica.part
        if before == "learner" and role in ("secondary", "primary"):
            self.rejoins += 1
        if not isinstance(part, Primary) or config is None:
            return
        if name not in config.members:
            self._violated(f"I2: {name} is no member of {config} and its primary")
        known = self._primaries.setdefault((tablet, part.config.cfg), name)
        if known != name:
            self._violated(f"I3: {known} and {name} are primary of tablet {tablet}, {config}")
        if self._last.setdefault(tablet, name) != name:
            self._last[tablet] = name
            self.takeovers += 1

    def _commits(self, name: str, tablet: int, member: Member, before: int, role: str) -> None:
        """`role`: as what it got the messages; with the same it may have learned of its successor."""
        replica = member.replica
        chosen = self._history(tablet)
        log = replica.state.log
        first = max(before, log.base_version) + 1
        for entry in log.slice(first, replica.committed + 1):
            if entry.version <= len(chosen):
                known = chosen[entry.version - 1].entry
                if known is not entry and known != entry:
                    self._violated(f"I4: {name} commits {_shown(entry)}, others {_shown(known)}")
                continue
            if entry.version != len(chosen) + 1:
                self._violated(f"I4: {name} commits {_shown(entry)} behind {len(chosen)}")
                return
            if not {role, replica.role} & {"primary", "taking over"}:
                self._violated(f"I1: {name} commits {_shown(entry)} before the primary")
            config = replica.config
            members = tuple(config.members) if config is not None else ()
            chosen.append(_Committed(entry, members))
            split = split_of(cast(lsm.Entry, entry))
            if split is not None:
                self._halves[split.low] = self._halves[split.high] = (tablet, split)
            for other in members:
                self._had(other, tablet, entry, replica.part)
            decided = self._decided.get(tablet)
            for other in decided.members if decided is not None else ():
                self._has_joined(other, tablet, entry)

    def _had(self, name: str, tablet: int, entry: Any, primary: object) -> None:
        """At the moment of a commit: a member that runs has the entry on its disk.

        One whose disk was lost had it, at least, and the primary has not heard of that yet.
        """
        host = self._by_name.get(name)
        member = members_of(host).get(tablet) if host is not None else None
        if member is None:
            return
        if member.blank and isinstance(primary, Primary):
            lost = self._wiped.get((name, tablet))
            peer = primary.peers.get(name)
            told = peer is not None and peer.state == "refused"
            if lost is not None and not told and lost.stable >= entry.version:
                return
        if member.blank or not _keeps(member, entry):
            self._violated(f"I1: {_shown(entry)} of tablet {tablet} is not on the disk of {name}")

    # -- the end ---------------------------------------------------------------------------------

    def settled(self) -> bool:
        """Whether every tablet has a serving primary, and all its members have the same.

        Where a disk decays, all of it has to be read first: what is found damaged is fetched again.
        """
        found = self._groups()
        scrubbed = all(self._is_scrubbed(host) for host in self.hosts if host.decayed)
        return scrubbed and bool(found) and all(self._agree(group) for group in found.values())

    def _is_scrubbed(self, host: Host) -> bool:
        """Whether a whole round of the scrub has found nothing since this was first asked."""
        if not isinstance(host.node, StorageNode):
            return False
        engine = host.node.engine
        damaged = any(engine.damage(tablet) for tablet in members_of(host) if engine.has(tablet))
        known = self._scrubs.get(host.name)
        if damaged or known is None or known[0] is not engine:
            self._scrubs[host.name] = engine, engine.scrubs
            return False
        return engine.scrubs >= known[1] + 2

    def unsettled(self) -> str:
        """What is missing for that, in words."""
        return "; ".join(
            f"tablet {tablet}: " + ", ".join(_state(*each) for each in group)
            for tablet, group in self._groups().items()
            if not self._agree(group)
        )

    def check(self) -> list[str]:
        """What was wrong; at the end of a run, once everything has `settled`."""
        for tablet, group in self._groups().items():
            if not self._agree(group):
                continue
            contents = {name: self._content(name, tablet, member) for name, member in group}
            expected = next(iter(contents.values()), None)
            different = sorted(name for name, content in contents.items() if content != expected)
            if different:
                self._violated(
                    f"agreement: tablet {tablet} is not the same on {', '.join(sorted(contents))}"
                )
        return self.violations

    def _content(self, name: str, tablet: int, member: Member) -> Any:
        """The cells, and what is remembered of requests; None where the disk does not give it."""
        node = self._by_name[name].node
        assert isinstance(node, StorageNode)
        try:
            return member.tablet.encode(), list(node.engine.scan_tablet(tablet))
        except TabletDamaged:
            return None

    def _groups(self) -> dict[int, list[tuple[str, Member]]]:
        """By tablet: the members by the latest configuration that anybody knows."""
        latest: dict[int, Any] = {}
        for host in self.hosts:
            for tablet, member in members_of(host).items():
                config = member.replica.config
                if config is not None and config.cfg > getattr(latest.get(tablet), "cfg", 0):
                    latest[tablet] = config
        groups: dict[int, list[tuple[str, Member]]] = {}
        for tablet in sorted(self.current()):
            config = latest.get(tablet)
            groups[tablet] = []
            if config is None:
                continue
            for name in config.members:
                found = self._by_name.get(name)
                running = members_of(found).get(tablet) if found is not None else None
                if running is not None:
                    groups[tablet].append((name, running))
        return groups

    def _agree(self, group: list[tuple[str, Member]]) -> bool:
        if len(group) != self.factor or any(member.blank for _, member in group):
            return False
        replicas = [member.replica for _, member in group]
        applied = {member.tablet.committed for _, member in group}
        config = max((r.config for r in replicas if r.config is not None), key=lambda c: c.cfg)
        ends = {replica.committed for replica in replicas}
        ends |= {replica.prepared for replica in replicas}
        return (
            len(config.members) == self.factor
            and len(applied | ends) == 1
            and any(replica.role == "primary" for replica in replicas)
        )

    def _violated(self, what: str) -> None:
        if what not in self.violations and len(self.violations) < 10:
            self.violations.append(what)


def _has(member: Member, entry: Any) -> bool:
    return bool(member.replica.state.log.matches(entry.version, entry.entry_cfg))


def _keeps(member: Member, entry: Any) -> bool:
    """Whether it is on the disk."""
    return member.replica.state.log.stable >= entry.version and _has(member, entry)


def _state(name: str, member: Member) -> str:
    replica = member.replica
    blank = " blank" if member.blank else ""
    return f"{name}{blank} {replica.role} {replica.committed}/{replica.prepared} {replica.config}"


def _shown(entry: Any) -> str:
    return f"entry {entry.version} of cfg {entry.entry_cfg}"

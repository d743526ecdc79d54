"""Raft's properties, looked at after every turn of every coordinator of a running cluster.

The oracle sees what nobody in the cluster can: who leads which term, and what each coordinator has applied.
The five properties of figure 3 of the paper are checked as things happen; that all logs match, and that all
states are equal byte for byte, in the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field

from penncloud.coordinator.node import CoordinatorNode
from penncloud.raft.log import RaftLog
from penncloud.raft.messages import Entry
from penncloud.raft.node import RaftNode
from penncloud.simulation.host import Host
from penncloud.simulation.process import Process
from penncloud.simulation.raft_logs import RaftLogs


def raft_of(host: Host) -> RaftNode | None:
    """The Raft node that runs on a host, if one does."""
    return host.node.decisions.node if isinstance(host.node, CoordinatorNode) else None


@define
class _Seen:
    """What was last seen of one process."""

    pid: int
    led: int = 0
    applied: int = 0


@define(eq=False)
class RaftOracle:
    """`hosts` are the coordinators'."""

    hosts: Sequence[Host]
    violations: list[str] = field(factory=list)
    # Snapshots of a leader that took the place of a coordinator's log.
    installed: int = 0
    _leaders: dict[int, str] = field(factory=dict)
    _committed: dict[int, Entry] = field(factory=dict)
    # The term, at the latest, in which an entry became committed.
    _commit_terms: dict[int, int] = field(factory=dict)
    _seen: dict[str, _Seen] = field(factory=dict)
    _logs: RaftLogs = field(factory=RaftLogs)

    @property
    def elections(self) -> int:
        return len(self._leaders)

    def observe(self, process: Process) -> None:
        """A process has done something."""
        host = process.host
        if not isinstance(host.node, CoordinatorNode):
            return
        node = raft_of(host)
        if node is None or process.dead:
            return
        seen = self._seen.get(host.name)
        if seen is None or seen.pid != process.pid:
            seen = self._seen[host.name] = _Seen(process.pid)
        elif node.log.snapshot.index > seen.applied:
            self.installed += 1
        if node.role == "leader" and seen.led != node.term:
            seen.led = node.term
            self._elected(host.name, node)
        if wrong := self._logs.look(host.name, node):
            self._violated(wrong)
        if node.log.applied != seen.applied:
            self._applied(host.name, node, seen.applied)
            seen.applied = node.log.applied

    def settled(self) -> bool:
        """Whether all coordinators that work have applied the same."""
        applied = [node.log.applied for node in self._nodes()]
        return bool(applied) and min(applied) == max(applied)

    def check(self) -> list[str]:
        """What was wrong, in words; at the end of a run, once everything has `settled`."""
        states: dict[int, tuple[str, bytes]] = {}
        for host in self.hosts:
            node, running = raft_of(host), host.node
            if node is None or not isinstance(running, CoordinatorNode):
                continue
            state = running.decisions.machine.snapshot()
            other, expected = states.setdefault(node.log.applied, (host.name, state))
            if state != expected:
                self._violated(f"agreement: {host.name} and {other} are in different states")
        nodes = self._nodes()
        for number, one in enumerate(nodes):
            for two in nodes[:number]:
                self._match(one, two)
        return self.violations

    # -- the properties --------------------------------------------------------------------------

    def _elected(self, name: str, node: RaftNode) -> None:
        known = self._leaders.setdefault(node.term, name)
        if known != name:
            self._violated(f"election safety: {known} and {name} lead term {node.term}")
        for index, entry in self._committed.items():
            before = index > node.log.snapshot.index and self._commit_terms[index] < node.term
            if before and node.log.term(index) != entry.term:
                self._violated(f"leader completeness: {name} lacks entry {index}")

    def _applied(self, name: str, node: RaftNode, before: int) -> None:
        log = node.log
        first = max(before + 1, log.first_index)
        if log.applied < first:
            return
        for entry in log.slice(first, log.applied - first + 1, 2**62):
            known = self._committed.setdefault(entry.index, entry)
            self._commit_terms.setdefault(entry.index, node.term)
            if known != entry:
                self._violated(f"state machine safety: {name} applies another entry {entry.index}")

    def _match(self, one: RaftNode, two: RaftNode) -> None:
        """Where two logs hold an entry of one index and term, all before it are equal."""
        first = max(one.log.first_index, two.log.first_index)
        agree = False
        for index in range(min(one.log.last_index, two.log.last_index), first - 1, -1):
            same = one.log.term(index) == two.log.term(index)
            if (agree and not same) or (same and _entry(one.log, index) != _entry(two.log, index)):
                self._violated(f"log matching: {one.id} and {two.id} at {index}")
                return
            agree = agree or same

    def _nodes(self) -> list[RaftNode]:
        return [node for host in self.hosts if (node := raft_of(host)) is not None]

    def _violated(self, what: str) -> None:
        if what not in self.violations:
            self.violations.append(what)


def _entry(log: RaftLog, index: int) -> Entry:
    return log.slice(index, 1, 2**62)[0]

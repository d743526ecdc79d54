"""Raft nodes in a hostile world, driven by one random number generator.

Messages are lost, doubled, delayed and reordered; links are cut one way; nodes crash at every step of a
`Ready` and lose what was not yet persisted; they lag, take snapshots, are added and removed. After every
step the five properties of the paper's figure 3 are checked, and every answered read must be at least as
new as every command that was known to be done when it was asked.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal

from attrs import define, field

from penncloud.platform.environment import nothing_broken
from penncloud.raft.log import RaftLog
from penncloud.raft.messages import (
    Entry,
    HardState,
    InstallSnapshot,
    Membership,
    Message,
    Ready,
    Snapshot,
)
from penncloud.raft.node import MembershipRefused, NotLeader, Options, Overloaded, RaftNode
from penncloud.simulation.raft_logs import RaftLogs

# What a history is about: anything; reigns so short that figure 8 of the paper happens; leaders that change
# the membership as soon as they are elected.
Focus = Literal["", "reigns", "members"]

MESSAGE_BYTES: Final = 24


class Violation(AssertionError):
    """A property of Raft does not hold."""


@define
class Host:
    """One machine: what is on its disk, and the node that runs on it (None: crashed)."""

    id: str
    hard_state: HardState
    snapshot: Snapshot
    entries: list[Entry]
    node: RaftNode | None = None
    applied: list[tuple[int, int, bytes]] = field(factory=list)
    ready: Ready | None = None
    stage: int = 0
    reads: dict[int, int] = field(factory=dict)


class World:
    """`step` does one random thing; `check` runs after each."""

    def __init__(
        self,
        seed: int,
        size: int = 3,
        broken: Callable[[str], bool] = nothing_broken,
        note: Callable[[str], None] | None = None,
        *,
        focus: Focus = "",
        node_type: type[RaftNode] = RaftNode,
    ) -> None:
        self.node_type = node_type
        self.note = note
        self.chance = random.Random(seed)
        self.broken = broken
        self.names = [f"n{i}" for i in range(size + 1)]
        first = Membership(frozenset(self.names[:size]))
        self.hosts = {
            name: Host(name, HardState(), Snapshot(0, 0, first, b""), []) for name in self.names
        }
        self.network: list[Message] = []
        self.cut: set[tuple[str, str]] = set()
        self.calm = False
        self.slow = self.names[0]
        # Every history has its own mix of faults and rates (swarm testing).
        self.trouble_rate = self.chance.choice((0.003, 0.01, 0.05))
        self.start_all = self.chance.random() < 0.5
        self.loss_rate = self.chance.choice((0.0, 0.03, 0.1))
        self.trouble_weights = [self.chance.random() for _ in range(6)]
        self.message_entries = self.chance.choice((1, 4))
        self.membership_rate = self.chance.choice((0.0, 0.07, 0.2))
        self.tick_rate = self.chance.choice((0.14, 0.14, 0.3))
        # How often a leader dies when something is on its disk alone, and when it has just applied
        # something; and anybody before what it says is on its disk.
        self.behead_rate = self.chance.choice((0.0, 0.0, 0.0, 0.3))
        self.torn_rate = self.chance.choice((0.0, 0.0, 0.1))
        self.hasty = focus == "members"
        if focus == "reigns":
            self.trouble_rate, self.start_all, self.message_entries = 0.03, False, 1
            self.trouble_weights = [0.0, 1.0, 0.0, 0.0, 0.3, 0.1]
            self.behead_rate, self.tick_rate, self.membership_rate = 0.7, 0.2, 0.0
        elif focus == "members":
            self.trouble_rate = self.chance.choice((0.005, 0.01, 0.02))
            self.trouble_weights = [0.2, 1.0, 0.2, 1.0, 1.0, 0.2]
            self.behead_rate, self.tick_rate, self.membership_rate = 0.5, 0.3, 0.5
            self.loss_rate = 0.0
        self.proposed = 0
        self.leaders: dict[int, str] = {}
        self.committed: dict[int, Entry] = {}
        self.commit_terms: dict[int, int] = {}
        self.done_index = 0
        self.next_read = 0
        self.reads_answered = 0
        self.elections = 0
        self.crashes = 0
        # Pieces of snapshots behind the first one.
        self.pieces = 0
        self.logs = RaftLogs()
        for host in self.hosts.values():
            self.start(host)

    @property
    def voters(self) -> frozenset[str]:
        """As the latest leader knows them."""
        leader = max((h for h in self.hosts.values() if h.node), key=_leads)
        assert leader.node is not None
        return leader.node.membership.voters

    # -- machines --------------------------------------------------------------------------------

    def start(self, host: Host) -> None:
        host.node = self.node_type(
            host.id,
            RaftLog(host.snapshot, host.entries),
            host.hard_state,
            random.Random(self.chance.random()),
            Options(
                max_message_bytes=MESSAGE_BYTES,
                max_message_entries=self.message_entries,
                election_ticks=5,
            ),
            self.broken,
        )
        host.applied = [
            (entry.index, entry.term, entry.data) for entry in self._decoded(host.snapshot.data)
        ]
        host.ready = None

    def _note(self, what: str) -> None:
        if self.note is not None:
            self.note(what)

    def crash(self, host: Host) -> None:
        self.crashes += 1
        self._note(f"{host.id} crashes")
        host.node = None
        host.ready = None
        host.reads.clear()

    def persist(self, host: Host, ready: Ready) -> None:
        if ready.hard_state is not None and not self.broken("vote-not-persisted"):
            host.hard_state = ready.hard_state
        if ready.snapshot is not None:
            host.snapshot = ready.snapshot
            host.entries = []
        if ready.entries:
            keep = ready.entries[0].index - host.snapshot.index - 1
            host.entries[keep:] = ready.entries

    def work(self, host: Host) -> None:
        """The next of the steps of a Ready: persist, send, apply, advance."""
        node = host.node
        assert node is not None
        if host.ready is None:
            host.ready = node.ready()
            host.stage = 0
            if host.ready is None:
                return
            if self.broken("send-before-persist"):
                self.network.extend(host.ready.messages)
            return
        ready = host.ready
        if host.stage == 0 and self.strikes(self.torn_rate):
            self.crash(host)
            return
        if (
            host.stage == 1
            and ready.entries
            and node.role == "leader"
            and self.strikes(self.behead_rate)
        ):
            self.crash(host)
            return
        if host.stage == 0:
            self.persist(host, ready)
        elif host.stage == 1 and not self.broken("send-before-persist"):
            self.network.extend(ready.messages)
        elif host.stage == 2:
            self.apply(host, ready)
            if ready.committed and node.role == "leader" and self.strikes(self.behead_rate):
                self.crash(host)
                return
        elif host.stage == 3:
            node.advance(ready)
            host.ready = None
            self.answer_reads(host, ready)
        host.stage += 1

    def apply(self, host: Host, ready: Ready) -> None:
        if ready.snapshot is not None:
            host.applied = [
                (entry.index, entry.term, entry.data)
                for entry in self._decoded(ready.snapshot.data)
            ]
        for entry in ready.committed:
            known = self.committed.setdefault(entry.index, entry)
            assert host.node is not None
            # At the latest in this term the entry became committed.
            self.commit_terms.setdefault(entry.index, host.node.term)
            if known != entry:
                raise Violation(f"state machine safety: {known} and {entry}")
            host.applied.append((entry.index, entry.term, entry.data))
            self.done_index = max(self.done_index, entry.index)

    def answer_reads(self, host: Host, ready: Ready) -> None:
        for read in ready.reads:
            floor = host.reads.pop(read.context, None)
            if read.index and floor is not None:
                self.reads_answered += 1
                if read.index < floor:
                    raise Violation(f"stale read: index {read.index}, but {floor} was done")

    def _decoded(self, data: bytes) -> list[Entry]:
        return [self.committed[i] for i in range(1, int(data or b"0") + 1)]

    # -- one random step -------------------------------------------------------------------------

    def step(self) -> None:
        chance = self.chance
        if not self.calm and chance.random() < self.trouble_rate:
            self.trouble()
        up = [host for host in self.hosts.values() if host.node is not None]
        roll = chance.random() * (0.86 + self.tick_rate)
        if roll < 0.45 and self.network:
            self.deliver()
        elif roll < 0.80 and up:
            self.work(chance.choice(up))
        elif roll < 0.80 + self.tick_rate and up:
            self.tick(chance.choice(up))
        elif up:
            self.client(chance.choice(up))
        if self.hasty and not self.calm:
            self.haste()
        self.check()

    def haste(self) -> None:
        """Leaders whose term has not begun yet are asked for another membership."""
        for host in self.hosts.values():
            node = host.node
            begun = node is None or node.log.term(node.log.commit) == node.term
            if node is not None and node.role == "leader" and not begun and self.strikes(0.1):
                with suppress(NotLeader, Overloaded, MembershipRefused):
                    self.change_membership(node)

    def tick(self, host: Host) -> None:
        # Safety must not hang on clocks: one of them runs at a quarter of the others' pace.
        if self.calm or host.id != self.slow or self.chance.random() < 0.25:
            assert host.node is not None
            host.node.tick()

    def deliver(self) -> None:
        message = self.network.pop(self.chance.randrange(len(self.network)))
        host = self.hosts[message.to]
        if (message.sender, message.to) in self.cut or host.node is None:
            return
        if not self.calm:
            roll = self.chance.random()
            if roll < self.loss_rate:
                return
            if roll < 2 * self.loss_rate:
                self.network.append(message)
        self._note(f"{message}")
        self.pieces += isinstance(message, InstallSnapshot) and message.offset > 0
        host.node.step(message)
        if len(self.network) > 400:
            del self.network[:200]

    def client(self, host: Host) -> None:
        node = host.node
        assert node is not None
        roll = self.chance.random()
        if self.calm and roll > 0.05:
            return
        try:
            if roll < 0.62 - self.membership_rate:
                self.proposed += 1
                node.propose(b"c%d" % self.proposed)
            elif roll < 0.87 - self.membership_rate:
                self.next_read += 1
                host.reads[self.next_read] = self.done_index
                node.read(self.next_read)
            elif roll < 0.95 - self.membership_rate:
                self.snapshot(host)
            elif roll < 1.0 - self.membership_rate:
                node.transfer(self.chance.choice(self.names))
            else:
                self.change_membership(node)
        except (NotLeader, Overloaded, MembershipRefused):
            pass

    def snapshot(self, host: Host) -> None:
        node = host.node
        assert node is not None
        if host.ready is not None or not host.applied:
            return
        index, term, _ = host.applied[-1]
        # A leader's snapshot may have come that is not on the disk yet.
        if index <= node.log.snapshot.index or index > node.log.stable_index:
            return
        membership = host.snapshot.membership
        for entry in host.entries:
            if entry.index <= index and entry.membership is not None:
                membership = entry.membership
        # Of several pieces.
        state = (b"%d" % index).ljust(3 * MESSAGE_BYTES)
        snapshot = Snapshot(index, term, membership, state)
        host.entries = [entry for entry in host.entries if entry.index > index]
        host.snapshot = snapshot
        node.compact(snapshot)

    def change_membership(self, node: RaftNode) -> None:
        now = node.membership
        name = self.chance.choice(self.names)
        if name in now.learners:
            new = Membership(now.voters | {name}, now.learners - {name})
        elif name in now.voters:
            new = Membership(now.voters - {name}, now.learners)
        else:
            new = Membership(now.voters, now.learners | {name})
        if len(new.voters) >= 2:
            node.propose_membership(new)

    def trouble(self) -> None:
        """A crash, a start, a cut of one direction, one host cut off, or all links whole again.

        The leader and its clock are the most rewarding victims.
        """
        leads = [h.id for h in self.hosts.values() if h.node and h.node.role == "leader"]
        name, other = self.chance.choice(self.names), self.chance.choice(self.names)
        victim = self.chance.choice(leads or self.names)
        kind = self.chance.choices(
            ("crash", "start", "cut", "isolate", "mend", "behead"), self.trouble_weights
        )[0]
        self._note(f"trouble: {kind} {name} {other} {victim}")
        if kind == "crash" and self.hosts[name].node is not None:
            self.crash(self.hosts[name])
        elif kind == "behead" and leads:
            self.crash(self.hosts[victim])
        elif kind == "start":
            for host in self.hosts.values():
                if host.node is None and (self.start_all or host.id == name):
                    self.start(host)
        elif kind == "cut":
            self.cut.add((name, other))
        elif kind == "isolate":
            self.slow = victim
            self.cut |= {(victim, peer) for peer in self.names}
            self.cut |= {(peer, victim) for peer in self.names}
        else:
            self.cut.clear()

    def strikes(self, rate: float) -> bool:
        return not self.calm and self.chance.random() < rate

    def heal(self) -> None:
        """The faults end: everybody is up and reachable, messages are quicker than time-outs, and of
        clients there are few."""
        self.calm = True
        self.tick_rate = 0.14
        self.cut.clear()
        for host in self.hosts.values():
            if host.node is None:
                self.start(host)

    # -- the properties --------------------------------------------------------------------------

    def check(self) -> None:
        for host in self.hosts.values():
            node = host.node
            if node is None:
                continue
            if wrong := self.logs.look(host.id, node):
                raise Violation(wrong)
            if node.role != "leader":
                continue
            known = self.leaders.setdefault(node.term, host.id)
            if known != host.id:
                raise Violation(f"election safety: {known} and {host.id} lead term {node.term}")
            for index, entry in self.committed.items():
                if index > node.log.snapshot.index and self.commit_terms[index] < node.term:
                    found = node.log.term(index)
                    if found != entry.term:
                        raise Violation(f"leader completeness: {host.id} lacks {entry}")
        self.elections = len(self.leaders)

    def check_logs(self) -> None:
        """Log matching: where two logs hold an entry of one index and term, all before are equal."""
        logs = [host.node.log for host in self.hosts.values() if host.node is not None]
        for one in logs:
            for two in logs:
                first = max(one.first_index, two.first_index)
                last = min(one.last_index, two.last_index)
                agree = False
                for index in range(last, first - 1, -1):
                    same = one.term(index) == two.term(index)
                    if agree and not same:
                        raise Violation(f"log matching: {index}")
                    agree = agree or same

    def converge(self, steps: int = 30_000) -> None:
        """Liveness: after the faults a command is done within bounded steps, everywhere."""
        self.heal()
        for _ in range(steps):
            self.step()
            leaders = [h for h in self.hosts.values() if h.node and h.node.role == "leader"]
            if not leaders:
                continue
            leader = max(leaders, key=lambda h: h.node.term if h.node else 0)
            node = leader.node
            assert node is not None
            term_begun = node.log.term(node.log.commit) == node.term
            voters = [self.hosts[name] for name in node.membership.voters]
            if term_begun and all(
                h.node and h.node.log.applied == node.log.last_index for h in voters
            ):
                self.check_logs()
                return
        raise Violation("liveness: no convergence after the faults ended")

    def deafen(self, steps: int = 6_000) -> None:
        """Liveness while a fault lasts: a leader that is heard and hears nobody must not lead for ever."""
        deaf = max((h for h in self.hosts.values() if h.node), key=_leads)
        self._note(f"trouble: {deaf.id} hears nobody")
        self.cut = {(peer, deaf.id) for peer in self.names}
        for _ in range(steps):
            self.step()
            for host in self.hosts.values():
                node = host.node
                if node is None or host is deaf or node.role != "leader":
                    continue
                if node.log.term(node.log.commit) == node.term:
                    return
        raise Violation(f"liveness: {deaf.id} hears nobody, and nobody takes its place")


def _leads(host: Host) -> tuple[bool, int]:
    assert host.node is not None
    return host.node.role == "leader", host.node.term

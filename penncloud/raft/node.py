"""One Raft node: `step` a message, `tick` the time, `propose` a command; take `ready`, `advance`.

Theory of operation
    Time is counted in ticks. A follower that hears of no leader for a randomized election time-out (between
    one and two times `election_ticks`) asks for pre-votes: would a majority vote for it? Only then does
    it begin a new term, so that a node that was cut off does not disturb the others when it is back.
    A leader sends a heartbeat round every `heartbeat_ticks`, steps down when a majority did not answer for
    an election time-out (check-quorum), and until then nobody who hears it votes for another.

    Nothing is sent before what it speaks of is on disk: messages wait in the `Ready` behind the entries
    and the hard state, and a leader counts its own log only from `advance` on.

    Messages may be lost, doubled or late; they may not be altered. Which of `_leader`, `_candidate`
    and `_follower` takes a message is decided in `step` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from attrs import define, field, frozen

from penncloud.raft.log import Compacted, RaftLog
from penncloud.raft.messages import (
    Appended,
    AppendEntries,
    Entry,
    HardState,
    InstallSnapshot,
    Membership,
    Message,
    ReadAnswer,
    ReadRequest,
    ReadState,
    Ready,
    RequestVote,
    Snapshot,
    SnapshotReceived,
    TimeoutNow,
    Vote,
)
from penncloud.raft.progress import Progress

Role = Literal["follower", "pre-candidate", "candidate", "leader"]


class NotLeader(Exception):
    """Only the leader can do this; `leader` is who it probably is, or empty."""

    def __init__(self, leader: str) -> None:
        super().__init__(f"the leader is {leader or 'not known'}")
        self.leader = leader


class Overloaded(Exception):
    """Too much is proposed and not yet committed, or a hand-over is under way: nothing was done."""


class Chance(Protocol):
    """Where election time-outs get their spread: a `random.Random`."""

    def randrange(self, stop: int, /) -> int: ...


class MembershipRefused(Exception):
    """This change of membership is not possible now, or not at all."""


@frozen
class Options:
    """Bounds and times. One tick is whatever the driver makes it (100 ms, say)."""

    election_ticks: int = 10
    heartbeat_ticks: int = 1
    # Of one AppendEntries message and one piece of a snapshot.
    max_message_bytes: int = 256 * 1024
    max_message_entries: int = 256
    # Proposed and not yet committed.
    max_uncommitted_bytes: int = 16 * 1024 * 1024
    # Handed to the driver in one Ready.
    max_apply_entries: int = 256
    # Reads that wait for their round.
    max_reads: int = 4096
    # Messages that wait for the driver; more are lost.
    max_messages: int = 4096


@define
class _Read:
    """A read that waits until `round` is confirmed by a quorum."""

    context: int
    asker: str
    index: int
    round: int


def _unbroken(_rule: str) -> bool:
    return False


@define(eq=False)
class RaftNode:
    """See the module. `id` need not be in the membership (then it only listens).

    `broken(rule)` is false outside of the simulation, which proves with it that its checkers would
    notice a rule that is missing.
    """

    id: str
    log: RaftLog
    hard_state: HardState
    chance: Chance
    options: Options = field(factory=Options)
    broken: Callable[[str], bool] = _unbroken

    role: Role = field(default="follower", init=False)
    leader: str = field(default="", init=False)
    _persisted: HardState = field(init=False)
    _elapsed: int = field(default=0, init=False)
    _timeout: int = field(default=0, init=False)
    _heartbeat_elapsed: int = field(default=0, init=False)
    _votes: dict[str, bool] = field(factory=dict, init=False)
    _progress: dict[str, Progress] = field(factory=dict, init=False)
    _round: int = field(default=0, init=False)
    _reads: list[_Read] = field(factory=list, init=False)
    _held_reads: list[tuple[int, str]] = field(factory=list, init=False)
    _read_states: list[ReadState] = field(factory=list, init=False)
    _transferee: str = field(default="", init=False)
    _transfer_elapsed: int = field(default=0, init=False)
    _uncommitted_bytes: int = field(default=0, init=False)
    _messages: list[Message] = field(factory=list, init=False)
    _incoming: tuple[tuple[str, int, int], bytearray] | None = field(default=None, init=False)
    _snapshot: Snapshot | None = field(default=None, init=False)
    _in_progress: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._persisted = self.hard_state
        self._new_timeout()

    # -- what the driver sees --------------------------------------------------------------------

    @property
    def term(self) -> int:
        return self.hard_state.term

    @property
    def membership(self) -> Membership:
        return self.log.membership

    def tick(self) -> None:
        """One unit of time has passed."""
        self._elapsed += 1
        if self.role == "leader":
            self._tick_leader()
        elif self._elapsed >= self._timeout and self._may_stand():
            self._campaign(pre=True)

    def campaign(self) -> None:
        """Stand for election now, if this node may: the only voter need not wait for its time-out."""
        if self.role != "leader" and self._may_stand():
            self._campaign(pre=True)

    def propose(self, data: bytes) -> tuple[int, int]:
        """Append a command; returns its (index, term): it is done when an entry of that index *and*
        term is applied, and lost when another term's is. Raises NotLeader, Overloaded."""
        self._may_propose(len(data))
        return self._append(Entry(self.log.last_index + 1, self.term, "command", data))

    def propose_membership(self, membership: Membership) -> tuple[int, int]:
        """Change who takes part, by at most one voter. Raises NotLeader, MembershipRefused."""
        self._may_propose(0)
        current = self.log.membership
        if len(current.voters ^ membership.voters) > 1:
            raise MembershipRefused("voters are added and removed one at a time")
        if not membership.voters or membership.voters & membership.learners:
            raise MembershipRefused("a membership has voters, and a learner is not one of them")
        if self.log.membership_index > self.log.commit:
            raise MembershipRefused("the last change is not yet committed")
        if self.log.term(self.log.commit) != self.term and not self.broken("change-before-noop"):
            raise MembershipRefused("the leader's term has not yet begun")
        for joining in membership.voters - current.voters:
            if joining != self.id and self._progress_of(joining).state != "replicate":
                raise MembershipRefused(f"{joining} has not caught up as a learner yet")
        entry = Entry(self.log.last_index + 1, self.term, "membership", b"", membership)
        appended = self._append(entry)
        self._follow_membership()
        return appended

    def read(self, context: int) -> None:
        """Ask for a linearizable read: a ReadState with this context will come (unless messages are
        lost: ask again after a while). Raises NotLeader when no leader is known, Overloaded."""
        if self.role == "leader":
            self._take_read(context, self.id)
        elif self.leader:
            self._send(ReadRequest(self.id, self.leader, self.term, context))
        else:
            raise NotLeader("")

    def transfer(self, to: str) -> None:
        """Hand leadership over to a voter; proposals are refused meanwhile, at most one election
        time-out long. Raises NotLeader, MembershipRefused."""
        if self.role != "leader":
            raise NotLeader(self.leader)
        if to not in self.membership.voters or to == self.id:
            raise MembershipRefused(f"{to} is not another voter")
        self._transferee = to
        self._transfer_elapsed = 0
        if self._progress[to].match == self.log.last_index:
            self._send(TimeoutNow(self.id, to, self.term))
        else:
            self._send_append(to)

    def voters_by_progress(self) -> list[str]:
        """The other voters, for a leader: who was heard of lately first, then by how much he has."""
        if self.role != "leader":
            return []
        others = self.membership.voters - {self.id}
        return sorted(
            others, key=lambda v: (not self._progress[v].active, -self._progress[v].match, v)
        )

    def caught_up(self, learner: str) -> bool:
        """Whether, as this leader knows, a learner has all that is committed."""
        progress = self._progress.get(learner)
        return (
            self.role == "leader"
            and progress is not None
            and progress.state == "replicate"
            and progress.match >= self.log.commit
        )

    def compact(self, snapshot: Snapshot) -> None:
        """The driver has this snapshot of its applied state on disk; the log before it may go."""
        self.log.compact(snapshot)

    def ready(self) -> Ready | None:
        """What there is to do, or None. The next one comes only after `advance`."""
        if self._in_progress:
            return None
        if self.role == "leader":
            self._replicate()
            self._confirm_reads()
        entries = self.log.unstable()
        committed = self._to_apply()
        hard_state = self.hard_state if self.hard_state != self._persisted else None
        work = hard_state or entries or committed or self._snapshot
        if not (work or self._messages or self._read_states):
            return None
        ready = Ready(
            hard_state,
            self._snapshot,
            entries,
            tuple(self._messages),
            committed,
            tuple(self._read_states),
        )
        self._messages.clear()
        self._read_states.clear()
        self._snapshot = None
        self._in_progress = True
        return ready

    def advance(self, ready: Ready) -> None:
        """All of `ready` is done."""
        self._in_progress = False
        if ready.hard_state is not None:
            self._persisted = ready.hard_state
        if ready.entries:
            last = ready.entries[-1]
            self.log.stable_to(last.index, last.term)
            if self.role == "leader":
                self._advance_commit()
        if ready.committed:
            self.log.applied = max(self.log.applied, ready.committed[-1].index)

    def step(self, message: Message) -> None:
        """Take a message from another node. What is not for this node or is senseless is ignored."""
        if message.to != self.id or message.sender == self.id:
            return
        if message.term > self.term and not self._newer_term(message):
            return
        if message.term < self.term:
            self._older_term(message)
        elif isinstance(message, RequestVote):
            self._on_request_vote(message)
        elif isinstance(message, ReadAnswer):
            self._read_states.append(ReadState(message.context, message.index))
        elif self.role == "leader":
            self._leader(message)
        else:
            self._follower(message)

    # -- terms -----------------------------------------------------------------------------------

    def _newer_term(self, message: Message) -> bool:
        """Follow a newer term, or not: then False."""
        if isinstance(message, RequestVote):
            hears_leader = self.leader and self._elapsed < self.options.election_ticks
            if hears_leader and not message.transfer:
                return False
            if message.pre:
                self._on_request_vote(message)
                return False
        if isinstance(message, Vote) and message.pre and message.granted:
            self._on_vote(message)
            return False
        from_leader = isinstance(message, AppendEntries | InstallSnapshot)
        self._become_follower(message.term, message.sender if from_leader else "")
        return True

    def _older_term(self, message: Message) -> None:
        """Tell a sender that is behind what the term is, where that helps it on."""
        if isinstance(message, AppendEntries | InstallSnapshot):
            self._send(Appended(self.id, message.sender, self.term, False, 0, 0))
        elif isinstance(message, RequestVote) and message.pre:
            self._send(Vote(self.id, message.sender, self.term, False, pre=True))
        elif isinstance(message, ReadRequest):
            self._send(ReadAnswer(self.id, message.sender, self.term, message.context, 0))

    def _become_follower(self, term: int, leader: str) -> None:
        if term > self.term:
            self.hard_state = HardState(term, "")
        was_leader = self.role == "leader"
        self.role = "follower"
        self.leader = leader
        self._elapsed = 0
        self._new_timeout()
        if was_leader:
            for read in self._reads:
                self._answer_read(read.context, read.asker, 0)
            for context, asker in self._held_reads:
                self._answer_read(context, asker, 0)
            self._reads.clear()
            self._held_reads.clear()
            self._transferee = ""

    def _new_timeout(self) -> None:
        ticks = self.options.election_ticks
        self._timeout = ticks + self.chance.randrange(ticks)

    # -- elections -------------------------------------------------------------------------------

    def _may_stand(self) -> bool:
        return self.id in self.membership.voters

    def _campaign(self, pre: bool, transfer: bool = False) -> None:
        self._elapsed = 0
        self._new_timeout()
        self.leader = ""
        self._votes = {self.id: True}
        if pre:
            self.role = "pre-candidate"
        else:
            self.role = "candidate"
            self.hard_state = HardState(self.term + 1, self.id)
        if self._won():
            self._elected(pre)
            return
        term = self.term + 1 if pre else self.term
        for peer in sorted(self.membership.voters - {self.id}):
            last = self.log.last_index, self.log.last_term
            self._send(RequestVote(self.id, peer, term, *last, pre, transfer))

    def _on_request_vote(self, message: RequestVote) -> None:
        """Paper 5.2 and 5.4.1; a pre-vote changes nothing here (dissertation 9.6)."""
        if message.pre:
            free = message.term > self.term
        else:
            free = self.hard_state.vote in ("", message.sender) and (
                not self.leader or self.hard_state.vote == message.sender
            )
        current = self.log.is_up_to_date(message.last_index, message.last_term)
        granted = bool(free and (current or self.broken("vote-without-log-check")))
        if granted and not message.pre:
            self.hard_state = HardState(self.term, message.sender)
            self._elapsed = 0
        term = message.term if granted else self.term
        self._send(Vote(self.id, message.sender, term, granted, message.pre))

    def _on_vote(self, message: Vote) -> None:
        if message.pre:
            if self.role != "pre-candidate" or (message.granted and message.term != self.term + 1):
                return
        elif self.role != "candidate":
            return
        self._votes[message.sender] = message.granted
        if self._won():
            self._elected(message.pre)
        elif self._refused():
            self._become_follower(self.term, "")

    def _won(self) -> bool:
        voters = self.membership.voters
        return sum(self._votes.get(voter, False) for voter in voters) >= self.membership.quorum()

    def _refused(self) -> bool:
        refusals = sum(not self._votes.get(voter, True) for voter in self.membership.voters)
        return len(self.membership.voters) - refusals < self.membership.quorum()

    def _elected(self, pre: bool) -> None:
        if pre:
            self._campaign(pre=False)
            return
        self.role = "leader"
        self.leader = self.id
        self._elapsed = self._heartbeat_elapsed = 0
        self._transferee = ""
        self._uncommitted_bytes = 0
        self._progress = {}
        self._follow_membership()
        self._append(Entry(self.log.last_index + 1, self.term, "noop"))

    # -- followers -------------------------------------------------------------------------------

    def _follower(self, message: Message) -> None:
        if isinstance(message, AppendEntries | InstallSnapshot):
            self.role = "follower"
            self.leader = message.sender
            self._elapsed = 0
            if isinstance(message, AppendEntries):
                self._on_append(message)
            else:
                self._on_install(message)
        elif isinstance(message, Vote):
            self._on_vote(message)
        elif isinstance(message, TimeoutNow):
            if self._may_stand():
                self._campaign(pre=False, transfer=True)
        elif isinstance(message, ReadRequest):
            self._send(ReadAnswer(self.id, message.sender, self.term, message.context, 0))

    def _on_append(self, message: AppendEntries) -> None:
        log = self.log
        if not log.matches(message.prev_index, message.prev_term):
            if message.prev_index > log.last_index:
                hint = log.last_index, 0
            else:
                hint = log.first_of_term(message.prev_index)
            refused = False, message.prev_index, message.round
            self._send(Appended(self.id, message.sender, self.term, *refused, *hint))
            return
        log.merge(message.entries)
        match = message.prev_index + len(message.entries)
        log.commit = max(log.commit, min(message.commit, match))
        self._send(Appended(self.id, message.sender, self.term, True, max(match, 0), message.round))

    def _on_install(self, message: InstallSnapshot) -> None:
        if self.log.matches(message.index, message.entry_term):
            # What the snapshot covers is here already, and what this log has behind it may have
            # been acknowledged: it stays (paper 7).
            self.log.commit = max(self.log.commit, message.index)
            match = True, max(message.index, self.log.snapshot.index), message.round
            self._send(Appended(self.id, message.sender, self.term, *match))
            return
        about = message.sender, message.term, message.index
        same = self._incoming is not None and self._incoming[0] == about
        if message.offset == 0 and not same:
            self._incoming = (about, bytearray())
        if self._incoming is None or self._incoming[0] != about:
            held = 0
        else:
            piece = self._incoming[1]
            if message.offset == len(piece):
                piece += message.data
            held = len(piece)
            if message.done and message.offset + len(message.data) == held:
                self._install(message, bytes(piece))
                return
        self._send(SnapshotReceived(self.id, message.sender, self.term, message.index, held))

    def _install(self, message: InstallSnapshot, data: bytes) -> None:
        self._incoming = None
        snapshot = Snapshot(message.index, message.entry_term, message.membership, data)
        self.log.restore(snapshot)
        self._snapshot = snapshot
        answer = Appended(self.id, message.sender, self.term, True, message.index, message.round)
        self._send(answer)

    # -- the leader ------------------------------------------------------------------------------

    def _tick_leader(self) -> None:
        options = self.options
        if self._transferee:
            self._transfer_elapsed += 1
            if self._transfer_elapsed >= options.election_ticks:
                self._transferee = ""
        if self._elapsed >= options.election_ticks:
            self._elapsed = 0
            voters = self.membership.voters
            heard = sum(p == self.id or self._progress[p].active for p in voters)
            for progress in self._progress.values():
                progress.active = False
            if heard < self.membership.quorum() and not self.broken("no-check-quorum"):
                self._become_follower(self.term, "")
                return
        self._heartbeat_elapsed += 1
        if self._heartbeat_elapsed >= options.heartbeat_ticks:
            self._heartbeat()

    def _heartbeat(self) -> None:
        self._heartbeat_elapsed = 0
        self._round += 1
        for peer, progress in sorted(self._progress.items()):
            progress.probe_sent = False
            if progress.state == "snapshot":
                self._send_snapshot(peer)
            else:
                self._send_append(peer, heartbeat=True)

    def _leader(self, message: Message) -> None:
        if isinstance(message, ReadRequest):
            self._take_read(message.context, message.sender)
            return
        progress = self._progress.get(message.sender)
        if progress is None:
            return
        if isinstance(message, Appended):
            progress.active = True
            self._on_appended(message, progress)
        elif isinstance(message, SnapshotReceived):
            progress.active = True
            if progress.state == "snapshot" and message.index == progress.snapshot_index:
                progress.snapshot_offset = message.offset
                self._send_snapshot(message.sender)

    def _on_appended(self, message: Appended, progress: Progress) -> None:
        progress.round = max(progress.round, message.round)
        if message.ok:
            if progress.matched(min(message.match, self.log.last_index)):
                self._advance_commit()
            if self._transferee == message.sender and progress.match == self.log.last_index:
                self._send(TimeoutNow(self.id, message.sender, self.term))
        elif progress.state != "snapshot":
            progress.refused(self._next_after_refusal(message))
            self._send_append(message.sender)
        self._confirm_reads()

    def _next_after_refusal(self, message: Appended) -> int:
        """Where to look next: behind our last entry of the conflicting term, else at its beginning."""
        if message.hint_term == 0:
            return message.hint_index + 1
        ours = self.log.last_of_term(message.hint_term, message.match - 1)
        return (ours + 1) if ours is not None else message.hint_index

    def _send_append(self, peer: str, heartbeat: bool = False) -> None:
        progress = self._progress[peer]
        if progress.paused and not heartbeat:
            return
        previous = progress.next - 1
        options = self.options
        try:
            previous_term = self.log.term(previous)
            entries: tuple[Entry, ...] = ()
            if not (heartbeat and progress.paused):
                entries = self.log.slice(
                    progress.next, options.max_message_entries, options.max_message_bytes
                )
        except Compacted:
            progress.become_snapshot(self.log.snapshot.index)
            self._send_snapshot(peer)
            return
        assert previous_term is not None
        commit = self.log.commit
        self._send(
            AppendEntries(
                self.id, peer, self.term, previous, previous_term, entries, commit, self._round
            )
        )
        if entries:
            progress.sent(entries[-1].index)
        elif progress.state == "probe":
            progress.probe_sent = True

    def _send_snapshot(self, peer: str) -> None:
        progress = self._progress[peer]
        snapshot = self.log.snapshot
        if snapshot.index != progress.snapshot_index:
            progress.become_snapshot(snapshot.index)
        start = progress.snapshot_offset
        piece = snapshot.data[start : start + self.options.max_message_bytes]
        done = start + len(piece) == len(snapshot.data)
        about = snapshot.index, snapshot.term, snapshot.membership
        self._send(
            InstallSnapshot(self.id, peer, self.term, *about, start, piece, done, self._round)
        )

    def _may_propose(self, size: int) -> None:
        if self.role != "leader":
            raise NotLeader(self.leader)
        if self._transferee:
            raise Overloaded("leadership is being handed over")
        if self._uncommitted_bytes + size > self.options.max_uncommitted_bytes:
            raise Overloaded("too much is proposed and not yet committed")

    def _append(self, entry: Entry) -> tuple[int, int]:
        self.log.append(entry)
        self._uncommitted_bytes += len(entry.data)
        return entry.index, entry.term

    def _replicate(self) -> None:
        """Send what was appended since the last Ready, and begin the round that reads wait for."""
        if self._reads and self._reads[-1].round > self._round:
            self._heartbeat()
        for peer, progress in sorted(self._progress.items()):
            while not progress.paused and progress.next <= self.log.last_index:
                self._send_append(peer)

    def _progress_of(self, peer: str) -> Progress:
        return self._progress.get(peer) or Progress(next=1)

    def _advance_commit(self) -> None:
        """What a majority has on disk is committed, if it is of this term (paper 5.4.2)."""
        own = self.log.stable_index
        voters = self.membership.voters
        matches = sorted(own if p == self.id else self._progress[p].match for p in voters)
        index = matches[len(matches) - self.membership.quorum()]
        if index <= self.log.commit:
            return
        if self.log.term(index) != self.term and not self.broken("commit-old-term-by-count"):
            return
        for entry in self.log.slice(self.log.commit + 1, index - self.log.commit, 2**62):
            self._uncommitted_bytes = max(0, self._uncommitted_bytes - len(entry.data))
        self.log.commit = index
        self._release_held_reads()
        if self.id not in voters and self.log.membership_index <= index:
            # A leader that removed itself leads until that is committed (dissertation 4.2.2).
            self._heartbeat()
            self._become_follower(self.term, "")

    def _follow_membership(self) -> None:
        everyone = self.membership.everyone
        for peer in everyone - {self.id}:
            if peer not in self._progress:
                self._progress[peer] = Progress(next=self.log.last_index + 1, active=True)
        for peer in set(self._progress) - everyone:
            del self._progress[peer]

    # -- reads -----------------------------------------------------------------------------------

    def _take_read(self, context: int, asker: str) -> None:
        """ReadIndex (dissertation 6.4): the commit index now, once a majority confirmed the leader."""
        if len(self._reads) + len(self._held_reads) >= self.options.max_reads:
            if asker == self.id:
                raise Overloaded("too many reads wait")
            self._answer_read(context, asker, 0)
        elif self.log.term(self.log.commit) != self.term:
            self._held_reads.append((context, asker))
        else:
            self._begin_read(context, asker)

    def _begin_read(self, context: int, asker: str) -> None:
        # The answers of a round prove leadership only at the moment it was sent: a read needs the
        # next one, which begins with the next Ready and serves all that came until then.
        self._reads.append(_Read(context, asker, self.log.commit, self._round + 1))
        if self.broken("read-without-quorum"):
            self._answer_reads(len(self._reads))

    def _release_held_reads(self) -> None:
        if self.log.term(self.log.commit) == self.term:
            held, self._held_reads = self._held_reads, []
            for context, asker in held:
                self._begin_read(context, asker)

    def _confirm_reads(self) -> None:
        if not self._reads:
            return
        rounds = sorted(
            self._round if p == self.id else self._progress[p].round for p in self.membership.voters
        )
        confirmed = rounds[len(rounds) - self.membership.quorum()]
        self._answer_reads(sum(read.round <= confirmed for read in self._reads))

    def _answer_reads(self, count: int) -> None:
        done, self._reads = self._reads[:count], self._reads[count:]
        for read in done:
            self._answer_read(read.context, read.asker, read.index)

    def _answer_read(self, context: int, asker: str, index: int) -> None:
        if asker == self.id:
            self._read_states.append(ReadState(context, index))
        else:
            self._send(ReadAnswer(self.id, asker, self.term, context, index))

    # -- out -------------------------------------------------------------------------------------

    def _send(self, message: Message) -> None:
        # While the driver waits for its disk, messages gather here; any may be lost, so the bound
        # costs nothing but time.
        if len(self._messages) < self.options.max_messages:
            self._messages.append(message)

    def _to_apply(self) -> tuple[Entry, ...]:
        """Committed entries the application does not have; a follower applies only what it has on
        disk, so that its state never runs ahead of its own log."""
        end = min(self.log.commit, self.log.stable_index)
        count = min(end - self.log.applied, self.options.max_apply_entries)
        if count <= 0:
            return ()
        return self.log.slice(self.log.applied + 1, count, self.options.max_message_bytes)

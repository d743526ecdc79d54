"""Drives the Raft node and the state machine: what a majority has on disk is applied, then answered.

Theory of operation
    One loop does the node's work, in the order that `raft.messages.Ready` demands: persist, send, apply,
    advance. What comes in meanwhile (messages, ticks, proposals) changes the node at once and is the
    next round's work, so that all that came while the disk was busy shares the next sync.

    A command is proposed by the leader. On another coordinator `propose` hands it to the leader and waits
    for the answer. Its outcome is known when its index is applied: with the term it was proposed in it is
    done, with another one it is lost and nothing was done. Whoever does not learn it in time is told
    that it is not known.

    A read asks Raft for a read index (`read_barrier`): once that is applied, the state is at least as new
    as everything that was acknowledged anywhere before the read began. All reads of one turn of the
    reactor share one.

    While the disk is full nothing is sent: the others elect another leader, and this node goes on when
    there is room. Once the disk has failed the node does nothing any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final, Protocol

import msgspec
from attrs import define, frozen
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.coordinator.commands import BeginTerm, Command, Result
from penncloud.coordinator.raft_store import Kept, RaftStore, RaftStoreDamaged
from penncloud.coordinator.records import NewerState
from penncloud.coordinator.state import StateMachine
from penncloud.platform.environment import Environment
from penncloud.platform.errors import DiskError, DiskFull, PennCloudError
from penncloud.raft.log import RaftLog
from penncloud.raft.messages import Entry, HardState, Membership, Message, Ready, Snapshot
from penncloud.raft.node import NotLeader, Options, Overloaded, RaftNode, Role

# Commands whose outcome is awaited, and reads; one more is refused.
MAX_WAITING: Final = 1024
# How long a command, or a read, may take.
DEADLINE_S: Final = 5.0
READ_DEADLINE_S: Final = 2.0
# A read whose messages were lost is asked again.
READ_RETRY_S: Final = 0.25
# Pause while no leader is known, or the disk is full.
PAUSE_S: Final = 0.05
FULL_PAUSE_S: Final = 1.0

_COMMANDS: Final = msgspec.msgpack.Encoder()
_COMMAND_DECODER: Final[msgspec.msgpack.Decoder[Command]] = msgspec.msgpack.Decoder(Command)


class TooManyDecisions(PennCloudError):
    """More commands wait than may; nothing was done."""

    retryable: ClassVar[bool] = True


class NotDecided(PennCloudError):
    """There is no leader, or it changed: nothing was done."""

    retryable: ClassVar[bool] = True


class OutcomeUnknown(PennCloudError):
    """The command may be done now, or later, or never."""

    retryable: ClassVar[bool] = True


@frozen
class Timing:
    """`tick_s` is a leader's heartbeat; a follower stands for election after one to two times
    `election_ticks` without one."""

    tick_s: float = 0.05
    election_ticks: int = 8

    @property
    def election_s(self) -> float:
        return self.tick_s * self.election_ticks


class Link(Protocol):
    """The way to the other coordinators. Messages may get lost; `decide` asks the leader."""

    def send(self, message: Message) -> None: ...

    async def decide(self, leader: str, command: Command, timeout_s: float) -> Result:
        """Raises NotDecided, OutcomeUnknown, TooManyDecisions."""
        ...


@define
class _Waiting:
    """Who waits for the entry of an index; it has to be of this term."""

    term: int
    result: Deferred[Any]


class Decisions:
    """The one place where the state changes.

    `changed` is called after each batch of applied commands, before their proposers learn of it, and
    when the leader, this node's role or the term has changed. When the log has grown by `compact_bytes` a
    snapshot of the state takes its place.
    """

    log = Logger()

    def __init__(
        self,
        environment: Environment,
        node_id: str,
        store: RaftStore,
        *,
        timing: Timing,
        link: Link,
        changed: Callable[[], None],
        compact_bytes: int,
    ) -> None:
        self.machine = StateMachine()
        self.id = node_id
        self.timing = timing
        self.node: RaftNode | None = None
        self._environment = environment
        self._clock = environment.reactor
        self._store = store
        self._link = link
        self._changed = changed
        self._compact_bytes = compact_bytes
        self._waiting: dict[int, _Waiting] = {}
        self._joining: list[Deferred[None]] = []
        self._asking: Any = None
        self._reads: dict[int, list[Deferred[None]]] = {}
        self._confirmed: list[tuple[int, list[Deferred[None]]]] = []
        self._pauses: list[Deferred[None]] = []
        self._handed_on: list[Deferred[Result]] = []
        # An answer that was meant for an earlier run of this coordinator must not fit a read of this one.
        self._next_read = int.from_bytes(environment.entropy(6))
        self._pending_reads = 0
        self._known: tuple[Role, str, int] = ("follower", "", 0)
        # The last term in which this node led and has said so in the log.
        self._begun = 0
        self._poked: Any = None
        self._working = False
        self._idle: list[Deferred[None]] = []
        self._failed = False
        self._closing = False
        self._ticks = LoopingCall(self._tick)
        self._ticks.clock = self._clock

    # -- begin and end ---------------------------------------------------------------------------

    def begin(self, kept: Kept) -> None:
        """Take part, with what was kept. Raises RaftStoreDamaged for a state that is none."""
        self._load(kept.snapshot)
        self.node = RaftNode(
            self.id,
            RaftLog(kept.snapshot, kept.entries),
            kept.hard_state,
            self._environment.random,
            Options(election_ticks=self.timing.election_ticks),
            self._environment.broken,
        )
        if self.node.membership.voters == {self.id}:
            self.node.campaign()
        self._ticks.start(self.timing.tick_s, now=False).addErrback(self._ticks_failed)
        self._poke()

    async def close(self) -> None:
        """Hand leadership over if it is here, take no more commands, close the log."""
        await self._hand_over()
        self._closing = True
        if self._ticks.running:
            self._ticks.stop()
        if self._poked is not None:
            self._poked.cancel()
            self._poked = None
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None
        if self._working:
            idle: Deferred[None] = Deferred()
            self._idle.append(idle)
            await idle
        self._give_up("the coordinator stops")
        await self._store.close()

    async def _hand_over(self) -> None:
        node = self.node
        if node is None or self._failed or node.role != "leader":
            return
        others = node.voters_by_progress()
        if not others:
            return
        node.transfer(others[0])
        self._poke()
        deadline = self._clock.seconds() + self.timing.election_s
        # Until the successor is heard of: in a group of two it needs this node's vote.
        while node.leader in ("", self.id) and self._clock.seconds() < deadline:
            await deferLater(self._clock, self.timing.tick_s / 2)

    # -- what others ask -------------------------------------------------------------------------

    @property
    def leads(self) -> bool:
        """Whether this node decides, and has applied all that was decided before its term."""
        node = self.node
        return (
            node is not None
            and not self._failed
            and node.role == "leader"
            and self.machine.state.term == node.term
        )

    @property
    def leader(self) -> str:
        """Who leads as far as is known, or empty."""
        return self.node.leader if self.node is not None else ""

    @property
    def role(self) -> Role:
        return self.node.role if self.node is not None else "follower"

    @property
    def term(self) -> int:
        return self.node.term if self.node is not None else 0

    @property
    def membership(self) -> Membership:
        """The latest known, not yet committed perhaps; empty before the group is founded."""
        return self.node.membership if self.node is not None else Membership(frozenset())

    def receive(self, message: Message) -> None:
        """A message of another coordinator."""
        if self.node is not None and not self._failed and not self._closing:
            self.node.step(message)
            self._poke()

    async def propose(self, command: Command, timeout_s: float = DEADLINE_S) -> Result:
        """The command's result once it is durable on a majority and applied.

        Raises TooManyDecisions and NotDecided (nothing was done), OutcomeUnknown.
        """
        deadline = self._clock.seconds() + timeout_s
        while True:
            left_s = deadline - self._clock.seconds()
            if left_s <= 0 or self._failed or self._closing:
                raise NotDecided("no coordinator leads at the moment")
            try:
                if self.role == "leader":
                    result: Result = await self.propose_here(command, left_s)
                    return result
                if self.leader:
                    return await self._hand_on(command, left_s)
            except NotDecided:
                pass  # another one leads now: try there, until the deadline
            await self._pause(min(PAUSE_S, left_s))

    async def _hand_on(self, command: Command, timeout_s: float) -> Result:
        """Let the leader decide; once another one leads it is not waited for any longer."""
        work = Deferred.fromCoroutine(self._link.decide(self.leader, command, timeout_s))
        self._handed_on.append(work)
        try:
            return await work
        except CancelledError:
            raise OutcomeUnknown("the leader changed before it answered") from None
        finally:
            self._handed_on.remove(work)

    async def _pause(self, seconds: float) -> None:
        """Raises NotDecided when the node stops meanwhile."""
        pause: Deferred[None] = deferLater(self._clock, seconds)
        self._pauses.append(pause)
        try:
            await pause
        except CancelledError:
            raise NotDecided("the coordinator stops") from None
        finally:
            self._pauses.remove(pause)

    def propose_here(self, command: Command, timeout_s: float = DEADLINE_S) -> Deferred[Result]:
        """As `propose`, but NotDecided at once when this node is not the leader."""
        return self._submit(lambda node: node.propose(_COMMANDS.encode(command)), timeout_s)

    def change_membership(
        self, membership: Membership, timeout_s: float = DEADLINE_S
    ) -> Deferred[None]:
        """Fires when it is committed. Errors: `propose_here`'s and raft.node.MembershipRefused."""
        return self._submit(lambda node: node.propose_membership(membership), timeout_s)

    def transfer(self, to: str) -> None:
        """Begin to hand leadership over. Raises NotDecided, raft.node.MembershipRefused."""
        if self.node is None or self.node.role != "leader":
            raise NotDecided("this coordinator does not lead")
        self.node.transfer(to)
        self._poke()

    def read_barrier(self, timeout_s: float = READ_DEADLINE_S) -> Deferred[None]:
        """Fires when the state is as new as all that was acknowledged before this call.

        Errors: NotDecided when no majority confirms it in time, TooManyDecisions.
        """
        if self.node is None or self._failed or self._closing:
            return fail(NotDecided("this coordinator belongs to no group yet"))
        if self._pending_reads >= MAX_WAITING:
            return fail(TooManyDecisions(f"{MAX_WAITING} reads wait already"))
        self._pending_reads += 1
        result: Deferred[None] = Deferred()
        late = NotDecided("no majority of the coordinators has answered in time")
        self._bound(result, timeout_s, late)
        self._joining.append(result)
        self._ask_soon(0)
        return result.addBoth(self._read_done)

    # -- proposals -------------------------------------------------------------------------------

    def _submit(
        self, append: Callable[[RaftNode], tuple[int, int]], timeout_s: float
    ) -> Deferred[Any]:
        node = self.node
        if node is None or self._failed or self._closing:
            return fail(NotDecided("this coordinator does not decide now"))
        if len(self._waiting) >= MAX_WAITING:
            return fail(TooManyDecisions(f"{MAX_WAITING} commands wait already"))
        try:
            index, term = append(node)
        except (NotLeader, Overloaded) as error:
            return fail(NotDecided(str(error)))
        except Exception:  # noqa: BLE001 (a membership that is refused, say: the caller's to know)
            return fail(Failure())
        result: Deferred[Any] = Deferred()
        self._bound(result, timeout_s, OutcomeUnknown("not decided in time; it may still be"))
        # An entry that this one replaces was of a term in which this node led, too. As long as nothing is
        # committed in its place it may still be, from the log of another (figure 8 of the paper).
        if replaced := self._waiting.pop(index, None):
            _fail(replaced.result, OutcomeUnknown("another leader may yet decide it"))
        self._waiting[index] = _Waiting(term, result)
        self._poke()
        return result

    def _bound(self, result: Deferred[Any], timeout_s: float, late: PennCloudError) -> None:
        call = self._clock.callLater(timeout_s, _fail, result, late)

        def done(value: Any) -> Any:
            if call.active():
                call.cancel()
            return value

        result.addBoth(done)

    def _settle(self, index: int, term: int, applied: Any) -> None:
        """The entry of `index` and `term` was applied with a result."""
        waiting = self._waiting.pop(index, None)
        if waiting is None or waiting.result.called:
            return
        if term == waiting.term:
            waiting.result.callback(applied)
        else:
            _fail(waiting.result, NotDecided("another leader decided otherwise"))

    # -- reads -----------------------------------------------------------------------------------

    def _ask_soon(self, delay_s: float) -> None:
        if self._asking is None and not self._closing:
            self._asking = self._clock.callLater(delay_s, self._ask)

    def _read_done(self, value: Any) -> Any:
        self._pending_reads -= 1
        return value

    def _ask(self) -> None:
        self._asking = None
        node = self.node
        # What was not answered is asked again, as messages get lost; a late answer still counts.
        unanswered = [*self._joining, *(one for old in self._reads.values() for one in old)]
        waiting = list(dict.fromkeys(one for one in unanswered if not one.called))
        self._joining = []
        self._reads = {
            context: old
            for context, old in self._reads.items()
            if any(not one.called for one in old)
        }
        if not waiting or node is None or self._failed:
            return
        self._next_read += 1
        try:
            node.read(self._next_read)
        except (NotLeader, Overloaded):
            self._joining = waiting
            self._ask_soon(PAUSE_S)
        else:
            self._reads[self._next_read] = waiting
            self._ask_soon(READ_RETRY_S)
            self._poke()

    def _take_reads(self, ready: Ready) -> None:
        for read in ready.reads:
            waiting = self._reads.pop(read.context, None)
            if waiting is None:
                continue
            if read.index:
                self._confirmed.append((read.index, waiting))
            else:
                self._joining += waiting
                self._ask_soon(PAUSE_S)

    def _answer_reads(self) -> None:
        assert self.node is not None
        applied = self.node.log.applied
        due = [waiting for index, waiting in self._confirmed if index <= applied]
        self._confirmed = [one for one in self._confirmed if one[0] > applied]
        for waiting in due:
            for one in waiting:
                if not one.called:
                    one.callback(None)

    # -- the loop --------------------------------------------------------------------------------

    def _tick(self) -> None:
        assert self.node is not None
        self.node.tick()
        self._poke()

    def _ticks_failed(self, failure: Failure) -> None:
        self.log.failure("the coordinator's clock failed", failure)
        self._fail_all("internal error")

    def _poke(self) -> None:
        if self._poked is None and not self._working and not self._failed and not self._closing:
            self._poked = self._clock.callLater(0, self._begin_work)

    def _begin_work(self) -> None:
        self._poked = None
        self._working = True
        Deferred.fromCoroutine(self._work()).addErrback(self._work_failed)

    async def _work(self) -> None:
        assert self.node is not None
        try:
            while not self._failed:
                self._begin_term()
                self._tell_role()
                ready = self.node.ready()
                if ready is None:
                    break
                if self._broken("send-before-persist"):
                    self._send(ready)
                if not await self._persist(ready):
                    break
                if not self._broken("send-before-persist"):
                    self._send(ready)
                self._apply(ready)
                self.node.advance(ready)
                self._take_reads(ready)
                self._answer_reads()
                await self._compact()
        finally:
            self._working = False
            idle, self._idle = self._idle, []
            for waiter in idle:
                waiter.callback(None)

    def _work_failed(self, failure: Failure) -> None:
        self.log.failure("the coordinator's Raft node failed", failure)
        self._fail_all("internal error")

    def _broken(self, rule: str) -> bool:
        return self._environment.broken(rule)

    def _tell_role(self) -> None:
        assert self.node is not None
        now = self.node.role, self.node.leader, self.node.term
        if now == self._known:
            return
        before, self._known = self._known, now
        if before[1] and before[1] != now[1]:
            for wait in list(self._handed_on):
                wait.cancel()
        if now[0] == "leader" and (before[0], before[2]) != ("leader", now[2]):
            self.log.info("{id} leads term {term}", id=self.id, term=now[2])
        self._changed()

    def _begin_term(self) -> None:
        """Have the log say that this node leads, in each term in which it does.

        Nobody waits for it, so that the bound on those who wait cannot refuse it: a leader without it
        decides nothing (`leads`), and no other is elected while it lives.
        """
        node = self.node
        assert node is not None
        if node.role == "leader" and self._begun != node.term:
            command = BeginTerm(self._environment.now(), self.id, node.term)
            try:
                node.propose(_COMMANDS.encode(command))
            except Overloaded:
                return  # With the next tick again.
            self._begun = node.term

    async def _persist(self, ready: Ready) -> bool:
        """False when the disk has failed, or the node stops."""
        hard_state: HardState | None = ready.hard_state
        if self._broken("vote-not-persisted"):
            hard_state = None
        nothing = hard_state is None and ready.snapshot is None and not ready.entries
        if nothing or self._broken("decide-when-durable"):
            return True
        while True:
            try:
                await self._store.save(hard_state, ready.snapshot, ready.entries)
            except DiskFull as error:
                self.log.warn("the coordinator waits for room: {why}", why=str(error))
                if self._closing:
                    return False
                await deferLater(self._clock, FULL_PAUSE_S)
            except DiskError as error:
                self._fail_all(f"the disk has failed: {error}")
                return False
            else:
                return True

    def _send(self, ready: Ready) -> None:
        for message in ready.messages:
            self._link.send(message)

    def _apply(self, ready: Ready) -> None:
        if ready.snapshot is not None:
            self._load(ready.snapshot)
            self._forget_up_to(ready.snapshot.index)
        results: list[tuple[Entry, Result | None]] = []
        for entry in ready.committed:
            command = _decode(entry)
            results.append((entry, self.machine.apply(command) if command is not None else None))
        if ready.committed or ready.snapshot is not None:
            self._changed()
        for entry, result in results:
            self._settle(entry.index, entry.term, result)

    def _load(self, snapshot: Snapshot) -> None:
        try:
            self.machine.restore(snapshot.data)
        except (msgspec.MsgspecError, NewerState) as error:
            raise RaftStoreDamaged(f"the snapshot is not a state: {error}") from error

    def _forget_up_to(self, index: int) -> None:
        """A snapshot has them: whether they were this node's own entries cannot be told any more."""
        for known in [known for known in self._waiting if known <= index]:
            unknown = OutcomeUnknown("this coordinator fell behind; it may have been done")
            _fail(self._waiting.pop(known).result, unknown)

    async def _compact(self) -> None:
        node = self.node
        assert node is not None
        index = node.log.applied
        if self._store.log_bytes < self._compact_bytes or index <= node.log.snapshot.index:
            return
        term = node.log.term(index)
        assert term is not None
        members = node.log.membership_at(index)
        snapshot = Snapshot(index, term, members, self.machine.snapshot())
        behind = node.log.stable_behind(index)
        try:
            await self._store.compact(snapshot, behind)
        except DiskFull as error:  # the log just goes on growing, while it can
            self.log.warn("no room for a snapshot: {why}", why=str(error))
        except DiskError as error:
            self._fail_all(f"the disk has failed: {error}")
        else:
            if node.log.snapshot.index < index:  # no leader's snapshot came meanwhile
                node.compact(snapshot)

    # -- the end ---------------------------------------------------------------------------------

    def _fail_all(self, why: str) -> None:
        if not self._failed:
            self._failed = True
            self.log.error("the coordinator decides nothing any more: {why}", why=why)
            if self._ticks.running:
                self._ticks.stop()
            self._give_up(why)
            self._changed()

    def _give_up(self, why: str) -> None:
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            _fail(one.result, OutcomeUnknown(f"not known: {why}"))
        for pause in list(self._pauses):
            pause.cancel()
        for handed_on in list(self._handed_on):
            handed_on.cancel()
        reads = [*self._joining, *(one for them in self._reads.values() for one in them)]
        reads += [one for _, them in self._confirmed for one in them]
        self._joining, self._reads, self._confirmed = [], {}, []
        for read in reads:
            _fail(read, NotDecided(why))


def _fail(result: Deferred[Any], error: PennCloudError) -> None:
    if not result.called:
        result.errback(error)


def _decode(entry: Entry) -> Command | None:
    return _COMMAND_DECODER.decode(entry.data) if entry.kind == "command" else None


def describe(entry: Entry) -> str:
    """An entry's content for people, as JSON."""
    if entry.kind == "membership" and entry.membership is not None:
        members = entry.membership
        shown: Any = {"voters": sorted(members.voters), "learners": sorted(members.learners)}
    else:
        shown = _decode(entry)
    return msgspec.json.encode(shown).decode() if shown is not None else ""

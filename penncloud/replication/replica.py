"""One replica of a group: hands each message to the role it plays, changes the role, gathers the work.

How to drive it: `step` for a message, `tick` at least every `beacon_s`, `configure` for every
configuration the coordinators tell of, `propose` for a write; after each of them take `ready()` until it
is None and do what `messages.Ready` says. Every call takes `now`, the process's own monotonic clock in
seconds. Messages from one replica to another have to arrive in order or not at all; nothing of an older
connection after the first of a newer one (`reconnected`).

Role changes
    secondary -> primary     a configuration above the sealed cfg names this replica, in this incarnation,
                             and has it among its members
    primary -> primary       the next configuration keeps it: go on; a later one: take over anew
    primary -> secondary     a configuration or a message shows a higher cfg, or the own disk is full
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Final, Literal, TypeAlias

from attrs import evolve

from penncloud.replication.catch_up import CatchUp
from penncloud.replication.lease import Promise
from penncloud.replication.log import ReplicaLog
from penncloud.replication.messages import (
    Ack,
    Checkpoint,
    Commit,
    Configuration,
    Entry,
    Fetch,
    Message,
    Offer,
    Piece,
    Prep,
    Ready,
    Reason,
    Reject,
    Sync,
    Tip,
)
from penncloud.replication.primary import Primary, Refused
from penncloud.replication.secondary import Secondary
from penncloud.replication.state import Durable, Options, ReplicaState, nothing_broken

_FROM_PRIMARY: Final = (Prep, Commit, Offer, Piece)

RoleName: TypeAlias = Literal["primary", "taking over", "secondary", "learner"]


class Replica:
    """See the module. `make_noop(version, entry_cfg)` gives an entry without effect.

    `broken(rule)` is false outside of the simulation, which proves with it that its checkers would notice
    a rule that is missing. `promise`: what the replica has promised already; None after a start, which
    forgets it.
    """

    def __init__(
        self,
        replica_id: str,
        group: int,
        durable: Durable,
        make_noop: Callable[[int, int], Entry],
        now: float,
        *,
        options: Options | None = None,
        promise: Promise | None = None,
        broken: Callable[[str], bool] = nothing_broken,
    ) -> None:
        options = options or Options()
        if promise is None:
            promise = Promise(options.leases)
            promise.forget_with_restart(now)
        self.state = ReplicaState(
            replica_id,
            group,
            options,
            make_noop,
            broken,
            durable.incarnation,
            durable.blank,
            ReplicaLog(durable.checkpoint, durable.entries),
            durable.sealed,
            durable.staged,
            promise,
            now,
        )
        self.part: Primary | Secondary = Secondary(self.state)
        self._under_way: deque[Ready] = deque()
        self._seal_handed = durable.sealed
        self._told_committed = self.state.log.committed
        self._told_answered = self._told_committed

    # -- what the driver sees --------------------------------------------------------------------

    @property
    def role(self) -> RoleName:
        if isinstance(self.part, Primary):
            return "primary" if self.part.serving else "taking over"
        return "learner" if self.part.catch_up else "secondary"

    @property
    def config(self) -> Configuration | None:
        """The latest configuration that this replica was told."""
        return self.state.config

    @property
    def tip(self) -> Tip:
        """For the next pong."""
        return self.state.tip()

    @property
    def promise(self) -> Promise:
        """What this replica has promised: the replica of a half of its group begins with it."""
        return evolve(self.state.promise)

    @property
    def alarm(self) -> str:
        """Why this replica takes part no more, or empty. Only its state's removal ends that."""
        return self.state.alarm

    @property
    def committed(self) -> int:
        return self.state.log.committed

    @property
    def stable(self) -> int:
        """The version of the last entry that is on disk."""
        return self.state.log.stable

    def entries(self, after: int, up_to: int) -> list[Entry]:
        """The entries after < version <= up_to, from those that are not in the latest checkpoint."""
        return self.state.log.between(after, up_to)

    @property
    def prepared(self) -> int:
        """The version of the log's last entry: the owner's next one is behind it."""
        return self.state.log.last_version

    def hears(self, primary: str) -> bool:
        """Whether `primary` leads this replica, and has said so within the silence that is allowed."""
        part, state = self.part, self.state
        return (
            isinstance(part, Secondary)
            and part.leader == primary
            and state.now - part.heard_at <= state.options.silence_s
        )

    def lag(self) -> dict[str, int]:
        """At the primary: how many versions each other replica has yet to ACK."""
        if not isinstance(self.part, Primary):
            return {}
        last = self.prepared
        return {peer.id: last - peer.acked for peer in self.part.peers.values()}

    def next_place(self, now: float) -> tuple[int, int]:
        """The (version, entry_cfg) that the next proposed entry has to have. Raises Refused."""
        return self.prepared + 1, self._primary(now).config.cfg

    def propose(self, entry: Entry, now: float) -> None:
        """Replicate the next entry. Raises Refused (nothing was done), ValueError for a wrong place."""
        self._primary(now).propose(entry)

    def read_ticket(self) -> int:
        """Take it before looking at the committed state; 0: not serving.

        A replica may look while it is behind, become primary, and hold every lease when it checks: the
        ticket says that it served in one and the same takeover from the look to the check.
        """
        part = self.part
        return part.takeover.since if isinstance(part, Primary) and part.serving else 0

    def may_read(self, ticket: int, now: float) -> bool:
        """Whether what was seen between taking the ticket and this call may be answered."""
        self.state.now = max(self.state.now, now)
        if ticket != self.read_ticket() and not self.state.broken("read-ticket"):
            return False
        return isinstance(self.part, Primary) and self.part.may_read()

    @property
    def confirms(self) -> bool:
        """Whether reads have to wait for a round to the members."""
        by_rounds = self.state.options.read_mode == "confirm"
        return by_rounds and isinstance(self.part, Primary) and not self.part.alone

    @property
    def answers_early(self) -> bool:
        """Whether writes are answered before they are committed."""
        return self.state.options.mode == "async"

    def confirm(self, context: int, now: float) -> None:
        """Ask for a round to the members; read when a Ready has confirmed `context`. Raises Refused."""
        self._primary(now).confirm(context)

    def hand_over(self, to: str, now: float) -> None:
        """Before an orderly stop: let the member `to` become primary. Raises Refused."""
        self._primary(now).hand_over(to)

    def tick(self, now: float) -> None:
        """Time has passed."""
        self.state.now = max(self.state.now, now)
        self._work(hold=True)

    def reconnected(self, peer: str, now: float) -> None:
        """The connection to `peer` is a new one; what was said on the old one may be lost."""
        self.state.now = max(self.state.now, now)
        if isinstance(self.part, Primary):
            self.part.reconnected(peer)

    def suspect(self, peer: str, now: float) -> None:
        """The coordinators take `peer` for dead."""
        self.state.now = max(self.state.now, now)
        if isinstance(self.part, Primary):
            self.part.suspect(peer)

    def piece_gone(self, peer: str, number: int, now: float) -> None:
        """A piece of the checkpoint `number` that `peer` asked for cannot be given to it."""
        self.state.now = max(self.state.now, now)
        if isinstance(self.part, Primary):
            self.part.piece_gone(peer, number)

    def checkpointed(self, checkpoint: Checkpoint) -> None:
        """A checkpoint of committed state is on disk: the log in memory may begin behind it.

        On disk the log must reach back to the latest checkpoint only.
        """
        log, options = self.state.log, self.state.options
        keep_from = checkpoint.version
        if isinstance(self.part, Primary):
            for peer in self.part.peers.values():
                behind = peer.state == "checkpoint"
                keep_from = min(keep_from, peer.checkpoint_version if behind else peer.acked)
        bound = log.within(options.max_kept, options.max_kept_bytes)
        log.checkpointed(checkpoint, max(keep_from, bound))

    def release(self, members: Collection[str]) -> None:
        """The coordinators want these members to leave: the primary proposes that while it serves."""
        if isinstance(self.part, Primary):
            self.part.leaving = frozenset(members) - {self.state.id}

    def room_again(self) -> None:
        """The disk has room again."""
        self.state.full = False

    # -- messages --------------------------------------------------------------------------------

    def step(self, message: Message, now: float) -> bool:
        """Take a message from another replica. What is not for this one is ignored.

        Whether `ready()` may have something to do by that; most ACKs only wait for others.
        """
        state, part = self.state, self.part
        if message.to != state.id or message.group != state.group or message.sender == state.id:
            return False
        state.now = max(state.now, now)
        if isinstance(message, _FROM_PRIMARY):
            self._from_primary(message)
        elif isinstance(part, Primary):
            if isinstance(message, Ack):
                part.on_ack(message)
                return part.owes(message.sender) or state.log.committed > self._told_committed
            self._to_primary(part, message)
        return True

    def _from_primary(self, message: Prep | Commit | Offer | Piece) -> None:
        if isinstance(self.part, Primary):
            if message.cfg <= self.part.config.cfg and not self.state.broken("seal"):
                self._contradict(message)
                return
            self._step_down()
        part = self.part
        assert isinstance(part, Secondary)
        if isinstance(message, Prep):
            part.on_prep(message)
        elif isinstance(message, Commit):
            part.on_commit(message)
        elif isinstance(message, Offer):
            part.on_offer(message)
        else:
            part.on_piece(message)

    def _contradict(self, message: Prep | Commit | Offer | Piece) -> None:
        """A primary of an earlier cfg does not know yet that it is none any more."""
        state = self.state
        if message.cfg == state.sealed:
            state.alarm = f"both {state.id} and {message.sender} are primary of cfg {message.cfg}"
            self._step_down()
        elif isinstance(message, Prep):
            about = state.group, state.sealed, Reason.STALE, message.prev_version, 0
            state.send(Reject(state.id, message.sender, *about))

    def _to_primary(self, part: Primary, message: Reject | Sync | Fetch) -> None:
        if isinstance(message, Sync):
            part.on_sync(message)
        elif isinstance(message, Fetch):
            part.on_fetch(message)
        elif message.reason is not Reason.STALE:
            part.on_reject(message)
        elif message.cfg > part.config.cfg:
            self.state.ask = True
            self._step_down()

    # -- configurations --------------------------------------------------------------------------

    def configure(self, config: Configuration, now: float, join: bool = True) -> None:
        """What the coordinators say. `join`: catch up to become a member where this is none."""
        state = self.state
        state.now = max(state.now, now)
        if state.config is not None and config.cfg < state.config.cfg:
            return
        state.config = config
        named = config.primary == state.id and state.id in config.members
        if named and config.incarnation == state.incarnation:
            self._become_primary(config)
            return
        if isinstance(self.part, Primary) and config.cfg > self.part.config.cfg:
            self._step_down()
        if isinstance(self.part, Secondary):
            self._follow(self.part, config, join)

    def _become_primary(self, config: Configuration) -> None:
        state, part = self.state, self.part
        if isinstance(part, Primary):
            if config.cfg == part.config.cfg:
                return
            if part.continues_in(config):
                part.reconfigure(config)
                return
            self._step_down()
        if config.cfg <= state.sealed or state.blank or state.alarm:
            state.declined = config.cfg
            return
        self.part = Primary(state, config)

    @staticmethod
    def _follow(part: Secondary, config: Configuration, join: bool) -> None:
        member = part.state.id in config.members
        if member or not join or config.primary == part.state.id:
            part.catch_up = None
        elif part.catch_up is None or part.catch_up.primary != config.primary:
            part.catch_up = CatchUp(part.state, config.primary)

    def _step_down(self) -> None:
        """Nobody may be told anything about what is prepared here any more."""
        part = self.part
        assert isinstance(part, Primary)
        self.state.stepped_down = True
        self.state.declined = part.config.cfg
        self.part = Secondary(self.state)

    def _primary(self, now: float) -> Primary:
        self.state.now = max(self.state.now, now)
        if not isinstance(self.part, Primary):
            raise Refused("this replica is not the primary")
        return self.part

    # -- work ------------------------------------------------------------------------------------

    def _work(self, hold: bool) -> None:
        if isinstance(self.part, Primary):
            self.part.work(hold)
        else:
            self.part.work()

    @property
    def holds_back(self) -> bool:
        """Whether something was proposed that is neither on its way to the disk nor to the members."""
        return self._released < self.state.log.last_version

    def ready(self, hold: bool = False) -> Ready | None:
        """What there is to do, or None.

        `hold`: what was newly proposed is held back, since the disk cannot take it yet. So it becomes one
        batch, for disk and members alike, with all that is proposed until then.
        """
        state, log = self.state, self.state.log
        self._work(hold)
        if not self._has_work():
            return None
        seal = cut = None
        quarantine: tuple[Entry, ...] = ()
        if not state.full:
            if state.sealed > self._seal_handed:
                seal = self._seal_handed = state.sealed
            cut, quarantine = state.cut_from, tuple(state.quarantine)
            state.cut_from = None
            state.quarantine.clear()
        answered = self._answered()
        to_hand = self._released
        to_hand_bytes = log.bytes_between(log.handed, to_hand) if to_hand > log.handed else 0
        ready = Ready(
            state.stepped_down,
            tuple(state.withdrawn),
            tuple(state.aborted),
            log.committed,
            answered,
            tuple(state.confirmed),
            tuple(state.prompt),
            state.proposal,
            state.ask,
            tuple(state.pieces),
            seal,
            quarantine,
            cut,
            tuple(state.stage),
            state.install,
            log.hand_out(to_hand),
            to_hand_bytes,
            tuple(state.after_sync),
        )
        self._told_committed, self._told_answered = log.committed, answered
        self._begin_anew()
        self._under_way.append(ready)
        return ready

    @property
    def _released(self) -> int:
        """The version of the last entry that may go to the disk."""
        part = self.part
        return part.released if isinstance(part, Primary) else self.state.log.last_version

    def _answered(self) -> int:
        """Up to where writes are answered: in async mode what is on this disk is enough."""
        log = self.state.log
        if (
            self.state.options.mode == "async"
            and isinstance(self.part, Primary)
            and self.part.serving
        ):
            return max(log.committed, log.stable)
        return log.committed

    def _has_work(self) -> bool:
        state, log = self.state, self.state.log
        return bool(
            state.prompt
            or state.after_sync
            or log.handed < self._released
            or log.committed > self._told_committed
            or state.stage
            or state.install
            or state.pieces
            or state.proposal
            or state.stepped_down
            or state.ask
            or state.withdrawn
            or state.aborted
            or state.confirmed
            or (not state.full and (state.sealed > self._seal_handed or state.cut_from is not None))
            or self._answered() > self._told_answered
        )

    def _begin_anew(self) -> None:
        state = self.state
        state.stepped_down = state.ask = False
        state.proposal = state.install = None
        for gathered in (state.aborted, state.confirmed, state.prompt, state.pieces):
            gathered.clear()
        state.withdrawn.clear()
        state.stage.clear()
        state.after_sync.clear()

    def advance(self, ready: Ready) -> bool:
        """`ready`, the first of those under way, is persisted and its messages are sent.

        Whether `ready()` may have something to do by that.
        """
        state = self.state
        expected = self._under_way.popleft()
        if expected is not ready:
            raise ValueError("what was handed out first has to be done first")
        if ready.seal is not None:
            state.sealed_stable = max(state.sealed_stable, ready.seal)
        if ready.install is not None:
            state.log.restore(ready.install)
            self._told_committed = self._told_answered = ready.install.version
            state.installing = state.blank = False
            if isinstance(self.part, Secondary):
                self.part.installed()
        if ready.entries:
            state.log.persisted()
        if isinstance(self.part, Secondary) and ready.seal is None and ready.install is None:
            return self.part.lags
        return ready.persists

    def refuse(self) -> None:
        """There was no room: nothing of what is under way was kept, and none of its messages were sent.

        A primary cannot go on, since others may have what it has not: it gives the cfg up. `room_again`
        ends the state in which everything is rejected.
        """
        state = self.state
        state.full = True
        for ready in reversed(self._under_way):
            # What was cut off in memory is still on the disk: that remains to be done.
            if ready.cut is not None:
                state.cut_from = min(ready.cut, state.cut_from or ready.cut)
                state.quarantine[:0] = ready.quarantine
        self._under_way.clear()
        state.log.refused()
        self._seal_handed = state.sealed_stable
        state.after_sync.clear()
        state.stage.clear()
        state.installing = False
        state.staged = None
        if isinstance(self.part, Primary):
            state.ask = True
            self._step_down()
        else:
            self.part.voided()

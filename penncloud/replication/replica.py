"""One replica of a group, as its driver sees it.

How to drive it: `step` for a message, `tick` at least every `beacon_s`, `configure` for every
configuration the coordinators tell of, `propose` for a write; after each of them take `ready()` until it
is None and do what `messages.Ready` says. Every call takes `now`, the process's own monotonic clock in
seconds. Messages from one replica to another have to arrive in order or not at all; nothing of an older
connection after the first of a newer one (`reconnected`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from attrs import evolve

from penncloud.replication.lease import Promise
from penncloud.replication.log import ReplicaLog
from penncloud.replication.messages import (
    Ack,
    Checkpoint,
    Configuration,
    Entry,
    Message,
    Ready,
    Tip,
)
from penncloud.replication.primary import Primary
from penncloud.replication.roles import RoleName, Roles
from penncloud.replication.secondary import Secondary
from penncloud.replication.state import Durable, Options, ReplicaState, nothing_broken
from penncloud.replication.under_way import UnderWay


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
        self._roles = Roles(self.state)
        self._under_way = UnderWay(self.state)

    # -- what the driver sees --------------------------------------------------------------------

    @property
    def part(self) -> Primary | Secondary:
        """The role as it is now."""
        return self._roles.part

    @property
    def role(self) -> RoleName:
        return self._roles.name

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
        part = self._roles.part
        return part.takeover.since if isinstance(part, Primary) and part.serving else 0

    def may_read(self, ticket: int, now: float) -> bool:
        """Whether what was seen between taking the ticket and this call may be answered."""
        self.state.now = max(self.state.now, now)
        if ticket != self.read_ticket() and not self.state.broken("read-ticket"):
            return False
        part = self._roles.part
        return isinstance(part, Primary) and part.may_read()

    @property
    def confirms(self) -> bool:
        """Whether reads have to wait for a round to the members."""
        by_rounds = self.state.options.read_mode == "confirm"
        part = self._roles.part
        return by_rounds and isinstance(part, Primary) and not part.alone

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
        self._roles.work(hold=True)

    def reconnected(self, peer: str, now: float) -> None:
        """The connection to `peer` is a new one; what was said on the old one may be lost."""
        self.state.now = max(self.state.now, now)
        if isinstance(self.part, Primary):
            self.part.reconnected(peer)

    def suspect(self, peer: str, now: float) -> None:
        """The coordinators take `peer` for dead."""
        self.state.now = max(self.state.now, now)
        if isinstance(self.part, Primary):
            self.part.membership.suspect(peer)

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
            self.part.membership.leaving = frozenset(members) - {self.state.id}

    def room_again(self) -> None:
        """The disk has room again."""
        self.state.full = False

    # -- messages and configurations -------------------------------------------------------------

    def step(self, message: Message, now: float) -> bool:
        """Take a message from another replica. What is not for this one is ignored.

        Whether `ready()` may have something to do by that; most ACKs only wait for others.
        """
        state = self.state
        if message.to != state.id or message.group != state.group or message.sender == state.id:
            return False
        state.now = max(state.now, now)
        if not isinstance(message, Ack):
            self._roles.take(message)
            return True
        part = self._roles.part
        if not isinstance(part, Primary):
            return True
        part.on_ack(message)
        return part.owes(message.sender) or state.log.committed > self._under_way.told_committed

    def configure(self, config: Configuration, now: float, join: bool = True) -> None:
        """What the coordinators say. `join`: catch up to become a member where this is none."""
        self.state.now = max(self.state.now, now)
        self._roles.configure(config, join)

    def _primary(self, now: float) -> Primary:
        self.state.now = max(self.state.now, now)
        return self._roles.primary()

    # -- work ------------------------------------------------------------------------------------

    @property
    def holds_back(self) -> bool:
        """Whether something was proposed that is neither on its way to the disk nor to the members."""
        return self._released < self.state.log.last_version

    def ready(self, hold: bool = False) -> Ready | None:
        """What there is to do, or None.

        `hold`: what was newly proposed is held back, since the disk cannot take it yet. So it becomes one
        batch, for disk and members alike, with all that is proposed until then.
        """
        self._roles.work(hold)
        return self._under_way.gather(self._released, self._answered())

    @property
    def _released(self) -> int:
        """The version of the last entry that may go to the disk."""
        part = self._roles.part
        return part.released if isinstance(part, Primary) else self.state.log.last_version

    def _answered(self) -> int:
        """Up to where writes are answered: in async mode what is on this disk is enough."""
        log, part = self.state.log, self._roles.part
        by_own_disk = self.state.options.mode == "async"
        if by_own_disk and isinstance(part, Primary) and part.serving:
            return max(log.committed, log.stable)
        return log.committed

    def advance(self, ready: Ready) -> bool:
        """`ready`, the first of those under way, is persisted and its messages are sent.

        Whether `ready()` may have something to do by that.
        """
        self._under_way.done(ready)
        part = self._roles.part
        if isinstance(part, Primary):
            return ready.persists
        if ready.install is not None:
            part.installed()
        elif ready.seal is None:
            return part.lags
        return ready.persists

    def refuse(self) -> None:
        """There was no room: nothing of what is under way was kept, and none of its messages were sent.

        A primary cannot go on, since others may have what it has not: it gives the cfg up. `room_again`
        ends the state in which everything is rejected.
        """
        self._under_way.refused()
        part = self._roles.part
        if isinstance(part, Primary):
            self.state.ask = True
            self._roles.step_down()
        else:
            part.voided()

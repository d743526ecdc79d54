"""The primary of a group: from its takeover on it prepares, commits and reads.

    propose      the owner's entry joins the log. When the driver wants a batch for its disk, all that was
                 proposed is *released*: PREPs carry it to members and learners, while the own disk writes it
    commit       own disk and the ACK of every member (and of a learner that is about to join)
    read         leases of all of these, looked at after the value was read; or a round that confirms
    membership   members that go, learners that join, hand-over (`membership`)
    abort        cfg+1 leaves fewer than `min_members`: what this primary prepared and could not commit is
                 overwritten by a no-op of the new cfg; when every member has that, it is surely not done

The replica that holds this takes it away (and answers UNKNOWN) when a higher cfg shows up.
"""

from __future__ import annotations

from collections import deque

from attrs import define, field

from penncloud.replication.membership import Membership
from penncloud.replication.messages import (
    Ack,
    Commit,
    Configuration,
    Entry,
    Fetch,
    Offer,
    Prep,
    ReadPiece,
    Reason,
    Reject,
    Sync,
)
from penncloud.replication.peers import Peer
from penncloud.replication.state import ReplicaState
from penncloud.replication.takeover import Takeover


class Refused(Exception):
    """This write or read is not possible now; nothing was done."""


@define(eq=False)
class Primary:
    """See the module."""

    state: ReplicaState
    membership: Membership
    takeover: Takeover = field(init=False)
    _beacon_at: float = field(default=float("-inf"), init=False)
    _round: int = field(default=0, init=False)
    # Reads that wait for a round: (round, context).
    _confirmations: deque[tuple[int, int]] = field(factory=deque, init=False)
    # Entries up to here may go to the disk and to others.
    released: int = field(init=False)
    _committed_at: float = field(default=float("-inf"), init=False)
    _abort: tuple[Entry, ...] = field(default=(), init=False)

    def __attrs_post_init__(self) -> None:
        state = self.state
        state.seal(self.config.cfg)
        self.takeover = Takeover(self.config.cfg)
        self.released = state.log.last_version

    @property
    def config(self) -> Configuration:
        """The configuration whose primary this is."""
        return self.membership.config

    @property
    def peers(self) -> dict[str, Peer]:
        """The other members, and the learners."""
        return self.membership.peers

    @property
    def serving(self) -> bool:
        """Whether everything that was ever answered is committed here."""
        return self.takeover.phase == "done"

    @property
    def alone(self) -> bool:
        """Whether nobody else's ACK or lease is needed."""
        return not self.membership.needed

    # -- the owner's writes and reads ------------------------------------------------------------

    def propose(self, entry: Entry) -> None:
        """Replicate the owner's next entry. Raises Refused, and ValueError for a wrong place."""
        log, options, membership = self.state.log, self.state.options, self.membership
        if not self.serving or membership.handing_over_to:
            raise Refused("the primary is not serving")
        if len(membership.config.members) < options.min_members:
            raise Refused(f"fewer than {options.min_members} members")
        last, committed = log.last_version, log.committed
        if (
            last - committed >= options.max_uncommitted
            or log.bytes_between(committed, last) >= options.max_in_flight_bytes
        ):
            raise Refused("too much is prepared and not committed")
        cfg = membership.config.cfg
        if entry.entry_cfg != cfg:
            raise ValueError(f"an entry of cfg {entry.entry_cfg} in cfg {cfg}")
        log.append(entry)

    def may_read(self) -> bool:
        """Whether what was committed here when a read looked is still the newest; ask *after* it."""
        state, membership = self.state, self.membership
        if not self.serving or state.sealed != membership.config.cfg:
            return False
        if state.options.read_mode == "confirm":
            return not membership.needed
        if state.broken("lease"):
            return True
        now = state.now
        for peer in membership.needed:  # noqa: SIM110 (each read comes here, and a generator costs as much again)
            if peer.lease_until <= now:
                return False
        return True

    def confirm(self, context: int) -> None:
        """Ask for a round: `context` will be among a Ready's `confirmed`, or the primary steps down."""
        if not self.serving:
            raise Refused("the primary is not serving")
        if len(self._confirmations) >= self.state.options.max_confirmations:
            raise Refused("too many reads wait")
        # The answers of a round prove something only of the time after it was sent: the next one.
        self._confirmations.append((self._round + 1, context))

    def hand_over(self, to: str) -> None:
        """Let another member become primary; writes are refused meanwhile. Raises Refused."""
        if not self.serving or to not in self.membership.others():
            raise Refused(f"{to} cannot take over now")
        self.membership.handing_over_to = to

    # -- messages --------------------------------------------------------------------------------

    def on_ack(self, ack: Ack) -> None:
        peer, state = self.membership.peers.get(ack.sender), self.state
        if peer is None or peer.state == "refused":
            return
        peer.heard_at = state.now
        peer.suspected = False
        if ack.cfg < self.takeover.since and not state.broken("acks-since-takeover"):
            # It was given to this node in an earlier life as primary, for a log that may have been
            # another one.
            return
        if peer.state == "checkpoint" and ack.version < peer.checkpoint_version:
            return
        peer.lease_until = max(peer.lease_until, ack.send_time + state.options.leases.lease_s)
        peer.round = max(peer.round, ack.round)
        last = min(self.released, state.log.last_version)
        peer.advanced(min(ack.version, last), state.now, last, state.options.late_s)
        self._advance_commit()
        self._answer_confirmed()

    def owes(self, peer_id: str) -> bool:
        """Whether there may be something to say to a peer, or to whoever asked for a round."""
        peer = self.membership.peers.get(peer_id)
        return bool(self.state.confirmed) or (peer is not None and peer.next <= self.released)

    def on_reject(self, reject: Reject) -> None:
        """GAP and IO; the replica acts on STALE."""
        peer = self.peers.get(reject.sender)
        if peer is None or reject.cfg < self.takeover.since:
            return
        peer.heard_at = self.state.now
        if reject.reason is Reason.IO:
            self.membership.cannot_keep(peer)
        elif reject.reason is Reason.GAP and peer.state in ("probe", "replicate"):
            self._on_gap(peer, reject)

    def _on_gap(self, peer: Peer, reject: Reject) -> None:
        log = self.state.log
        if peer.state == "probe" and reject.prev_version != peer.next - 1:
            return  # of a PREP before the probe
        if reject.prev_version < peer.acked:
            return
        target = min(max(reject.have, log.base_version), log.last_version)
        if target < reject.prev_version:
            peer.look_from(target + 1)
        elif self.membership.counts(peer):
            # Where this log begins everything is committed: a member has lost what it had ACKed.
            peer.refuses()
        else:
            peer.needs_checkpoint(log.checkpoint.version)

    def on_sync(self, sync: Sync) -> None:
        """REGISTER: nobody is taken in before the takeover knows what the log is."""
        if self.takeover.phase not in ("sealing", "waiting"):
            self.membership.register(sync)

    def on_fetch(self, fetch: Fetch) -> None:
        peer = self.peers.get(fetch.sender)
        if peer is None or peer.state != "checkpoint":
            return
        peer.heard_at = peer.offered_at = self.state.now
        self.state.pieces.append(
            ReadPiece(fetch.sender, self.config.cfg, fetch.number, fetch.offset)
        )

    def piece_gone(self, peer_id: str, number: int) -> None:
        """The checkpoint `number` cannot be given to a peer: it is offered the latest one instead."""
        peer = self.peers.get(peer_id)
        if peer is not None and peer.offered is not None and peer.offered.number == number:
            peer.offered = None

    def reconnected(self, peer_id: str) -> None:
        """The connection to a peer is new: what was on its way is lost."""
        if peer := self.peers.get(peer_id):
            peer.reconnected()

    # -- configurations --------------------------------------------------------------------------

    def reconfigure(self, config: Configuration) -> None:
        """Go on in the next configuration (see `Membership.continues_in`)."""
        self.membership.reconfigure(config)
        if self.serving and len(config.members) < self.state.options.min_members:
            self._begin_abort()
        self._advance_commit()

    def _begin_abort(self) -> None:
        log = self.state.log
        self._abort = log.slice(log.committed + 1, log.last_version + 1)
        if not self._abort:
            return
        # The no-op has to differ from what it overwrites by its (version, entry_cfg), so that a member
        # of the old cfg notices when it comes back: hence only now, in a cfg of its own.
        self.state.set_aside(log.cut(log.committed + 1))
        self.state.withdrawn.extend(self._abort)
        self.released = log.last_version
        self.takeover = Takeover(self.config.cfg)
        for peer in self.peers.values():
            if peer.state != "checkpoint":
                peer.acked = min(peer.acked, log.committed)
                peer.look_from(log.committed + 1)

    # -- work ------------------------------------------------------------------------------------

    def work(self, hold: bool) -> None:
        """Whatever is due now. `hold`: what is not yet released waits."""
        state, log = self.state, self.state.log
        self.membership.forgive_own_stall()
        if self.takeover.phase != "done" and not self._take_over():
            return
        if self._abort and self.serving:
            state.aborted.extend(self._abort)
            self._abort = ()
        self._advance_commit()
        wants_round = bool(self._confirmations) and self._confirmations[-1][0] > self._round
        if wants_round or state.now - self._beacon_at >= state.options.beacon_s:
            self._beacon_at = state.now
            self._round += 1
            self._look_after_peers()
            self.membership.forget_silent_learners()
            self.membership.propose_changes(self.serving)
            self._answer_confirmed()
        if not hold:
            self.released = log.last_version
        for peer in self.peers.values():
            while peer.next <= self.released and peer.may_send(state.options.window):
                if not self._prep(peer):
                    break
            if peer.committed_sent < log.committed:
                self._tell_committed(peer)

    def _take_over(self) -> bool:
        """Go on with the takeover; whether there is something to say to the members now."""
        state, takeover = self.state, self.takeover
        phase = takeover.phase
        takeover.advance(state, 0 < takeover.noop <= state.log.committed)
        self.released = state.log.last_version
        if takeover.phase in ("sealing", "waiting"):
            return False
        if takeover.phase == "preparing":
            if phase != "preparing":
                self.membership.listen_anew()
            self._advance_commit()
            takeover.advance(state, takeover.noop <= state.log.committed)
        return True

    def _look_after_peers(self) -> None:
        """The beacon; and offers to those that need a checkpoint."""
        state, options = self.state, self.state.options
        for peer in self.peers.values():
            if peer.state in ("probe", "replicate"):
                self._prep(peer, beacon=True)
            elif peer.state == "checkpoint" and state.now - peer.offered_at >= options.repeat_s:
                self._offer(peer)

    def _offer(self, peer: Peer) -> None:
        state, log = self.state, self.state.log
        if peer.offered is None or peer.offered.version < log.base_version:
            peer.offered = log.checkpoint
        peer.offered_at = state.now
        peer.checkpoint_version = peer.offered.version
        state.send(Offer(state.id, peer.id, state.group, self.config.cfg, peer.offered))

    def _prep(self, peer: Peer, beacon: bool = False) -> bool:
        """Send entries, or at least a beacon; false when the log does not reach back far enough."""
        state, log, options = self.state, self.state.log, self.state.options
        if peer.next <= log.base_version:
            if not peer.member:
                peer.needs_checkpoint(log.checkpoint.version)
                return False
            peer.next = log.base_version + 1
        previous = peer.next - 1
        prev_cfg = log.cfg_at(previous)
        assert prev_cfg is not None, "a peer is ahead of its primary's log"
        entries: tuple[Entry, ...] = ()
        if peer.may_send(options.window):
            stop = min(peer.next + options.max_message_entries, self.released + 1)
            entries = log.slice(peer.next, stop, options.max_message_bytes)
        place = previous, prev_cfg, entries, log.committed
        learner = 0 if peer.member else peer.incarnation
        state.send(
            Prep(
                state.id,
                peer.id,
                state.group,
                self.config.cfg,
                *place,
                state.now,
                self._round,
                learner,
            )
        )
        peer.committed_sent = log.committed
        if entries:
            peer.sent(entries[-1].version, state.now)
            if peer.behind_since is None:
                peer.behind_since = state.now
        return True

    def _tell_committed(self, peer: Peer) -> None:
        """COMMIT of its own, where no PREP has come to carry it."""
        state, log = self.state, self.state.log
        idle = log.committed == log.last_version
        quiet = state.now - self._committed_at >= state.options.commit_after_s
        if idle and quiet and peer.state == "replicate":
            peer.committed_sent = log.committed
            state.send(Commit(state.id, peer.id, state.group, self.config.cfg, log.committed))

    def _advance_commit(self) -> None:
        """Commit what is on the own disk and on that of everybody who is needed."""
        log, state = self.state.log, self.state
        own = self.released if state.broken("own-sync") else log.stable
        if own <= log.committed:
            return
        acked = [own, *[peer.acked for peer in self.membership.needed]]
        version = (
            sorted(acked)[(len(acked) - 1) // 2] if state.broken("every-member") else min(acked)
        )
        if version > log.committed and self.takeover.phase not in ("sealing", "waiting"):
            log.commit(version)
            self._committed_at = state.now

    def _answer_confirmed(self) -> None:
        rounds = min([self._round, *(peer.round for peer in self.membership.needed)])
        while self._confirmations and self._confirmations[0][0] <= rounds:
            self.state.confirmed.append(self._confirmations.popleft()[1])

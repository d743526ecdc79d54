"""The primary of a group: from its takeover on it prepares, commits and reads.

    propose      the owner's entry joins the log. When the driver wants a batch for its disk, all that was
                 proposed is *released*: PREPs carry it to members and learners, while the own disk writes it
    commit       own disk and the ACK of every member (and of a learner that is about to join)
    read         leases of all of these, looked at after the value was read; or a round that confirms
    membership   silence, REJECT(IO) or no progress: propose cfg+1 without that member, and block until
                 the outcome is known; a learner that has everything committed: the joint rule, then cfg+1
                 with it
    abort        cfg+1 leaves fewer than `min_members`: what this primary prepared and could not commit is
                 overwritten by a no-op of the new cfg; when every member has that, it is surely not done

The replica that holds this takes it away (and answers UNKNOWN) when a higher cfg shows up.
"""

from __future__ import annotations

from collections import deque

from attrs import define, evolve, field

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
    """See the module. `config` names `state.id` as its primary."""

    state: ReplicaState
    config: Configuration
    takeover: Takeover = field(init=False)
    peers: dict[str, Peer] = field(factory=dict, init=False)
    # The proposed configuration whose outcome is not known, and when it was last said.
    pending: Configuration | None = field(default=None, init=False)
    # The learner whose ACKs and lease are needed too.
    joint: str = field(default="", init=False)
    handing_over_to: str = field(default="", init=False)
    # Members that shall go.
    leaving: frozenset[str] = field(default=frozenset(), init=False)
    _proposed_at: float = field(default=float("-inf"), init=False)
    _beacon_at: float = field(default=float("-inf"), init=False)
    _round: int = field(default=0, init=False)
    # Reads that wait for a round: (round, context).
    _confirmations: deque[tuple[int, int]] = field(factory=deque, init=False)
    # Entries up to here may go to the disk and to others.
    released: int = field(init=False)
    # Whose ACK and lease are needed: all other members, and a learner that is about to join.
    _needed: list[Peer] = field(factory=list, init=False)
    _committed_at: float = field(default=float("-inf"), init=False)
    _abort: tuple[Entry, ...] = field(default=(), init=False)
    _worked_at: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        state = self.state
        state.seal(self.config.cfg)
        self.takeover = Takeover(self.config.cfg)
        self._worked_at = state.now
        self.released = state.log.last_version
        for member in self._others():
            self.peers[member] = Peer(member, True, state.log.committed + 1, state.now)
        self._see_who_is_needed()

    @property
    def serving(self) -> bool:
        """Whether everything that was ever answered is committed here."""
        return self.takeover.phase == "done"

    @property
    def alone(self) -> bool:
        """Whether nobody else's ACK or lease is needed."""
        return not self._needed

    def _others(self) -> list[str]:
        return [member for member in self.config.members if member != self.state.id]

    def _see_who_is_needed(self) -> None:
        """To be called when members or the joining learner have changed."""
        self._needed = [self.peers[member] for member in self._others()]
        if self.joint and not self.state.broken("joint"):
            self._needed.append(self.peers[self.joint])

    # -- the owner's writes and reads ------------------------------------------------------------

    def propose(self, entry: Entry) -> None:
        """Replicate the owner's next entry. Raises Refused, and ValueError for a wrong place."""
        log, options = self.state.log, self.state.options
        if not self.serving or self.handing_over_to:
            raise Refused("the primary is not serving")
        if len(self.config.members) < options.min_members:
            raise Refused(f"fewer than {options.min_members} members")
        last, committed = log.last_version, log.committed
        if (
            last - committed >= options.max_uncommitted
            or log.bytes_between(committed, last) >= options.max_in_flight_bytes
        ):
            raise Refused("too much is prepared and not committed")
        if entry.entry_cfg != self.config.cfg:
            raise ValueError(f"an entry of cfg {entry.entry_cfg} in cfg {self.config.cfg}")
        log.append(entry)

    def may_read(self) -> bool:
        """Whether what was committed here when a read looked is still the newest; ask *after* it."""
        state = self.state
        if not self.serving or state.sealed != self.config.cfg:
            return False
        if state.options.read_mode == "confirm":
            return not self._needed
        if state.broken("lease"):
            return True
        now = state.now
        for peer in self._needed:  # noqa: SIM110 (each read comes here, and a generator costs as much again)
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
        if not self.serving or to not in self._others():
            raise Refused(f"{to} cannot take over now")
        self.handing_over_to = to

    # -- messages --------------------------------------------------------------------------------

    def on_ack(self, ack: Ack) -> None:
        peer, state = self.peers.get(ack.sender), self.state
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
        peer.advanced(min(ack.version, last), state.now, last)
        self._advance_commit()
        self._answer_confirmed()

    def owes(self, peer_id: str) -> bool:
        """Whether there may be something to say to a peer, or to whoever asked for a round."""
        peer = self.peers.get(peer_id)
        return bool(self.state.confirmed) or (peer is not None and peer.next <= self.released)

    def on_reject(self, reject: Reject) -> None:
        """GAP and IO; the replica acts on STALE."""
        peer = self.peers.get(reject.sender)
        if peer is None or reject.cfg < self.takeover.since:
            return
        peer.heard_at = self.state.now
        if reject.reason is Reason.IO:
            self._cannot_keep(peer)
        elif reject.reason is Reason.GAP and peer.state in ("probe", "replicate"):
            self._on_gap(peer, reject)

    def _cannot_keep(self, peer: Peer) -> None:
        if peer.member or peer.id == self.joint:
            peer.refuses()
        else:
            del self.peers[peer.id]

    def _on_gap(self, peer: Peer, reject: Reject) -> None:
        log = self.state.log
        if peer.state == "probe" and reject.prev_version != peer.next - 1:
            return  # of a PREP before the probe
        if reject.prev_version < peer.acked:
            return
        target = min(max(reject.have, log.base_version), log.last_version)
        if target < reject.prev_version:
            peer.look_from(target + 1)
        elif peer.member or peer.id == self.joint:
            # Where this log begins everything is committed: a member has lost what it had ACKed.
            peer.refuses()
        else:
            peer.needs_checkpoint(log.checkpoint.version)

    def on_sync(self, sync: Sync) -> None:
        """REGISTER: a learner, or one that came back and does not know yet that it is a member."""
        state, known = self.state, self.peers.get(sync.sender)
        if self.takeover.phase in ("sealing", "waiting"):
            return
        if known is not None and (known.member or known.id == self.joint):
            if sync.blank:
                known.refuses()
            return
        learners = sum(not peer.member for peer in self.peers.values())
        if known is None and learners >= state.options.max_learners:
            return
        log = state.log
        if not sync.blank and log.cfg_at(sync.version) == sync.entry_cfg:
            start = sync.version
        else:
            start = max(log.base_version, min(sync.version, log.last_version))
        self.peers[sync.sender] = Peer(sync.sender, False, start + 1, state.now, sync.incarnation)

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

    def suspect(self, peer_id: str) -> None:
        """The coordinators take a member for dead: a takeover need not wait to find that out itself."""
        peer = self.peers.get(peer_id)
        if peer is not None and not peer.acked:
            peer.suspected = True

    def reconnected(self, peer_id: str) -> None:
        """The connection to a peer is new: what was on its way is lost."""
        if peer := self.peers.get(peer_id):
            peer.reconnected()

    # -- configurations --------------------------------------------------------------------------

    def continues_in(self, config: Configuration) -> bool:
        """Whether `config` is this primary's next one, with nobody between and nobody unknown in it."""
        known = {self.state.id, *self._others(), self.joint}
        return (
            config.cfg == self.config.cfg + 1
            and self.state.sealed == self.config.cfg
            and set(config.members) <= known
        )

    def reconfigure(self, config: Configuration) -> None:
        """Go on in the next configuration (see `continues_in`)."""
        state = self.state
        self.config = config
        state.seal(config.cfg)
        self.pending, self.joint = None, ""
        self.handing_over_to = ""
        for peer in list(self.peers.values()):
            if peer.id in config.members:
                if not peer.member:
                    peer.member, peer.heard_at = True, state.now
            elif peer.member:
                # It comes back as a learner, by a SYNC of its own.
                del self.peers[peer.id]
        self._see_who_is_needed()
        if self.serving and len(config.members) < state.options.min_members:
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

    def _look_after_members(self) -> None:
        state, options = self.state, self.state.options
        if self.pending is not None:
            if state.now - self._proposed_at >= options.repeat_s:
                self._propose_configuration(self.pending)
            return
        leaving = self.leaving if self.serving else ()
        gone = [m for m in self._others() if m in leaving or self._is_gone(self.peers[m])]
        if gone:
            left = tuple(m for m in self.config.members if m not in gone)
            self._propose_configuration(evolve(self.config, cfg=self.config.cfg + 1, members=left))
        elif self.handing_over_to:
            if state.log.committed == state.log.last_version:
                # The coordinators know the incarnation of the one that takes over.
                to = self.handing_over_to
                self._propose_configuration(
                    evolve(self.config, cfg=self.config.cfg + 1, primary=to, incarnation=0)
                )
        elif self.serving:
            self._let_a_learner_join()

    def _let_a_learner_join(self) -> None:
        log = self.state.log
        slack = 3 if self.state.broken("joint-at-committed") else 0
        for peer in sorted(self.peers.values(), key=lambda peer: peer.id):
            # Everything that is committed at this very moment; and from now on nothing is without it.
            caught_up = peer.acked > 0 and peer.acked >= log.committed - slack
            if not peer.member and peer.state == "replicate" and caught_up:
                self.joint = peer.id
                self._see_who_is_needed()
                members = (*self.config.members, peer.id)
                self._propose_configuration(
                    evolve(self.config, cfg=self.config.cfg + 1, members=members)
                )
                return

    def _is_gone(self, peer: Peer) -> bool:
        now, options = self.state.now, self.state.options
        stuck = peer.behind_since is not None and now - peer.behind_since > options.stuck_s
        silent = peer.suspected or now - peer.heard_at > options.silence_s
        return peer.state == "refused" or silent or stuck

    def _propose_configuration(self, config: Configuration) -> None:
        """Say it (again). The joint rule holds until a higher cfg is known, whatever its content:
        until then this proposal may still be applied."""
        self.pending = self.state.proposal = config
        self._proposed_at = self.state.now

    # -- work ------------------------------------------------------------------------------------

    def work(self, hold: bool) -> None:
        """Whatever is due now. `hold`: what is not yet released waits."""
        state, log = self.state, self.state.log
        self._forgive_own_stall()
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
            self._look_after_members()
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
                for peer in self.peers.values():
                    peer.heard_at = state.now
            self._advance_commit()
            takeover.advance(state, takeover.noop <= state.log.committed)
        return True

    def _forgive_own_stall(self) -> None:
        """While this process stood still it could not hear anybody: that was not their silence."""
        now, beacon_s = self.state.now, self.state.options.beacon_s
        gap = now - self._worked_at
        self._worked_at = now
        if gap > 2 * beacon_s:
            for peer in self.peers.values():
                peer.heard_at += gap

    def _look_after_peers(self) -> None:
        """The beacon; offers to those that need a checkpoint; and learners that fell silent go."""
        state, options = self.state, self.state.options
        for peer in list(self.peers.values()):
            if peer.state in ("probe", "replicate"):
                self._prep(peer, beacon=True)
            elif peer.state == "checkpoint" and state.now - peer.offered_at >= options.repeat_s:
                self._offer(peer)
            silent = state.now - peer.heard_at > 4 * options.silence_s
            if silent and not peer.member and peer.id != self.joint:
                del self.peers[peer.id]

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
            peer.sent(entries[-1].version)
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
        acked = [own, *[peer.acked for peer in self._needed]]
        version = (
            sorted(acked)[(len(acked) - 1) // 2] if state.broken("every-member") else min(acked)
        )
        if version > log.committed and self.takeover.phase not in ("sealing", "waiting"):
            log.commit(version)
            self._committed_at = state.now

    def _answer_confirmed(self) -> None:
        rounds = min([self._round, *(peer.round for peer in self._needed)])
        while self._confirmations and self._confirmations[0][0] <= rounds:
            self.state.confirmed.append(self._confirmations.popleft()[1])

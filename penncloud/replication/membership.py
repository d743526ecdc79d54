"""The members of a group as their primary sees them: who counts, who goes, who joins, who takes over.

    needed       whose ACK and lease it takes: all other members, and a learner that is about to join
    gone         silence, REJECT(IO), no progress, or always late while the others are in time: propose
                 cfg+1 without that member, and block until the outcome is known
    joint rule   a learner that has everything committed, and is not late, is needed from that moment on;
                 then cfg+1 with it is proposed
    hand-over    everything is committed: propose cfg+1 with another member as its primary

At most one proposal is open. It is repeated until a higher cfg is known.
"""

from __future__ import annotations

from typing import Final

from attrs import define, evolve, field

from penncloud.replication.messages import Configuration, Sync
from penncloud.replication.peers import Peer
from penncloud.replication.state import ReplicaState

# Whoever is slow may go as long as so many members are left.
MIN_IN_TIME: Final = 2


@define(eq=False)
class Membership:
    """See the module. `config` names `state.id` as its primary."""

    state: ReplicaState
    config: Configuration
    peers: dict[str, Peer] = field(factory=dict, init=False)
    # Whose ACK and lease are needed.
    needed: list[Peer] = field(factory=list, init=False)
    # The proposed configuration whose outcome is not known, and when it was last said.
    pending: Configuration | None = field(default=None, init=False)
    # The learner whose ACKs and lease are needed too.
    joint: str = field(default="", init=False)
    handing_over_to: str = field(default="", init=False)
    # Members that shall go.
    leaving: frozenset[str] = field(default=frozenset(), init=False)
    _proposed_at: float = field(default=float("-inf"), init=False)
    _listened_at: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        state = self.state
        self._listened_at = state.now
        for member in self.others():
            self.peers[member] = Peer(member, True, state.log.committed + 1, state.now)
        self._see_who_is_needed()

    def others(self) -> list[str]:
        """The members besides this one."""
        return [member for member in self.config.members if member != self.state.id]

    def counts(self, peer: Peer) -> bool:
        """Whether a peer is a member, or a learner that is about to join."""
        return peer.member or peer.id == self.joint

    def _see_who_is_needed(self) -> None:
        """To be called when members or the joining learner have changed."""
        self.needed = [self.peers[member] for member in self.others()]
        if self.joint and not self.state.broken("joint"):
            self.needed.append(self.peers[self.joint])

    # -- what others say -------------------------------------------------------------------------

    def cannot_keep(self, peer: Peer) -> None:
        """A peer has said that it cannot keep anything: a learner is forgotten, a member has to go."""
        if self.counts(peer):
            peer.refuses()
        else:
            del self.peers[peer.id]

    def register(self, sync: Sync) -> None:
        """A learner, or one that came back and does not know yet that it is a member."""
        state, known = self.state, self.peers.get(sync.sender)
        if known is not None and self.counts(known):
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

    def suspect(self, peer_id: str) -> None:
        """The coordinators take a member for dead: a takeover need not wait to find that out itself."""
        peer = self.peers.get(peer_id)
        if peer is not None and not peer.acked:
            peer.suspected = True

    # -- silence ---------------------------------------------------------------------------------

    def listen_anew(self) -> None:
        """Nobody's silence up to now counts."""
        for peer in self.peers.values():
            peer.heard_at = self.state.now

    def forgive_own_stall(self) -> None:
        """While this process stood still it could not hear anybody: that was not their silence."""
        now, beacon_s = self.state.now, self.state.options.beacon_s
        gap = now - self._listened_at
        self._listened_at = now
        if gap > 2 * beacon_s:
            for peer in self.peers.values():
                peer.heard_at += gap

    def forget_silent_learners(self) -> None:
        """They register again when they are back."""
        state = self.state
        for peer in list(self.peers.values()):
            silent = state.now - peer.heard_at > 4 * state.options.silence_s
            if silent and not self.counts(peer):
                del self.peers[peer.id]

    def _is_gone(self, peer: Peer) -> bool:
        now, options = self.state.now, self.state.options
        stuck = peer.behind_since is not None and now - peer.behind_since > options.stuck_s
        silent = peer.suspected or now - peer.heard_at > options.silence_s
        return peer.state == "refused" or silent or stuck or self._is_slow(peer)

    def _is_slow(self, peer: Peer) -> bool:
        """Whether it alone slows all, for long. In async mode nobody waits for it."""
        options = self.state.options
        return (
            options.mode == "2pc"
            and peer.waited_s > options.slow_for_s
            and len(self.config.members) > MIN_IN_TIME
            and not any(other.waited_s for other in self.needed if other is not peer)
        )

    # -- configurations --------------------------------------------------------------------------

    def continues_in(self, config: Configuration) -> bool:
        """Whether `config` is this primary's next one, with nobody between and nobody unknown in it."""
        known = {self.state.id, *self.others(), self.joint}
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

    def propose_changes(self, serving: bool) -> None:
        """Propose what is due, or say again what was proposed. `serving`: the takeover is done."""
        state, options = self.state, self.state.options
        if self.pending is not None:
            if state.now - self._proposed_at >= options.repeat_s:
                self._propose(self.pending)
            return
        leaving = self.leaving if serving else ()
        gone = [m for m in self.others() if m in leaving or self._is_gone(self.peers[m])]
        if gone:
            left = tuple(m for m in self.config.members if m not in gone)
            self._propose(evolve(self.config, cfg=self.config.cfg + 1, members=left))
        elif self.handing_over_to:
            if state.log.committed == state.log.last_version:
                # The coordinators know the incarnation of the one that takes over.
                to = self.handing_over_to
                self._propose(
                    evolve(self.config, cfg=self.config.cfg + 1, primary=to, incarnation=0)
                )
        elif serving:
            self._let_a_learner_join()

    def _let_a_learner_join(self) -> None:
        log, options = self.state.log, self.state.options
        slack = 3 if self.state.broken("joint-at-committed") else 0
        for peer in sorted(self.peers.values(), key=lambda peer: peer.id):
            # Everything that is committed at this very moment; and from now on nothing is without it.
            caught_up = peer.acked > 0 and peer.acked >= log.committed - slack
            if options.mode == "2pc" and peer.is_late(self.state.now, options.stuck_s):
                continue
            if not peer.member and peer.state == "replicate" and caught_up:
                self.joint = peer.id
                self._see_who_is_needed()
                members = (*self.config.members, peer.id)
                self._propose(evolve(self.config, cfg=self.config.cfg + 1, members=members))
                return

    def _propose(self, config: Configuration) -> None:
        """Say it (again). The joint rule holds until a higher cfg is known, whatever its content:
        until then this proposal may still be applied."""
        self.pending = self.state.proposal = config
        self._proposed_at = self.state.now

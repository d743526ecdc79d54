"""A replica that follows: as a member, or as a learner that has yet to catch up.

    PREP of a lower cfg      REJECT(STALE)
    PREP of a higher cfg     the cfg goes to disk before anything is answered
    it does not fit          REJECT(GAP)
    it conflicts             the uncommitted suffix goes to quarantine; a committed one: alarm
    no state, or no room     REJECT(IO)
    it fits                  ACK, once everything up to there is on disk

While a promise to another primary lasts, the ACK is held back. What is committed is what the primary says
so, as far as the logs are known to agree and the entries are on disk.
"""

from __future__ import annotations

from attrs import define, field
from msgspec.structs import replace

from penncloud.replication.catch_up import CatchUp
from penncloud.replication.log import CommittedConflict
from penncloud.replication.messages import Ack, Commit, Offer, Piece, Prep, Reason, Reject
from penncloud.replication.state import ReplicaState


@define(eq=False)
class Secondary:
    """See the module. `catch_up` is there while the known configuration does not name this replica."""

    state: ReplicaState
    catch_up: CatchUp | None = None
    # The primary of the sealed cfg, once it has spoken.
    leader: str = ""
    heard_at: float = float("-inf")
    # Up to here the log is known to equal the primary's.
    _matched: int = field(default=0, init=False)
    _committed: int = field(default=0, init=False)
    # A PREP whose ACK waits for the end of a promise.
    _held: Prep | None = field(default=None, init=False)

    def on_prep(self, prep: Prep) -> None:
        state, log = self.state, self.state.log
        if not self._obeys(prep.sender, prep.cfg):
            self._reject(prep, Reason.STALE, 0)
            return
        # A blank replica takes only what is meant for it as the learner it is: as a member it has lost
        # what it ACKed, and must not look like one that has not.
        unknown = state.blank and prep.learner != state.incarnation
        if state.alarm or state.full or (unknown and not state.broken("blank-is-no-member")):
            self._reject(prep, Reason.IO, 0)
            return
        if state.installing:
            return
        if not log.matches(prep.prev_version, prep.prev_entry_cfg):
            beyond = prep.prev_version > log.last_version
            self._reject(prep, Reason.GAP, log.last_version if beyond else log.committed)
            return
        try:
            state.set_aside(log.merge(prep.entries))
        except CommittedConflict as conflict:
            state.alarm = str(conflict)
            self._reject(prep, Reason.IO, 0)
            return
        state.blank = False
        self._matched = max(self._matched, prep.prev_version + len(prep.entries))
        self._committed = max(self._committed, prep.committed)
        self.work()
        self._acknowledge(prep)

    def on_commit(self, commit: Commit) -> None:
        if commit.cfg == self.state.sealed and commit.sender == self.leader:
            self._committed = max(self._committed, commit.committed)
            self.work()

    def on_offer(self, offer: Offer) -> None:
        if self.catch_up is not None and self._obeys(offer.sender, offer.cfg):
            self.catch_up.on_offer(offer)

    def on_piece(self, piece: Piece) -> None:
        if self.catch_up is not None and self._obeys(piece.sender, piece.cfg):
            self.catch_up.on_piece(piece)

    def installed(self) -> None:
        """The replica is now the checkpoint that was fetched."""
        state = self.state
        self._matched = state.log.committed
        state.send(
            Ack(
                state.id,
                self.leader,
                state.group,
                state.sealed,
                state.log.committed,
                float("-inf"),
                0,
            )
        )

    def voided(self) -> None:
        """The disk kept nothing of what was under way."""
        self._held = None
        if self.catch_up is not None:
            self.catch_up.voided()
        self._matched = min(self._matched, self.state.log.last_version)

    @property
    def lags(self) -> bool:
        """Whether the primary has committed more than is known to be committed here."""
        return self._committed > self.state.log.committed

    def work(self) -> None:
        """Commit what may be, ask for help if nobody sends any, release an ACK that was held."""
        state, log = self.state, self.state.log
        log.commit(min(self._committed, self._matched, log.stable))
        if self._held is not None and not state.promise.forbids(self._held.sender, state.now):
            held, self._held = self._held, None
            if held.cfg == state.sealed:
                self._acknowledge(replace(held, entries=()))
        if self.catch_up is not None and state.now - self.heard_at > state.options.silence_s:
            self.catch_up.ask()

    def _obeys(self, sender: str, cfg: int) -> bool:
        """Whether `sender` may give orders in `cfg`; a higher one is adopted."""
        state = self.state
        if state.broken("seal"):
            self.leader, self.heard_at = sender, state.now
            return True
        if cfg < state.sealed:
            return False
        if cfg == state.sealed and self.leader not in ("", sender):
            state.alarm = f"both {self.leader} and {sender} are primary of cfg {cfg}"
            return True
        if cfg > state.sealed or self.leader != sender:
            state.seal(cfg)
            self.leader = sender
            self._matched = self._committed = state.log.committed
        self.heard_at = state.now
        return True

    def _acknowledge(self, prep: Prep) -> None:
        state, log = self.state, self.state.log
        promise = state.promise
        forbidden = promise.holder and promise.forbids(prep.sender, state.now)
        if forbidden and not state.broken("promise"):
            self._held = prep
            return
        promise.give(prep.sender, state.now)
        early = state.broken("ack-after-sync")
        if prep.entries:
            up_to = prep.prev_version + len(prep.entries)
        else:
            # A beacon is answered at once: leases do not wait for the disk.
            up_to = self._matched if early else min(self._matched, log.stable)
        ack = Ack(
            state.id,
            prep.sender,
            state.group,
            state.sealed,
            up_to,
            prep.send_time,
            prep.round,
        )
        if log.stable >= ack.version or early:
            state.send(ack)
        else:
            state.send_synced(ack)

    def _reject(self, prep: Prep, reason: Reason, have: int) -> None:
        state = self.state
        state.send(
            Reject(
                state.id,
                prep.sender,
                state.group,
                state.sealed,
                reason,
                prep.prev_version,
                have,
            )
        )

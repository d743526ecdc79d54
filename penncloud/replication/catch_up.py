"""How a replica that is no member gets what it lacks.

It says where its log ends (SYNC) until the primary sends something. If the primary's log reaches back to
where the two agree, entries follow as to any secondary. If not, the primary offers its checkpoint, and
the learner fetches it piece by piece, each checked against its CRC-32; what is on disk of it stays there
through a restart. When all of it is there it replaces the replica's state at once, and entries follow.

Only one piece is asked for at a time, so the learner's pace (its driver may delay a piece's persisting)
is the throttle.
"""

from __future__ import annotations

from zlib import crc32

from attrs import define, field

from penncloud.replication.messages import Checkpoint, Fetch, Offer, Piece, Staged, StagePiece, Sync
from penncloud.replication.state import ReplicaState


@define(eq=False)
class CatchUp:
    """See the module. `primary` is whom the known configuration names."""

    state: ReplicaState
    primary: str
    _asked_at: float = field(default=float("-inf"), init=False)
    # The checkpoint that is being fetched, from whom, and up to which byte it is handed to the disk.
    _offered: Checkpoint | None = field(default=None, init=False)
    _source: str = field(default="", init=False)
    _have: int = field(default=0, init=False)

    def ask(self) -> None:
        """REGISTER and SYNC, not too often."""
        state = self.state
        if state.now - self._asked_at < state.options.repeat_s or state.alarm or state.full:
            return
        self._asked_at = state.now
        log = state.log
        place = log.last_version, log.last_cfg, state.blank
        state.send(Sync(state.id, self.primary, state.group, state.incarnation, *place))

    def voided(self) -> None:
        """The disk kept nothing of what was under way: begin anew when the next offer comes."""
        self._offered = None

    def on_offer(self, offer: Offer) -> None:
        """Begin a transfer, or go on where one was."""
        state = self.state
        if state.installing or offer.checkpoint.version < state.log.committed:
            return
        if (self._source, self._offered) != (offer.sender, offer.checkpoint):
            self._source, self._offered, self._have = offer.sender, offer.checkpoint, 0
            staged = state.staged
            if staged and (staged.source, staged.checkpoint) == (offer.sender, offer.checkpoint):
                self._have = staged.size_bytes
        self._fetch()

    def on_piece(self, piece: Piece) -> None:
        """Take the next piece; another one, or one that was damaged on its way, is asked for again."""
        state, offered = self.state, self._offered
        if offered is None or state.installing:
            return
        if (piece.sender, piece.number) != (self._source, offered.number):
            return
        if piece.offset != self._have or crc32(piece.data) != piece.checksum:
            self._fetch()
            return
        state.stage.append(StagePiece(self._source, offered, piece.offset, piece.data))
        self._have += len(piece.data)
        state.staged = Staged(self._source, offered, self._have)
        if piece.done:
            # What is here and may never commit is not lost silently: somebody may have been told of it.
            state.set_aside(state.log.cut(state.log.committed + 1))
            state.install = offered
            state.installing = True
            state.staged = None
            self._offered = None
        else:
            # After the sync: a learner whose disk is slow asks slowly.
            state.send_synced(self._request(offered.number))

    def _fetch(self) -> None:
        assert self._offered is not None
        self.state.send(self._request(self._offered.number))

    def _request(self, number: int) -> Fetch:
        return Fetch(self.state.id, self._source, self.state.group, number, self._have)

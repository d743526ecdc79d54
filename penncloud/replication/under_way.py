"""What a replica gave its driver to do, and what of that is not done yet.

What gathered in the replica's state becomes a `Ready`, and the state begins anew. Several may be under
way; they are done in their order, or, when the disk had no room, none of them was done.
"""

from __future__ import annotations

from collections import deque

from penncloud.replication.messages import Entry, Ready
from penncloud.replication.state import ReplicaState


class UnderWay:
    """See the module. `told_committed` is how far the driver knows what is committed."""

    def __init__(self, state: ReplicaState) -> None:
        self.told_committed = state.log.committed
        self._told_answered = state.log.committed
        self._state = state
        self._handed: deque[Ready] = deque()
        self._seal_handed = state.sealed

    def gather(self, released: int, answered: int) -> Ready | None:
        """What there is to do, or None.

        Entries up to `released` may go to the disk, writes up to `answered` are answered.
        """
        state, log = self._state, self._state.log
        if not self._has_work(released, answered):
            return None
        seal = cut = None
        quarantine: tuple[Entry, ...] = ()
        if not state.full:
            if state.sealed > self._seal_handed:
                seal = self._seal_handed = state.sealed
            cut, quarantine = state.cut_from, tuple(state.quarantine)
            state.cut_from = None
            state.quarantine.clear()
        entries_bytes = log.bytes_between(log.handed, released) if released > log.handed else 0
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
            log.hand_out(released),
            entries_bytes,
            tuple(state.after_sync),
        )
        self.told_committed, self._told_answered = log.committed, answered
        self._begin_anew()
        self._handed.append(ready)
        return ready

    def _has_work(self, released: int, answered: int) -> bool:
        state, log = self._state, self._state.log
        return bool(
            state.prompt
            or state.after_sync
            or log.handed < released
            or log.committed > self.told_committed
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
            or answered > self._told_answered
        )

    def _begin_anew(self) -> None:
        state = self._state
        state.stepped_down = state.ask = False
        state.proposal = state.install = None
        for gathered in (state.aborted, state.confirmed, state.prompt, state.pieces):
            gathered.clear()
        state.withdrawn.clear()
        state.stage.clear()
        state.after_sync.clear()

    def done(self, ready: Ready) -> None:
        """`ready`, the first of those under way, is persisted. Raises ValueError for another one."""
        state = self._state
        expected = self._handed.popleft()
        if expected is not ready:
            raise ValueError("what was handed out first has to be done first")
        if ready.seal is not None:
            state.sealed_stable = max(state.sealed_stable, ready.seal)
        if ready.install is not None:
            state.log.restore(ready.install)
            self.told_committed = self._told_answered = ready.install.version
            state.installing = state.blank = False
            if state.cut_from is not None:
                # There was no room to cut it off, and it went with all that the checkpoint has replaced. But
                # it is still to be kept in quarantine.
                state.cut_from = ready.install.version + 1
        if ready.entries:
            state.log.persisted()

    def refused(self) -> None:
        """There was no room: nothing of what is under way was kept."""
        state = self._state
        state.full = True
        for ready in reversed(self._handed):
            # What was cut off in memory is still on the disk: that remains to be done.
            if ready.cut is not None:
                state.cut_from = min(ready.cut, state.cut_from or ready.cut)
                state.quarantine[:0] = ready.quarantine
        self._handed.clear()
        state.log.refused()
        self._seal_handed = state.sealed_stable
        state.after_sync.clear()
        state.stage.clear()
        state.installing = False
        state.staged = None

"""Takeover: how a replica that the coordinators made primary of cfg n comes to serve.

    sealing     cfg n goes to disk: from now on PREPs of earlier primaries are rejected here
    waiting     what this replica promised to another one, or forgot in a restart, runs out
    preparing   no-op(n) is appended; everything behind the committed point goes to the members, who
                adopt n and cut off what conflicts; each of them has to ACK the no-op
    done        all that any earlier primary may have answered is committed here: serve

A membership change from n to n+1 with the same primary continues where it was. ACKs count from
cfg `since` on.
"""

from __future__ import annotations

from typing import Literal

from attrs import define, field

from penncloud.replication.state import ReplicaState

Phase = Literal["sealing", "waiting", "preparing", "done"]


@define(eq=False)
class Takeover:
    """The phases; `since` is the cfg of the takeover, `noop` the version whose ACKs end it."""

    since: int
    phase: Phase = field(default="sealing", init=False)
    noop: int = field(default=0, init=False)

    def advance(self, state: ReplicaState, committed_noop: bool) -> None:
        """Go on as far as possible. `committed_noop`: the no-op has the ACK of every member."""
        if self.phase == "sealing" and state.sealed_stable >= self.since:
            self.phase = "waiting"
        if self.phase == "waiting" and not self._must_wait(state) and not state.full:
            self.phase = "preparing"
            self.noop = state.log.last_version + 1
            state.log.append(state.make_noop(self.noop, self.since))
        if self.phase == "preparing" and committed_noop:
            self.phase = "done"

    @staticmethod
    def _must_wait(state: ReplicaState) -> bool:
        if not state.promise.forbids(state.id, state.now):
            return False
        forgotten = not state.promise.holder
        return not state.broken("restart-wait" if forgotten else "promise")

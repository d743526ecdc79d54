"""The role a replica plays: who takes a message, and what changes the role.

secondary -> primary     a configuration above the sealed cfg names this replica, in this incarnation,
                         and has it among its members
primary -> primary       the next configuration keeps it: go on; a later one: take over anew
primary -> secondary     a configuration or a message shows a higher cfg, or the own disk is full
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from penncloud.replication.catch_up import CatchUp
from penncloud.replication.membership import Membership
from penncloud.replication.messages import (
    Commit,
    Configuration,
    Fetch,
    Offer,
    Piece,
    Prep,
    Reason,
    Reject,
    Sync,
)
from penncloud.replication.primary import Primary, Refused
from penncloud.replication.secondary import Secondary
from penncloud.replication.state import ReplicaState

_FROM_PRIMARY: Final = (Prep, Commit, Offer, Piece)

RoleName: TypeAlias = Literal["primary", "taking over", "secondary", "learner"]


class Roles:
    """See the module. `part` is the role as it is now; a replica begins as a secondary."""

    def __init__(self, state: ReplicaState) -> None:
        self.part: Primary | Secondary = Secondary(state)
        self._state = state

    @property
    def name(self) -> RoleName:
        if isinstance(self.part, Primary):
            return "primary" if self.part.serving else "taking over"
        return "learner" if self.part.catch_up else "secondary"

    def primary(self) -> Primary:
        """The part, if it is that of the primary. Raises Refused."""
        if not isinstance(self.part, Primary):
            raise Refused("this replica is not the primary")
        return self.part

    def work(self, hold: bool) -> None:
        """Whatever is due now. `hold`: what is proposed and not yet released waits."""
        if isinstance(self.part, Primary):
            self.part.work(hold)
        else:
            self.part.work()

    # -- messages --------------------------------------------------------------------------------

    def take(self, message: Prep | Reject | Commit | Sync | Offer | Fetch | Piece) -> None:
        """Give the part a message; what is not for its role is ignored."""
        if isinstance(message, _FROM_PRIMARY):
            self._from_primary(message)
        elif isinstance(self.part, Primary):
            self._to_primary(self.part, message)

    def _from_primary(self, message: Prep | Commit | Offer | Piece) -> None:
        if isinstance(self.part, Primary):
            if message.cfg <= self.part.config.cfg and not self._state.broken("seal"):
                self._contradict(message)
                return
            self.step_down()
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
        state = self._state
        if message.cfg == state.sealed:
            state.alarm = f"both {state.id} and {message.sender} are primary of cfg {message.cfg}"
            self.step_down()
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
            self._state.ask = True
            self.step_down()

    # -- changes ---------------------------------------------------------------------------------

    def configure(self, config: Configuration, join: bool) -> None:
        """What the coordinators say. `join`: catch up to become a member where this is none."""
        state = self._state
        if state.config is not None and config.cfg < state.config.cfg:
            return
        state.config = config
        named = config.primary == state.id and state.id in config.members
        if named and config.incarnation == state.incarnation:
            self._become_primary(config)
            return
        if isinstance(self.part, Primary) and config.cfg > self.part.config.cfg:
            self.step_down()
        if isinstance(self.part, Secondary):
            self._follow(self.part, config, join)

    def _become_primary(self, config: Configuration) -> None:
        state, part = self._state, self.part
        if isinstance(part, Primary):
            if config.cfg == part.config.cfg:
                return
            if part.membership.continues_in(config):
                part.reconfigure(config)
                return
            self.step_down()
        if config.cfg <= state.sealed or state.blank or state.alarm:
            state.declined = config.cfg
            return
        self.part = Primary(state, Membership(state, config))

    @staticmethod
    def _follow(part: Secondary, config: Configuration, join: bool) -> None:
        member = part.state.id in config.members
        if member or not join or config.primary == part.state.id:
            part.catch_up = None
        elif part.catch_up is None or part.catch_up.primary != config.primary:
            part.catch_up = CatchUp(part.state, config.primary)

    def step_down(self) -> None:
        """Nobody may be told anything about what is prepared here any more."""
        part = self.part
        assert isinstance(part, Primary)
        self._state.stepped_down = True
        self._state.declined = part.config.cfg
        self.part = Secondary(self._state)

"""What the coordinators have decided: a deterministic machine. Pure.

Theory of operation
    The state (`records`) changes only by `apply(command)`. A command (`commands`) carries everything that
    is time, chance or choice, so that the same commands in the same order give the same state, byte for
    byte, wherever and whenever they are applied: after a restart, and on every coordinator. A command
    that does not apply (any more) is answered with `Rejected` and changes nothing; that too is
    deterministic.

    A tablet's `epoch` grows by one with each change of its primary or members, and a change names the
    epoch it was decided for (`expect`): of two that race, one applies and the other is rejected. Learners
    and those that are to leave are wishes: naming them does not touch the epoch.

    What an administrator wants has a `request`, the same in each repetition. What became of the first one
    that is applied is remembered, be it that it was rejected: whoever asked has that answer, and a
    repetition that comes late must not do what was answered with no, or what was taken back since.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from penncloud.coordinator import tablet_commands
from penncloud.coordinator.commands import (
    Applied,
    BeginTerm,
    ChangeMembers,
    Command,
    Configure,
    CreateTablets,
    DrainNode,
    ForcePrimary,
    ForgetCoordinator,
    ForgetNode,
    PlanReplicas,
    RegisterNode,
    Rejected,
    ReserveIds,
    Result,
    SetEnabled,
    SplitTablet,
    TakeTablets,
)
from penncloud.coordinator.records import NodeRecord, State, decode_state, encode_state
from penncloud.placement.tablets import TabletMap

# Requests remembered: far more than are repeated within the deadline of a call.
MAX_REQUESTS: Final = 1000

_TABLETS: Final[dict[type[Any], Callable[[State, Any], Result]]] = {
    CreateTablets: tablet_commands.create_tablets,
    Configure: tablet_commands.configure,
    ChangeMembers: tablet_commands.change_members,
    PlanReplicas: tablet_commands.plan_replicas,
    TakeTablets: tablet_commands.take_tablets,
    ReserveIds: tablet_commands.reserve_ids,
    SplitTablet: tablet_commands.split_tablet,
}
# What administrators want, each with a request.
_Wish = SetEnabled | DrainNode | ForgetNode | ForcePrimary


class StateMachine:
    """The state and its commands."""

    def __init__(self) -> None:
        self.state = State()
        self._tablet_map: TabletMap | None = None
        self._apply: dict[type[Any], Callable[[Any], Result]] = {
            BeginTerm: self._begin_term,
            RegisterNode: self._register_node,
            ForgetCoordinator: self._forget_coordinator,
        }
        self._apply_once: dict[type[Any], Callable[[Any], Result]] = {
            SetEnabled: self._set_enabled,
            DrainNode: self._drain_node,
            ForgetNode: self._forget_node,
            ForcePrimary: self._force_primary,
        }

    def apply(self, command: Command) -> Result:
        about_tablets = _TABLETS.get(type(command))
        if about_tablets is not None:
            return about_tablets(self.state, command)
        if isinstance(command, _Wish):
            return self._once(command)
        return self._apply[type(command)](command)

    def _once(self, command: _Wish) -> Result:
        request, requests = command.request, self.state.requests
        if request in requests:
            return requests[request] or Applied()
        result = self._apply_once[type(command)](command)
        if request:
            requests[request] = result if isinstance(result, Rejected) else None
            if len(requests) > MAX_REQUESTS:
                del requests[next(iter(requests))]
        return result

    def snapshot(self) -> bytes:
        """The whole state; equal states give equal bytes."""
        return encode_state(self.state)

    def restore(self, snapshot: bytes) -> None:
        """The reverse of `snapshot`; raises msgspec.MsgspecError for bytes that are none, and NewerState.

        No bytes at all are the state before the first command.
        """
        self.state = decode_state(snapshot)
        self._tablet_map = None

    @property
    def tablet_map(self) -> TabletMap:
        """The tablets of the present map version."""
        known = self._tablet_map
        if known is None or known.version != self.state.map_version:
            tablets = map(tablet_commands.map_tablet, self.state.tablets.values())
            self._tablet_map = known = TabletMap(self.state.map_version, tablets)
        return known

    # -- servers ---------------------------------------------------------------------------------

    def _begin_term(self, command: BeginTerm) -> Result:
        if command.term <= self.state.term:
            return Rejected("STALE", f"term {self.state.term} has begun already")
        self.state.term = command.term
        self.state.note(command.at, f"{command.coordinator} begins term {self.state.term}")
        return Applied()

    def _register_node(self, command: RegisterNode) -> Result:
        node = command.node
        known = self.state.nodes.get(node.id)
        if known is not None and known.node.role != node.role:
            return Rejected(
                "WRONG_ROLE", f"{node.id} is known as a server of role {known.node.role}"
            )
        known = known or NodeRecord(node, command.incarnation)
        if command.incarnation < known.incarnation != command.replaces:
            return Rejected("SUPERSEDED", f"another {node.id}, started later, has registered")
        outranked = max(known.outranked, known.incarnation)
        change: dict[str, Any] = {
            "node": node,
            "incarnation": command.incarnation,
            "outranked": outranked if outranked > command.incarnation else 0,
        }
        self.state.nodes[node.id] = msgspec.structs.replace(known, **change)
        self.state.note(
            command.at, f"{node.id} ({node.role}) starts at {node.host}:{node.port}, pid {node.pid}"
        )
        return Applied()

    def _forget_coordinator(self, command: ForgetCoordinator) -> Result:
        known = self.state.nodes.get(command.id)
        if known is None or known.node.role != "coordinator":
            return Rejected("NO_SUCH_NODE", f"there is no coordinator {command.id}")
        del self.state.nodes[command.id]
        self.state.note(command.at, f"{command.id} is no coordinator any more")
        return Applied()

    def _set_enabled(self, command: SetEnabled) -> Result:
        known = self.state.nodes.get(command.id)
        if known is None:
            return Rejected("NO_SUCH_NODE", f"there is no server {command.id}")
        if known.node.role != "http":
            return Rejected("WRONG_ROLE", f"{command.id} is no http server: it is given no clients")
        change: dict[str, Any] = {"enabled": command.enabled}
        self.state.nodes[command.id] = msgspec.structs.replace(known, **change)
        self.state.note(command.at, f"{command.id} {'enabled' if command.enabled else 'disabled'}")
        return Applied()

    def _drain_node(self, command: DrainNode) -> Result:
        known = self._storage(command.id)
        if isinstance(known, Rejected):
            return known
        if known.draining == command.draining:
            return Applied()
        left = sum(
            record.node.role == "storage" and not record.draining and record.node.id != command.id
            for record in self.state.nodes.values()
        )
        if command.draining and left < command.keep:
            return Rejected(
                "TOO_FEW",
                f"without {command.id} there would be {left} storage servers for"
                f" {command.keep} copies of each tablet: add one first",
            )
        change: dict[str, Any] = {"draining": command.draining}
        self.state.nodes[command.id] = msgspec.structs.replace(known, **change)
        what = "gives its tablets away" if command.draining else "may hold tablets again"
        self.state.note(command.at, f"{command.id} {what}")
        return Applied()

    def _forget_node(self, command: ForgetNode) -> Result:
        known = self._storage(command.id)
        if isinstance(known, Rejected):
            return known
        held = [t for t in self.state.tablets.values() if command.id in t.members]
        if held and not command.accept_data_loss:
            return Rejected(
                "HOLDS_TABLETS", f"{command.id} holds {len(held)} tablets: drain it first"
            )
        for tablet in held:
            other = command.instead.get(tablet.id, "")
            if len(tablet.members) == 1 and (
                other == command.id or isinstance(self._storage(other), Rejected)
            ):
                return Rejected(
                    "LAST_COPY", f"{command.id} has the only copy of tablet {tablet.id}"
                )
        tablet_commands.remove_from_tablets(
            self.state, command.at, command.id, dict(command.instead)
        )
        del self.state.nodes[command.id]
        loss = f", with {len(held)} tablets on it" if held else ""
        self.state.note(command.at, f"{command.id} is forgotten{loss}")
        return Applied()

    def _force_primary(self, command: ForcePrimary) -> Result:
        return tablet_commands.force_primary(self.state, command)

    def _storage(self, node_id: str) -> NodeRecord | Rejected:
        known = self.state.nodes.get(node_id)
        if known is None:
            return Rejected("NO_SUCH_NODE", f"there is no server {node_id}")
        if known.node.role != "storage":
            return Rejected("WRONG_ROLE", f"{node_id} is no storage server")
        return known

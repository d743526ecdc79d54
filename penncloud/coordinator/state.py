"""What the coordinators have decided: a deterministic machine. Pure.

Theory of operation
    The state changes only by `apply(command)`. A command carries everything that is time, chance or
    choice, so that the same commands in the same order give the same state, byte for byte, wherever
    and whenever they are applied: after a restart, and on every coordinator. A command that does not
    apply (any more) is answered with `Rejected` and changes nothing; that too is deterministic.

    A tablet's `epoch` grows by one with each change of its primary or members, and a change names the
    epoch it was decided for (`expect`): of two that race, one applies and the other is rejected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from penncloud.placement.tablets import Tablet, TabletMap
from penncloud.rpc.registration import Identity

# Of the audit trail the latest entries are kept.
MAX_AUDIT_ENTRIES: Final = 1000
# Requests remembered: far more than are repeated within the deadline of a call.
MAX_REQUESTS: Final = 1000

# -- state ---------------------------------------------------------------------------------------


class NodeRecord(msgspec.Struct, frozen=True):
    """One server as it last registered. `enabled`: an http server may be given new clients."""

    node: Identity
    incarnation: int
    enabled: bool = True


class TabletRecord(msgspec.Struct, frozen=True):
    """See `placement.tablets.Tablet`. `taken`: members that have answered that they hold it, so that
    one which comes back without it is known to have lost it."""

    id: int
    lo: int
    hi: int
    epoch: int
    primary: str
    members: list[str]
    taken: list[str] = []


class AuditEntry(msgspec.Struct, frozen=True):
    """What was decided, for people. `at` is in Unix seconds."""

    at: float
    text: str


class State(msgspec.Struct):
    """All that survives. `term` is that of the last leader, `map_version` counts the changes of the
    tablets."""

    term: int = 0
    map_version: int = 0
    nodes: dict[str, NodeRecord] = {}
    tablets: dict[int, TabletRecord] = {}
    audit: list[AuditEntry] = []
    # Changes by administrators that were carried out, by their request; the oldest first.
    requests: dict[str, None] = {}


class _Snapshot(msgspec.Struct, frozen=True):
    """The state as it is written down: lists in the order of their ids, so that equal states give
    equal bytes."""

    term: int
    map_version: int
    nodes: list[NodeRecord]
    tablets: list[TabletRecord]
    audit: list[AuditEntry]
    requests: list[str] = []


# -- commands ------------------------------------------------------------------------------------


class BeginTerm(msgspec.Struct, tag="begin-term", frozen=True):
    """The first command of a leader: whoever has applied it has applied all that was before."""

    at: float
    coordinator: str
    term: int


class RegisterNode(msgspec.Struct, tag="register-node", frozen=True):
    at: float
    node: Identity
    incarnation: int


class ForgetCoordinator(msgspec.Struct, tag="forget-coordinator", frozen=True):
    """A coordinator was taken out of the group."""

    at: float
    id: str


class SetEnabled(msgspec.Struct, tag="set-enabled", frozen=True):
    """`request` names the wish of an administrator: one that was sent again is not carried out again."""

    at: float
    id: str
    enabled: bool
    request: str = ""


class CreateTablets(msgspec.Struct, tag="create-tablets", frozen=True):
    """The first tablets; they have to cover the hash space."""

    at: float
    tablets: list[TabletRecord]


class Configure(msgspec.Struct, tag="configure", frozen=True):
    """Give a tablet another primary and members, if its epoch still is `expect`."""

    at: float
    tablet: int
    expect: int
    primary: str
    members: list[str]


class TakeTablets(msgspec.Struct, tag="take-tablets", frozen=True):
    """A server has answered that it holds these tablets. Those of which it is no member are left out."""

    at: float
    id: str
    tablets: list[int]


Command = (
    BeginTerm
    | RegisterNode
    | ForgetCoordinator
    | SetEnabled
    | CreateTablets
    | Configure
    | TakeTablets
)

# -- results -------------------------------------------------------------------------------------


class Applied(msgspec.Struct, tag="applied", frozen=True):
    """Done."""


class Rejected(msgspec.Struct, tag="rejected", frozen=True):
    """Nothing was changed. `code` is for programs, `text` for people."""

    code: str
    text: str


Result = Applied | Rejected

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Snapshot)


class StateMachine:
    """The state and its commands."""

    def __init__(self) -> None:
        self.state = State()
        self._tablet_map: TabletMap | None = None
        self._apply: dict[type[Any], Callable[[Any], Result]] = {
            BeginTerm: self._begin_term,
            RegisterNode: self._register_node,
            ForgetCoordinator: self._forget_coordinator,
            SetEnabled: self._set_enabled,
            CreateTablets: self._create_tablets,
            Configure: self._configure,
            TakeTablets: self._take_tablets,
        }

    def apply(self, command: Command) -> Result:
        return self._apply[type(command)](command)

    def snapshot(self) -> bytes:
        """The whole state; equal states give equal bytes."""
        state = self.state
        nodes = [state.nodes[node_id] for node_id in sorted(state.nodes)]
        tablets = [state.tablets[number] for number in sorted(state.tablets)]
        snapshot = _Snapshot(
            state.term, state.map_version, nodes, tablets, state.audit, list(state.requests)
        )
        return _ENCODER.encode(snapshot)

    def restore(self, snapshot: bytes) -> None:
        """The reverse of `snapshot`; raises msgspec.MsgspecError for bytes that are none.

        No bytes at all are the state before the first command.
        """
        self._tablet_map = None
        if not snapshot:
            self.state = State()
            return
        found = _DECODER.decode(snapshot)
        self.state = State(
            found.term,
            found.map_version,
            {record.node.id: record for record in found.nodes},
            {record.id: record for record in found.tablets},
            found.audit,
            dict.fromkeys(found.requests),
        )

    @property
    def tablet_map(self) -> TabletMap:
        if self._tablet_map is None:
            records = self.state.tablets.values()
            tablets = [_tablet(record) for record in records]
            self._tablet_map = TabletMap(self.state.map_version, tablets)
        return self._tablet_map

    # -- commands --------------------------------------------------------------------------------

    def _begin_term(self, command: BeginTerm) -> Result:
        if command.term <= self.state.term:
            return Rejected("STALE", f"term {self.state.term} has begun already")
        self.state.term = command.term
        self._audit(command.at, f"{command.coordinator} begins term {self.state.term}")
        return Applied()

    def _register_node(self, command: RegisterNode) -> Result:
        node = command.node
        known = self.state.nodes.get(node.id)
        if known is not None and known.node.role != node.role:
            return Rejected(
                "WRONG_ROLE", f"{node.id} is known as a server of role {known.node.role}"
            )
        if known is not None and known.incarnation > command.incarnation:
            return Rejected("SUPERSEDED", f"another {node.id}, started later, has registered")
        enabled = known.enabled if known is not None else True
        self.state.nodes[node.id] = NodeRecord(node, command.incarnation, enabled)
        self._audit(
            command.at, f"{node.id} ({node.role}) starts at {node.host}:{node.port}, pid {node.pid}"
        )
        return Applied()

    def _forget_coordinator(self, command: ForgetCoordinator) -> Result:
        known = self.state.nodes.get(command.id)
        if known is None or known.node.role != "coordinator":
            return Rejected("NO_SUCH_NODE", f"there is no coordinator {command.id}")
        del self.state.nodes[command.id]
        self._audit(command.at, f"{command.id} is no coordinator any more")
        return Applied()

    def _set_enabled(self, command: SetEnabled) -> Result:
        known = self.state.nodes.get(command.id)
        if known is None:
            return Rejected("NO_SUCH_NODE", f"there is no server {command.id}")
        if known.node.role != "http":
            return Rejected("WRONG_ROLE", f"{command.id} is no http server: it is given no clients")
        requests = self.state.requests
        if command.request:
            if command.request in requests:
                return Applied()
            requests[command.request] = None
            if len(requests) > MAX_REQUESTS:
                del requests[next(iter(requests))]
        change: dict[str, Any] = {"enabled": command.enabled}
        self.state.nodes[command.id] = msgspec.structs.replace(known, **change)
        self._audit(command.at, f"{command.id} {'enabled' if command.enabled else 'disabled'}")
        return Applied()

    def _create_tablets(self, command: CreateTablets) -> Result:
        if self.state.tablets:
            return Rejected("EXISTS", "the hash space has been cut into tablets already")
        tablets = {record.id: record for record in command.tablets}
        if len(tablets) != len(command.tablets) or not tablets:
            return Rejected("BAD_TABLETS", "every tablet needs an id of its own")
        for record in command.tablets:
            if (trouble := self._unfit(record.primary, record.members)) is not None:
                return trouble
        try:
            TabletMap(0, [_tablet(record) for record in command.tablets])
        except ValueError as error:
            return Rejected("BAD_TABLETS", str(error))
        self.state.tablets = dict(sorted(tablets.items()))
        self._map_changed()
        self._audit(command.at, f"{len(tablets)} tablets created")
        return Applied()

    def _configure(self, command: Configure) -> Result:
        known = self.state.tablets.get(command.tablet)
        if known is None:
            return Rejected("NO_SUCH_TABLET", f"there is no tablet {command.tablet}")
        if known.epoch != command.expect:
            return Rejected(
                "STALE", f"tablet {command.tablet} is at epoch {known.epoch}, not {command.expect}"
            )
        if (trouble := self._unfit(command.primary, command.members)) is not None:
            return trouble
        change: dict[str, Any] = {
            "epoch": known.epoch + 1,
            "primary": command.primary,
            "members": list(command.members),
            "taken": [member for member in known.taken if member in command.members],
        }
        self.state.tablets[command.tablet] = msgspec.structs.replace(known, **change)
        self._map_changed()
        who = f"primary {command.primary or 'none'}, members {', '.join(command.members)}"
        self._audit(command.at, f"tablet {command.tablet} at epoch {known.epoch + 1}: {who}")
        return Applied()

    def _take_tablets(self, command: TakeTablets) -> Result:
        for number in command.tablets:
            known = self.state.tablets.get(number)
            if known is None or command.id not in known.members or command.id in known.taken:
                continue
            change: dict[str, Any] = {"taken": sorted([*known.taken, command.id])}
            self.state.tablets[number] = msgspec.structs.replace(known, **change)
        return Applied()

    def _unfit(self, primary: str, members: list[str]) -> Rejected | None:
        """Members are known storage servers, each once; the primary is one of them or nobody."""
        for member in members:
            known = self.state.nodes.get(member)
            if known is None or known.node.role != "storage":
                return Rejected("NO_SUCH_NODE", f"there is no storage server {member}")
        if not members or len(set(members)) != len(members):
            return Rejected("BAD_MEMBERS", "a tablet has at least one member, and each once")
        if primary and primary not in members:
            return Rejected("BAD_MEMBERS", f"the primary {primary} is not a member")
        return None

    def _map_changed(self) -> None:
        self.state.map_version += 1
        self._tablet_map = None

    def _audit(self, at: float, text: str) -> None:
        self.state.audit.append(AuditEntry(at, text))
        del self.state.audit[:-MAX_AUDIT_ENTRIES]


def _tablet(record: TabletRecord) -> Tablet:
    members = tuple(record.members)
    return Tablet(record.id, record.lo, record.hi, record.epoch, record.primary, members)

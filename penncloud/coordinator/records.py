"""The decided state as data, and its snapshot.

The snapshot is msgpack of named fields, in the order of their ids, so that equal states give equal bytes.
`format` says which version wrote it. Fields that a format added have defaults: older snapshots are read,
newer ones are refused.

    format  added
    1       (no `format` field) servers, tablets, audit trail, requests
    2       replicas: incarnation, learners, leaving; draining servers; reserved ids; splits
    3       refused: which of the requests were, and why; outranked incarnations
"""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec

from penncloud.coordinator.commands import Rejected, TabletRecord
from penncloud.platform.errors import PennCloudError
from penncloud.rpc.registration import Identity

FORMAT: Final = 3
# Of the audit trail the latest entries are kept.
MAX_AUDIT_ENTRIES: Final = 1000


class NewerState(PennCloudError):
    """The snapshot was written by a later version of PennCloud."""

    retryable: ClassVar[bool] = False


class NodeRecord(msgspec.Struct, frozen=True):
    """One server as it last registered. `enabled`: an http server may be given new clients. `draining`:
    a storage server shall hold no tablets. `outranked`: the greatest incarnation that it had before."""

    node: Identity
    incarnation: int
    enabled: bool = True
    draining: bool = False
    outranked: int = 0


class SplitRecord(msgspec.Struct, frozen=True):
    """A tablet that is no more, and the two that took its place."""

    id: int
    low: int
    high: int


class AuditEntry(msgspec.Struct, frozen=True):
    """What was decided, for people. `at` is in Unix seconds."""

    at: float
    text: str


class State(msgspec.Struct):
    """All that survives. `term` is that of the last leader, `map_version` counts the changes of the
    tablets, `next_tablet` is the lowest id that was never given out."""

    term: int = 0
    map_version: int = 0
    nodes: dict[str, NodeRecord] = {}
    tablets: dict[int, TabletRecord] = {}
    audit: list[AuditEntry] = []
    # What became of changes by administrators, by their request: None where it was carried out; the
    # oldest first.
    requests: dict[str, Rejected | None] = {}
    next_tablet: int = 1
    # By the id of the tablet that was split; never more than there are tablets.
    splits: dict[int, SplitRecord] = {}

    def changed_map(self) -> None:
        """The tablets have changed."""
        self.map_version += 1

    def note(self, at: float, text: str) -> None:
        """Write the audit trail."""
        self.audit.append(AuditEntry(at, text))
        del self.audit[:-MAX_AUDIT_ENTRIES]

    def children(self, tablet: int) -> list[int]:
        """The present tablets that hold the rows of one that was split; none for an id that never was."""
        found: list[int] = []
        waiting = [tablet]
        while waiting:
            number = waiting.pop()
            if number in self.tablets:
                found.append(number)
            elif number in self.splits:
                waiting += [self.splits[number].high, self.splits[number].low]
        return found


class _Format(msgspec.Struct, frozen=True):
    format: int = 1


class _Snapshot(msgspec.Struct, frozen=True):
    term: int
    map_version: int
    nodes: list[NodeRecord]
    tablets: list[TabletRecord]
    audit: list[AuditEntry]
    requests: list[str] = []
    format: int = 1
    next_tablet: int = 0
    splits: list[SplitRecord] = []
    refused: dict[str, Rejected] = {}


_ENCODER: Final = msgspec.msgpack.Encoder()
_FORMAT_DECODER: Final = msgspec.msgpack.Decoder(_Format)
_DECODER: Final = msgspec.msgpack.Decoder(_Snapshot)


def encode_state(state: State) -> bytes:
    """Equal states give equal bytes."""
    snapshot = _Snapshot(
        state.term,
        state.map_version,
        [state.nodes[node_id] for node_id in sorted(state.nodes)],
        [state.tablets[number] for number in sorted(state.tablets)],
        state.audit,
        list(state.requests),
        FORMAT,
        state.next_tablet,
        [state.splits[number] for number in sorted(state.splits)],
        {request: result for request, result in state.requests.items() if result is not None},
    )
    return _ENCODER.encode(snapshot)


def decode_state(snapshot: bytes) -> State:
    """The reverse; no bytes at all are the state before the first command.

    Raises msgspec.MsgspecError for bytes that are no state, NewerState.
    """
    if not snapshot:
        return State()
    written = _FORMAT_DECODER.decode(snapshot).format
    if written > FORMAT:
        raise NewerState(f"a state of format {written}; this version knows formats up to {FORMAT}")
    found = _DECODER.decode(snapshot)
    return State(
        found.term,
        found.map_version,
        {record.node.id: record for record in found.nodes},
        {record.id: record for record in found.tablets},
        found.audit,
        {request: found.refused.get(request) for request in found.requests},
        found.next_tablet or max((record.id for record in found.tablets), default=0) + 1,
        {record.id: record for record in found.splits},
    )

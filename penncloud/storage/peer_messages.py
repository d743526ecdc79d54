"""What storage servers send each other over rpc: batches of the replicas' messages. Pure.

A batch is a note with a list of messages, each a msgpack array that begins with its sort and the group.
Who sends and who is meant is known from the connection. Entries travel as the log has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec

from penncloud.lsm.entry import Entry
from penncloud.replication.messages import (
    Ack,
    Checkpoint,
    Commit,
    Fetch,
    Message,
    Offer,
    Piece,
    Prep,
    Reason,
    Reject,
    Sync,
)


class PeerHello(msgspec.Struct, tag="peer", frozen=True):
    """The first note of a connection between storage servers: who sends, and which of its connections
    this is; messages of one with a lower (incarnation, number) are late and not looked at."""

    id: str
    incarnation: int
    number: int


class Batch(msgspec.Struct, tag="replicas", frozen=True):
    """Messages in the order in which they were sent, each encoded by `encode`."""

    messages: list[msgspec.Raw]


class _Prep(msgspec.Struct, array_like=True, tag=1, frozen=True, gc=False):
    group: int
    cfg: int
    prev_version: int
    prev_entry_cfg: int
    entries: tuple[Entry, ...]
    committed: int
    send_time: float
    round: int
    learner: int


class _Ack(msgspec.Struct, array_like=True, tag=2, frozen=True, gc=False):
    group: int
    cfg: int
    version: int
    send_time: float
    round: int


class _Reject(msgspec.Struct, array_like=True, tag=3, frozen=True, gc=False):
    group: int
    cfg: int
    reason: Reason
    prev_version: int
    have: int


class _Commit(msgspec.Struct, array_like=True, tag=4, frozen=True, gc=False):
    group: int
    cfg: int
    committed: int


class _Sync(msgspec.Struct, array_like=True, tag=5, frozen=True, gc=False):
    group: int
    incarnation: int
    version: int
    entry_cfg: int
    blank: bool


class _Offer(msgspec.Struct, array_like=True, tag=6, frozen=True, gc=False):
    group: int
    cfg: int
    number: int
    version: int
    entry_cfg: int


class _Fetch(msgspec.Struct, array_like=True, tag=7, frozen=True, gc=False):
    group: int
    number: int
    offset: int


class _Piece(msgspec.Struct, array_like=True, tag=8, frozen=True, gc=False):
    group: int
    cfg: int
    number: int
    offset: int
    data: bytes
    checksum: int
    done: bool


_Wire: TypeAlias = _Prep | _Ack | _Reject | _Commit | _Sync | _Offer | _Fetch | _Piece

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final[msgspec.msgpack.Decoder[_Wire]] = msgspec.msgpack.Decoder(_Wire)


def encode(message: Message) -> bytes:
    """One message of a batch."""
    return _ENCODER.encode(_wire(message))


def decode(messages: Sequence[msgspec.Raw], sender: str, to: str) -> list[Message]:
    """The messages of a batch from `sender` to `to`. Raises msgspec.MsgspecError."""
    return [_message(_DECODER.decode(raw), sender, to) for raw in messages]


def _wire(message: Message) -> _Wire:
    group = message.group
    match message:
        case Prep():
            # The owner's entries are those of the engine's log; the machines know of their place only.
            entries: tuple[Entry, ...] = message.entries  # type: ignore[assignment]
            return _Prep(
                group,
                message.cfg,
                message.prev_version,
                message.prev_entry_cfg,
                entries,
                message.committed,
                message.send_time,
                message.round,
                message.learner,
            )
        case Ack():
            return _Ack(group, message.cfg, message.version, message.send_time, message.round)
        case Reject():
            return _Reject(group, message.cfg, message.reason, message.prev_version, message.have)
        case Commit():
            return _Commit(group, message.cfg, message.committed)
        case Sync():
            return _Sync(
                group, message.incarnation, message.version, message.entry_cfg, message.blank
            )
        case Offer():
            offered = message.checkpoint
            return _Offer(group, message.cfg, offered.number, offered.version, offered.entry_cfg)
        case Fetch():
            return _Fetch(group, message.number, message.offset)
        case Piece():
            return _Piece(
                group,
                message.cfg,
                message.number,
                message.offset,
                message.data,
                message.checksum,
                message.done,
            )


def _message(wire: _Wire, sender: str, to: str) -> Message:
    group = wire.group
    match wire:
        case _Prep():
            return Prep(
                sender,
                to,
                group,
                wire.cfg,
                wire.prev_version,
                wire.prev_entry_cfg,
                wire.entries,
                wire.committed,
                wire.send_time,
                wire.round,
                wire.learner,
            )
        case _Ack():
            return Ack(sender, to, group, wire.cfg, wire.version, wire.send_time, wire.round)
        case _Reject():
            return Reject(sender, to, group, wire.cfg, wire.reason, wire.prev_version, wire.have)
        case _Commit():
            return Commit(sender, to, group, wire.cfg, wire.committed)
        case _Sync():
            return Sync(
                sender, to, group, wire.incarnation, wire.version, wire.entry_cfg, wire.blank
            )
        case _Offer():
            checkpoint = Checkpoint(wire.number, wire.version, wire.entry_cfg)
            return Offer(sender, to, group, wire.cfg, checkpoint)
        case _Fetch():
            return Fetch(sender, to, group, wire.number, wire.offset)
        case _Piece():
            return Piece(
                sender,
                to,
                group,
                wire.cfg,
                wire.number,
                wire.offset,
                wire.data,
                wire.checksum,
                wire.done,
            )

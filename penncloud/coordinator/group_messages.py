"""What coordinators say to each other: Raft's messages, who they are, and what the leader shall decide."""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

import msgspec

from penncloud.coordinator.commands import Command, Result
from penncloud.raft.messages import Message

# blank: has nothing on its disk. founded: knows the members, and waits until all of them do.
# begun: takes part.
Phase = Literal["blank", "founded", "begun"]
GroupRole = Literal["leader", "follower", "candidate", "learner"]


class WhoIs(msgspec.Struct, tag="who-is", frozen=True):
    """Call, answered with Who: asked again and again, it also tells that the other lives."""


class Who(msgspec.Struct, frozen=True):
    """A coordinator as it sees itself."""

    id: str
    phase: Phase
    voters: list[str] = []
    learners: list[str] = []
    role: GroupRole = "follower"
    term: int = 0
    leader: str = ""
    # As it is told to others in its registration.
    pid: int = 0


class Decide(msgspec.Struct, tag="decide", frozen=True):
    """Call to the leader, answered with Decided. Refusals: NOT_LEADER (nothing was done), UNKNOWN."""

    command: Command


class Decided(msgspec.Struct, frozen=True):
    result: Result


class RaftNote(msgspec.Struct, tag="raft", frozen=True):
    """Note: one message of Raft; `kind` is the name of its class in `raft.messages`."""

    kind: str
    body: msgspec.Raw


# Sets are written in a fixed order, so that the same message is the same bytes in every run.
_ENCODER: Final = msgspec.msgpack.Encoder(order="deterministic")
_DECODERS: Final[dict[str, msgspec.msgpack.Decoder[Any]]] = {
    kind.__name__: msgspec.msgpack.Decoder(kind) for kind in get_args(Message)
}


def encode_message(message: Message) -> RaftNote:
    return RaftNote(type(message).__name__, msgspec.Raw(_ENCODER.encode(message)))


def decode_message(note: RaftNote) -> Message:
    """Raises ValueError for what is no message."""
    decoder = _DECODERS.get(note.kind)
    if decoder is None:
        raise ValueError(f"{note.kind} is no message of Raft")
    try:
        message: Message = decoder.decode(note.body)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{note.kind}: {error}") from error
    return message

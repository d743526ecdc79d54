"""What replicas of one group say to each other, and what they ask of their driver.

Versions and configuration numbers (`cfg`) are counted from 1; 0 stands for "before the first". An entry is
identified by (version, entry_cfg): each cfg has one primary, which gives each version once. Times are
seconds on the sender's own monotonic clock; nobody compares them with another clock.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol, TypeAlias

import msgspec
from attrs import frozen


class Entry(Protocol):
    """One decided mutation, as the owner of the log makes it; here only its place matters."""

    @property
    def version(self) -> int: ...

    @property
    def entry_cfg(self) -> int: ...

    @property
    def size_bytes(self) -> int: ...


@frozen
class Configuration:
    """Who serves a group, as the coordinators agreed; `cfg` grows by one with every change.

    `incarnation` is that of the primary's process when it was chosen: a process that came later must not
    act on it, because it does not know what the earlier one did under the same cfg.
    """

    group: int
    cfg: int
    primary: str
    members: tuple[str, ...]
    incarnation: int


@frozen
class Checkpoint:
    """A replica's state up to (version, entry_cfg) on its disk. `number` counts on one disk only."""

    number: int = 0
    version: int = 0
    entry_cfg: int = 0


class Prep(msgspec.Struct, frozen=True):
    """PREP: entries behind (prev_version, prev_entry_cfg). Without entries it is the beacon.

    `committed` is the piggybacked COMMIT. `learner`: the receiver is no member in this cfg, but
    the learner that registered with this incarnation (0: it is a member).
    """

    sender: str
    to: str
    group: int
    cfg: int
    prev_version: int
    prev_entry_cfg: int
    entries: tuple[Entry, ...]
    committed: int
    send_time: float
    round: int
    learner: int


class Ack(msgspec.Struct, frozen=True):
    """The sender's log equals the primary's up to `version`, and is on disk up to there.

    It also is the lease that belongs to `send_time` and `round` of the PREP that it answers.
    """

    sender: str
    to: str
    group: int
    cfg: int
    version: int
    send_time: float
    round: int


class Reason(Enum):
    """Why a PREP is rejected."""

    STALE = "stale"
    GAP = "gap"
    IO = "io"


@frozen
class Reject:
    """STALE: `cfg` is the newer one. GAP: (prev_version, ..) does not fit, look at `have` or before.

    IO: the sender cannot keep anything now.
    """

    sender: str
    to: str
    group: int
    cfg: int
    reason: Reason
    prev_version: int
    have: int


class Commit(msgspec.Struct, frozen=True):
    """COMMIT without a PREP to ride on; needs no answer."""

    sender: str
    to: str
    group: int
    cfg: int
    committed: int


@frozen
class Sync:
    """REGISTER and SYNC: the sender is no member and wants to catch up from what it has.

    `blank`: it has no state at all; whatever it had before is lost.
    """

    sender: str
    to: str
    group: int
    incarnation: int
    version: int
    entry_cfg: int
    blank: bool


@frozen
class Offer:
    """The log does not reach back to what the learner has: it may fetch this checkpoint."""

    sender: str
    to: str
    group: int
    cfg: int
    checkpoint: Checkpoint


@frozen
class Fetch:
    """Send the checkpoint `number` from byte `offset` on."""

    sender: str
    to: str
    group: int
    number: int
    offset: int


@frozen
class Piece:
    """Bytes of the checkpoint `number`; `checksum` is their CRC-32. `done`: these are the last."""

    sender: str
    to: str
    group: int
    cfg: int
    number: int
    offset: int
    data: bytes
    checksum: int
    done: bool


Message: TypeAlias = Prep | Ack | Reject | Commit | Sync | Offer | Fetch | Piece


@frozen
class Tip:
    """What a replica tells the coordinators with each pong.

    `eligible`: it has a replica that may become primary (no blank, damaged or full disk). `declined`: the
    cfg that names this process primary and that it cannot act on any more; it needs a new one.
    """

    incarnation: int
    entry_cfg: int
    version: int
    eligible: bool
    declined: int


@frozen
class Staged:
    """Bytes of a checkpoint that are on disk already: a transfer goes on from there."""

    source: str
    checkpoint: Checkpoint
    size_bytes: int


@frozen
class StagePiece:
    """Write `data` at `offset` of the transfer of `checkpoint` from `source` (0: begin anew)."""

    source: str
    checkpoint: Checkpoint
    offset: int
    data: bytes


@frozen
class ReadPiece:
    """Read own checkpoint `number` at `offset` and send it as a Piece.

    If that is gone, send nothing and call `Replica.piece_gone`.
    """

    to: str
    cfg: int
    number: int
    offset: int


class Ready(msgspec.Struct, frozen=True, eq=False):
    """One round of work for the driver. Several may be under way; they are persisted in their order.

    1. At once: answer UNKNOWN to all that waits if `stepped_down`; take `withdrawn` out of the prepared
       state (no answer yet: others take their versions); refuse those of `aborted` as not done;
       apply the entries up to `committed`; answer writes up to `answered`; answer the reads of
       `confirmed`; send `prompt`; give `proposal` to the coordinators, ask them for the configuration
       if `ask`; serve `pieces`.
    2. Persist in this order: `seal`; `quarantine`, then cut the log from `cut` on; `stage`; `install` (the
       staged checkpoint becomes the replica's state, its log is empty); append `entries`; one sync for
       all.
    3. Send `messages`. Call `Replica.advance(ready)`, or `Replica.refuse(ready)` if there was no room.
    """

    stepped_down: bool
    withdrawn: tuple[Entry, ...]
    aborted: tuple[Entry, ...]
    committed: int
    answered: int
    confirmed: tuple[int, ...]
    prompt: tuple[Message, ...]
    proposal: Configuration | None
    ask: bool
    pieces: tuple[ReadPiece, ...]
    seal: int | None
    quarantine: tuple[Entry, ...]
    cut: int | None
    stage: tuple[StagePiece, ...]
    install: Checkpoint | None
    entries: tuple[Entry, ...]
    entries_bytes: int
    messages: tuple[Message, ...]

    @property
    def persists(self) -> bool:
        """Whether there is anything for the disk."""
        return bool(
            self.seal is not None
            or self.cut is not None
            or self.stage
            or self.install is not None
            or self.entries
        )

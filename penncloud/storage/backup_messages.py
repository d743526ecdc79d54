"""What a backup asks of a storage server, by rpc.

One moment of the whole cluster: `HoldWrites` at every server, `TakeSnapshots` at every server once all
hold, `ReleaseWrites` at every server. A write that was answered before any other was sent is then never
missing where the other is there: its tablet's snapshot was taken later than its answer. The hold is a matter
of milliseconds, ends by itself, and refuses nobody: mutations wait.
"""

from __future__ import annotations

from typing import Final

import msgspec

# Refusals: the hold has ended by itself; another hold is on; there is no such snapshot (any more).
HOLD_ENDED: Final = "HOLD_ENDED"
HELD: Final = "HELD"
NO_SNAPSHOT: Final = "NO_SNAPSHOT"


class HoldWrites(msgspec.Struct, tag="hold-writes", frozen=True):
    """Call: begin no mutation from now on, for at most `lease_ms`. Answered with the tablets."""

    lease_ms: int


class HeldTablet(msgspec.Struct, frozen=True):
    """A tablet that the server is the primary of, at this epoch."""

    id: int
    lo: int
    hi: int
    epoch: int


class Held(msgspec.Struct, tag="held", frozen=True):
    hold: int
    tablets: list[HeldTablet]


class TakeSnapshots(msgspec.Struct, tag="take-snapshots", frozen=True):
    """Call: keep what is committed now of these tablets, for as long as somebody reads it."""

    hold: int
    tablets: list[int]


class SnapshotTaken(msgspec.Struct, frozen=True):
    """Of one tablet; `version` is the last mutation in it."""

    tablet: int
    version: int


class SnapshotsTaken(msgspec.Struct, tag="snapshots-taken", frozen=True):
    snapshot: int
    tablets: list[SnapshotTaken]


class ReleaseWrites(msgspec.Struct, tag="release-writes", frozen=True):
    """Call: go on; nothing happens where the hold has ended."""

    hold: int


class ReadSnapshot(msgspec.Struct, tag="read-snapshot", frozen=True):
    """Call: cells of a tablet from (row, col) on, as SCANT gives them; values cut to `max_value`."""

    snapshot: int
    tablet: int
    row: bytes
    col: bytes
    limit: int
    max_value: int


class SnapshotCell(msgspec.Struct, array_like=True, frozen=True):
    """`size` is the value's full size."""

    row: bytes
    col: bytes
    version: int
    size: int
    value: bytes


class SnapshotPage(msgspec.Struct, tag="snapshot-page", frozen=True):
    """`more`: there are further cells behind these."""

    cells: list[SnapshotCell]
    more: bool


class ReadCell(msgspec.Struct, tag="read-cell", frozen=True):
    """Call: the whole value of one cell of a snapshot; answered with a page of one cell, or none."""

    snapshot: int
    tablet: int
    row: bytes
    col: bytes


class CloseSnapshots(msgspec.Struct, tag="close-snapshots", frozen=True):
    """Call: they are not read any more."""

    snapshot: int


class Done(msgspec.Struct, tag="backup-done", frozen=True):
    """Answer to ReleaseWrites and CloseSnapshots."""

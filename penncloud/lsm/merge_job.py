"""A merge of tables: what of them survives, and how another process is told to do it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from penncloud.lsm.block import RawCell, is_tombstone
from penncloud.lsm.merging import merged_runs
from penncloud.lsm.table import Table


def surviving(
    tables: Sequence[Table], low: bytes, high: bytes, drop_tombstones: bool
) -> Iterator[list[RawCell]]:
    """What a merge of tables (newest first) writes, of keys in [low, high); some cells at a time."""
    runs = merged_runs([table.raw_runs(low, high) for table in tables])
    if not drop_tombstones or not any(table.properties.tombstones for table in tables):
        return runs
    return ([cell for cell in run if not is_tombstone(cell[1])] for run in runs)


class MergeJob(msgspec.Struct, frozen=True):
    """A merge for another process: paths on the node's disk, tables newest first."""

    inputs: list[str]
    output: str
    low: bytes
    high: bytes
    drop_tombstones: bool
    salt: int
    block_bytes: int
    bloom_bits_per_key: int
    compression: Literal["none", "zstd"]


class MergeRequest(msgspec.Struct, frozen=True):
    """What the child gets. `directory` is the disk's."""

    directory: str
    job: MergeJob


class Merged(msgspec.Struct, frozen=True, tag="merged"):
    """Answer: done. `written` is false when no cells were left."""

    written: bool


class InputDamaged(msgspec.Struct, frozen=True, tag="damaged"):
    """Answer: an input is not what was written."""

    path: str
    offset: int
    reason: str


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Answer: the disk would not; `full`: for lack of room."""

    full: bool
    text: str

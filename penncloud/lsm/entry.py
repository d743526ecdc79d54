"""Entries: decided mutations, and what the engine writes of them into the log.

Format of a log record's data (the payload of a `wal` record of sort D)

    1 byte   format version, 1
    ...      msgpack array [sort, ...]:
             [1, [entry, ...]]              entries, in the order of their versions in each tablet
             [2, tablet, version]           the entries of `tablet` above `version` are void

    The note in records of sort S and M is a msgpack map {tablet: [version, entry_cfg]}: the last entry of
    each tablet that stands before it in the log, or in a checkpoint.

    An entry is [tablet, version, entry_cfg, client, seq, [effect, ...], result], an effect
    [1, row, col, value] (put) or [2, row, col] (delete); byte strings are msgpack `bin`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from penncloud.lsm.errors import NewerFormat, StoreDamaged

FORMAT_VERSION: Final = 1
# What a cell or an entry takes in memory beside its bytes, about.
CELL_OVERHEAD_BYTES: Final = 200


class PutEffect(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """The cell has this value now."""

    row: bytes
    col: bytes
    value: bytes


class DeleteEffect(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """The cell is not there any more."""

    row: bytes
    col: bytes


Effect = PutEffect | DeleteEffect


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One decided mutation of one tablet; versions of a tablet are contiguous.

    `entry_cfg` is the configuration in which it was decided. `client` (empty: no request id) and `seq`
    name the request, `result` is what it is to be answered: both mean something to the owner only.
    """

    tablet: int
    version: int
    entry_cfg: int
    client: bytes
    seq: int
    effects: tuple[Effect, ...]
    result: bytes

    @property
    def size_bytes(self) -> int:
        """About what the entry takes in memory."""
        effects = self.effects
        size = (1 + len(effects)) * CELL_OVERHEAD_BYTES + len(self.client) + len(self.result)
        for effect in effects:
            size += len(effect.row) + len(effect.col)
            if type(effect) is PutEffect:
                size += len(effect.value)
        return size


class Entries(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """Log record: entries."""

    entries: tuple[Entry, ...]


class Void(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """Log record: entries of a tablet above a version were never committed and are void."""

    tablet: int
    version: int


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final[msgspec.msgpack.Decoder[Entries | Void]] = msgspec.msgpack.Decoder(Entries | Void)
_PREFIX: Final = bytes((FORMAT_VERSION,))


def encode(record: Entries | Void) -> list[bytes]:
    """The data of a log record, in parts."""
    return [_PREFIX, _ENCODER.encode(record)]


def encode_entries(entries: Sequence[Entry]) -> list[bytes]:
    return encode(Entries(tuple(entries)))


Note = dict[int, tuple[int, int]]
_NOTES: Final[msgspec.msgpack.Decoder[Note]] = msgspec.msgpack.Decoder(Note)


def encode_note(note: Note) -> bytes:
    return _ENCODER.encode(note)


def decode_note(data: bytes) -> Note:
    """The reverse. Raises StoreDamaged."""
    try:
        return _NOTES.decode(data)
    except msgspec.DecodeError as error:
        raise StoreDamaged(f"the log has a note that is none: {error}") from error


def decode(data: bytes) -> Entries | Void:
    """The reverse. Raises NewerFormat or StoreDamaged."""
    if data[:1] != _PREFIX:
        raise NewerFormat(f"the log has entries of format version {data[0]}")
    try:
        return _DECODER.decode(memoryview(data)[1:])
    except msgspec.DecodeError as error:
        # The checksum was right, so this was written so: by a different program.
        raise StoreDamaged(f"the log has an entry that is none: {error}") from error

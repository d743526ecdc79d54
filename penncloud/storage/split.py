"""A split as an entry of its tablet's log, and as part of the tablet's state until it is carried out.

The entry has no effects and no request id; its `result` is `b"S"` and then a msgpack array [at, low, high]:
rows whose hash is below `at` go to the tablet `low`, the others to `high`. Its place (version and
configuration) is where both begin.

Before it comes a hint, an entry whose `result` is `b"P"`: every member makes a checkpoint then, so that
little is left to be flushed when the tablet is cut.

The owner's blob of a tablet, which its checkpoints carry, is a msgpack array [table of request ids, split];
split is nil, or [at, low, high, version, entry_cfg] once the entry is committed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from penncloud.lsm.entry import Entry
from penncloud.storage.dedup import CorruptTable

_TAG: Final = b"S"
HINT: Final = b"P"


class Split(msgspec.Struct, frozen=True, array_like=True):
    """See the module; `version` and `entry_cfg` are the entry's place."""

    at: int
    low: int
    high: int
    version: int
    entry_cfg: int

    def makes(self, tablet: int) -> bool:
        """Whether it is one of the two that come of it."""
        return tablet in (self.low, self.high)


_Words = tuple[int, int, int]
_WORDS: Final[msgspec.msgpack.Decoder[_Words]] = msgspec.msgpack.Decoder(_Words)
_Blob = tuple[bytes, Split | None]
_BLOB: Final[msgspec.msgpack.Decoder[_Blob]] = msgspec.msgpack.Decoder(_Blob)


def split_entry(tablet: int, split: Split) -> Entry:
    """The entry that says it."""
    words = msgspec.msgpack.encode((split.at, split.low, split.high))
    return Entry(tablet, split.version, split.entry_cfg, b"", 0, (), _TAG + words)


def split_of(entry: Entry) -> Split | None:
    """What an entry says of a split; None for every other. Raises CorruptTable."""
    if entry.client or entry.result[:1] != _TAG:
        return None
    try:
        words = _WORDS.decode(entry.result[1:])
    except msgspec.DecodeError as error:
        raise CorruptTable(f"not a split: {error}") from error
    return Split(*words, entry.version, entry.entry_cfg)


def last_split(entries: Iterable[Entry]) -> Split | None:
    """The last one that the entries say."""
    found = None
    for entry in entries:
        found = split_of(entry) or found
    return found


def encode_blob(request_ids: bytes, split: Split | None) -> bytes:
    """A tablet's state beside its cells."""
    return msgspec.msgpack.encode((request_ids, split))


def decode_blob(data: bytes) -> tuple[bytes, Split | None]:
    """The reverse; empty bytes are those of a new tablet. Raises CorruptTable."""
    if not data:
        return b"", None
    try:
        return _BLOB.decode(data)
    except msgspec.DecodeError as error:
        raise CorruptTable(f"not a tablet's state: {error}") from error

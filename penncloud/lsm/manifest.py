"""The manifest: which files make up the tablets of this server, replaced as a whole.

Format of the file `lsm/MANIFEST`: one record of `record` at position 0 (synced 0) whose payload is

    2 bytes  format version, little-endian, 1
    ...      msgpack map of `Manifest`: field names are the keys; structs in it are maps too

Nothing else of the engine is believed: a table file that no manifest names is the left-over of
an interrupted flush or compaction, and removed at the next start.
"""

from __future__ import annotations

from typing import Final

import msgspec

from penncloud.lsm.errors import NewerFormat, StoreDamaged
from penncloud.lsm.record import decode, encode

FORMAT_VERSION: Final = 1


class TableRef(msgspec.Struct, frozen=True):
    """One table file. `cells` and `bytes` are those of the file, which siblings may share."""

    file: int
    bytes: int
    cells: int


class TabletState(msgspec.Struct, frozen=True):
    """One tablet: rows with lo <= hash < hi; its last checkpoint; its tables, newest first.

    The checkpoint holds all entries up to `version`, the last of them of configuration `entry_cfg`.
    Entries at log positions below `log_position` are in it, or are written again behind it, or belong
    to an older tablet of the same number. `meta` is the file with the owner's blob (0: it is empty).
    """

    lo: int
    hi: int
    checkpoint_no: int
    version: int
    entry_cfg: int
    log_position: int
    meta: int = 0
    tables: tuple[TableRef, ...] = ()
    # Why nothing of it may be used; and why some blocks of its tables may not.
    damaged: str = ""
    spoiled: str = ""


class Manifest(msgspec.Struct, frozen=True):
    """Everything. `log_from` is the log segment with which reading begins (0: the first)."""

    next_file: int = 1
    log_from: int = 0
    tablets: dict[int, TabletState] = {}

    def with_tablet(self, tablet: int, state: TabletState | None) -> Manifest:
        """The manifest with one tablet changed, added, or (None) removed."""
        tablets = dict(self.tablets)
        if state is None:
            tablets.pop(tablet, None)
        else:
            tablets[tablet] = state
        return msgspec.structs.replace(self, tablets=tablets)

    def split(self, tablet: int, at: int, left: int, right: int, born: TabletState) -> Manifest:
        """The manifest with a tablet replaced by two that share its files, cut at a hash.

        They begin at the version, configuration and log position of `born`.
        """
        tablets = dict(self.tablets)
        parent = msgspec.structs.replace(
            tablets.pop(tablet),
            version=born.version,
            entry_cfg=born.entry_cfg,
            log_position=born.log_position,
        )
        tablets[left] = msgspec.structs.replace(parent, hi=at)
        tablets[right] = msgspec.structs.replace(parent, lo=at)
        return msgspec.structs.replace(self, tablets=tablets)

    def tables(self) -> set[int]:
        """Numbers of the table files that are needed."""
        return {ref.file for state in self.tablets.values() for ref in state.tables}

    def metas(self) -> set[int]:
        """Numbers of the meta files that are needed."""
        return {state.meta for state in self.tablets.values() if state.meta}


def encode_manifest(manifest: Manifest) -> bytes:
    version = FORMAT_VERSION.to_bytes(2, "little")
    return b"".join(encode([version, msgspec.msgpack.encode(manifest)], 0, 0))


def decode_manifest(data: bytes, path: str) -> Manifest:
    """The reverse. Raises StoreDamaged, NewerFormat."""
    record = decode(data, 0, 0)
    if record is None or record.end != len(data):
        raise StoreDamaged(f"{path}: the checksum does not match")
    version = int.from_bytes(record.payload[:2], "little")
    if version > FORMAT_VERSION:
        raise NewerFormat(
            f"{path}: has format version {version}, this program knows up to {FORMAT_VERSION}"
        )
    return msgspec.msgpack.decode(record.payload[2:], type=Manifest)

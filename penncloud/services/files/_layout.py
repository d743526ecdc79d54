"""How a user's tree lies in the row `files/NAME`.

    n/FOLDER                        Node: the folder's parent and name; none for the root
    e/FOLDER/d/KEY/NAME             Record of a folder inside FOLDER
    e/FOLDER/f/KEY/NAME             Record of a file inside FOLDER
    tree                            rewritten whenever a folder is moved, renamed or deleted
    detached/FOLDER                 a deleted folder whose contents are still to be cleared away
    pending/ID, garbage/ID          marks of blobs, see `services.blobs`
    uploaded/DAY/UPLOAD             Stored: the file that this upload made, so that it makes one

FOLDER is an id that a folder keeps for life, so moving or renaming a folder with a million files
rewrites two cells. A folder's listing is one range scan, folders first, then by KEY, the case-folded
name (cut to 255 bytes: it is only for the order). A name is free when both its `d` and its `f` column
are missing, which a mutation states as its condition.

`tree` makes changes safe against changes further up: whoever adds, moves or deletes an entry reads
`tree`, then follows the folder's parents to the root, and makes its mutation conditional on `tree` being
unchanged. So nothing is ever added below a folder that somebody just deleted, and no two moves together
make a cycle.

UPLOAD is an id that whoever uploads gives to it. The mark is put by the mutation that makes the file
visible, if there is none yet; it is forgotten some days later (`services.days`). Earlier versions put none.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from attrs import frozen

from penncloud.client.table import Cell
from penncloud.services.blobs import BlobRef

ROOT: Final = "root"
TREE: Final = b"tree"
DETACHED: Final = b"detached/"
UPLOADED: Final = b"uploaded/"

_KEY_BYTES: Final = 255

Kind = Literal["folder", "file"]


class Node(msgspec.Struct, frozen=True):
    """Where a folder is."""

    parent: str
    name: str


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """The value of an entry's cell. `modified` in Unix seconds, `size` in bytes."""

    id: str
    name: str
    kind: Kind
    modified: float
    size: int = 0
    blob: BlobRef | None = None


class Stored(msgspec.Struct, frozen=True):
    """What an upload made, and in which folder. The entry then had the version that this cell has."""

    folder: str
    record: Record


@frozen
class Entry:
    """A file or folder as it was read: its record, the folder it is in and its cell's version."""

    folder: str
    record: Record
    version: int

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def is_folder(self) -> bool:
        return self.record.kind == "folder"

    @property
    def size(self) -> int:
        """Bytes; 0 for folders."""
        return self.record.size

    @property
    def modified(self) -> float:
        """When the content was written or the folder made, in Unix seconds."""
        return self.record.modified

    @property
    def blob(self) -> BlobRef:
        """A file's content."""
        if self.record.blob is None:
            raise ValueError(f"{self.name!r} is not a file")
        return self.record.blob

    @property
    def col(self) -> bytes:
        return entry_col(self.folder, self.record.kind, self.record.name)


def row_of(user: str) -> bytes:
    return f"files/{user}".encode()


def node_col(folder: str) -> bytes:
    return f"n/{folder}".encode()


def detached_col(folder: str) -> bytes:
    return DETACHED + folder.encode()


def uploaded_col(day: int, upload_id: str) -> bytes:
    """`day` as `services.days` counts; "" for the id: where the marks of the day begin."""
    return UPLOADED + f"{day:06}/{upload_id}".encode()


def entries_prefix(folder: str) -> bytes:
    return f"e/{folder}/".encode()


def entry_col(folder: str, kind: Kind, name: str) -> bytes:
    key = name.casefold().encode()[:_KEY_BYTES]
    letter = b"d/" if kind == "folder" else b"f/"
    return entries_prefix(folder) + letter + key + b"/" + name.encode()


def entry_of(folder: str, cell: Cell) -> Entry:
    return Entry(folder, msgspec.json.decode(cell.value, type=Record), cell.version)

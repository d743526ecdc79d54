"""Files of a damaged tablet, kept aside when it is dropped or replaced: most of them can still be read.

Format: a directory `lsm/aside/TABLET-NUMBER/`, both in hexadecimal, numbers in the order in which they were
set aside. In it the tables and the meta file under the names that they had, and `tablet`: one record of
`record` at position 0 whose payload is a msgpack map {tablet, why, state, entries}: `state` as in the
manifest, `entries` those that were in the log and not committed.

Bound: all together take `aside_bytes`; beyond that the oldest go. The newest stays if it fits alone.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from penncloud.lsm.entry import Entry
from penncloud.lsm.manifest import TabletState
from penncloud.lsm.record import decode, encode
from penncloud.lsm.store import ROOT, Store, meta_path, table_path
from penncloud.lsm.tablet import TabletStore
from penncloud.platform.disk import Disk
from penncloud.platform.errors import DiskError, DiskFull

ASIDE: Final = f"{ROOT}/aside"
_NAME: Final = re.compile(r"[0-9a-f]{8}-([0-9a-f]{8})")


class SetAside(msgspec.Struct, frozen=True):
    """What the file `tablet` says."""

    tablet: int
    why: str
    state: TabletState
    entries: tuple[Entry, ...]


async def set_aside(store: Store, tablet: TabletStore) -> None:
    """Give a tablet's files second names, durably. On a full disk there are none, and the log says so.

    Raises DiskFailed.
    """
    try:
        await _set_aside(store, tablet)
    except DiskFull as error:
        number = tablet.tablet
        store.log.error("no room to set tablet {tablet} aside: {error}", tablet=number, error=error)


async def _set_aside(store: Store, tablet: TabletStore) -> None:
    disk, state = store.disk, tablet.state
    names = names_of(disk)
    paths = [table_path(ref.file) for ref in state.tables]
    paths += [meta_path(state.meta)] if state.meta else []
    paths = [path for path in paths if disk.exists(path)]
    _make_room(store, names, sum(disk.size_bytes(path) for path in paths))
    number = 1 + max((int(name[9:], 16) for name in names), default=0)
    directory = f"{ASIDE}/{tablet.tablet:08x}-{number:08x}"
    disk.makedirs(directory)
    for path in paths:
        disk.link(path, f"{directory}/{path.rpartition('/')[2]}")
    entries = tuple(pending.entry for pending in tablet.pending)
    content = SetAside(tablet.tablet, tablet.damage, state, entries)
    record = encode([msgspec.msgpack.encode(content)], 0, 0)
    await disk.replace(f"{directory}/tablet", b"".join(record))
    await disk.sync_dir(ASIDE)
    await disk.sync_dir(ROOT)


def _make_room(store: Store, names: list[str], size: int) -> None:
    sizes = {name: size_of(store.disk, name) for name in names}
    held = sum(sizes.values())
    for name in sorted(names, key=lambda name: name[9:]):
        if held + size <= store.options.aside_bytes:
            return
        store.log.warn("too much is set aside: {name} goes", name=name)
        for inner in store.disk.listdir(f"{ASIDE}/{name}"):
            store.discard(f"{ASIDE}/{name}/{inner}")
        store.discard(f"{ASIDE}/{name}")
        held -= sizes[name]
    if size > store.options.aside_bytes:
        raise DiskFull(f"{size} bytes are more than may be set aside")


def names_of(disk: Disk) -> list[str]:
    """The directories that are there, by tablet."""
    return [name for name in disk.listdir(ASIDE) if _NAME.fullmatch(name)]


def size_of(disk: Disk, name: str) -> int:
    """Of one of them, in bytes."""
    path = f"{ASIDE}/{name}"
    return sum(disk.size_bytes(f"{path}/{inner}") for inner in disk.listdir(path))


def read_aside(disk: Disk, name: str) -> SetAside | None:
    """What is known of one of them; None when that cannot be read."""
    try:
        record = decode(disk.read(f"{ASIDE}/{name}/tablet"), 0, 0)
        return None if record is None else msgspec.msgpack.decode(record.payload, type=SetAside)
    except (FileNotFoundError, DiskError, msgspec.DecodeError):
        return None

"""Making a table file of cells, in slices and with few bytes unsynced at any moment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from penncloud.lsm.memtable import Slot
from penncloud.lsm.pacing import Pacer
from penncloud.lsm.store import Store, table_path
from penncloud.lsm.table import Table
from penncloud.lsm.table_writer import TableWriter
from penncloud.platform.disk import AppendFile
from penncloud.platform.errors import DiskError

# Bytes after which the file is synced: bounds memory, and what a log's sync may have to wait for.
_SYNC_BYTES: Final = 1024 * 1024


async def build_table(
    store: Store, cells: Iterator[tuple[bytes, Slot]], at_most: int
) -> Table | None:
    """Write `cells` (at most so many, in the order of keys) to a new file, durably with its name.

    None when there were none. Raises DiskError, TableDamaged when the file cannot be read back, and
    what the iterator raises; nothing is left then.
    """
    number = store.new_file()
    path = table_path(number)
    file = store.disk.create(path, background=True)
    try:
        finished = await _write(store, file, cells, at_most)
        await store.disk.sync_dir("lsm/tables")
    except BaseException:
        _close(file)
        store.discard(path)
        raise
    _close(file)
    if not finished:
        store.discard(path)
        return None
    try:
        return store.open_table(number)
    except BaseException:
        store.discard(path)
        raise


async def _write(
    store: Store, file: AppendFile, cells: Iterator[tuple[bytes, Slot]], at_most: int
) -> bool:
    writer = TableWriter(file.append, at_most, store.salt(), store.options)
    pacer = Pacer(store.clock)
    synced = 0
    for key, slot in cells:
        if not writer.add(key, slot):
            continue
        if writer.size_bytes - synced >= _SYNC_BYTES:
            synced = writer.size_bytes
            await file.sync()
            pacer.restart()
        elif pacer.due():
            await pacer.rest()
    properties = writer.finish()
    await file.sync()
    return properties is not None


def _close(file: AppendFile) -> None:
    file.close().addErrback(lambda failure: failure.trap(DiskError))

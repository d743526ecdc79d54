"""Making a table file of cells, with few bytes unsynced at any moment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from penncloud.lsm.block import RawCell
from penncloud.lsm.pacing import Pacer
from penncloud.lsm.store import TABLES, Store, table_path
from penncloud.lsm.table import Table
from penncloud.lsm.table_writer import TableWriter
from penncloud.platform.disk import AppendFile
from penncloud.platform.errors import DiskError

# Bytes after which the file is synced: bounds memory, and what a log's sync may have to wait for.
_SYNC_BYTES: Final = 1024 * 1024


async def build_table(store: Store, runs: Iterator[list[RawCell]], at_most: int) -> Table | None:
    """Write cells (at most so many, in the order of keys) to a new file, durably with its name.

    None when there were none. Raises DiskError, TableDamaged when the file cannot be read back, and
    what the iterator raises; nothing is left then.
    """
    number = store.new_file()
    path = table_path(number)
    file = store.disk.create(path, background=True)
    try:
        writer = TableWriter(file.append, at_most, store.salt(), store.options)
        await _write(file, writer, runs, Pacer(store.clock))
        properties = writer.finish()
        await file.sync()
        await store.disk.sync_dir(TABLES)
    except BaseException:
        _close(file)
        store.discard(path)
        raise
    _close(file)
    if properties is None:
        store.discard(path)
        return None
    try:
        return store.open_table(number)
    except BaseException:
        store.discard(path)
        raise


async def _write(
    file: AppendFile, writer: TableWriter, runs: Iterator[list[RawCell]], pacer: Pacer
) -> None:
    synced = 0
    for run in runs:
        writer.add(run)
        if writer.size_bytes - synced >= _SYNC_BYTES:
            synced = writer.size_bytes
            await file.sync()
            pacer.restart()
        elif pacer.due():
            await pacer.rest()


def _close(file: AppendFile) -> None:
    file.close().addErrback(lambda failure: failure.trap(DiskError))

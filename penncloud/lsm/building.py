"""Making a table file of cells, with few bytes unsynced at any moment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from penncloud.lsm.block import RawCell
from penncloud.lsm.options import EngineOptions
from penncloud.lsm.pacing import Pacer
from penncloud.lsm.store import Store, table_path
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
        pacer = Pacer(store.clock)
        finished = await write_table(file, runs, at_most, store.salt(), store.options, pacer)
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


async def write_table(  # noqa: PLR0917
    file: AppendFile,
    runs: Iterator[list[RawCell]],
    at_most: int,
    salt: int,
    options: EngineOptions,
    pacer: Pacer | None,
) -> bool:
    """Write and sync; false when there were no cells. Rests when `pacer` says so (None: never)."""
    writer = TableWriter(file.append, at_most, salt, options)
    synced = 0
    for run in runs:
        writer.add(run)
        if writer.size_bytes - synced >= _SYNC_BYTES:
            synced = writer.size_bytes
            await file.sync()
            if pacer is not None:
                pacer.restart()
        elif pacer is not None and pacer.due():
            await pacer.rest()
    properties = writer.finish()
    await file.sync()
    return properties is not None


def _close(file: AppendFile) -> None:
    file.close().addErrback(lambda failure: failure.trap(DiskError))

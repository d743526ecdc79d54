"""The child process of a large merge: `python -m penncloud.lsm.merge_child`, see `merge_process`.

It imports neither Twisted nor the engine: it starts in a quarter of the time.
"""

from __future__ import annotations

import gc
from typing import Final

import msgspec
from attrs import evolve

from penncloud.lsm.cache import BlockCache
from penncloud.lsm.errors import NewerFormat, TableDamaged
from penncloud.lsm.merge_job import InputDamaged, Merged, MergeJob, MergeRequest, Refused, surviving
from penncloud.lsm.options import EngineOptions
from penncloud.lsm.table import Table
from penncloud.lsm.table_writer import TableWriter
from penncloud.platform.child_main import child_main
from penncloud.platform.errors import DiskError, DiskFull
from penncloud.platform.plain_files import PlainFiles

# For the filters and indexes of the inputs.
_CACHE_BYTES: Final = 64 * 1024 * 1024


def merge_tables(directory: str, job: MergeJob) -> bool:
    """Make the output, synced but for its name; false when no cells were left.

    Raises TableDamaged, NewerFormat, DiskError; the output is then of no use.
    """
    files = PlainFiles(directory)
    cache = BlockCache(_CACHE_BYTES)
    tables = [Table(files, path, number, cache) for number, path in enumerate(job.inputs)]
    options = evolve(
        EngineOptions(),
        block_bytes=job.block_bytes,
        bloom_bits_per_key=job.bloom_bits_per_key,
        compression=job.compression,
    )
    at_most = sum(table.properties.cells for table in tables)
    output = files.create(job.output)
    try:
        writer = TableWriter(output.write, at_most, job.salt, options)
        for run in surviving(tables, job.low, job.high, job.drop_tombstones):
            writer.add(run)
        properties = writer.finish()
        output.sync()
    finally:
        output.close()
    return properties is not None


def _answer(data: bytes) -> bytes:
    request = msgspec.msgpack.decode(data, type=MergeRequest)
    try:
        answer: Merged | InputDamaged | Refused = Merged(
            merge_tables(request.directory, request.job)
        )
    except TableDamaged as error:
        answer = InputDamaged(error.path, error.offset, error.reason)
    except (DiskError, NewerFormat) as error:
        answer = Refused(isinstance(error, DiskFull), str(error))
    return msgspec.msgpack.encode(answer)


if __name__ == "__main__":
    # A merge makes many objects and no cycles of them: looking for such is an eighth of its time.
    gc.disable()
    child_main(_answer)

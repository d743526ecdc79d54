"""Writing a table file; see `table` for the format."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate

import google_crc32c
import msgspec

from penncloud.lsm.block import RawCell, count_tombstones, encode_block, encode_cell, seal
from penncloud.lsm.bloom import BloomBuilder
from penncloud.lsm.memtable import StoredCell
from penncloud.lsm.options import EngineOptions
from penncloud.lsm.table import (
    BLOCK_AT,
    FOOTER,
    FOOTER_CRC,
    FORMAT_VERSION,
    MAGIC,
    Properties,
)


class TableWriter:
    """Takes cells in the order of keys and hands the file's bytes to `write`, block by block.

    `cells` is how many there will be at most; `salt` a random 64-bit number.
    """

    def __init__(
        self, write: Callable[[list[bytes]], object], cells: int, salt: int, options: EngineOptions
    ) -> None:
        self._write = write
        self._salt = salt
        self._block_bytes = options.block_bytes
        self._compress = options.compression == "zstd"
        self._filter = BloomBuilder(cells, options.bloom_bits_per_key)
        # Key and encoded cell of what the next block will hold.
        self._keys: list[bytes] = []
        self._block: list[bytes] = []
        self._gathered_bytes = 0
        self._index: list[bytes] = []
        self._first_key = self._last_key = b""
        self._cells = self._tombstones = self._data_bytes = 0
        self.size_bytes = 0

    def add(self, run: Sequence[RawCell]) -> None:
        """Take some cells. A block ends with the cell that makes it large enough."""
        if not run:
            return
        keys, cells = zip(*run, strict=True)
        # What is gathered before each cell, and after the last one, if no block ended.
        gathered = list(accumulate(map(len, cells), initial=self._gathered_bytes))
        start = ended = 0
        while (end := bisect_left(gathered, ended + self._block_bytes, start + 1)) <= len(cells):
            self._keys += keys[start:end]
            self._block += cells[start:end]
            self._gathered_bytes = gathered[end] - ended
            self._finish_block()
            start, ended = end, gathered[end]
        self._keys += keys[start:]
        self._block += cells[start:]
        self._gathered_bytes = gathered[-1] - ended

    def _finish_block(self) -> None:
        keys, block = self._keys, self._block
        content = encode_block(block)
        place = self._append(content)
        self._index.append(encode_cell(keys[0], StoredCell(0, BLOCK_AT.pack(*place))))
        self._filter.add(keys)
        if not self._cells:
            self._first_key = keys[0]
        self._last_key = keys[-1]
        self._cells += len(keys)
        self._tombstones += count_tombstones(content, block)
        self._data_bytes += self._gathered_bytes
        keys.clear()
        block.clear()
        self._gathered_bytes = 0

    def _append(self, content: bytes) -> tuple[int, int]:
        offset = self.size_bytes
        parts = seal(content, self._salt, offset, self._compress)
        self._write(parts)
        self.size_bytes += sum(map(len, parts))
        return offset, self.size_bytes - offset

    def finish(self) -> Properties | None:
        """Write what is left; None, and a file of no use, when no cell was added."""
        if self._block:
            self._finish_block()
        if not self._cells:
            return None
        properties = Properties(
            self._cells, self._tombstones, self._data_bytes, self._first_key, self._last_key
        )
        places = (
            *self._append(self._filter.finish()),
            *self._append(encode_block(self._index)),
            *self._append(msgspec.msgpack.encode(properties)),
        )
        footer = FOOTER.pack(MAGIC, FORMAT_VERSION, self._salt, *places)
        parts = [footer, FOOTER_CRC.pack(google_crc32c.value(footer))]
        self._write(parts)
        self.size_bytes += sum(map(len, parts))
        return properties

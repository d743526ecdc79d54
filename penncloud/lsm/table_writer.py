"""Writing a table file; see `table` for the format."""

from __future__ import annotations

from collections.abc import Callable

import google_crc32c
import msgspec

from penncloud.lsm.block import cell_bytes, encode_block, seal
from penncloud.lsm.bloom import BloomBuilder
from penncloud.lsm.memtable import Slot, StoredCell, Tombstone
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
        self._block: list[tuple[bytes, Slot]] = []
        self._gathered_bytes = 0
        self._index: list[tuple[bytes, Slot]] = []
        self._cells = self._tombstones = self._data_bytes = 0
        self._last_key = b""
        self.size_bytes = 0

    def add(self, key: bytes, slot: Slot) -> bool:
        """Take one cell; true when that has completed a block, which is a good moment to pause."""
        self._block.append((key, slot))
        self._gathered_bytes += cell_bytes(key, slot)
        if self._gathered_bytes < self._block_bytes:
            return False
        self._finish_block()
        return True

    def _finish_block(self) -> None:
        block, self._block = self._block, []
        place = self._append(encode_block(block))
        self._index.append((block[0][0], StoredCell(0, BLOCK_AT.pack(*place))))
        self._filter.add(key for key, _slot in block)
        self._last_key = block[-1][0]
        self._cells += len(block)
        self._tombstones += sum(isinstance(slot, Tombstone) for _key, slot in block)
        self._data_bytes += self._gathered_bytes
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
            self._cells, self._tombstones, self._data_bytes, self._index[0][0], self._last_key
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

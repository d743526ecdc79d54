"""Table files (SSTables): immutable, sorted by key, with an index and a Bloom filter.

Format (blocks and their trailers: see `block`; integers little-endian)

    data blocks
    filter      content: see `bloom`; with a trailer
    index       a block: for each data block a cell with the block's first key, version 0, and as value
                8 bytes offset and 4 bytes length in the file, trailer included
    properties  content: msgpack map of `Properties`; with a trailer
    footer      72 bytes: b"PCTABLE1"; format version (4 bytes), 1; salt (8); then for filter, index and
                properties: offset (8) and length (8), trailer included; CRC32C of the 68 bytes before

Values are not cut: a block holds at least one whole cell, however large.

Filter and index are read together when they are first needed, and live in the block cache like data blocks.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, Protocol

import google_crc32c
import msgspec

from penncloud.lsm.block import Block, RawCell, checked, is_tombstone, unseal
from penncloud.lsm.bloom import WORD_BYTES, Probe, may_contain, probe_of
from penncloud.lsm.cache import BlockCache, Cached
from penncloud.lsm.errors import NewerFormat, TableDamaged
from penncloud.lsm.memtable import FIRST_RUN, RUN, Slot, StoredCell
from penncloud.platform.errors import DiskError

if TYPE_CHECKING:
    # A merge in a child process needs no Twisted, and starts the sooner for it.
    from penncloud.lsm.pacing import Pacer
    from penncloud.platform.disk import ReadFile

MAGIC: Final = b"PCTABLE1"
FORMAT_VERSION: Final = 1
FOOTER: Final = Struct("<8sIQ6Q")
FOOTER_CRC: Final = Struct("<I")
FOOTER_BYTES: Final = FOOTER.size + FOOTER_CRC.size
BLOCK_AT: Final = Struct("<QI")
# Place of the guide among what is kept of a table, beside the numbers of its blocks.
_GUIDE: Final = -1


class OpensFiles(Protocol):
    """As much of a disk as a table needs."""

    def open_read(self, path: str) -> ReadFile:
        """Raises FileNotFoundError, DiskError."""
        ...


class Properties(msgspec.Struct, frozen=True):
    """What is known of a table as a whole. `data_bytes`: its cells, encoded, before compression."""

    cells: int
    tombstones: int
    data_bytes: int
    first_key: bytes
    last_key: bytes


class _Guide(Cached):
    """What a look-up asks first: the filter, and the first keys of the data blocks and their places."""

    __slots__ = ("keys", "places", "word_count", "words")

    def __init__(self, words: bytes, index: Block, path: str, offset: int) -> None:
        self.words = words
        self.word_count = len(words) // WORD_BYTES
        self.keys = [index.key(number) for number in range(len(index))]
        self.places: list[tuple[int, int]] = []
        for number in range(len(index)):
            slot = index.slot(number)
            if not isinstance(slot, StoredCell) or len(slot.value) != BLOCK_AT.size:
                raise TableDamaged(path, offset, "the index is none")
            self.places.append(BLOCK_AT.unpack(slot.value))
        super().__init__(len(words) + sum(200 + len(key) for key in self.keys))


class Table:
    """One table file opened for reading; `number` is its name in the manifest.

    All reads raise TableDamaged for what is not as it was written or cannot be read.
    """

    def __init__(self, disk: OpensFiles, path: str, number: int, cache: BlockCache) -> None:
        """Open the file and check its footer and properties. Raises NewerFormat, TableDamaged."""
        self.path = path
        self.number = number
        self._cache = cache
        # The guide, and data blocks by number, as far as they are in the cache.
        self._kept: dict[int, Any] = {}
        self._references = 1
        try:
            self.file: ReadFile = disk.open_read(path)
        except FileNotFoundError:
            raise TableDamaged(path, 0, "missing") from None
        except DiskError as error:
            raise TableDamaged(path, 0, str(error)) from error
        try:
            self._read_footer()
        except (TableDamaged, NewerFormat):
            self.file.close()
            raise

    def _read_footer(self) -> None:
        self.size_bytes = self.file.size_bytes
        start = self.size_bytes - FOOTER_BYTES
        data = self._pread(start, FOOTER_BYTES) if start >= 0 else b""
        if len(data) != FOOTER_BYTES or data[: len(MAGIC)] != MAGIC:
            raise TableDamaged(self.path, max(0, start), "not a table, or cut off")
        if google_crc32c.value(data[: FOOTER.size]) != FOOTER_CRC.unpack_from(data, FOOTER.size)[0]:
            raise TableDamaged(self.path, start, "the checksum does not match")
        _magic, version, self._salt, *places = FOOTER.unpack_from(data)
        if version > FORMAT_VERSION:
            raise NewerFormat(
                f"{self.path}: has format version {version}, "
                f"this program knows up to {FORMAT_VERSION}"
            )
        self._filter_at = (places[0], places[1])
        self._index_at = (places[2], places[3])
        self.properties = msgspec.msgpack.decode(
            self._content(places[4], places[5]), type=Properties
        )

    # -- reading blocks -----------------------------------------------------------------------

    def _pread(self, offset: int, size: int) -> bytes:
        try:
            return self.file.pread(offset, size)
        except DiskError as error:
            raise TableDamaged(self.path, offset, str(error)) from error

    def _content(self, offset: int, size: int) -> bytes:
        return unseal(self._pread(offset, size), self._salt, offset, self.path)

    def _guide(self) -> _Guide:
        guide: _Guide | None = self._kept.get(_GUIDE)
        if guide is None:
            guide = self._read_guide()
            self._cache.put(self._kept, _GUIDE, guide)
        guide.used = True
        return guide

    def _read_guide(self) -> _Guide:
        words = self._content(*self._filter_at)
        index = Block(self._content(*self._index_at))
        return _Guide(words, index, self.path, self._index_at[0])

    def _block(self, guide: _Guide, number: int) -> Block:
        block: Block | None = self._kept.get(number)
        if block is not None:
            block.used = True
            self._cache.hits += 1
            return block
        return self._read_block(guide, number)

    def _read_block(self, guide: _Guide, number: int) -> Block:
        self._cache.misses += 1
        block = Block(self._content(*guide.places[number]))
        if self._cache.worth(block.size_bytes):
            self._cache.put(self._kept, number, block)
        return block

    # -- reading cells ------------------------------------------------------------------------

    def get(self, key: bytes, probe: Probe) -> Slot | None:
        """The slot of a key, if the table has one; `probe` is the key's, see `bloom`."""
        kept = self._kept
        guide: _Guide = kept.get(_GUIDE) or self._guide()
        guide.used = True
        # `may_contain`, without the call.
        position, bits = probe
        start = (position * guide.word_count >> 32) * WORD_BYTES
        if int.from_bytes(guide.words[start : start + WORD_BYTES], "little") & bits != bits:
            return None
        number = bisect_right(guide.keys, key) - 1
        if number < 0:
            return None
        block: Block | None = kept.get(number)
        if block is None:
            block = self._read_block(guide, number)
        else:
            block.used = True
            self._cache.hits += 1
        return block.get(key)

    def runs(
        self, first: bytes, last: bytes, reverse: bool = False
    ) -> Iterator[list[tuple[bytes, Slot]]]:
        """Slots with first <= key < last, in order or in reverse, some at a time."""
        if last <= self.properties.first_key or first > self.properties.last_key:
            return
        guide = self._guide()
        start = max(0, bisect_right(guide.keys, first) - 1)
        stop = bisect_left(guide.keys, last)
        if reverse:
            yield from self._backward(guide, range(start, stop), first, last)
        else:
            yield from self._forward(guide, range(start, stop), first, last)

    def _forward(
        self, guide: _Guide, numbers: range, first: bytes, last: bytes
    ) -> Iterator[list[tuple[bytes, Slot]]]:
        most = FIRST_RUN
        for number in numbers:
            block = self._block(guide, number)
            index = block.find(first) if number == numbers.start else 0
            while run := block.forward(index, last, most):
                yield run
                index += len(run)
                if len(run) < most and index < len(block):
                    return
                most = min(2 * most, RUN)

    def _backward(
        self, guide: _Guide, numbers: range, first: bytes, last: bytes
    ) -> Iterator[list[tuple[bytes, Slot]]]:
        most = FIRST_RUN
        for number in reversed(numbers):
            block = self._block(guide, number)
            index = block.find(last) if number == numbers.stop - 1 else len(block)
            while run := block.backward(index, first, most):
                yield run
                index -= len(run)
                if len(run) < most and index > 0:
                    return
                most = min(2 * most, RUN)

    def raw_runs(self, first: bytes, last: bytes) -> Iterator[list[RawCell]]:
        """The cells with first <= key < last as they stand in the blocks, in order, some at a time.

        For merges: what is read stays out of the cache.
        """
        guide = self._guide()
        start = max(0, bisect_right(guide.keys, first) - 1)
        stop = bisect_left(guide.keys, last)
        for number in range(start, stop):
            raw = Block(self._content(*guide.places[number])).raw()
            if number in (start, stop - 1):
                raw = [cell for cell in raw if first <= cell[0] < last]
            if raw:
                yield raw

    def spread(self, first: bytes, last: bytes) -> list[tuple[bytes, int]]:
        """First key and size in the file of each data block that may hold keys in [first, last)."""
        guide = self._guide()
        start = max(0, bisect_right(guide.keys, first) - 1)
        return [
            (key, place[1])
            for key, place in zip(guide.keys[start:], guide.places[start:], strict=True)
            if key < last
        ]

    def verify(self) -> None:
        """Check every block, the order of keys, filter, index and properties. Raises TableDamaged."""
        for _cells in self.verified():
            pass

    def places(self) -> list[tuple[int, int]]:
        """Offset and size of every data block; all else in the file is read anew, and so checked."""
        self._read_footer()
        return list(self._read_guide().places)

    def check_block(self, place: tuple[int, int]) -> None:
        """Check the checksum of one block as it stands in the file, whatever the cache has."""
        checked(self._pread(*place), self._salt, place[0], self.path)

    async def check_in_slices(self, pacer: Pacer) -> None:
        """Check every checksum in the file, beside other work; a fifth of the work of `verify`."""
        for place in self.places():
            self.check_block(place)
            if pacer.due():
                await pacer.rest()

    async def verify_in_slices(self, pacer: Pacer) -> None:
        """The same, beside other work."""
        for _cells in self.verified():
            if pacer.due():
                await pacer.rest()

    def verified(self) -> Iterator[list[RawCell]]:
        """The cells, block by block, while all is checked that `verify` checks."""
        guide = self._read_guide()
        first, previous = b"", b""
        cells = tombstones = data_bytes = 0
        for first_key, place in zip(guide.keys, guide.places, strict=True):
            block = Block(self._content(*place)).raw()
            if not block or block[0][0] != first_key:
                raise TableDamaged(self.path, place[0], "the index does not match the block")
            for key, raw in block:
                if key <= previous and cells:
                    raise TableDamaged(self.path, place[0], "keys are out of order")
                if not may_contain(guide.words, probe_of(key)):
                    raise TableDamaged(self.path, place[0], "a key is missing in the filter")
                first = first if cells else key
                previous, cells = key, cells + 1
                tombstones += is_tombstone(raw)
                data_bytes += len(raw)
            yield block
        found = Properties(cells, tombstones, data_bytes, first, previous)
        for what, name in (
            ("number of cells", "cells"),
            ("number of tombstones", "tombstones"),
            ("size of the data", "data_bytes"),
            ("first or last key", "first_key"),
            ("first or last key", "last_key"),
        ):
            if getattr(found, name) != getattr(self.properties, name):
                raise TableDamaged(self.path, 0, f"the {what} does not match")

    # -- life ---------------------------------------------------------------------------------

    def retain(self) -> Table:
        """One more user; each calls `release` once."""
        self._references += 1
        return self

    def release(self) -> bool:
        """True when that was the last user, and the file is closed."""
        self._references -= 1
        if self._references:
            return False
        self._cache.forget(self._kept)
        self.file.close()
        return True

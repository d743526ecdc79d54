"""Blocks, filters and table files: what is written is read, and nothing else."""

from __future__ import annotations

import random

import google_crc32c
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm.block import Block, encode_block, seal, unseal
from penncloud.lsm.bloom import BloomBuilder, digest_of, may_contain
from penncloud.lsm.cache import BlockCache
from penncloud.lsm.errors import NewerFormat, TableDamaged
from penncloud.lsm.keys import ABOVE_ALL
from penncloud.lsm.memtable import Slot, StoredCell, Tombstone
from penncloud.lsm.options import EngineOptions
from penncloud.lsm.table import FOOTER, Table
from penncloud.lsm.table_writer import TableWriter
from penncloud.platform.memory_disk import Fault, MemoryDisk

_slots = st.one_of(
    st.builds(StoredCell, st.integers(0, 2**63), st.binary(max_size=300)),
    st.builds(Tombstone, st.integers(0, 2**63)),
)
_cells = st.dictionaries(st.binary(min_size=1, max_size=20), _slots, max_size=60)


class BlockTests(SynchronousTestCase):
    """One block."""

    @given(_cells, st.binary(max_size=20), st.binary(max_size=20))
    def test_round_trip(self, cells: dict[bytes, Slot], first: bytes, last: bytes) -> None:
        """Every cell is found, no other is, and scans give any interval both ways."""
        block = Block(encode_block(sorted(cells.items())))
        expected = [(key, cells[key]) for key in sorted(cells) if first <= key < last]
        for grows in (bool(cells), False):
            for key, slot in cells.items():
                self.assertEqual(block.get(key), slot)
                if key + b"\0" not in cells:
                    self.assertIsNone(block.get(key + b"\0"))
            self.assertEqual(list(block.scan(first, last, False)), expected)
            self.assertEqual(list(block.scan(first, last, True)), expected[::-1])
            # Once more, with the keys decoded.
            self.assertEqual(sum(block.used() for _ in range(100)) > 0, grows)

    @given(st.binary(max_size=2000), st.booleans())
    def test_seal(self, content: bytes, compress: bool) -> None:
        """A sealed block opens with its own salt and offset only, and compresses what it can."""
        content = content * 3
        data = b"".join(seal(content, 7, 100, compress))
        self.assertEqual(unseal(data, 7, 100, "t"), content)
        for salt, offset in ((8, 100), (7, 101)):
            with self.assertRaises(TableDamaged):
                unseal(data, salt, offset, "t")
        if compress and len(content) > 3000:
            self.assertLess(len(data), len(content))

    def test_every_bit(self) -> None:
        """No flipped bit of a sealed block goes unnoticed."""
        for compress in (False, True):
            data = b"".join(seal(b"content " * 20, 7, 100, compress))
            for bit in range(len(data) * 8):
                broken = bytearray(data)
                broken[bit // 8] ^= 1 << bit % 8
                with self.assertRaises(TableDamaged):
                    unseal(bytes(broken), 7, 100, "t")


class BloomTests(SynchronousTestCase):
    """The filter."""

    def test_no_false_negative_and_few_false_positives(self) -> None:
        """Every added key is found; about one other in a hundred is, with 12 bits per key."""
        builder = BloomBuilder(10_000, 12)
        builder.add(b"key %d" % number for number in range(10_000))
        words = builder.finish()
        self.assertTrue(all(may_contain(words, digest_of(b"key %d" % n)) for n in range(10_000)))
        wrong = sum(may_contain(words, digest_of(b"other %d" % n)) for n in range(20_000))
        self.assertLess(wrong, 20_000 * 0.012)

    def test_more_bits(self) -> None:
        """More bits per key make it more precise."""

        def wrong(bits: int) -> int:
            builder = BloomBuilder(2000, bits)
            builder.add(b"key %d" % number for number in range(2000))
            words = builder.finish()
            return sum(may_contain(words, digest_of(b"other %d" % n)) for n in range(5000))

        self.assertGreater(wrong(4), 3 * wrong(8))
        self.assertGreater(wrong(8), 3 * wrong(16))

    def test_empty(self) -> None:
        """A filter of no keys contains none."""
        self.assertFalse(may_contain(BloomBuilder(0, 12).finish(), digest_of(b"key")))


class CacheTests(SynchronousTestCase):
    """The block cache."""

    def test_bound(self) -> None:
        """The least recently used go first, the last one stays, tables can be forgotten."""

        class Item:
            def __init__(self, size_bytes: int) -> None:
                self.size_bytes = size_bytes

        cache = BlockCache(1000)
        items = [Item(10) for _ in range(120)]
        for number, item in enumerate(items):
            cache.put((number % 2, number), item)
            self.assertIs(cache.get((0, 0)), items[0])
        self.assertEqual(cache.size_bytes, 1000)
        self.assertIsNone(cache.get((1, 1)))
        items[119].size_bytes += 300
        cache.grown(300)
        self.assertEqual(cache.size_bytes, 1000)
        self.assertIs(cache.get((1, 119)), items[119])
        self.assertTrue(cache.worth(15))
        self.assertFalse(cache.worth(16))
        cache.forget(0)
        self.assertIsNone(cache.get((0, 0)))
        self.assertIs(cache.get((1, 119)), items[119])
        cache.put((2, 0), Item(5000))
        self.assertIsNone(cache.get((1, 119)))
        self.assertIsNotNone(cache.get((2, 0)))


class TableTests(SynchronousTestCase):
    """A whole file."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.disk = MemoryDisk(self.clock, random.Random(0))
        self.options = EngineOptions(block_bytes=200)
        self.cells: dict[bytes, Slot] = {
            b"key %04d" % n: StoredCell(n, b"v" * (n % 50)) if n % 7 else Tombstone(n)
            for n in range(0, 400, 2)
        }

    def _write(self, cells: dict[bytes, Slot], options: EngineOptions | None = None) -> bytes:
        parts: list[bytes] = []
        writer = TableWriter(parts.extend, len(cells), 99, options or self.options)
        for key in sorted(cells):
            writer.add(key, cells[key])
        writer.finish()
        return b"".join(parts)

    def _open(self, content: bytes) -> Table:
        self.disk.replace("t", content)
        self.clock.advance(1)
        return Table(self.disk, "t", 1, BlockCache(100_000))

    def test_round_trip(self) -> None:
        """Get and scan agree with what was written, compressed or not; verify finds nothing."""
        for compression in ("none", "zstd"):
            options = EngineOptions(block_bytes=200, compression=compression)
            table = self._open(self._write(self.cells, options))
            for number in range(400):
                key = b"key %04d" % number
                self.assertEqual(table.get(key, digest_of(key)), self.cells.get(key))
            expected = sorted(self.cells.items())
            self.assertEqual(list(table.scan(b"", ABOVE_ALL)), expected)
            self.assertEqual(list(table.scan(b"", ABOVE_ALL, True)), expected[::-1])
            for first, last in ((b"key 0101", b"key 0105"), (b"z", ABOVE_ALL), (b"", b"a")):
                inside = [cell for cell in expected if first <= cell[0] < last]
                self.assertEqual(list(table.scan(first, last)), inside)
                self.assertEqual(list(table.scan(first, last, True)), inside[::-1])
            self.assertEqual(table.properties.cells, 200)
            self.assertEqual(table.properties.tombstones, 29)
            table.verify()

    def test_large_and_empty_values(self) -> None:
        """Values of 1 MiB and of no bytes, in one table."""
        cells: dict[bytes, Slot] = {
            b"large": StoredCell(1, bytes(range(256)) * 4096),
            b"empty": StoredCell(2, b""),
        }
        table = self._open(self._write(cells))
        self.assertEqual(dict(table.scan(b"", ABOVE_ALL)), cells)
        table.verify()

    def test_nothing_written(self) -> None:
        """A table of no cells is not made."""
        writer = TableWriter(lambda parts: None, 0, 1, self.options)
        self.assertIsNone(writer.finish())

    def test_every_bit(self) -> None:
        """Any flipped bit is either reported or has no effect on anything that is read."""
        content = self._write(dict(list(self.cells.items())[:40]))
        expected = list(self._open(content).scan(b"", ABOVE_ALL))
        for bit in range(0, len(content) * 8, 5):
            broken = bytearray(content)
            broken[bit // 8] ^= 1 << bit % 8
            with self.assertRaises((TableDamaged, NewerFormat), msg=f"bit {bit}"):
                table = self._open(bytes(broken))
                found = list(table.scan(b"", ABOVE_ALL))
                self.assertEqual(found, expected)
                table.verify()

    def test_cut_and_missing(self) -> None:
        """A file that was cut, is something else or is not there is damage."""
        content = self._write(self.cells)
        for length in (0, 10, 80, len(content) - 1):
            with self.assertRaises(TableDamaged):
                self._open(content[:length])
        with self.assertRaises(TableDamaged):
            self._open(b"something else " * 20)
        with self.assertRaises(TableDamaged):
            Table(self.disk, "nothing", 1, BlockCache(1))

    def test_unreadable(self) -> None:
        """A sector that cannot be read is damage like a wrong one."""
        table = self._open(self._write(self.cells))
        self.disk.faults[self.disk.operations] = Fault.FAIL
        with self.assertRaises(TableDamaged):
            table.get(b"key 0002", digest_of(b"key 0002"))

    def test_newer_format(self) -> None:
        """A table of a later version is refused, and says so."""
        content = bytearray(self._write(self.cells))
        start = len(content) - FOOTER.size - 4
        content[start + 8] = 9
        crc = google_crc32c.value(bytes(content[start:-4]))
        content[-4:] = crc.to_bytes(4, "little")
        with self.assertRaisesRegex(NewerFormat, "version 9"):
            self._open(bytes(content))

    def test_references(self) -> None:
        """The file is closed when its last user has released it."""
        table = self._open(self._write(self.cells))
        table.retain()
        self.assertFalse(table.release())
        self.assertTrue(table.release())

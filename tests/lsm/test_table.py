"""Blocks, filters and table files: what is written is read, and nothing else."""

from __future__ import annotations

import random
from bisect import bisect_left

import google_crc32c
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm.block import Block, encode_block, encode_cell, seal, unseal
from penncloud.lsm.bloom import BloomBuilder, may_contain, probe_of
from penncloud.lsm.cache import BlockCache, Cached
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


_names = st.text("ab", min_size=1, max_size=4).map(str.encode)
# Keys begin each other and stand in values, also as whole cells.
_confusing: st.SearchStrategy[dict[bytes, Slot]] = st.dictionaries(
    _names,
    st.builds(
        StoredCell,
        st.integers(0, 3),
        st.one_of(_names, _names.map(lambda name: encode_cell(name, StoredCell(1, name)))),
    ),
    max_size=40,
)


def _encoded(cells: dict[bytes, Slot]) -> bytes:
    return encode_block([encode_cell(key, cells[key]) for key in sorted(cells)])


def _scanned(
    table: Table, first: bytes = b"", last: bytes = ABOVE_ALL, reverse: bool = False
) -> list[tuple[bytes, Slot]]:
    return [cell for run in table.runs(first, last, reverse) for cell in run]


class BlockTests(SynchronousTestCase):
    """One block."""

    @given(_cells)
    def test_get(self, cells: dict[bytes, Slot]) -> None:
        """Every cell is found, and no other is."""
        block = Block(_encoded(cells))
        for key, slot in cells.items():
            self.assertEqual(block.get(key), slot)
            for other in (key + b"\0", key[:-1], b"\0" + key):
                self.assertEqual(block.get(other), cells.get(other))

    def test_keys_inside_values(self) -> None:
        """A key that also stands in values, or begins or ends another key, is told from those."""
        names = [b"a", b"aa", b"ab", b"b", b"ba", b"bab", b"c"]
        inside = b"".join(encode_cell(name, StoredCell(9, b"wrong")) for name in names)
        cells: dict[bytes, Slot] = {name: StoredCell(1, inside + name) for name in names}
        for missing in names:
            block = Block(_encoded({key: cells[key] for key in cells if key != missing}))
            for name in names:
                expected = None if name == missing else cells[name]
                self.assertEqual(block.get(name), expected, (missing, name))

    @given(_confusing, st.lists(_names, min_size=1, max_size=5))
    def test_first_and_later_looks(self, cells: dict[bytes, Slot], names: list[bytes]) -> None:
        """A block that is looked into again says the same as at first, and as a list of its keys."""
        block = Block(_encoded(cells))
        keys = sorted(cells)
        for used in (False, True, True):
            block.used = used
            for name in names:
                self.assertEqual(block.find(name), bisect_left(keys, name))
                self.assertEqual(block.get(name), cells.get(name))

    @given(_cells, st.binary(max_size=20))
    def test_runs(self, cells: dict[bytes, Slot], bound: bytes) -> None:
        """Runs give any interval both ways, raw cells are those that were put in."""
        block = Block(_encoded(cells))
        expected = sorted(cells.items())
        self.assertEqual(block.raw(), [(key, encode_cell(key, slot)) for key, slot in expected])
        start = block.find(bound)
        self.assertEqual(start, sum(key < bound for key in cells))
        self.assertEqual(block.forward(start, ABOVE_ALL, 9), expected[start:][:9])
        self.assertEqual(block.forward(0, bound, 9), expected[:start][:9])
        self.assertEqual(block.backward(start, b"", 9), expected[:start][::-1][:9])
        self.assertEqual(block.backward(len(block), bound, 9), expected[start:][::-1][:9])

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
        self.assertTrue(all(may_contain(words, probe_of(b"key %d" % n)) for n in range(10_000)))
        wrong = sum(may_contain(words, probe_of(b"other %d" % n)) for n in range(20_000))
        self.assertLess(wrong, 20_000 * 0.012)

    def test_more_bits(self) -> None:
        """More bits per key make it more precise."""

        def wrong(bits: int) -> int:
            builder = BloomBuilder(2000, bits)
            builder.add(b"key %d" % number for number in range(2000))
            words = builder.finish()
            return sum(may_contain(words, probe_of(b"other %d" % n)) for n in range(5000))

        self.assertGreater(wrong(4), 3 * wrong(8))
        self.assertGreater(wrong(8), 3 * wrong(16))

    def test_empty(self) -> None:
        """A filter of no keys contains none."""
        self.assertFalse(may_contain(BloomBuilder(0, 12).finish(), probe_of(b"key")))


class CacheTests(SynchronousTestCase):
    """The block cache."""

    def test_bound(self) -> None:
        """What is not used goes first, the last one stays, tables can be forgotten."""
        cache = BlockCache(1000)
        homes: list[dict[int, Cached]] = [{}, {}]
        items = [Cached(10) for _ in range(120)]
        for number, item in enumerate(items):
            cache.put(homes[number % 2], number, item)
            items[0].used = True
        self.assertEqual(cache.size_bytes, 1000)
        self.assertEqual(set(homes[1]), {n for n in range(21, 120) if n % 2})
        self.assertEqual(set(homes[0]), {0} | {n for n in range(22, 120) if n % 2 == 0})
        self.assertTrue(cache.worth(15))
        self.assertFalse(cache.worth(16))
        cache.forget(homes[0])
        self.assertEqual((homes[0], cache.size_bytes), ({}, len(homes[1]) * 10))
        cache.put(homes[0], 2, Cached(5000))
        self.assertEqual((list(homes[0]), homes[1]), ([2], {}))

    def test_all_in_use(self) -> None:
        """Where everything is used, the bound holds all the same."""
        cache = BlockCache(1000)
        home: dict[int, Cached] = {}
        for number in range(300):
            cache.put(home, number, Cached(10))
            for item in home.values():
                item.used = True
            self.assertLessEqual(cache.size_bytes, 1000)
        self.assertEqual(len(home), 100)
        self.assertIn(299, home)


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
            writer.add([(key, encode_cell(key, cells[key]))])
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
                self.assertEqual(table.get(key, probe_of(key)), self.cells.get(key))
            expected = sorted(self.cells.items())
            self.assertEqual(_scanned(table), expected)
            self.assertEqual(_scanned(table, reverse=True), expected[::-1])
            for first, last in ((b"key 0101", b"key 0105"), (b"z", ABOVE_ALL), (b"", b"a")):
                inside = [cell for cell in expected if first <= cell[0] < last]
                self.assertEqual(_scanned(table, first, last), inside)
                self.assertEqual(_scanned(table, first, last, True), inside[::-1])
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
        self.assertEqual(dict(_scanned(table)), cells)
        table.verify()

    def test_nothing_written(self) -> None:
        """A table of no cells is not made."""
        writer = TableWriter(lambda parts: None, 0, 1, self.options)
        self.assertIsNone(writer.finish())

    def test_every_bit(self) -> None:
        """Any flipped bit is either reported or has no effect on anything that is read."""
        content = self._write(dict(list(self.cells.items())[:40]))
        expected = _scanned(self._open(content))
        for bit in range(0, len(content) * 8, 5):
            broken = bytearray(content)
            broken[bit // 8] ^= 1 << bit % 8
            with self.assertRaises((TableDamaged, NewerFormat), msg=f"bit {bit}"):
                table = self._open(bytes(broken))
                found = _scanned(table)
                self.assertEqual(found, expected)
                table.verify()

    def test_every_byte_of_an_open_table(self) -> None:
        """What checks a table that has long been open reads all of its file, the footer too."""
        content = self._write(dict(list(self.cells.items())[:40]))
        table = self._open(content)
        for offset in range(len(content)):
            self.disk.flip_bit("t", 8 * offset + offset % 8)
            with self.assertRaises(TableDamaged, msg=f"byte {offset}"):
                for place in table.places():
                    table.check_block(place)
            self.disk.flip_bit("t", 8 * offset + offset % 8)
        self.assertEqual(dict(_scanned(table)), dict(list(self.cells.items())[:40]))

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
            table.get(b"key 0002", probe_of(b"key 0002"))

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

"""The raw view: all cells once, whatever their bytes, tablet by tablet."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from penncloud.client.memory import MemoryTable
from penncloud.client.raw import MemoryRawCells
from penncloud.placement.tablets import Tablet, TabletMap, even_ranges
from penncloud.services.raw_cells import (
    BadPlace,
    CellPage,
    Cursor,
    RawView,
    decode_name,
    encode_name,
    parse_prefix,
    show_value,
)

_T = TypeVar("_T")


def tablets(count: int) -> TabletMap:
    """Tablets 1 to `count`, served by two addresses in turn."""
    return TabletMap(
        1,
        [
            Tablet(i + 1, lo, hi, 1, f"127.0.0.1:{1 + i % 2}", ())
            for i, (lo, hi) in enumerate(even_ranges(count))
        ],
    )


class RawViewTests(SynchronousTestCase):
    """Walking over the store."""

    def setUp(self) -> None:
        self.table = MemoryTable()
        self.raw = MemoryRawCells(self.table, tablets(5))
        self.view = RawView(self.raw, self.table)

    def result(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self.successResultOf(Deferred.fromCoroutine(work))

    def put(self, row: bytes, col: bytes, value: bytes = b"v") -> None:
        self.result(self.table.put(row, col, value))

    def pages(self, prefix: bytes = b"", limit: int = 7) -> list[CellPage]:
        pages, at = [], ""
        while True:
            page = self.result(self.view.page(Cursor.parse(at), prefix, limit, {}))
            pages.append(page)
            self.assertLess(len(pages), 1000)
            if not page.following:
                return pages
            at = page.following

    def test_every_cell_is_seen_exactly_once(self) -> None:
        """Over all tablets, with pages that end in the middle of a row."""
        wanted = {(b"row/%d" % i, b"col%d" % j) for i in range(20) for j in range(5)}
        for row, col in wanted:
            self.put(row, col)
        seen = [
            (decode_name(cell.row_key), decode_name(cell.col_key))
            for page in self.pages()
            for cell in page.cells
        ]
        self.assertEqual(sorted(seen), sorted(wanted))

    def test_a_prefix_finds_its_rows_in_every_tablet(self) -> None:
        """And nothing else, however the others are named."""
        for i in range(30):
            for name in (b"mail/%d", b"mailbox/%d", b"a/%d", b"z/%d"):
                self.put(name % i, b"c")
        cells = [cell for page in self.pages(b"mail/") for cell in page.cells]
        self.assertEqual({cell.row for cell in cells}, {f"mail/{i}" for i in range(30)})
        self.assertEqual(len(cells), 30)
        self.assertGreater(len({cell.tablet for cell in cells}), 1)

    def test_the_longest_names_do_not_end_the_walk(self) -> None:
        """A page that ends on names of 1024 bytes of 0xff goes on behind them."""
        rows = [b"\xff" * 1024, b"\xff" * 1023, b"r" * 1024]
        cols = [b"\xff" * 1024, b"c" * 1024, b"c" * 1023 + b"d", b"z"]
        for row in rows:
            for col in cols:
                self.put(row, col)
        seen = {(cell.row, cell.col) for page in self.pages(limit=1) for cell in page.cells}
        self.assertEqual(len(seen), len(rows) * len(cols))

    def test_a_silent_tablet_is_named_and_passed_over(self) -> None:
        """The rest of the store is still shown."""
        for i in range(40):
            self.put(b"%d" % i, b"c")
        self.raw.down.add(2)
        pages = self.pages(limit=100)
        (told,) = [text for page in pages for text in page.unreachable]
        self.assertIn("tablet 2", told)
        seen = {cell.tablet for page in pages for cell in page.cells}
        self.assertEqual(seen, {1, 3, 4, 5})

    def test_one_page_looks_at_a_bounded_number_of_tablets(self) -> None:
        """A prefix that is nowhere in a large cluster gives empty pages with a next one."""
        self.raw.tablets = tablets(100)
        pages = self.pages(b"nowhere")
        self.assertGreater(len(pages), 2)
        self.assertEqual([cell for page in pages for cell in page.cells], [])

    def test_servers_are_named_by_id(self) -> None:
        """The address in the map becomes the id where it is known."""
        self.put(b"r", b"c")
        servers = {"127.0.0.1:1": "storage-1", "127.0.0.1:2": "storage-2"}
        page = self.result(self.view.page(Cursor(), b"", 10, servers))
        self.assertIn(page.cells[0].server, servers.values())

    def test_a_long_value_is_cut_and_whole_on_request(self) -> None:
        """The page has its beginning and size; `value` gives every byte."""
        value = bytes(range(256)) * 4000
        self.put(b"r", b"c", value)
        (cell,) = self.result(self.view.page(Cursor(), b"", 10, {})).cells
        self.assertTrue(cell.value.cut)
        self.assertEqual(cell.size, len(value))
        whole = self.result(self.view.value(b"r", b"c"))
        self.assertEqual(whole.value if whole else None, value)
        self.assertIsNone(self.result(self.view.value(b"r", b"other")))


class PresentationTests(SynchronousTestCase):
    """Bytes as people see and type them."""

    def test_printable_values_are_text_and_others_hex(self) -> None:
        """UTF-8 counts as printable, control characters and broken UTF-8 do not."""
        self.assertEqual(show_value("Grüße\n".encode(), 8).form, "text")
        self.assertEqual(show_value(b"a\x00b", 3).text, "61 00 62")
        self.assertEqual(show_value(b"\x1b[31m", 5).form, "hex")
        self.assertEqual(show_value("\u202eevil".encode(), 7).form, "hex")
        self.assertEqual(show_value(b"\xff\xfe", 2).form, "hex")

    def test_a_cut_through_a_character_stays_text(self) -> None:
        """The broken end is left away; the same bytes uncut are not text."""
        broken = "Straße €".encode()[:-1]
        self.assertEqual(show_value(broken, 100).text, "Straße ")
        self.assertEqual(show_value(broken, len(broken)).form, "hex")

    def test_a_prefix_can_be_typed_as_it_is_or_as_it_is_shown(self) -> None:
        """Plain text, non-ASCII, and the percent-encoding of the wire."""
        self.assertEqual(parse_prefix("user/al"), b"user/al")
        self.assertEqual(parse_prefix("ü;"), "ü;".encode())
        self.assertEqual(parse_prefix("%00%FF%25"), b"\x00\xff%")
        for bad in ("100%", "%GG", "x" * 1025):
            with self.assertRaises(BadPlace):
                parse_prefix(bad)

    @given(st.integers(0, 2**32 - 1), st.binary(max_size=1024), st.binary(max_size=1024))
    def test_a_cursor_survives_the_address(self, lo: int, row: bytes, col: bytes) -> None:
        """Whatever bytes the names have."""
        cursor = Cursor(lo, row, col)
        self.assertEqual(Cursor.parse(str(cursor)), cursor)
        self.assertEqual(decode_name(encode_name(row)), row)

    @given(st.text(max_size=60))
    def test_a_damaged_cursor_is_refused(self, text: str) -> None:
        """Never a traceback: either a place or BadPlace."""
        try:
            Cursor.parse(text)
        except BadPlace:
            return

"""The raw view: every cell of the store, page by page, whoever owns it.

Theory of operation
    Tablets are walked in the order of their hash ranges and each in (row, column) order. A cursor is
    a place in that walk: the lower end of a hash range, and the (row, column) to go on from. It names
    no tablet id, so that a split between two pages loses nothing.

    Rows lie by hash, so those with one prefix are spread over all tablets: a jump to a prefix looks in
    each tablet at the place where they would be. What one page may look at is bounded; a page can so
    be empty and still have a next one. A tablet that does not answer is named on the page and passed
    over.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from typing import Final

from attrs import frozen

from penncloud.client.raw import RawCells
from penncloud.client.table import Cell, Table, Unavailable, after, prefix_stop
from penncloud.placement.tablets import HASH_SPACE, Tablet
from penncloud.platform.errors import PennCloudError
from penncloud.wire.limits import MAX_COL_BYTES, MAX_ROW_BYTES
from penncloud.wire.messages import CellLine, Cells
from penncloud.wire.names import BadField, quote, unquote

# Scans that one page may cost: a rare prefix in a cluster of many tablets goes over several pages.
_MAX_SCANS: Final = 32
# A tablet that has not answered by then is passed over: the page is to show what answers.
_DEADLINE_S: Final = 2.0
# Beginning of a value that a page shows, in bytes.
SHOWN_BYTES: Final = 256

_NEEDS_ESCAPE: Final = re.compile(rb"[^\x20-\x3a\x3c-\x7e]")


class BadPlace(PennCloudError):
    """A cursor or a name in the address is not one of ours; shown to the person as it is."""


@frozen
class Cursor:
    """A place in the walk: the tablet that holds hash `lo`, from (row, col) on."""

    lo: int = 0
    row: bytes = b""
    col: bytes = b""

    def __str__(self) -> str:
        """As it stands in an address."""
        names = (urlsafe_b64encode(name).decode().rstrip("=") for name in (self.row, self.col))
        return ".".join((str(self.lo), *names))

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """The reverse of `str`; empty text is the beginning. Raises BadPlace."""
        if not text:
            return cls()
        parts = text.split(".")
        if len(parts) != 3 or not re.fullmatch("[0-9]{1,10}", parts[0]):
            raise BadPlace("This page address is damaged: begin again at the first page.")
        return cls(int(parts[0]), decode_name(parts[1]), decode_name(parts[2]))


def encode_name(name: bytes) -> str:
    """A row or column for an address."""
    return urlsafe_b64encode(name).decode().rstrip("=")


def decode_name(text: str) -> bytes:
    """The reverse of `encode_name`. Raises BadPlace."""
    try:
        name = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (Base64Error, ValueError) as error:
        raise BadPlace("This address names no cell.") from error
    if len(name) > max(MAX_ROW_BYTES, MAX_COL_BYTES):
        raise BadPlace("A row or column name is at most 1024 bytes long.")
    return name


def parse_prefix(text: str) -> bytes:
    """What a person typed as the beginning of a row: as it is, or percent-encoded as it is shown."""
    raw = text.encode("utf-8", "surrogatepass")
    escaped = _NEEDS_ESCAPE.sub(lambda match: b"%%%02X" % match.group()[0], raw)
    try:
        prefix = unquote(escaped)
    except BadField as error:
        raise BadPlace(f"“{text}” is not the beginning of a row: {error}.") from error
    if len(prefix) > MAX_ROW_BYTES:
        raise BadPlace("A row name is at most 1024 bytes long.")
    return prefix


@frozen
class ShownValue:
    """A value for people. `form` is "text" or "hex"; `cut` where it is only the beginning."""

    form: str
    text: str
    cut: bool


def show_value(value: bytes, size: int) -> ShownValue:
    """Printable UTF-8 as text, everything else as hex; `size` is the value's full size."""
    cut = size > len(value)
    # A cut may have gone through a character of up to four bytes.
    for shorter in range(4 if cut else 1):
        try:
            text = value[: len(value) - shorter].decode("utf-8")
        except UnicodeDecodeError:
            continue
        if all(character.isprintable() or character in "\n\t" for character in text):
            return ShownValue("text", text, cut)
        break
    return ShownValue("hex", value.hex(" "), cut)


@frozen
class ShownCell:
    """One row of the page: names percent-encoded as on the wire."""

    tablet: int
    server: str
    row: str
    col: str
    version: int
    size: int
    value: ShownValue
    row_key: str
    col_key: str


@frozen
class CellPage:
    """`unreachable` tells the tablets passed over; `following` is empty at the end of the store."""

    cells: list[ShownCell]
    unreachable: list[str]
    following: str


class RawView:
    """Pages of cells over all tablets."""

    def __init__(self, raw: RawCells, table: Table) -> None:
        self._raw = raw
        self._table = table

    async def page(
        self, cursor: Cursor, prefix: bytes, limit: int, servers: dict[str, str]
    ) -> CellPage:
        """At most `limit` cells from `cursor` on, of the rows that begin with `prefix`.

        `servers` gives ids for the addresses in the tablet map. Raises Unavailable when there is no
        tablet map.
        """
        tablets = (await self._raw.tablet_map()).tablets
        shown: list[ShownCell] = []
        unreachable: list[str] = []
        place: Cursor | None = cursor if cursor.row >= prefix else Cursor(cursor.lo, prefix)
        for _ in range(_MAX_SCANS):
            if place is None or len(shown) >= limit:
                break
            tablet = _holding(tablets, place.lo)
            if tablet is None:
                place = None
                break
            server = servers.get(tablet.primary, tablet.primary)
            try:
                found = await self._scan(tablet, place, limit - len(shown))
            except Unavailable as error:
                unreachable.append(f"tablet {tablet.id} ({server or 'no primary'}): {error}")
                place = _beyond(tablet, prefix)
                continue
            wanted = [line for line in found.cells if line.row.startswith(prefix)]
            shown.extend(_shown(line, tablet.id, server) for line in wanted)
            if found.more and found.cells and len(wanted) == len(found.cells):
                place = _behind(place.lo, found.cells[-1]) or _beyond(tablet, prefix)
            else:
                place = _beyond(tablet, prefix)
        return CellPage(shown, unreachable, "" if place is None else str(place))

    async def _scan(self, tablet: Tablet, place: Cursor, limit: int) -> Cells:
        if not tablet.primary:
            raise Unavailable("its server is dead or stopped")
        return await self._raw.scan_tablet(
            tablet.id, place.row, place.col, limit, SHOWN_BYTES, deadline_s=_DEADLINE_S
        )

    async def value(self, row: bytes, col: bytes) -> Cell | None:
        """One whole cell. Raises Unavailable, or Refused for an impossible name."""
        return await self._table.get(row, col)


def _holding(tablets: tuple[Tablet, ...], lo: int) -> Tablet | None:
    return next((tablet for tablet in tablets if tablet.lo <= lo < tablet.hi), None)


def _beyond(tablet: Tablet, prefix: bytes) -> Cursor | None:
    return None if tablet.hi >= HASH_SPACE else Cursor(tablet.hi, prefix)


def _behind(lo: int, line: CellLine) -> Cursor | None:
    """The first place behind a cell; the longest names have no name of their own length + 1."""
    if len(line.col) < MAX_COL_BYTES:
        return Cursor(lo, line.row, after(line.col))
    if column := prefix_stop(line.col):
        return Cursor(lo, line.row, column)
    if len(line.row) < MAX_ROW_BYTES:
        return Cursor(lo, after(line.row))
    row = prefix_stop(line.row)
    return Cursor(lo, row) if row else None


def _shown(line: CellLine, tablet: int, server: str) -> ShownCell:
    return ShownCell(
        tablet,
        server,
        quote(line.row).decode(),
        quote(line.col).decode(),
        line.version,
        line.size,
        show_value(line.value, line.size),
        encode_name(line.row),
        encode_name(line.col),
    )

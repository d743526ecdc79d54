"""The store as it lies in its tablets: the administrator's raw view, below rows that anybody owns.

`router.RoutedTable` is the real one: it asks the primary of a tablet (`SCANT`). `MemoryRawCells` here is
its fake: it cuts a `MemoryTable` into tablets.
"""

from __future__ import annotations

from typing import Protocol

from attrs import define, field

from penncloud.client.memory import MemoryTable
from penncloud.client.table import Refused, Unavailable
from penncloud.placement.tablets import TabletMap
from penncloud.wire.limits import MAX_SCAN_BYTES, MAX_SCAN_CELLS
from penncloud.wire.messages import CellLine, Cells


class RawCells(Protocol):
    """Both methods raise `client.table.Unavailable` when nobody answers in time."""

    async def tablet_map(self) -> TabletMap:
        """All tablets, as the coordinators know them now. `Tablet.primary` may be an address."""
        ...

    async def scan_tablet(
        self,
        tablet: int,
        row: bytes,
        col: bytes,
        limit: int,
        max_value: int,
        *,
        deadline_s: float | None = None,
    ) -> Cells:
        """Cells of one tablet from (row, col) on: rows in an order of the store's own, each by column.

        Values longer than `max_value` bytes come cut, with their full size. A reply may hold fewer
        cells than `limit` although `Cells.more`: its bytes are bounded too.
        """
        ...


@define
class MemoryRawCells:
    """A `MemoryTable` seen through `tablets`; those whose id is in `down` do not answer."""

    table: MemoryTable
    tablets: TabletMap
    down: set[int] = field(factory=set)

    async def tablet_map(self) -> TabletMap:
        if self.table.unavailable:
            raise Unavailable("no coordinator answers")
        return self.tablets

    async def scan_tablet(
        self,
        tablet: int,
        row: bytes,
        col: bytes,
        limit: int,
        max_value: int,
        *,
        deadline_s: float | None = None,
    ) -> Cells:
        if self.table.unavailable or tablet in self.down:
            raise Unavailable(f"tablet {tablet} does not answer")
        if not 0 < limit <= MAX_SCAN_CELLS:
            raise Refused("FORMAT", f"a limit is between 1 and {MAX_SCAN_CELLS}")
        found: list[CellLine] = []
        held = 0
        for line in self._lines(tablet, row, col, max_value):
            if len(found) == limit or (found and held + len(line.value) > MAX_SCAN_BYTES):
                return Cells(tuple(found), True)
            found.append(line)
            held += len(line.value)
        return Cells(tuple(found), False)

    def _lines(self, tablet: int, row: bytes, col: bytes, max_value: int) -> list[CellLine]:
        lines = []
        for name, cells in sorted(self.table.rows().items()):
            place = self.tablets.find(name)
            if place is None or place.id != tablet or name < row:
                continue
            for column in cells.irange(col if name == row else b""):
                version, value = cells[column]
                lines.append(CellLine(name, column, version, len(value), value[:max_value]))
        return lines

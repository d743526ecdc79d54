"""What became of uploads, so that one that is finished twice makes one file.

The answer to the last step of an upload may be lost, between the store and a frontend or between the
frontend and the browser; then it is sent again, perhaps to another frontend and while the first one is still
at it. All of them know it by the id that the browser gave to it. The mutation that makes the file visible is
conditional on the mark of that id being missing, and puts it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from penncloud.client.table import IfVersion, PutCell, SubOperation, Table, delete_all
from penncloud.services.blobs import together
from penncloud.services.days import days_to_look, today
from penncloud.services.files._layout import UPLOADED, Entry, Stored, uploaded_col


class Uploaded:
    """The marks of one user's uploads. `now` gives Unix seconds."""

    def __init__(self, table: Table, row: bytes, now: Callable[[], float]) -> None:
        self._table = table
        self._row = row
        self._now = now

    async def find(self, upload_id: str) -> Entry | None:
        """The file that this upload made in the last days, as it was then."""
        days = days_to_look(self._now())
        cells = await together(
            self._table.get(self._row, uploaded_col(day, upload_id)) for day in days
        )
        for cell in cells:
            if cell is not None:
                stored = msgspec.json.decode(cell.value, type=Stored)
                return Entry(stored.folder, stored.record, cell.version)
        return None

    def once(self, upload_id: str, made: Entry) -> list[SubOperation]:
        """What the mutation that makes the file visible has to contain."""
        now = self._now()
        mark = msgspec.json.encode(Stored(made.folder, made.record))
        return [
            *(IfVersion(uploaded_col(day, upload_id), 0) for day in days_to_look(now)),
            PutCell(uploaded_col(today(now), upload_id), mark),
        ]

    async def forget(self) -> None:
        """Forget the uploads of days that nobody looks under any more."""
        stop = uploaded_col(days_to_look(self._now())[0], "")
        await delete_all(self._table, self._row, UPLOADED, stop)

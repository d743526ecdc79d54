"""The in-memory table passes the table's contract, and can be told to fail."""

from __future__ import annotations

from penncloud.client.memory import MemoryTable
from penncloud.client.table import Table, Unavailable
from tests.client.table_contract import TableContract, deferred, raised


class MemoryTableTests(TableContract):
    """See TableContract."""

    def make_table(self) -> Table:
        return MemoryTable()

    @deferred
    async def test_unavailable(self) -> None:
        """A table told to be unavailable raises, and afterwards has what it had."""
        table = MemoryTable()
        await table.put(b"r", b"c", b"v")
        table.unavailable = True
        await raised(Unavailable, table.get(b"r", b"c"))
        await raised(Unavailable, table.put(b"r", b"c", b"w"))
        table.unavailable = False
        cell = await table.get(b"r", b"c")
        assert cell is not None
        self.assertEqual(cell.value, b"v")


del TableContract

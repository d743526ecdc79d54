"""The verified fake of the table: the same behaviour in one process's memory.

One `MemoryTable` is one store; several users of it see each other's writes, as several clients of a
cluster do. Failures can be asked for: `table.unavailable = True` makes every call raise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from attrs import define, field
from sortedcontainers import SortedDict

from penncloud.client.table import (
    AppendCell,
    Cell,
    Conflict,
    DeleteCell,
    IfValue,
    IfVersion,
    Page,
    PutCell,
    Refused,
    SubOperation,
    Unavailable,
    appended,
)
from penncloud.wire.limits import (
    MAX_COL_BYTES,
    MAX_MUTATION_BYTES,
    MAX_MUTATIONS,
    MAX_PREFIX_BYTES,
    MAX_ROW_BYTES,
    MAX_SCAN_BYTES,
    MAX_SCAN_CELLS,
    MAX_VALUE_BYTES,
)


@define
class _Watch:
    table: MemoryTable
    row: bytes
    callback: Callable[[int], None]

    def stop(self) -> None:
        watches = self.table._watches.get(self.row, [])
        if any(watch is self for watch in watches):
            watches[:] = [watch for watch in watches if watch is not self]


@define
class MemoryTable:
    """See `client.table.Table` for what the methods do."""

    unavailable: bool = False
    _version: int = 0
    _rows: dict[bytes, SortedDict] = field(factory=dict)
    _watches: dict[bytes, list[_Watch]] = field(factory=dict)

    async def get(self, row: bytes, col: bytes, *, deadline_s: float | None = None) -> Cell | None:
        self._check(row, col)
        found = self._rows.get(row, {}).get(col)
        return None if found is None else Cell(col, found[0], found[1], len(found[1]))

    async def put(
        self, row: bytes, col: bytes, value: bytes, *, deadline_s: float | None = None
    ) -> int:
        return await self.mutate(row, [PutCell(col, value)])

    async def compare_and_put(
        self,
        row: bytes,
        col: bytes,
        expected: bytes,
        value: bytes,
        *,
        deadline_s: float | None = None,
    ) -> int:
        return await self.mutate(row, [IfValue(col, expected), PutCell(col, value)])

    async def put_if_version(
        self, row: bytes, col: bytes, version: int, value: bytes, *, deadline_s: float | None = None
    ) -> int:
        return await self.mutate(row, [IfVersion(col, version), PutCell(col, value)])

    async def delete(self, row: bytes, col: bytes, *, deadline_s: float | None = None) -> bool:
        self._check(row, col)
        if col not in self._rows.get(row, {}):
            return False
        await self.mutate(row, [DeleteCell(col)])
        return True

    async def mutate(
        self, row: bytes, operations: Sequence[SubOperation], *, deadline_s: float | None = None
    ) -> int:
        self._check(row)
        if not 0 < len(operations) <= MAX_MUTATIONS:
            raise Refused("LIMIT", f"a mutation has 1 to {MAX_MUTATIONS} sub-operations")
        if sum(len(getattr(o, "value", b"")) for o in operations) > MAX_MUTATION_BYTES:
            raise Refused("FORMAT", "too many bytes in one mutation")
        cells = self._rows.get(row, {})
        for operation in operations:
            self._check_operation(operation, cells)
        self._version += 1
        cells = self._rows.setdefault(row, SortedDict())
        for operation in operations:
            match operation:
                case PutCell(col, value):
                    cells[col] = (self._version, value)
                case AppendCell(prefix, value):
                    cells[appended(prefix, self._version)] = (self._version, value)
                case DeleteCell(col):
                    cells.pop(col, None)
        for watch in list(self._watches.get(row, ())):
            watch.callback(self._version)
        return self._version

    async def scan(
        self,
        row: bytes,
        start: bytes = b"",
        stop: bytes = b"",
        *,
        limit: int = 100,
        reverse: bool = False,
        max_value: int | None = None,
        deadline_s: float | None = None,
    ) -> Page:
        self._check(row)
        if not 0 < limit <= MAX_SCAN_CELLS:
            raise Refused("FORMAT", f"a limit is between 1 and {MAX_SCAN_CELLS}")
        cells = self._rows.get(row) or SortedDict()
        found: list[Cell] = []
        held = 0
        for col in cells.irange(start, stop or None, (True, False), reverse):
            version, value = cells[col]
            shown = value if max_value is None else value[:max_value]
            if len(found) == limit or (found and held + len(shown) > MAX_SCAN_BYTES):
                return Page(tuple(found), True)
            found.append(Cell(col, version, shown, len(value)))
            held += len(shown)
        return Page(tuple(found), False)

    def watch(self, row: bytes, callback: Callable[[int], None]) -> _Watch:
        watch = _Watch(self, row, callback)
        self._watches.setdefault(row, []).append(watch)
        callback(self._version)
        return watch

    def rows(self) -> Mapping[bytes, SortedDict]:
        """Row -> column -> (version, value): what the raw view's fake (`client.raw`) cuts up."""
        return self._rows

    def _check_operation(
        self, operation: SubOperation, cells: dict[bytes, tuple[int, bytes]]
    ) -> None:
        if isinstance(operation, AppendCell):
            named = len(operation.prefix) <= MAX_PREFIX_BYTES
        else:
            named = 0 < len(operation.col) <= MAX_COL_BYTES
        if not named:
            raise Refused("FORMAT", "bad column")
        if len(getattr(operation, "value", b"")) > MAX_VALUE_BYTES:
            raise Refused("FORMAT", f"a value has at most {MAX_VALUE_BYTES} bytes")
        if isinstance(operation, IfVersion | IfValue):
            version, value = cells.get(operation.col, (0, None))
            if isinstance(operation, IfVersion):
                holds = version == operation.version
            else:
                holds = value == operation.value
            if not holds:
                raise Conflict(version, value)

    def _check(self, row: bytes, col: bytes = b"-") -> None:
        if self.unavailable:
            raise Unavailable("the store does not answer")
        if not 0 < len(row) <= MAX_ROW_BYTES or not 0 < len(col) <= MAX_COL_BYTES:
            raise Refused("FORMAT", "bad row or column")

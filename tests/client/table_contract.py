"""What every table must do: mixed into a TestCase that says how to make one.

`MemoryTable` and the client of a real cluster pass the same tests, which is what makes the former a
fake that can be believed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from penncloud.client.table import (
    AppendCell,
    Conflict,
    DeleteCell,
    IfValue,
    IfVersion,
    PutCell,
    Refused,
    SubOperation,
    Table,
    after,
    appended,
    prefix_stop,
    scan_all,
)
from penncloud.wire.limits import MAX_MUTATIONS, MAX_ROW_BYTES, MAX_VALUE_BYTES

_E = TypeVar("_E", bound=BaseException)


def deferred(
    method: Callable[..., Coroutine[Deferred[Any], Any, None]],
) -> Callable[..., Deferred[None]]:
    """Let trial run an `async def` test."""

    @wraps(method)
    def run(*args: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(method(*args))

    return run


async def raised(kind: type[_E], doing: Awaitable[Any]) -> _E:
    """The error of this kind that `doing` must end in."""
    try:
        result = await doing
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}, got {result!r}")


class TableContract(TestCase):
    """Not run by itself: `make_table` belongs to those who mix it in."""

    def make_table(self) -> Table:
        raise NotImplementedError

    def setUp(self) -> None:
        self.table = self.make_table()

    @deferred
    async def test_missing(self) -> None:
        """A cell that nobody wrote is None, and deleting it says so."""
        self.assertIsNone(await self.table.get(b"missing", b"c"))
        self.assertFalse(await self.table.delete(b"missing", b"c"))

    @deferred
    async def test_put_get(self) -> None:
        """A written value comes back byte for byte, with the version that put told."""
        for value in (b"", b"x", b"\r\n;\x00\xff%", bytes(range(256)) * 4096):
            version = await self.table.put(b"r\r\n;%\xff", b"c;\x00", value)
            cell = await self.table.get(b"r\r\n;%\xff", b"c;\x00")
            assert cell is not None
            self.assertEqual((cell.version, cell.value, cell.size), (version, value, len(value)))

    @deferred
    async def test_versions_grow(self) -> None:
        """Each mutation of a row has a higher version than the one before."""
        versions = [await self.table.put(b"row", b"c", b"%d" % i) for i in range(5)]
        self.assertEqual(versions, sorted(set(versions)))

    @deferred
    async def test_delete(self) -> None:
        """A deleted cell is missing, its neighbours are not, and it can be written again."""
        await self.table.put(b"del", b"a", b"1")
        await self.table.put(b"del", b"b", b"2")
        self.assertTrue(await self.table.delete(b"del", b"a"))
        self.assertIsNone(await self.table.get(b"del", b"a"))
        self.assertIsNotNone(await self.table.get(b"del", b"b"))
        await self.table.put_if_version(b"del", b"a", 0, b"3")
        self.assertFalse(await self.table.delete(b"del", b"zz"))

    @deferred
    async def test_compare_and_put(self) -> None:
        """CPUT writes only over exactly the expected value, and tells what stood there else."""
        version = await self.table.put(b"cas", b"c", b"one")
        conflict = await raised(
            Conflict, self.table.compare_and_put(b"cas", b"c", b"two", b"three")
        )
        self.assertEqual((conflict.version, conflict.value), (version, b"one"))
        await self.table.compare_and_put(b"cas", b"c", b"one", b"two")
        cell = await self.table.get(b"cas", b"c")
        assert cell is not None
        self.assertEqual(cell.value, b"two")

    @deferred
    async def test_compare_with_missing(self) -> None:
        """A missing cell equals no value, not even the empty one."""
        conflict = await raised(Conflict, self.table.compare_and_put(b"cas0", b"c", b"", b"x"))
        self.assertEqual((conflict.version, conflict.value), (0, None))

    @deferred
    async def test_put_if_version(self) -> None:
        """Version 0 means "only if missing"; any other must be the cell's own."""
        version = await self.table.put_if_version(b"ver", b"c", 0, b"first")
        conflict = await raised(Conflict, self.table.put_if_version(b"ver", b"c", 0, b"again"))
        self.assertEqual((conflict.version, conflict.value), (version, b"first"))
        second = await self.table.put_if_version(b"ver", b"c", version, b"second")
        await raised(Conflict, self.table.put_if_version(b"ver", b"c", version, b"third"))
        self.assertGreater(second, version)

    @deferred
    async def test_mutate_is_atomic(self) -> None:
        """When one condition fails nothing is done; conditions see the row as it was before."""
        version = await self.table.put(b"atom", b"a", b"1")
        refused: list[SubOperation] = [PutCell(b"b", b"2"), IfVersion(b"a", version + 1)]
        await raised(Conflict, self.table.mutate(b"atom", refused))
        self.assertIsNone(await self.table.get(b"atom", b"b"))
        done = await self.table.mutate(
            b"atom",
            [PutCell(b"a", b"2"), IfValue(b"a", b"1"), IfVersion(b"b", 0), DeleteCell(b"none")],
        )
        cell = await self.table.get(b"atom", b"a")
        assert cell is not None
        self.assertEqual((cell.version, cell.value), (done, b"2"))

    @deferred
    async def test_append_orders(self) -> None:
        """Appended cells stand in the order of their mutations, under the told column."""
        versions = []
        for i in range(3):
            versions.append(await self.table.mutate(b"app", [AppendCell(b"m/", b"%d" % i)]))
        page = await self.table.scan(b"app", b"m/", prefix_stop(b"m/"))
        self.assertEqual([cell.value for cell in page.cells], [b"0", b"1", b"2"])
        self.assertEqual([cell.col for cell in page.cells], [appended(b"m/", v) for v in versions])

    @deferred
    async def test_scan(self) -> None:
        """A scan gives [start, stop) in order, either way round, page by page."""
        for col in (b"a", b"b", b"b\x00", b"c", b"d"):
            await self.table.put(b"scan", col, col * 3)
        page = await self.table.scan(b"scan", b"b", b"d", limit=2)
        self.assertEqual([cell.col for cell in page.cells], [b"b", b"b\x00"])
        self.assertTrue(page.more)
        page = await self.table.scan(b"scan", after(b"b\x00"), b"d", limit=2)
        self.assertEqual(([cell.col for cell in page.cells], page.more), ([b"c"], False))
        page = await self.table.scan(b"scan", limit=2, reverse=True, max_value=1)
        self.assertEqual(
            [(c.col, c.value, c.size) for c in page.cells], [(b"d", b"d", 3), (b"c", b"c", 3)]
        )
        self.assertTrue(page.more)
        page = await self.table.scan(b"scan", b"x")
        self.assertEqual((page.cells, page.more), ((), False))

    @deferred
    async def test_scan_bounds_bytes(self) -> None:
        """A page of large values is cut by its bytes; following `more` gives all of them."""
        for i in range(5):
            await self.table.put(b"large", b"%d" % i, b"x" * MAX_VALUE_BYTES)
        page = await self.table.scan(b"large")
        self.assertTrue(page.more)
        self.assertEqual(len(await scan_all(self.table, b"large")), 5)

    @deferred
    async def test_refusals(self) -> None:
        """What breaks a limit is refused, and the table goes on."""
        await raised(Refused, self.table.put(b"r" * (MAX_ROW_BYTES + 1), b"c", b""))
        await raised(Refused, self.table.put(b"", b"c", b""))
        await raised(Refused, self.table.put(b"r", b"", b""))
        await raised(Refused, self.table.put(b"r", b"c", b"x" * (MAX_VALUE_BYTES + 1)))
        await raised(Refused, self.table.scan(b"r", limit=0))
        many = [DeleteCell(b"%d" % i) for i in range(MAX_MUTATIONS + 1)]
        await raised(Refused, self.table.mutate(b"r", many))
        await raised(Refused, self.table.mutate(b"r", []))
        await self.table.put(b"r" * MAX_ROW_BYTES, b"c", b"x")

    @deferred
    async def test_watch(self) -> None:
        """A watcher hears of a commit to its row, and of none after it stopped."""
        heard: list[int] = []
        begun: Deferred[None] = Deferred()
        changed: Deferred[None] = Deferred()
        wanted: list[int] = []

        def callback(version: int) -> None:
            heard.append(version)
            if not begun.called:
                begun.callback(None)
            if wanted and version >= wanted[0] and not changed.called:
                changed.callback(None)

        watching = self.table.watch(b"watched", callback)
        await begun
        before = await self.table.put(b"watched", b"c", b"0")
        wanted.append(before + 1)
        version = await self.table.put(b"watched", b"c", b"1")
        await changed
        self.assertIn(version, heard)
        watching.stop()
        watching.stop()
        count = len(heard)
        await self.table.put(b"watched", b"c", b"2")
        await self.table.get(b"watched", b"c")
        self.assertEqual(len(heard), count)

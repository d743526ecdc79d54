"""The stores to compare, behind one small interface."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

Cell = tuple[bytes, bytes, bytes]


# What each store may keep of its files in memory (lmdb maps its file: the system decides).
CACHE_BYTES = 32 * 2**20


class Store(Protocol):
    """`write` is durable on return; keys of the peers are row, a zero byte, column."""

    async def write(self, cells: Sequence[Cell]) -> None: ...
    def get(self, row: bytes, col: bytes) -> bytes | None: ...
    def scan_row(self, row: bytes) -> Iterator[bytes]: ...
    def scan_all(self) -> Iterator[bytes]: ...
    async def settle(self) -> None: ...
    async def close(self) -> None: ...


class _Peer:
    """What the synchronous stores have in common."""

    async def settle(self) -> None:
        """Their background work has no end that one could wait for."""

    async def close(self) -> None:
        """The process ends with the run."""


class Lmdb(_Peer):
    def __init__(self, path: str) -> None:
        import lmdb

        self._env = lmdb.open(path, map_size=16 * 2**30)

    async def write(self, cells: Sequence[Cell]) -> None:
        with self._env.begin(write=True) as transaction:
            for row, col, value in cells:
                transaction.put(row + b"\0" + col, value)

    def get(self, row: bytes, col: bytes) -> bytes | None:
        with self._env.begin() as transaction:
            found: bytes | None = transaction.get(row + b"\0" + col)
            return found

    def scan_row(self, row: bytes) -> Iterator[bytes]:
        with self._env.begin() as transaction:
            cursor = transaction.cursor()
            cursor.set_range(row + b"\0")
            for key, value in cursor:
                if not key.startswith(row + b"\0"):
                    return
                yield value

    def scan_all(self) -> Iterator[bytes]:
        with self._env.begin() as transaction:
            for _key, value in transaction.cursor():
                yield value


class Plyvel(_Peer):
    def __init__(self, path: str) -> None:
        import plyvel

        self._db = plyvel.DB(
            path, create_if_missing=True, bloom_filter_bits=10, lru_cache_size=CACHE_BYTES
        )

    async def write(self, cells: Sequence[Cell]) -> None:
        with self._db.write_batch(sync=True) as batch:
            for row, col, value in cells:
                batch.put(row + b"\0" + col, value)

    def get(self, row: bytes, col: bytes) -> bytes | None:
        found: bytes | None = self._db.get(row + b"\0" + col)
        return found

    def scan_row(self, row: bytes) -> Iterator[bytes]:
        yield from self._db.iterator(prefix=row + b"\0", include_key=False)

    def scan_all(self) -> Iterator[bytes]:
        yield from self._db.iterator(include_key=False)


class Rocksdict(_Peer):
    def __init__(self, path: str) -> None:
        import rocksdict

        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        table = rocksdict.BlockBasedOptions()
        table.set_bloom_filter(10, False)
        table.set_block_cache(rocksdict.Cache(CACHE_BYTES))
        options.set_block_based_table_factory(table)
        self._rocksdict = rocksdict
        self._db = rocksdict.Rdict(path, options)
        sync = rocksdict.WriteOptions()
        sync.sync = True
        self._db.set_write_options(sync)

    async def write(self, cells: Sequence[Cell]) -> None:
        batch = self._rocksdict.WriteBatch(raw_mode=True)
        for row, col, value in cells:
            batch.put(row + b"\0" + col, value)
        self._db.write(batch)

    def get(self, row: bytes, col: bytes) -> bytes | None:
        found: bytes | None = self._db.get(row + b"\0" + col)
        return found

    def scan_row(self, row: bytes) -> Iterator[bytes]:
        prefix = row + b"\0"
        for key, value in self._db.items(from_key=prefix):
            if not key.startswith(prefix):
                return
            yield value

    def scan_all(self) -> Iterator[bytes]:
        for _key, value in self._db.items():
            yield value


class Sqlite(_Peer):
    def __init__(self, path: str) -> None:
        os.makedirs(path, exist_ok=True)
        self._db = sqlite3.connect(os.path.join(path, "db"))
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(f"PRAGMA cache_size=-{CACHE_BYTES // 1024}")
        self._db.execute("CREATE TABLE cells (k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID")

    async def write(self, cells: Sequence[Cell]) -> None:
        with self._db:
            self._db.executemany(
                "INSERT OR REPLACE INTO cells VALUES (?, ?)",
                [(row + b"\0" + col, value) for row, col, value in cells],
            )

    def get(self, row: bytes, col: bytes) -> bytes | None:
        key = row + b"\0" + col
        found = self._db.execute("SELECT v FROM cells WHERE k = ?", (key,)).fetchone()
        return None if found is None else found[0]

    def scan_row(self, row: bytes) -> Iterator[bytes]:
        query = "SELECT v FROM cells WHERE k >= ? AND k < ? ORDER BY k"
        for (value,) in self._db.execute(query, (row + b"\0", row + b"\1")):
            yield value

    def scan_all(self) -> Iterator[bytes]:
        for (value,) in self._db.execute("SELECT v FROM cells ORDER BY k"):
            yield value


class Ours:
    """Six tablets, as a cluster has at first, with large compactions in a child process."""

    TABLETS = 6

    def __init__(self, path: str, reactor: Any, compression: str) -> None:
        from attrs import evolve
        from prometheus_client import CollectorRegistry

        from penncloud.lsm.engine import Engine
        from penncloud.lsm.entry import Entry, PutEffect
        from penncloud.lsm.keys import row_hash
        from penncloud.lsm.merge_process import ProcessMerger
        from penncloud.lsm.options import EngineOptions
        from penncloud.platform.environment import Environment
        from penncloud.platform.real_disk import RealDisk

        async def none(*_ignored: Any, **_kwargs: Any) -> Any:
            raise AssertionError("the engine needs no pool")

        os.makedirs(path, exist_ok=True)
        self._reactor = reactor
        self._disk = RealDisk(path, reactor)
        self._registry = CollectorRegistry()
        environment = Environment(reactor, time.time, random.Random(1), os.urandom, none)
        options = evolve(EngineOptions(), compression=compression, block_cache_bytes=CACHE_BYTES)
        merger = ProcessMerger(reactor, path)
        self._engine = Engine(self._disk, environment, options, self._registry, merger)
        self._versions = [0] * self.TABLETS
        self._row_hash, self._entry, self._put = row_hash, Entry, PutEffect

    async def open(self) -> None:
        await self._engine.open()
        for tablet in range(self.TABLETS):
            lo, hi = (2**32 * edge // self.TABLETS for edge in (tablet, tablet + 1))
            await self._engine.create_tablet(tablet, lo, hi)

    def _tablet(self, row: bytes) -> int:
        # The ranges of `open`, turned round.
        return ((self._row_hash(row) + 1) * self.TABLETS - 1) >> 32

    async def write(self, cells: Sequence[Cell]) -> None:
        entries = []
        for row, col, value in cells:
            tablet = self._tablet(row)
            self._versions[tablet] += 1
            effects = (self._put(row, col, value),)
            entries.append(self._entry(tablet, self._versions[tablet], 1, b"", 0, effects, b""))
        await self._engine.append(entries)
        for tablet, version in enumerate(self._versions):
            self._engine.commit(tablet, version)

    def get(self, row: bytes, col: bytes) -> bytes | None:
        found = self._engine.get(self._tablet(row), row, col)
        return None if found is None else found.value

    def scan_row(self, row: bytes) -> Iterator[bytes]:
        for cell in self._engine.scan(self._tablet(row), row):
            yield cell.value

    def scan_all(self) -> Iterator[bytes]:
        for tablet in range(self.TABLETS):
            for cell in self._engine.scan_tablet(tablet):
                yield cell.value

    async def settle(self) -> None:
        """Flush everything and let compactions end."""
        for tablet in range(self.TABLETS):
            await self._engine.checkpoint(tablet)
        while self._engine.compacting:
            await self._rest(0.05)

    async def _rest(self, seconds: float) -> None:
        from twisted.internet.task import deferLater

        await deferLater(self._reactor, seconds)

    async def close(self) -> None:
        await self._engine.close()
        await self._disk.close()

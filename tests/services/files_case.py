"""A user's files over the verified fake, on a clock that the test moves."""

from __future__ import annotations

import random
from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.platform.environment import Environment
from penncloud.services.blobs import Blobs
from penncloud.services.files import ROOT, Entry, Files
from tests.services.unreliable_table import UnreliableTable

_T = TypeVar("_T")
ROW = b"files/ann"


class World:
    """One store with the files of `ann`."""

    def __init__(self) -> None:
        self.table = UnreliableTable()
        self.time = 1_000_000.0
        entropy = random.Random(1).randbytes
        self.environment = Environment(
            reactor=Clock(),
            now=lambda: self.time,
            random=random.Random(2),
            entropy=entropy,
            run_in_thread=None,  # type: ignore[arg-type]
        )
        self.files = Files(self.table, Blobs(self.table, entropy), self.environment)
        self.home = self.files.home("ann")

    async def put(
        self,
        folder: str,
        name: str,
        data: bytes,
        replace: int | None = None,
        keep_both: bool = False,
    ) -> Entry:
        """Upload in one go."""
        upload = await self.home.upload(folder, name, replace=replace, keep_both=keep_both)
        try:
            await upload.write(data)
            return await upload.finish()
        except Exception:
            await upload.abort()
            raise

    async def content(self, entry: Entry) -> bytes:
        return b"".join([piece async for piece in self.home.read(entry)])

    async def snapshot(self, folder: str = ROOT) -> dict[str, Any]:
        """The whole tree as nested dicts, files as their bytes."""
        found: dict[str, Any] = {}
        cursor = None
        while True:
            listing = await self.home.list(folder, cursor, limit=3)
            for entry in listing.entries:
                found[entry.name] = (
                    await self.snapshot(entry.id) if entry.is_folder else await self.content(entry)
                )
            cursor = listing.cursor
            if cursor is None:
                return found


class FilesCase(SynchronousTestCase):
    """Runs coroutines that need not wait for anything."""

    def setUp(self) -> None:
        self.world = World()
        self.home = self.world.home

    def run_now(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """The result of what can run to its end at once."""
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def fails(self, coroutine: Coroutine[Any, Any, Any], kind: type[BaseException]) -> Any:
        """The exception that it raises."""
        return self.failureResultOf(Deferred.fromCoroutine(coroutine), kind).value

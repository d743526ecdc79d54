"""What a storage server needs of an engine (`lsm.engine` is the real one; the tests have a plain one).

An entry is one decided mutation of one tablet. It is appended to the log, and durable when the Deferred
of `append` fires; it enters the cells only by `commit`, which its tablet calls in version order. Reads
see committed entries only. What follows the committed point at a start is given back by `open` as the
tablet's `tail`, for its replica to decide what becomes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from twisted.internet.defer import Deferred

from penncloud.lsm.engine import TabletRecovery
from penncloud.lsm.entry import Entry
from penncloud.lsm.manifest import TabletState
from penncloud.lsm.memtable import StoredCell
from penncloud.lsm.sizes import Estimate
from penncloud.lsm.tablet import ScannedCell


class Engine(Protocol):
    """The part of `lsm.engine.Engine` that is used here; its docstrings hold."""

    async def open(self) -> list[TabletRecovery]: ...

    async def close(self) -> None: ...

    def has(self, tablet: int) -> bool: ...

    @property
    def full(self) -> bool: ...

    async def create_tablet(self, tablet: int, lo: int, hi: int) -> None: ...

    async def drop_tablet(self, tablet: int) -> None: ...

    async def split_tablet(
        self,
        tablet: int,
        at: int,
        left: int,
        right: int,
        place: tuple[int, int] | None = None,
    ) -> tuple[TabletRecovery, TabletRecovery]: ...

    def split_point(self, tablet: int) -> int | None: ...

    def checkpoint(self, tablet: int) -> Deferred[None]: ...

    def reaches_out(self, tablet: int) -> bool: ...

    def compact(self, tablet: int) -> Deferred[None]: ...

    def estimate(self, tablet: int) -> Estimate: ...

    def set_meta(self, tablet: int, provider: Callable[[], bytes]) -> None: ...

    def on_checkpoint(self, told: Callable[[int, TabletState], None]) -> None: ...

    def damage(self, tablet: int) -> str: ...

    def append(self, entries: Sequence[Entry]) -> Deferred[None]: ...

    async def void(self, tablet: int, version: int) -> None: ...

    def commit(self, tablet: int, version: int) -> None: ...

    def get(self, tablet: int, row: bytes, col: bytes) -> StoredCell | None: ...

    def scan(
        self, tablet: int, row: bytes, start: bytes = b"", stop: bytes = b"", reverse: bool = False
    ) -> Iterator[ScannedCell]: ...

    def scan_tablet(
        self, tablet: int, row: bytes = b"", col: bytes = b""
    ) -> Iterator[ScannedCell]: ...

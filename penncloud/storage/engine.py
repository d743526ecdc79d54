"""What a storage server needs of an engine: a log that several tablets share, and their cells.

Theory of operation
    An *entry* is one decided mutation of one tablet. It is appended to the log, and durable when the
    Deferred of `append` fires; it enters the cells only by `commit`, which the tablet calls in version
    order. Reads see committed entries only. What follows the committed point at a start is given back
    by `open_tablet`, for whoever decides what becomes of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from attrs import frozen
from twisted.internet.defer import Deferred

from penncloud.storage.decide import Effect
from penncloud.storage.dedup import Outcome
from penncloud.wire.messages import RequestId


@frozen
class Entry:
    """One decided mutation. Versions of a tablet are contiguous; `epoch` is the one it was decided in.

    `request_id` and `outcome` are what the table of request ids records when the entry commits.
    """

    tablet: int
    version: int
    epoch: int
    row: bytes
    effects: tuple[Effect, ...]
    request_id: RequestId | None = None
    outcome: Outcome | None = None

    @property
    def size_bytes(self) -> int:
        """About what the entry takes in memory and in the log."""
        size = 100 + len(self.row)
        for effect in self.effects:
            size += 50 + len(effect.col) + len(effect.value or b"")
        return size


@frozen
class Stored:
    """One committed cell."""

    row: bytes
    col: bytes
    version: int
    value: bytes


@frozen
class Recovered:
    """One tablet as the engine found it.

    `committed` is the version up to which the cells are complete and `request_ids` the encoded table
    of request ids at `committed`; `entries` follow it without gap and are durable, but not applied.
    """

    committed: int
    request_ids: bytes
    entries: Sequence[Entry]


class RequestIdsOf(Protocol):
    """Gives the encoded table of request ids of a tablet, as of its last `commit`."""

    def __call__(self, tablet: int) -> bytes: ...


class Engine(Protocol):
    """See the module. Reads raise `platform.errors.DiskError` where the disk cannot give the cells."""

    def open_tablet(self, tablet: int) -> Recovered:
        """Begin to use a tablet (a new one is empty); called once per tablet and start."""
        ...

    def append(self, entries: Sequence[Entry]) -> Deferred[None]:
        """Make entries durable, all or nothing.

        Errors: DiskFull (nothing was kept, and the same versions may be appended again), DiskFailed
        (nobody knows what was kept: the server has to stop).
        """
        ...

    def commit(self, tablet: int, version: int) -> None:
        """Apply the durable entries up to `version`; the table of request ids already includes them."""
        ...

    def get(self, tablet: int, row: bytes, col: bytes) -> Stored | None: ...

    def scan_row(
        self, tablet: int, row: bytes, start: bytes, stop: bytes, reverse: bool
    ) -> Iterator[Stored]:
        """Cells of a row with start <= col < stop (empty: to the end), in order or in reverse."""
        ...

    def scan_tablet(self, tablet: int, row: bytes, col: bytes) -> Iterator[Stored]:
        """Cells in (row, col) order from (row, col) on."""
        ...

    def close(self) -> Deferred[None]:
        """Let what is being written finish and release the files."""
        ...

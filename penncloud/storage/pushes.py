"""The watches of one connection, and the pushes (`!CHANGED`) that have not gone out.

While nothing can be sent they are coalesced to one per row, with the latest version. A push never goes out
before the reply to its watch.
"""

from __future__ import annotations

from collections.abc import Callable

from penncloud.storage.service import Service
from penncloud.wire.limits import MAX_WATCHES
from penncloud.wire.messages import Changed, Error, Ok, Reply, Unwatch, Watch
from penncloud.wire.replies import encode_reply


class Pushes:
    """What the service tells of changes (a `Watcher`). `told` is called when there is one to push.

    `changes` are the rows to push, and their versions.
    """

    def __init__(self, service: Service, told: Callable[[], None]) -> None:
        self._service = service
        self._told = told
        # Watched rows, and whether the client has been told that the watch holds.
        self._watched: dict[bytes, bool] = {}
        self.changes: dict[bytes, int] = {}

    def watch(self, row: bytes) -> Reply:
        """Begin a watch, as far as the bound on their number and the service allow."""
        if len(self._watched) >= MAX_WATCHES and row not in self._watched:
            return Error("LIMIT", f"a connection watches at most {MAX_WATCHES} rows")
        reply = self._service.watch(Watch(row), self)
        if isinstance(reply, Ok):
            self._watched.setdefault(row, False)
        elif self._watched.pop(row, None) is not None:
            self.changes.pop(row, None)
            self._service.unwatch(Unwatch(row), self)
        return reply

    def unwatch(self, row: bytes) -> Reply:
        """End a watch; what it has not pushed is not pushed any more."""
        self._watched.pop(row, None)
        self.changes.pop(row, None)
        return self._service.unwatch(Unwatch(row), self)

    def holds(self, row: bytes) -> None:
        """The reply to the watch has gone out."""
        if row in self._watched:
            self._watched[row] = True

    def changed(self, row: bytes, version: int) -> None:
        """Part of Watcher: told at once, or with the latest version as soon as possible."""
        if row in self._watched:
            self.changes[row] = version
            self._told()

    def take(self) -> bytes:
        """The bytes of all pushes that may go out now."""
        told = [row for row in self.changes if self._watched.get(row)]
        return b"".join([encode_reply(Changed(row, self.changes.pop(row))) for row in told])

    def clear(self) -> None:
        """The client is gone."""
        for row in self._watched:
            self._service.unwatch(Unwatch(row), self)
        self._watched.clear()
        self.changes.clear()

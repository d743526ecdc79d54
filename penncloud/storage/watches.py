"""Who wants to hear of commits to which row."""

from __future__ import annotations

from typing import Protocol


class Watcher(Protocol):
    """Someone who watches rows; compared by identity."""

    def changed(self, row: bytes, version: int) -> None:
        """`row` was written at `version`, or has moved away: read it again."""
        ...


class Watches:
    """The watchers of every row of one server. They bound their own number of rows."""

    def __init__(self) -> None:
        # Dicts as ordered sets: watchers are told in the order in which they came.
        self._rows: dict[bytes, dict[Watcher, None]] = {}

    def __len__(self) -> int:
        """Rows that anybody watches."""
        return len(self._rows)

    def add(self, row: bytes, watcher: Watcher) -> None:
        """Watching a row twice is watching it once."""
        self._rows.setdefault(row, {})[watcher] = None

    def remove(self, row: bytes, watcher: Watcher) -> None:
        """No more of this row; not watching it is no error."""
        watchers = self._rows.get(row)
        if watchers is not None:
            watchers.pop(watcher, None)
            if not watchers:
                del self._rows[row]

    def tell(self, row: bytes, version: int) -> None:
        for watcher in list(self._rows.get(row, ())):
            watcher.changed(row, version)

    def rows(self) -> list[bytes]:
        """The rows that anybody watches."""
        return list(self._rows)

"""The prepared state of one tablet at its primary: what is decided and not yet committed.

Mutations are decided against it, in the order of their versions. It is the primary's alone: whoever is
primary no more forgets it, and the log decides what becomes of the entries.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import takewhile
from typing import Any, TypeAlias

import msgspec
from twisted.internet.defer import Deferred

from penncloud.lsm.entry import Entry, PutEffect
from penncloud.storage.decide import Seen
from penncloud.storage.dedup import Outcome
from penncloud.wire.messages import Reply, RequestId

Waiting: TypeAlias = list[tuple[Deferred[Reply], Reply]]


class Prepared(msgspec.Struct, eq=False):
    """A decided mutation on its way. `waiting` are the answers due when it commits."""

    entry: Entry
    request_id: RequestId | None
    outcome: Outcome | None
    reply: Reply
    size_bytes: int
    waiting: Waiting = []
    # In async mode: it is on this disk, and was answered; and who waits for reads to see it.
    answered: bool = False
    behind: list[Deferred[Any]] = []

    def when_committed(self, reply: Reply) -> Deferred[Reply]:
        """An answer that is given when this one commits."""
        answer: Deferred[Reply] = Deferred()
        self.waiting.append((answer, reply))
        return answer

    def when_visible(self) -> Deferred[Any]:
        """Fires when it is committed, or given up."""
        visible: Deferred[Any] = Deferred()
        self.behind.append(visible)
        return visible

    def answer(self, reply: Reply | None = None) -> None:
        """Give every waiting answer: its own, or this one for all."""
        waiting, self.waiting = self.waiting, []
        for answer, own in waiting:
            answer.callback(own if reply is None else reply)
        if self.behind:
            behind, self.behind = self.behind, []
            for visible in behind:
                visible.callback(None)

    def answer_early(self, local: Callable[[Reply], Reply]) -> None:
        """Give the waiting answers before it is committed, as `local` says them."""
        self.answered = True
        waiting, self.waiting = self.waiting, []
        for answer, own in waiting:
            answer.callback(local(own))


class PreparedState:
    """See the module. Versions are contiguous."""

    def __init__(self) -> None:
        self.in_flight: deque[Prepared] = deque()
        self.size_bytes = 0
        # What they will have written, by row and column.
        self._overlay: dict[bytes, dict[bytes, Seen]] = {}
        self._by_id: dict[RequestId, Prepared] = {}

    def find(self, request_id: RequestId) -> Prepared | None:
        """The mutation of this request, if it is under way."""
        return self._by_id.get(request_id)

    def seen(self, row: bytes, col: bytes) -> Seen | None:
        """The newest write to a cell that is under way: its version and value (None: deleted)."""
        cells = self._overlay.get(row)
        return None if cells is None else cells.get(col)

    def writer(self, version: int) -> Prepared:
        """The mutation under way that has this version."""
        return self.in_flight[version - self.in_flight[0].entry.version]

    def add(self, prepared: Prepared) -> None:
        """The next one."""
        self.in_flight.append(prepared)
        self.size_bytes += prepared.size_bytes
        if prepared.request_id is not None:
            self._by_id[prepared.request_id] = prepared
        self._cover(prepared.entry)

    def _cover(self, entry: Entry) -> None:
        for effect in entry.effects:
            value = effect.value if isinstance(effect, PutEffect) else None
            cells = self._overlay.setdefault(effect.row, {})
            cells[effect.col] = (entry.version, value)

    def take(self, version: int) -> list[Prepared]:
        """Those up to `version`, which are committed: reads see them now."""
        done: list[Prepared] = []
        while self.in_flight and self.in_flight[0].entry.version <= version:
            prepared = self.in_flight.popleft()
            self.size_bytes -= prepared.size_bytes
            if prepared.request_id is not None:
                self._by_id.pop(prepared.request_id, None)
            self._uncover(prepared.entry)
            done.append(prepared)
        return done

    def _uncover(self, entry: Entry) -> None:
        """What is committed needs no overlay, unless something newer covers it."""
        for effect in entry.effects:
            cells = self._overlay.get(effect.row)
            if cells is None:
                continue
            covering = cells.get(effect.col)
            if covering is not None and covering[0] == entry.version:
                del cells[effect.col]
                if not cells:
                    del self._overlay[effect.row]

    def take_back(self) -> list[Prepared]:
        """All of them: this replica does not lead any more, or gives them up."""
        back = list(self.in_flight)
        self.in_flight.clear()
        self.size_bytes = 0
        self._overlay.clear()
        self._by_id.clear()
        return back

    def answered_in(self, row: bytes) -> Prepared | None:
        """The newest write to a row that was answered though it is under way."""
        cells = self._overlay.get(row)
        if not cells:
            return None
        versions = sorted((version for version, _ in cells.values()), reverse=True)
        writers = (self.writer(version) for version in versions)
        return next((writer for writer in writers if writer.answered), None)

    def answer_up_to(self, version: int, local: Callable[[Reply], Reply]) -> None:
        """Answer those up to `version`, which stay under way."""
        # An answer may bring the next request at once, which is added here.
        due = takewhile(lambda prepared: prepared.entry.version <= version, self.in_flight)
        for prepared in [one for one in due if not one.answered]:
            prepared.answer_early(local)

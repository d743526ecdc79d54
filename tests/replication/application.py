"""What is replicated in these tests: registers with PUT and CPUT, and the results of requests.

It stands where a storage server has its tablet: it decides mutations against the prepared state,
remembers results by request id, and applies what the replica says is committed.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable

from attrs import define, field, frozen

from penncloud.replication.messages import Entry
from penncloud.replication.replica import Replica

# (version that was written, or 0; value that was found by a failed CPUT)
Result = tuple[int, int]


@frozen(slots=True)
class Operation:
    """An entry: what request it is, and what it does (`value` None: nothing)."""

    version: int
    entry_cfg: int
    request: int
    key: int
    value: int | None
    result: Result

    @property
    def size_bytes(self) -> int:
        return 64


def noop(version: int, entry_cfg: int) -> Operation:
    return Operation(version, entry_cfg, 0, 0, None, (0, 0))


@frozen
class Request:
    """A client's mutation; `expect` None: PUT, else CPUT."""

    id: int
    key: int
    value: int
    expect: int | None


@define(eq=False)
class Application:
    """One replica's state machine."""

    broken: Callable[[str], bool]
    applied: int = 0
    # key -> (version, value)
    cells: dict[int, tuple[int, int]] = field(factory=dict)
    results: dict[int, Result] = field(factory=dict)
    prepared: dict[int, tuple[int, int]] = field(factory=dict)
    by_request: dict[int, Operation] = field(factory=dict)
    waiting: dict[tuple[int, int], list[Callable[[Result], None]]] = field(factory=dict)

    def mutate(
        self, replica: Replica, request: Request, now: float, answer: Callable[[Result], None]
    ) -> None:
        """Decide and propose; exactly once per request id. Raises Refused."""
        if not self.broken("dedup"):
            if request.id in self.results:
                answer(self.results[request.id])
                return
            if request.id in self.by_request:
                entry = self.by_request[request.id]
                waiting = self.waiting.get((entry.version, entry.entry_cfg))
                if waiting is None:
                    answer(entry.result)  # it was answered before it was committed: async mode
                else:
                    waiting.append(answer)
                return
        version, cfg = replica.next_place(now)
        cell = self.cells.get(request.key, (0, 0))
        if not self.broken("decide-on-prepared"):
            cell = self.prepared.get(request.key, cell)
        fails = request.expect is not None and request.expect != cell[1]
        value = None if fails else request.value
        result = (0, cell[1]) if fails else (version, 0)
        entry = Operation(version, cfg, request.id, request.key, value, result)
        replica.propose(entry, now)
        if value is not None:
            self.prepared[request.key] = (version, value)
        self.by_request[request.id] = entry
        self.waiting[version, cfg] = [answer]

    def apply(self, entry: Entry) -> None:
        """A committed entry takes effect."""
        assert isinstance(entry, Operation)
        if entry.version != self.applied + 1:
            raise AssertionError(f"{entry.version} applied after {self.applied}")
        self.applied = entry.version
        if entry.value is not None:
            self.cells[entry.key] = (entry.version, entry.value)
        if self.prepared.get(entry.key, (0, 0))[0] == entry.version:
            del self.prepared[entry.key]
        if entry.request:
            self.results[entry.request] = entry.result
            self.by_request.pop(entry.request, None)

    def answer(self, entry: Entry) -> None:
        """Tell those who wait for an entry."""
        assert isinstance(entry, Operation)
        for told in self.waiting.pop((entry.version, entry.entry_cfg), ()):
            told(entry.result)

    def forget_prepared(self) -> None:
        """No longer primary: nobody is told anything."""
        self.prepared.clear()
        self.by_request.clear()
        self.waiting.clear()

    def aborted(self, entries: tuple[Entry, ...]) -> None:
        """Surely not done: who waits asks again, as after any refusal."""
        for entry in entries:
            assert isinstance(entry, Operation)
            self.waiting.pop((entry.version, entry.entry_cfg), None)
            if self.by_request.get(entry.request) == entry:
                del self.by_request[entry.request]

    def encode(self) -> bytes:
        """The state of a checkpoint."""
        return pickle.dumps((self.applied, self.cells, self.results))

    def restore(self, data: bytes) -> None:
        """The reverse."""
        self.applied, self.cells, self.results = pickle.loads(data)
        self.forget_prepared()

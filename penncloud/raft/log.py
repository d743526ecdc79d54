"""The log as a node holds it in memory: everything behind the last snapshot.

Entries are *stable* once the driver has persisted them (`stable_to`); only then may a node say that it has
them. The log is bounded by compaction: `compact` forgets what a snapshot covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from penncloud.raft.messages import Entry, Membership, Snapshot


class Compacted(Exception):
    """The entries asked for are covered by the snapshot and gone."""


class RaftLog:
    """Entries (snapshot.index, last_index], contiguous."""

    def __init__(self, snapshot: Snapshot, entries: Iterable[Entry] = ()) -> None:
        """`entries` are those on disk behind `snapshot`."""
        self.snapshot = snapshot
        self._entries = list(entries)
        for expected, entry in enumerate(self._entries, snapshot.index + 1):
            if entry.index != expected:
                raise ValueError(f"entry {entry.index} stands where {expected} has to")
        self.stable_index = self.last_index
        self.commit = snapshot.index
        self.applied = snapshot.index
        self._memberships = [(snapshot.index, snapshot.membership)]
        self._note_memberships(self._entries)

    @property
    def first_index(self) -> int:
        return self.snapshot.index + 1

    @property
    def last_index(self) -> int:
        return self.snapshot.index + len(self._entries)

    @property
    def last_term(self) -> int:
        return self._entries[-1].term if self._entries else self.snapshot.term

    @property
    def membership(self) -> Membership:
        """The latest in the log, committed or not (dissertation 4.1)."""
        return self._memberships[-1][1]

    @property
    def membership_index(self) -> int:
        """Where the latest membership stands."""
        return self._memberships[-1][0]

    def membership_at(self, index: int) -> Membership:
        """The one that holds after the entry `index`, which the snapshot does not cover."""
        return next(m for at, m in reversed(self._memberships) if at <= index)

    def term(self, index: int) -> int | None:
        """The term of an entry; None beyond the end. Raises Compacted before the snapshot."""
        if index < self.snapshot.index:
            raise Compacted(index)
        if index == self.snapshot.index:
            return self.snapshot.term
        if index > self.last_index:
            return None
        return self._entries[index - self.first_index].term

    def matches(self, index: int, term: int) -> bool:
        """Whether the log holds (index, term). What the snapshot covers is committed, so it matches."""
        return index < self.snapshot.index or self.term(index) == term

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a log that ends so is at least as up to date as this one (paper 5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def slice(self, start: int, count: int, max_bytes: int) -> tuple[Entry, ...]:
        """Entries from `start` on: at least one where there is one, within count and bytes."""
        if start < self.first_index:
            raise Compacted(start)
        offset = start - self.first_index
        found: list[Entry] = []
        held = 0
        for entry in self._entries[offset : offset + count]:
            held += len(entry.data)
            if found and held > max_bytes:
                break
            found.append(entry)
        return tuple(found)

    def append(self, entry: Entry) -> None:
        """A leader's own next entry."""
        if entry.index != self.last_index + 1:
            raise ValueError(f"entry {entry.index} cannot follow {self.last_index}")
        self._entries.append(entry)
        self._note_memberships((entry,))

    def merge(self, entries: Sequence[Entry]) -> None:
        """A follower takes the leader's entries; the first conflicting one and all behind it go.

        An entry that is there already stays: a delayed message must not cut off what came later
        (paper 5.3). A conflict with a committed entry means that Raft is broken: ValueError.
        """
        for position, entry in enumerate(entries):
            if entry.index <= self.snapshot.index or self.term(entry.index) == entry.term:
                continue
            if entry.index <= self.commit:
                raise ValueError(f"entry {entry.index} is committed and conflicts")
            self._cut(entry.index)
            fresh = entries[position:]
            self._entries.extend(fresh)
            self._note_memberships(fresh)
            return

    def unstable(self) -> tuple[Entry, ...]:
        """All entries that are not yet on disk: what a node says of its log speaks of all of them."""
        return tuple(self._entries[self.stable_index - self.snapshot.index :])

    def stable_behind(self, index: int) -> tuple[Entry, ...]:
        """The entries behind `index` that are on disk."""
        first = index - self.snapshot.index
        return tuple(self._entries[first : self.stable_index - self.snapshot.index])

    def stable_to(self, index: int, term: int) -> None:
        """The driver has persisted up to here. Ignored if the entry was replaced meanwhile."""
        if index > self.stable_index and index <= self.last_index and self.term(index) == term:
            self.stable_index = index

    def restore(self, snapshot: Snapshot) -> None:
        """Replace everything by a leader's snapshot."""
        self.snapshot = snapshot
        self._entries = []
        self._memberships = [(snapshot.index, snapshot.membership)]
        self.stable_index = self.commit = self.applied = snapshot.index

    def compact(self, snapshot: Snapshot) -> None:
        """Forget what `snapshot` (of applied state) covers; what is behind it stays."""
        if not self.snapshot.index < snapshot.index <= min(self.applied, self.stable_index):
            raise ValueError(f"cannot compact to {snapshot.index}")
        if self.term(snapshot.index) != snapshot.term:
            raise ValueError("the snapshot is of another log")
        del self._entries[: snapshot.index - self.snapshot.index]
        self.snapshot = snapshot
        behind = [noted for noted in self._memberships if noted[0] > snapshot.index]
        self._memberships = [(snapshot.index, snapshot.membership), *behind]

    def first_of_term(self, index: int) -> tuple[int, int]:
        """(first index, term) of the run of entries of one term that holds `index`."""
        term = self.term(index)
        while index > self.first_index and self.term(index - 1) == term:
            index -= 1
        return index, term or 0

    def last_of_term(self, term: int, at_most: int) -> int | None:
        """The last index <= at_most whose entry has this term, if the log has one."""
        for index in range(min(at_most, self.last_index), self.snapshot.index - 1, -1):
            found = self.term(index)
            if found is not None and found <= term:
                return index if found == term else None
        return None

    def _cut(self, index: int) -> None:
        del self._entries[index - self.first_index :]
        self.stable_index = min(self.stable_index, index - 1)
        while self._memberships[-1][0] >= index:
            self._memberships.pop()

    def _note_memberships(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.membership is not None:
                self._memberships.append((entry.index, entry.membership))

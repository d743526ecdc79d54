"""A replica's log as it holds it in memory: what is behind its base, which a checkpoint covers.

Three points move over it. Entries up to `handed` were given to the driver; up to `stable` they are on
disk; up to `committed` they are final. The base is at or before the checkpoint: a primary keeps entries
that others may still need, within a bound.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Sequence

from penncloud.replication.messages import Checkpoint, Entry


class CommittedConflict(Exception):
    """A primary sends an entry that contradicts a committed one: nothing here can be trusted."""


class ReplicaLog:
    """Entries (base_version, last_version], contiguous."""

    def __init__(self, checkpoint: Checkpoint, entries: Iterable[Entry] = ()) -> None:
        """`entries` are those on disk behind the checkpoint. Only what it covers is known committed."""
        self._entries: list[Entry] = []
        # For each entry, the bytes of all that were ever appended up to it; and of those up to the base.
        self._totals: list[int] = []
        self._base_total = 0
        self.last_version = 0
        self.checkpoint = checkpoint
        self.base_version = self.base_cfg = 0
        self.handed = self.stable = self.committed = 0
        # How far each append that is under way reaches.
        self._appends: deque[int] = deque()
        self.restore(checkpoint)
        for entry in entries:
            self.append(entry)
        self.handed = self.stable = self.last_version

    @property
    def last_cfg(self) -> int:
        return self._entries[-1].entry_cfg if self._entries else self.base_cfg

    def cfg_at(self, version: int) -> int | None:
        """The entry_cfg at a version; None where the log does not reach."""
        if version == self.base_version:
            return self.base_cfg
        if self.base_version < version <= self.last_version:
            return self._entries[version - self.base_version - 1].entry_cfg
        return None

    def matches(self, version: int, entry_cfg: int) -> bool:
        """Whether (version, entry_cfg) is in the log; what is before the base is committed, so it is."""
        return version < self.base_version or self.cfg_at(version) == entry_cfg

    def slice(self, start: int, stop: int, max_bytes: int = 2**62) -> tuple[Entry, ...]:
        """Entries start <= version < stop, at least one if there is one, within `max_bytes`."""
        first = start - self.base_version - 1
        if first < 0:
            raise ValueError(f"the log begins behind {self.base_version}, {start} is gone")
        end = min(stop - self.base_version - 1, len(self._entries))
        if first >= end:
            return ()
        most = self._total(first) + max_bytes
        if self._totals[end - 1] > most:
            end = max(first + 1, bisect_right(self._totals, most, first, end))
        return tuple(self._entries[first:end])

    def _total(self, count: int) -> int:
        """Bytes of all that were ever appended, up to the first `count` entries that are here."""
        return self._totals[count - 1] if count else self._base_total

    def bytes_between(self, after: int, up_to: int) -> int:
        """Bytes of the entries after < version <= up_to, which are here."""
        return self._total(up_to - self.base_version) - self._total(after - self.base_version)

    def between(self, after: int, up_to: int) -> list[Entry]:
        """Entries after < version <= up_to, which the log reaches back to."""
        first = after - self.base_version
        if first < 0:
            raise ValueError(f"the log begins behind {self.base_version}, {after + 1} is gone")
        return self._entries[first : max(first, up_to - self.base_version)]

    def within(self, max_entries: int, max_bytes: int) -> int:
        """The lowest version behind which there are no more entries, and bytes of them, than that."""
        count = len(self._entries)
        first = max(0, count - max_entries)
        least = self._total(count) - max_bytes
        if self._total(first) < least:
            first = bisect_left(self._totals, least, first) + 1
        return self.base_version + first

    def append(self, entry: Entry) -> None:
        """The next entry. Raises ValueError out of order."""
        if entry.version != self.last_version + 1:
            raise ValueError(f"entry {entry.version} cannot follow {self.last_version}")
        totals = self._totals
        totals.append((totals[-1] if totals else self._base_total) + entry.size_bytes)
        self._entries.append(entry)
        self.last_version += 1

    def merge(self, entries: Sequence[Entry]) -> tuple[Entry, ...]:
        """Take a primary's entries, which follow on one that is here. What conflicts is cut off.

        Returns what was cut (see `cut`). An entry that is here already stays, and so does what is behind
        it: a PREP that came late must not take away what a later one brought. Raises CommittedConflict.
        """
        for place, entry in enumerate(entries):
            if entry.version <= self.base_version:
                continue
            known = self.cfg_at(entry.version)
            if known == entry.entry_cfg:
                continue
            cut: tuple[Entry, ...] = ()
            if known is not None:
                if entry.version <= self.committed:
                    raise CommittedConflict(
                        f"version {entry.version} of cfg {known} is committed,"
                        f" the primary has it from cfg {entry.entry_cfg}"
                    )
                cut = self.cut(entry.version)
            for fresh in entries[place:]:
                self.append(fresh)
            return cut
        return ()

    def cut(self, version: int) -> tuple[Entry, ...]:
        """Drop the entries from `version` on. Returns those of them that the driver had been given."""
        if version <= self.committed:
            raise CommittedConflict(f"version {version} is committed and cannot be cut off")
        kept = version - self.base_version - 1
        dropped = self._entries[kept : max(kept, self.handed - self.base_version)]
        del self._entries[kept:], self._totals[kept:]
        self.last_version = self.base_version + len(self._entries)
        self._back_to(version - 1)
        return tuple(dropped)

    def hand_out(self, up_to: int) -> tuple[Entry, ...]:
        """What has to be persisted now, of the entries up to a version."""
        if self.handed >= up_to:
            return ()
        base = self.base_version
        fresh = tuple(self._entries[self.handed - base : up_to - base])
        self.handed = up_to
        self._appends.append(up_to)
        return fresh

    def persisted(self) -> None:
        """What `hand_out` gave first, of all that is under way, is on disk (as far as not cut since)."""
        self.stable = max(self.stable, self._appends.popleft())

    def refused(self) -> None:
        """Nothing that is under way was kept: the log ends where the disk's ends."""
        kept = self.stable - self.base_version
        del self._entries[kept:], self._totals[kept:]
        self.handed = self.last_version = self.stable
        self._appends.clear()

    def _back_to(self, version: int) -> None:
        self.handed = min(self.handed, version)
        self.stable = min(self.stable, version)
        # An append under way may hold an entry of the same (version, entry_cfg) that comes back later:
        # its end does not prove that the one that came back is on disk.
        self._appends = deque(min(reach, version) for reach in self._appends)

    def commit(self, version: int) -> None:
        """Everything up to `version` is final; it is on disk here."""
        self.committed = max(self.committed, version)

    def checkpointed(self, checkpoint: Checkpoint, keep_from: int) -> None:
        """A checkpoint of committed state is on disk; entries above `keep_from` stay."""
        if not self.checkpoint.version <= checkpoint.version <= self.committed:
            raise ValueError(f"a checkpoint at {checkpoint.version}, committed {self.committed}")
        self.checkpoint = checkpoint
        base = max(self.base_version, min(checkpoint.version, keep_from))
        base_cfg = self.cfg_at(base)
        assert base_cfg is not None
        gone = base - self.base_version
        self._base_total = self._total(gone)
        del self._entries[:gone], self._totals[:gone]
        self.base_version, self.base_cfg = base, base_cfg

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become the state of a checkpoint, with nothing behind it."""
        self.checkpoint = checkpoint
        self.base_version, self.base_cfg = checkpoint.version, checkpoint.entry_cfg
        self._entries.clear()
        self._totals.clear()
        self._appends.clear()
        self.last_version = checkpoint.version
        self.handed = self.stable = self.committed = checkpoint.version

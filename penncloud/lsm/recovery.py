"""What the log says about each tablet at a start: the entries after its checkpoint, or a loss.

Theory of operation
    Versions of a tablet are contiguous, so a record that cannot be read took nothing from a tablet
    whose versions go on behind it without a gap. A tablet of which nothing follows may have lost
    something, and is damaged, unless its checkpoint covers that part of the log.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field

from penncloud.lsm.entry import Entry, Void, decode
from penncloud.lsm.manifest import TabletState
from penncloud.lsm.tablet import Pending
from penncloud.lsm.wal import Damage


@define
class TabletTail:
    """Entries after the checkpoint, in order of version; `damaged` says what is missing of them."""

    state: TabletState
    entries: list[Pending] = field(factory=list)
    damaged: str = ""

    @property
    def version(self) -> int:
        return self.entries[-1].entry.version if self.entries else self.state.version


class Replay:
    """Collects the tails while the log is read: `visit` is for `WriteAheadLog.open`."""

    def __init__(self, tablets: dict[int, TabletState]) -> None:
        self.tails = {tablet: TabletTail(state) for tablet, state in tablets.items()}

    def visit(self, position: int, data: bytes) -> None:
        """One record of the log. Raises StoreDamaged, NewerFormat."""
        record = decode(data)
        if isinstance(record, Void):
            tail = self._tail(record.tablet, position)
            if tail is not None:
                while tail.entries and tail.version > record.version:
                    tail.entries.pop()
            return
        for entry in record.entries:
            tail = self._tail(entry.tablet, position)
            if tail is not None:
                self._add(tail, entry, position)

    def _tail(self, tablet: int, position: int) -> TabletTail | None:
        """None for what a checkpoint covers, and for tablets that were dropped."""
        tail = self.tails.get(tablet)
        if tail is None or position < tail.state.log_position:
            return None
        return tail

    def _add(self, tail: TabletTail, entry: Entry, position: int) -> None:
        if entry.version <= tail.version:
            return
        if entry.version > tail.version + 1 and not tail.damaged:
            tail.damaged = f"the log lacks entries {tail.version + 1} to {entry.version - 1}"
        if not tail.damaged:
            tail.entries.append(Pending(entry, position))

    def finish(self, damages: Sequence[Damage]) -> None:
        """Take into account what could not be read."""
        for damage in damages:
            for tail in self.tails.values():
                last = tail.entries[-1].position if tail.entries else -1
                if damage.end > tail.state.log_position and last < damage.end and not tail.damaged:
                    tail.damaged = damage.reason

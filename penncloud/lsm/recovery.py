"""What the log says about each tablet at a start: the entries after its checkpoint, or a loss.

Theory of operation
    Where a part of the log cannot be read, only the tablets that lost something by that are damaged. A
    tablet has surely lost nothing if

    - its checkpoint covers that part; or
    - a note behind it (see `entry`) names the tablet's last entry, and that is here; or
    - its versions go on behind it without a gap, from a checkpoint, or in the same configuration. In a
      later one, what was cut off and written anew may have been in that part.

    A note also tells of a loss where no gap does: of the last entries, or of a cut.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from attrs import define, field

from penncloud.lsm.entry import Entry, Void, decode, decode_note
from penncloud.lsm.manifest import TabletState
from penncloud.lsm.tablet import Pending
from penncloud.lsm.wal import Damage


@define
class TabletTail:
    """Entries after the checkpoint, in order of version; `damaged` says what is missing of them."""

    state: TabletState
    entries: list[Pending] = field(factory=list)
    damaged: str = ""
    # Position of the last note that agreed with what is here; and what that was before each entry.
    agreed: int = -1
    _agreed_before: list[int] = field(factory=list)

    @property
    def version(self) -> int:
        return self.entries[-1].entry.version if self.entries else self.state.version

    @property
    def place(self) -> tuple[int, int]:
        """Version and configuration of the last entry."""
        if self.entries:
            return self.version, self.entries[-1].entry.entry_cfg
        return self.state.version, self.state.entry_cfg

    def add(self, entry: Entry, position: int) -> None:
        """The next entry of the log, if it is one that is not known."""
        if entry.version <= self.version:
            self._compare(entry)
            return
        if entry.version > self.version + 1:
            self.damaged = f"the log lacks entries {self.version + 1} to {entry.version - 1}"
            return
        self.entries.append(Pending(entry, position))
        self._agreed_before.append(self.agreed)

    def _compare(self, entry: Entry) -> None:
        place = entry.version - self.state.version - 1
        if place >= 0 and self.entries[place].entry.entry_cfg != entry.entry_cfg:
            self.damaged = f"the log lacks a cut before entry {entry.version}"

    def cut(self, version: int) -> None:
        """The entries above `version` are void."""
        while self.entries and self.version > version:
            self.entries.pop()
            self._agreed_before.pop()

    def compare(self, version: int, entry_cfg: int, position: int) -> None:
        """A note at `position` says that this was the last entry."""
        if (version, entry_cfg) == self.place:
            self.agreed = position
        elif version > self.version:
            self.damaged = f"the log lacks entries {self.version + 1} to {version}"
        elif version >= self.state.version:
            self.damaged = f"the log lacks a cut behind entry {version}"

    def lost_nothing_to(self, damage: Damage) -> bool:
        """See the module."""
        if damage.end <= self.state.log_position:
            return True
        following = bisect_left(self.entries, damage.end, key=lambda pending: pending.position)
        if following == len(self.entries):
            return self.agreed >= damage.end
        if following == 0 or self._agreed_before[following] >= damage.end:
            return True
        before, after = self.entries[following - 1].entry, self.entries[following].entry
        return before.entry_cfg == after.entry_cfg


class Replay:
    """Collects the tails while the log is read: `visit` and `noted` are for `WriteAheadLog.open`."""

    def __init__(self, tablets: dict[int, TabletState]) -> None:
        self.tails = {tablet: TabletTail(state) for tablet, state in tablets.items()}

    def visit(self, position: int, data: bytes) -> None:
        """One record of the log. Raises StoreDamaged, NewerFormat."""
        record = decode(data)
        if isinstance(record, Void):
            tail = self._tail(record.tablet, position)
            if tail is not None:
                tail.cut(record.version)
            return
        for entry in record.entries:
            tail = self._tail(entry.tablet, position)
            if tail is not None:
                tail.add(entry, position)

    def noted(self, position: int, data: bytes) -> None:
        """One note of the log. Raises StoreDamaged."""
        for tablet, (version, entry_cfg) in decode_note(data).items():
            tail = self._tail(tablet, position)
            if tail is not None:
                tail.compare(version, entry_cfg, position)

    def _tail(self, tablet: int, position: int) -> TabletTail | None:
        """None for what a checkpoint covers, and for tablets that were dropped or have lost something."""
        tail = self.tails.get(tablet)
        if tail is None or position < tail.state.log_position or tail.damaged:
            return None
        return tail

    def finish(self, damages: Sequence[Damage]) -> None:
        """Take into account what could not be read."""
        for tail in self.tails.values():
            for damage in damages:
                if not tail.damaged and not tail.lost_nothing_to(damage):
                    tail.damaged = damage.reason

"""Leader append-only and log matching, of the Raft paper's figure 3, looked at after every step.

Log matching is judged over all times, not only between logs that are there at the same moment: of an index
and a term there is one entry, and one term of the entry before it. Only what a node has on its disk counts;
what it lost in a crash before that nobody has heard of.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field

from penncloud.raft.log import RaftLog
from penncloud.raft.messages import Entry
from penncloud.raft.node import RaftNode

_ANY_SIZE: Final = 2**62


@define
class _Held:
    """What was last seen of one run of a node: the term it leads, its last entry, what is on its disk."""

    node: RaftNode
    # By which it is seen at once that nothing has happened.
    mark: tuple[object, ...] = ()
    led: int = 0
    last: Entry | None = None
    stable: dict[int, Entry] = field(factory=dict)


@define(eq=False)
class RaftLogs:
    """`look` at each node whenever it may have done something."""

    _held: dict[str, _Held] = field(factory=dict)
    # (index, term) -> the entry, and the term of the one before it.
    _known: dict[tuple[int, int], tuple[Entry, int | None]] = field(factory=dict)

    def look(self, name: str, node: RaftNode) -> str:
        """What is wrong, in words, or nothing."""
        held = self._held.get(name)
        if held is None or held.node is not node:
            held = self._held[name] = _Held(node)
        log = node.log
        mark = (node.role, node.term, log.last_index, log.last_term, log.stable_index)
        if mark == held.mark:
            return ""
        held.mark = mark
        wrong = _cut_by_its_leader(name, node, held) or self._mismatch(name, log, held)
        held.led = node.term if node.role == "leader" else 0
        held.last = _entry(log, log.last_index)
        return wrong

    def _mismatch(self, name: str, log: RaftLog, held: _Held) -> str:
        """What has come to its disk since, from the end on, until where nothing has changed."""
        index = log.stable_index
        while (entry := _entry(log, index)) is not None and held.stable.get(index) is not entry:
            held.stable[index] = entry
            before = log.term(index - 1)
            known = self._known.setdefault((index, entry.term), (entry, before))
            if known != (entry, before):
                return f"log matching: {name} has {entry} behind term {before}, others had {known}"
            index -= 1
        return ""


def _cut_by_its_leader(name: str, node: RaftNode, held: _Held) -> str:
    """A leader never overwrites or deletes entries of its own log."""
    last = held.last
    if last is None or node.role != "leader" or held.led != node.term:
        return ""
    if last.index <= node.log.snapshot.index or _entry(node.log, last.index) is last:
        return ""
    return f"leader append-only: {name} leads term {node.term} and has lost {last}"


def _entry(log: RaftLog, index: int) -> Entry | None:
    """None for what the snapshot covers, and beyond the end."""
    if index <= log.snapshot.index:
        return None
    found = log.slice(index, 1, _ANY_SIZE)
    return found[0] if found else None

"""The state diagram of docs/raft.md, made from what the code does.

Raft nodes are run through random histories (`simulation.raft_world`), and every change of a node's role is
written down with what caused it. `python -m tests.raft.diagram` writes the result into docs/raft.md.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from penncloud.raft.log import RaftLog
from penncloud.raft.messages import HardState, Membership, Message, Ready, Snapshot, Vote
from penncloud.raft.node import RaftNode
from penncloud.simulation.raft_world import Focus, World

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "raft.md"
BEGIN: Final = "<!-- made by python -m tests.raft.diagram -->"
END: Final = "<!-- end -->"
FOCUSES: Final[tuple[Focus, ...]] = ("", "reigns", "members")
# So many histories of each kind; beyond a few dozen nothing new is seen.
SEEDS: Final = range(40)

# (role before, role after) -> what led there.
Transitions = Mapping[tuple[str, str], frozenset[str]]


class _Watched(RaftNode):
    """Tells of every change of its role."""

    seen: dict[tuple[str, str], set[str]] = {}
    cause = "it is the only voter"

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "role" and hasattr(self, "role") and value != self.role:
            self.seen.setdefault((self.role, value), set()).add(type(self).cause)
        super().__setattr__(name, value)

    def tick(self) -> None:
        type(self).cause = (
            "no majority answered for an election time-out"
            if self.role == "leader"
            else "no leader heard of for an election time-out"
        )
        super().tick()

    def step(self, message: Message) -> None:
        type(self).cause = _cause(message, self)
        super().step(message)

    def advance(self, ready: Ready) -> None:
        type(self).cause = "its own removal is committed"
        super().advance(ready)

    def campaign(self) -> None:
        type(self).cause = "it is the only voter"
        super().campaign()


def _cause(message: Message, node: RaftNode) -> str:
    kind = type(message).__name__
    if isinstance(message, Vote) and message.granted:
        return "a majority would vote for it" if message.pre else "a majority votes for it"
    if message.term > node.term:
        return "a message of a newer term"
    if isinstance(message, Vote):
        return "refused by so many that no majority is left"
    if kind == "TimeoutNow":
        return "a leader hands over to it"
    if kind == "Appended":
        return "its own removal is committed"
    return "a leader's message"


def transitions() -> Transitions:
    """What was seen, of all histories."""

    class Watched(_Watched):
        seen: dict[tuple[str, str], set[str]] = {}

    for focus in FOCUSES:
        for seed in SEEDS:
            size = 4 if focus == "members" else 3 + 2 * (seed % 2)
            world = World(seed, size, focus=focus, node_type=Watched)
            for _ in range(2000):
                world.step()
    alone = Snapshot(0, 0, Membership(frozenset({"a"})), b"")
    Watched("a", RaftLog(alone), HardState(), random.Random(1)).campaign()
    return {edge: frozenset(causes) for edge, causes in Watched.seen.items()}


def diagram(found: Transitions) -> str:
    """As Mermaid's state diagram, which reads as text too."""
    lines = ["```mermaid", "stateDiagram-v2", '    state "pre-candidate" as precandidate']
    lines.append("    [*] --> follower: start")
    for (before, after), causes in sorted(found.items()):
        for cause in sorted(causes):
            lines.append(f"    {before.replace('-', '')} --> {after.replace('-', '')}: {cause}")
    return "\n".join([*lines, "```"])


def document() -> str:
    """docs/raft.md with the diagram as it has to be."""
    text = DOCUMENT.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{diagram(transitions())}\n{END}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), "utf-8")

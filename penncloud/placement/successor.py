"""Who follows a primary that is dead, was restarted, or gave up.

In the two-phase mode every member has everything that was ever answered, so any of them would do; the one
with the highest tip also has most of what is in doubt. Only members count: a replica that was removed,
however long its log, has missed writes. The choice depends on its arguments alone, and the coordinators'
leader puts its result into their log, so that replaying the log needs no tips.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from attrs import frozen


class Tip(Protocol):
    """The end of a replica's log on disk, and whether that replica may become primary."""

    @property
    def incarnation(self) -> int: ...

    @property
    def entry_cfg(self) -> int: ...

    @property
    def version(self) -> int: ...

    @property
    def eligible(self) -> bool: ...


@frozen
class Succession:
    """The next primary and its process; the members stay who they are."""

    primary: str
    incarnation: int


def choose_successor(members: tuple[str, ...], tips: Mapping[str, Tip]) -> Succession | None:
    """Who of `members` becomes primary; None: nobody can, wait.

    `tips` are those of live replicas, from their last pongs. Nobody is removed here, however dead: if the
    chosen one turns out to have lost its disk since that pong, another member has to be left to choose.
    The new primary removes the dead as soon as it acts. Equal tips are decided by the order of `members`.
    """
    able = [member for member in members if member in tips and tips[member].eligible]
    if not able:
        return None
    best = max(able, key=lambda member: (tips[member].entry_cfg, tips[member].version))
    return Succession(best, tips[best].incarnation)

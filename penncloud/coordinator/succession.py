"""Who is a tablet's primary next, decided from what the leader sees. Pure.

    the tablet                          next
    is being created                    once every member that lives has made it: the first of these, and
                                        those that have not made it are no members
    its primary is dead, is another     the member with the highest tip, once every member is known to be
    process now, has given up its       dead or has answered a ping (a leader that has just begun, or a
    epoch, or there is none             server that was just started, is waited for)
    its primary cannot use its copy     the same, if another member can

The members stay who they are: the new primary removes the dead ones (`placement.successor`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import frozen

from penncloud.coordinator.commands import TabletRecord
from penncloud.coordinator.detector import Liveness
from penncloud.placement.successor import choose_successor
from penncloud.placement.tablets import even_ranges
from penncloud.rpc.registration import Tip


@frozen
class Seen:
    """A storage server's last answer to a ping."""

    incarnation: int
    tips: Mapping[int, Tip]

    def can_use(self, tablet: int) -> bool:
        """Whether its copy of the tablet may become primary."""
        tip = self.tips.get(tablet)
        return tip is not None and tip.eligible and not tip.damaged


@frozen
class Sight:
    """What the leader sees. `seen` has those that have answered a ping since they registered."""

    liveness: Callable[[str], Liveness]
    seen: Mapping[str, Seen]

    def usable(self, tablet: int, node_id: str) -> bool:
        """Whether the server lives and its copy may become primary."""
        seen = self.seen.get(node_id)
        return seen is not None and self.liveness(node_id) != "dead" and seen.can_use(tablet)

    def is_known(self, node_id: str) -> bool:
        """Whether it certainly lives, with a known tip, or is certainly dead."""
        liveness = self.liveness(node_id)
        return liveness == "dead" or (liveness == "live" and node_id in self.seen)


@frozen
class Next:
    """The next configuration of a tablet."""

    primary: str
    incarnation: int
    members: list[str]


@frozen
class _End:
    incarnation: int
    entry_cfg: int
    version: int
    eligible: bool


def first_tablets(count: int, servers: list[str], copies: int) -> list[TabletRecord]:
    """The hash space cut into `count` tablets of `copies` members each, in turn; the first is meant to be
    the primary."""
    copies = min(copies, len(servers))
    records = []
    for number, (lo, hi) in enumerate(even_ranges(count), 1):
        members = [servers[(number + copy) % len(servers)] for copy in range(copies)]
        records.append(TabletRecord(number, lo, hi, 0, "", members))
    return records


def next_configuration(record: TabletRecord, sight: Sight, waited: bool = False) -> Next | None:
    """None while the present one is right, or nothing can be chosen yet.

    `waited`: a tablet that is being created has waited long enough for servers that do not make it.
    """
    if record.is_new:
        return _birth(record, sight, waited)
    if not _is_over(record, sight):
        return None
    if not all(sight.is_known(member) for member in record.members):
        return None
    ends = {
        member: _End(seen.incarnation, tip.entry_cfg, tip.version, seen.can_use(record.id))
        for member in record.members
        if sight.liveness(member) != "dead"
        for seen in [sight.seen[member]]
        for tip in [seen.tips.get(record.id)]
        if tip is not None
    }
    choice = choose_successor(tuple(record.members), ends)
    if choice is None:
        return None
    return Next(choice.primary, choice.incarnation, record.members)


def _is_over(record: TabletRecord, sight: Sight) -> bool:
    """Whether the present primary can be primary no more."""
    primary = record.primary
    if not primary or sight.liveness(primary) == "dead":
        return True
    seen = sight.seen.get(primary)
    if seen is None:
        return False
    if seen.incarnation != record.incarnation:
        return True
    tip = seen.tips.get(record.id)
    if tip is not None and tip.declined == record.epoch:
        return True
    others = [member for member in record.members if member != primary]
    useless = tip is not None and not seen.can_use(record.id)
    return useless and any(sight.usable(record.id, member) for member in others)


def _birth(record: TabletRecord, sight: Sight, waited: bool) -> Next | None:
    late = [
        member
        for member in record.members
        if member not in record.taken and sight.liveness(member) != "dead"
    ]
    ready = [member for member in record.members if member in record.taken]
    able = [member for member in ready if sight.liveness(member) == "live" and member in sight.seen]
    if not able or (late and not waited):
        return None
    return Next(able[0], sight.seen[able[0]].incarnation, ready)

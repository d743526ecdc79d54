"""The commands about tablets, applied to the state. Pure and deterministic, see `state`.

Whoever changes a tablet's primary or members names the epoch that the change was decided for: of two that
race, one applies and the other is rejected. What the primary itself proposes applies only while it *is*
the primary, as the process that was chosen: it alone knows which of the others have everything.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from penncloud.coordinator.commands import (
    Applied,
    ChangeMembers,
    Configure,
    CreateTablets,
    ForcePrimary,
    PlanReplicas,
    Rejected,
    Reserved,
    ReserveIds,
    Result,
    SplitTablet,
    TabletRecord,
    TakeTablets,
)
from penncloud.coordinator.records import SplitRecord, State
from penncloud.placement.tablets import Tablet, TabletMap

# Ids that may be reserved at once.
MAX_RESERVED: Final = 64
# No primary.
NOBODY: Final = ("", 0)


def map_tablet(record: TabletRecord) -> Tablet:
    """A tablet as the map has it."""
    members = tuple(record.members)
    return Tablet(record.id, record.lo, record.hi, record.epoch, record.primary, members)


def create_tablets(state: State, command: CreateTablets) -> Result:
    if state.tablets:
        return Rejected("EXISTS", "the hash space has been cut into tablets already")
    tablets = {record.id: record for record in command.tablets}
    if len(tablets) != len(command.tablets) or not tablets:
        return Rejected("BAD_TABLETS", "every tablet needs an id of its own")
    for record in command.tablets:
        if (trouble := _unfit(state, record.primary, record.members)) is not None:
            return trouble
    try:
        TabletMap(0, [map_tablet(record) for record in command.tablets])
    except ValueError as error:
        return Rejected("BAD_TABLETS", str(error))
    state.tablets = dict(sorted(tablets.items()))
    state.next_tablet = max(state.next_tablet, max(tablets) + 1)
    state.changed_map()
    state.note(command.at, f"{len(tablets)} tablets created")
    return Applied()


def configure(state: State, command: Configure) -> Result:
    known = _expected(state, command.tablet, command.expect)
    if isinstance(known, Rejected):
        return known
    if (trouble := _unfit(state, command.primary, command.members)) is not None:
        return trouble
    if command.primary and known.is_new and not set(command.members) <= set(known.taken):
        return Rejected("NOT_TAKEN", f"not all members have made tablet {known.id} yet")
    primary = command.primary, command.incarnation
    return _change(state, command.at, known, primary, command.members)


def change_members(state: State, command: ChangeMembers) -> Result:
    """Apply what the primary proposed; servers that were forgotten meanwhile are left out, so that it gets
    an outcome in any case."""
    known = _proposed(state, command)
    if isinstance(known, Rejected):
        return known
    members = [member for member in command.members if _is_storage(state, member)]
    if (trouble := _unfit(state, command.primary, members)) is not None:
        return trouble
    if not command.primary:
        return Rejected("BAD_MEMBERS", "a proposal names a primary", known.epoch)
    if len(set(members) - set(known.members)) > 1:
        return Rejected("BAD_MEMBERS", "members join one at a time", known.epoch)
    incarnation = command.incarnation
    if command.primary != command.proposer:
        incarnation = incarnation or state.nodes[command.primary].incarnation
    return _change(state, command.at, known, (command.primary, incarnation), members)


def plan_replicas(state: State, command: PlanReplicas) -> Result:
    known = _expected(state, command.tablet, command.expect)
    if isinstance(known, Rejected):
        return known
    learners, leaving = command.learners, command.leaving
    for learner in learners:
        if not _is_storage(state, learner):
            return Rejected("NO_SUCH_NODE", f"there is no storage server {learner}", known.epoch)
    names = [*learners, *leaving]
    apart = len(set(names)) == len(names) and not set(learners) & set(known.members)
    if not apart or not set(leaving) < set(known.members) or known.primary in leaving:
        return Rejected(
            "BAD_MEMBERS", "learners are no members; leaving are some, not the primary", known.epoch
        )
    if (learners, leaving) != (known.learners, known.leaving):
        _replace(state, known, learners=list(learners), leaving=list(leaving))
    return Applied(known.epoch)


def take_tablets(state: State, command: TakeTablets) -> Result:
    for number in command.tablets:
        known = state.tablets.get(number)
        if known is None or command.id not in known.members or command.id in known.taken:
            continue
        change: dict[str, Any] = {"taken": sorted([*known.taken, command.id])}
        state.tablets[number] = msgspec.structs.replace(known, **change)
    return Applied()


def reserve_ids(state: State, command: ReserveIds) -> Result:
    if not 1 <= command.count <= MAX_RESERVED:
        return Rejected("BAD_COUNT", f"from 1 to {MAX_RESERVED} ids at a time")
    first = state.next_tablet
    state.next_tablet += command.count
    return Reserved(first)


def split_tablet(state: State, command: SplitTablet) -> Result:
    done = state.splits.get(command.tablet)
    if done is not None:
        if (done.low, done.high) != (command.low, command.high):
            return Rejected("SPLIT", f"tablet {command.tablet} was split otherwise")
        return Applied(state.tablets[done.low].epoch if done.low in state.tablets else 0)
    known = _proposed(state, command)
    if isinstance(known, Rejected):
        return known
    for number in (command.low, command.high):
        if not 0 < number < state.next_tablet or number in state.tablets or number in state.splits:
            return Rejected("BAD_TABLETS", f"{number} is not a reserved id", known.epoch)
    if command.low == command.high or not known.lo < command.split_at < known.hi:
        return Rejected("BAD_TABLETS", "a split gives two tablets, none of them empty", known.epoch)
    # Members hold the entry that splits; one that does not has lost the tablet, not to make a new one.
    taken = sorted(known.members)
    del state.tablets[known.id]
    for number, lo, hi in (
        (command.low, known.lo, command.split_at),
        (command.high, command.split_at, known.hi),
    ):
        change: dict[str, Any] = {"id": number, "lo": lo, "hi": hi, "taken": taken}
        change["epoch"] = known.epoch + 1
        state.tablets[number] = msgspec.structs.replace(known, **change)
    state.splits[known.id] = SplitRecord(known.id, command.low, command.high)
    state.changed_map()
    state.note(command.at, f"tablet {known.id} is split into {command.low} and {command.high}")
    return Applied(known.epoch + 1)


def force_primary(state: State, command: ForcePrimary) -> Result:
    known = _expected(state, command.tablet, command.expect)
    if isinstance(known, Rejected):
        return known
    if (trouble := _unfit(state, command.primary, [command.primary])) is not None:
        return trouble
    forced = msgspec.structs.replace(known, members=[command.primary], taken=[command.primary])
    state.note(
        command.at, f"tablet {known.id}: {command.primary} forced to be primary; data may be lost"
    )
    primary = command.primary, command.incarnation
    return _change(state, command.at, forced, primary, forced.members)


def remove_from_tablets(state: State, at: float, node_id: str, instead: dict[int, str]) -> None:
    """A server that is gone for good is no member of anything any more, whatever it held."""
    for number in sorted(state.tablets):
        known = state.tablets[number]
        left = [member for member in known.members if member != node_id]
        if node_id in known.learners:
            learners = [learner for learner in known.learners if learner != node_id]
            known = _replace(state, known, learners=learners)
        if len(left) == len(known.members):
            continue
        if left:
            stays = known.primary in left
            _change(state, at, known, (known.primary, known.incarnation) if stays else NOBODY, left)
        else:
            # The last copy is lost: go on with what the other has, or begin anew there.
            alone = msgspec.structs.replace(known, members=[instead[number]], taken=[])
            _change(state, at, alone, NOBODY, alone.members)


def _expected(state: State, tablet: int, expect: int) -> TabletRecord | Rejected:
    known = state.tablets.get(tablet)
    if known is None:
        return Rejected("NO_SUCH_TABLET", f"there is no tablet {tablet}")
    if known.epoch != expect:
        text = f"tablet {tablet} is at epoch {known.epoch}, not {expect}"
        return Rejected("STALE", text, known.epoch)
    return known


def _proposed(state: State, command: ChangeMembers | SplitTablet) -> TabletRecord | Rejected:
    """The tablet, if the proposer is its primary in this very process."""
    known = _expected(state, command.tablet, command.expect)
    if isinstance(known, Rejected):
        return known
    who = (command.proposer, command.proposer_incarnation)
    if who != (known.primary, known.incarnation):
        text = f"{command.proposer} is not the primary of tablet {known.id}"
        return Rejected("NOT_PRIMARY", text, known.epoch)
    return known


def _unfit(state: State, primary: str, members: list[str]) -> Rejected | None:
    """Members are known storage servers, each once; the primary is one of them or nobody."""
    for member in members:
        if not _is_storage(state, member):
            return Rejected("NO_SUCH_NODE", f"there is no storage server {member}")
    if not members or len(set(members)) != len(members):
        return Rejected("BAD_MEMBERS", "a tablet has at least one member, and each once")
    if primary and primary not in members:
        return Rejected("BAD_MEMBERS", f"the primary {primary} is not a member")
    return None


def _is_storage(state: State, node_id: str) -> bool:
    known = state.nodes.get(node_id)
    return known is not None and known.node.role == "storage"


def _change(
    state: State, at: float, known: TabletRecord, next_: tuple[str, int], members: list[str]
) -> Result:
    """The next epoch, with the primary `next_` (id, incarnation). Whoever joins holds the tablet: its
    primary has made sure of that."""
    primary, incarnation = next_
    _replace(
        state,
        known,
        epoch=known.epoch + 1,
        primary=primary,
        incarnation=incarnation,
        members=list(members),
        taken=sorted(_taken(known, members)),
        learners=[learner for learner in known.learners if learner not in members],
        leaving=[one for one in known.leaving if one in members and one != primary],
    )
    who = f"primary {primary or 'none'}, members {', '.join(members)}"
    state.note(at, f"tablet {known.id} at epoch {known.epoch + 1}: {who}")
    return Applied(known.epoch + 1)


def _taken(known: TabletRecord, members: list[str]) -> Iterable[str]:
    return (one for one in members if one in known.taken or one not in known.members)


def _replace(state: State, known: TabletRecord, **change: Any) -> TabletRecord:
    record = msgspec.structs.replace(known, **change)
    state.tablets[known.id] = record
    state.changed_map()
    return record

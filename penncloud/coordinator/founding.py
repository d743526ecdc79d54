"""How a group of coordinators begins, and how one more finds its way into it. Pure.

    phase      what it means                                goes on when
    blank      nothing on the disk                          all listed coordinators have been asked:
                                                              none has begun -> founded
                                                              a majority of the group has begun, and this
                                                              one is no member -> join
    founded    the members are on this disk                 all say that they are on theirs, or one
                                                              has begun -> begun
    begun      takes part in elections

Nobody begins before every founder has the members on its disk. So one that is blank although the others
count it as a member has lost its disk, and with it votes and entries that others rely on: it must not take
part again under that membership, but be removed and join anew.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from penncloud.coordinator.group_messages import Who


@frozen
class Wait:
    """Ask again; `why` is for the log, once."""

    why: str


@frozen
class Found:
    """Write down that these are the founding members."""

    members: frozenset[str]


@frozen
class Begin:
    """Every founder knows the members."""


@frozen
class Join:
    """The group is there: listen to it, and ask to be added."""


@frozen
class Lost:
    """This coordinator is a member and has forgotten everything."""


@frozen
class Misfit:
    """The configurations do not go together; `why` is for the administrator."""

    why: str


Step = Wait | Found | Begin | Join | Lost | Misfit


def next_step(own: Who, others: Sequence[Who | None]) -> Step:
    """`others` are the answers from the other configured addresses, None where there is none yet."""
    answers = [answer for answer in others if answer is not None]
    begun = [answer for answer in answers if answer.phase == "begun"]
    if own.phase == "blank":
        return _blank(own, others, answers, begun)
    if begun or all(answer is not None and answer.phase == "founded" for answer in others):
        return Begin()
    return Wait("not every coordinator has written down the group's members yet")


def _blank(
    own: Who, others: Sequence[Who | None], answers: Sequence[Who], begun: Sequence[Who]
) -> Step:
    if begun:
        group = _present(begun)
        if any(own.id in (*one.voters, *one.learners) for one in group or begun):
            return Lost()
        return Join() if group else Wait("too few of the group answer to say who belongs to it")
    missing = sum(answer is None for answer in others)
    if missing:
        return Wait(f"{missing} of {len(others) + 1} coordinators do not answer yet")
    members = frozenset((own.id, *(answer.id for answer in answers)))
    if len(members) <= len(others):
        return Misfit("two of the addresses in `coordinators` belong to coordinators of one id")
    for answer in answers:
        if answer.phase == "founded" and frozenset(answer.voters) != members:
            theirs = ", ".join(sorted(answer.voters))
            return Misfit(f"{answer.id} was configured with other coordinators: {theirs}")
    return Found(members)


def _present(begun: Sequence[Who]) -> list[Who]:
    """Those who know who belongs to the group now: they are a majority of the voters that they name. Others
    may have missed that this very coordinator was added, and not know that it has lost its disk."""
    for answer in begun:
        alike = [one for one in begun if set(one.voters) == set(answer.voters)]
        if 2 * len({one.id for one in alike} & set(answer.voters)) > len(answer.voters):
            return alike
    return []

"""What can be decided: the commands of the coordinators' log, and their results.

A command carries everything that is time, chance or choice, so that applying it is deterministic (`state`).
Logs of earlier versions are replayed: fields are only added, with a default.
"""

from __future__ import annotations

import msgspec

from penncloud.rpc.registration import Identity


class TabletRecord(msgspec.Struct, frozen=True):
    """See `placement.tablets.Tablet` and `rpc.registration.TabletAssignment`. `taken`: members that have
    answered that they hold it, so that one which comes back without it is known to have lost it.

    A tablet of epoch 0, or without a primary and not yet taken by all, is being created: no data exists
    but what members may hold already.
    """

    id: int
    lo: int
    hi: int
    epoch: int
    primary: str
    members: list[str]
    taken: list[str] = []
    incarnation: int = 0
    learners: list[str] = []
    leaving: list[str] = []

    @property
    def is_new(self) -> bool:
        """Whether its first members have yet to make it."""
        made = set(self.members) <= set(self.taken)
        return not self.primary and (self.epoch == 0 or not made)


class BeginTerm(msgspec.Struct, tag="begin-term", frozen=True):
    """The first command of a leader: whoever has applied it has applied all that was before."""

    at: float
    coordinator: str
    term: int


class RegisterNode(msgspec.Struct, tag="register-node", frozen=True):
    """A server has started. `replaces`: the incarnation that is known and has certainly ended, so that a
    lower one may follow it (the clock of its machine was set back); 0: none."""

    at: float
    node: Identity
    incarnation: int
    replaces: int = 0


class ForgetCoordinator(msgspec.Struct, tag="forget-coordinator", frozen=True):
    """A coordinator was taken out of the group."""

    at: float
    id: str


class SetEnabled(msgspec.Struct, tag="set-enabled", frozen=True):
    """`request` names the wish of an administrator: one that was sent again has the same result, and is not
    carried out again."""

    at: float
    id: str
    enabled: bool
    request: str = ""


class CreateTablets(msgspec.Struct, tag="create-tablets", frozen=True):
    """The first tablets; they have to cover the hash space."""

    at: float
    tablets: list[TabletRecord]


class Configure(msgspec.Struct, tag="configure", frozen=True):
    """The leader gives a tablet another primary and members, if its epoch still is `expect`."""

    at: float
    tablet: int
    expect: int
    primary: str
    members: list[str]
    incarnation: int = 0


class ChangeMembers(msgspec.Struct, tag="change-members", frozen=True):
    """What the primary of a tablet proposes, see `rpc.registration.Propose`. `primary` may be another
    member, to which it hands over."""

    at: float
    proposer: str
    proposer_incarnation: int
    tablet: int
    expect: int
    primary: str
    incarnation: int
    members: list[str]


class PlanReplicas(msgspec.Struct, tag="plan-replicas", frozen=True):
    """Who shall join and who shall leave a tablet, if its epoch still is `expect`; it stays what it is."""

    at: float
    tablet: int
    expect: int
    learners: list[str]
    leaving: list[str]


class TakeTablets(msgspec.Struct, tag="take-tablets", frozen=True):
    """A server has answered that it holds these tablets. Those of which it is no member are left out."""

    at: float
    id: str
    tablets: list[int]


class ReserveIds(msgspec.Struct, tag="reserve-ids", frozen=True):
    """Tablet ids that nobody else gets; answered with Reserved."""

    at: float
    count: int


class SplitTablet(msgspec.Struct, tag="split-tablet", frozen=True):
    """What the primary of a tablet proposes, see `rpc.registration.ProposeSplit`."""

    at: float
    proposer: str
    proposer_incarnation: int
    tablet: int
    expect: int
    split_at: int
    low: int
    high: int


class DrainNode(msgspec.Struct, tag="drain-node", frozen=True):
    """A storage server gives its tablets away, or may hold tablets again. At least `keep` others must not
    be drained, so that the tablets have somewhere to go. `request` as in SetEnabled."""

    at: float
    id: str
    draining: bool
    keep: int
    request: str = ""


class ForgetNode(msgspec.Struct, tag="forget-node", frozen=True):
    """A storage server is gone for good. While it is a member of tablets only with `accept_data_loss`;
    for those whose only member it is, `instead` says who goes on, with what it has or with nothing.
    `request` as in SetEnabled."""

    at: float
    id: str
    accept_data_loss: bool = False
    instead: dict[int, str] = {}
    request: str = ""


class ForcePrimary(msgspec.Struct, tag="force-primary", frozen=True):
    """The operator's alone: a server becomes a tablet's primary and only member with what it has, be it
    member or not. What the others had more is lost. `request` as in SetEnabled: what was written since
    must not be thrown away by an attempt that was held up."""

    at: float
    tablet: int
    expect: int
    primary: str
    incarnation: int
    request: str = ""


Command = (
    BeginTerm
    | RegisterNode
    | ForgetCoordinator
    | SetEnabled
    | CreateTablets
    | Configure
    | ChangeMembers
    | PlanReplicas
    | TakeTablets
    | ReserveIds
    | SplitTablet
    | DrainNode
    | ForgetNode
    | ForcePrimary
)


class Applied(msgspec.Struct, tag="applied", frozen=True):
    """Done. `epoch`: that of the tablet that the command was about, else 0."""

    epoch: int = 0


class Reserved(msgspec.Struct, tag="reserved", frozen=True):
    """Done: the ids from `first` on."""

    first: int


class Rejected(msgspec.Struct, tag="rejected", frozen=True):
    """Nothing was changed. `code` is for programs, `text` for people; `epoch` as in Applied."""

    code: str
    text: str
    epoch: int = 0


Result = Applied | Reserved | Rejected

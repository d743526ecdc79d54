"""What is asked of a coordinator by rpc, besides `rpc.registration`: the view of the cluster."""

from __future__ import annotations

from typing import Literal

import msgspec

from penncloud.rpc.registration import MailPart, Worker

NodeState = Literal["live", "suspected", "dead", "drained"]
TabletState = Literal["ok", "degraded", "damaged", "unavailable"]
CoordinatorRole = Literal["leader", "follower", "candidate", "learner", "unreachable"]


class NodeInfo(msgspec.Struct, frozen=True):
    """One server as the coordinators see it."""

    role: str  # "lb", "http", "smtp", "storage", "coordinator", "agent"
    id: str
    host: str
    port: int
    pid: int
    state: NodeState
    enabled: bool = True  # http: may be given new clients
    incarnation: int = 0  # changes at every start
    agent: str = ""  # host:port of the agent that can stop and start it
    metrics_port: int = 0
    seen_s: float = 0.0  # seconds since it last answered
    draining: bool = False  # storage: gives its tablets away, or has done so
    scheme: str = "http"  # http: what it speaks with browsers, "http" or "https"
    mail: MailPart = ""  # http: what the mail server in it does
    workers: tuple[Worker, ...] = ()  # http: the processes that answer; none where it is one itself


class TabletInfo(msgspec.Struct, frozen=True):
    """One tablet as the coordinators see it. `lag` is in versions behind the primary.

    `degraded`: it serves with fewer live members than it should have. `damaged`: a member cannot use its
    copy. `unavailable`: it has no primary that lives. `learners` are to join, `leaving` to leave.
    """

    id: int
    lo: int
    hi: int
    epoch: int
    primary: str
    members: list[str]
    lag: dict[str, int]
    state: TabletState
    learners: list[str] = []
    leaving: list[str] = []


class CoordinatorInfo(msgspec.Struct, frozen=True):
    """One coordinator; `role` and `term` as it last told them. A learner follows and does not vote yet."""

    id: str
    host: str
    port: int
    pid: int
    role: CoordinatorRole
    term: int


class ClusterView(msgspec.Struct, frozen=True):
    """All of it at one moment. `balanced`: no replica is missing, on its way, or going to be moved."""

    nodes: list[NodeInfo]
    coordinators: list[CoordinatorInfo]
    tablets: list[TabletInfo]
    balanced: bool = False


class ViewCluster(msgspec.Struct, tag="view-cluster", frozen=True):
    """Call, answered with ClusterView."""


class EnableNode(msgspec.Struct, tag="enable-node", frozen=True):
    """Call, answered with Enabled once it is durable. Refusals: NO_SUCH_NODE, WRONG_ROLE.

    `request` is the same in every repetition, and no other's: it is carried out once, and all have one
    answer.
    """

    id: str
    enabled: bool
    request: str = ""


class Enabled(msgspec.Struct, tag="enabled", frozen=True):
    """Answer to EnableNode."""


class Subscribe(msgspec.Struct, tag="subscribe", frozen=True):
    """Call, answered with NodesChanged as it is now; from then on every change comes as a note."""


class NodesChanged(msgspec.Struct, tag="nodes-changed", frozen=True):
    """All servers, after something about one of them has changed."""

    nodes: list[NodeInfo]


class AddCoordinator(msgspec.Struct, tag="add-coordinator", frozen=True):
    """Call, answered with GroupChanged when it follows; it votes once it has caught up.

    A coordinator that has begun to listen to the group asks for itself. `by_hand`: an administrator asks, for
    one that has to have asked already: who is made a member before it has an empty log on its disk would be
    taken for one that has lost its log. Adding a member again does nothing. Refusals: NOT_LEADER (ask again),
    NOT_NOW, TOO_MANY, WRONG_ROLE, and NOT_STARTED `by_hand`.
    """

    id: str
    host: str
    port: int
    by_hand: bool = False


class RemoveCoordinator(msgspec.Struct, tag="remove-coordinator", frozen=True):
    """Call, answered with GroupChanged. Refusals: NOT_LEADER (ask again), NOT_NOW, NO_SUCH_NODE, LAST."""

    id: str


class TransferLeadership(msgspec.Struct, tag="transfer-leadership", frozen=True):
    """Call, answered with GroupChanged when the hand-over has begun; an empty `to`: to any.

    Refusals: NOT_LEADER (ask again), NO_SUCH_NODE, LAST.
    """

    to: str = ""


class GroupChanged(msgspec.Struct, tag="group-changed", frozen=True):
    """Answer to AddCoordinator, RemoveCoordinator and TransferLeadership."""


class DrainServer(msgspec.Struct, tag="drain-server", frozen=True):
    """Call: a storage server gives its tablets away (or, `draining` False, may hold some again); answered
    with ServerChanged once that is decided: the tablets then move by and by.

    Refusals: NO_SUCH_NODE, WRONG_ROLE, TOO_FEW (other storage servers for as many copies as there shall be).
    `request` as in EnableNode.
    """

    id: str
    draining: bool
    request: str = ""


class RemoveServer(msgspec.Struct, tag="remove-server", frozen=True):
    """Call: a storage server that does not run any more is gone for good; answered with ServerChanged.

    Refusals: NO_SUCH_NODE, WRONG_ROLE, STILL_RUNS, HOLDS_TABLETS (unless `accept_data_loss`: the copies
    are given up, and a tablet whose only copy it was begins anew), LAST_COPY (nobody could begin it).
    `request` as in EnableNode.
    """

    id: str
    accept_data_loss: bool = False
    request: str = ""


class ForceTablet(msgspec.Struct, tag="force-tablet", frozen=True):
    """Call: make a storage server a tablet's primary and only member with what it has; answered with
    ServerChanged. What other members had more is lost.

    Refusals: NO_SUCH_TABLET, NO_SUCH_NODE, NOT_LIVE, NO_COPY, STALE (something has changed: look again).
    `request` as in EnableNode.
    """

    tablet: int
    primary: str
    request: str = ""


class ServerChanged(msgspec.Struct, tag="server-changed", frozen=True):
    """Answer to DrainServer, RemoveServer and ForceTablet."""

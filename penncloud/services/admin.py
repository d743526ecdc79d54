"""What the admin account may know of the cluster and do to it.

States come from the coordinators' heartbeats. When no coordinator answers, the last view is given again
and marked stale with its age: old states are better than none, and worse than current ones.

An action is described before it is done (`effect`): who is hit, in the words of the page, and whether
it is destructive, which asks for the server's name. Every action is in the audit log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, Protocol

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout

from penncloud.client.directory import (
    ClusterView,
    Directory,
    NodeInfo,
    NoSuchNode,
    TabletInfo,
    Worker,
)
from penncloud.client.table import Unavailable
from penncloud.platform.environment import Environment
from penncloud.platform.errors import PennCloudError
from penncloud.services.audit import AuditLog

Action = Literal["start", "stop", "restart", "enable", "disable"]
ACTIONS: Final[tuple[Action, ...]] = ("start", "stop", "restart", "enable", "disable")


# What the coordinators get to answer where an older view is at hand, and the pause after a silence.
_PATIENCE_S: Final = 2.0


class ServerControl(Protocol):
    """The agents of all hosts (`client.agents.AgentControl`). A call ends when the server has begun
    or ended; raises PennCloudError with the reason otherwise.
    """

    async def start(self, node_id: str) -> None: ...

    async def stop(self, node_id: str) -> None: ...

    async def restart(self, node_id: str) -> None: ...


class NotApplicable(PennCloudError):
    """The action makes no sense for this server or its state; shown to the person as it is."""


@frozen
class Server:
    """One row of the server table. `address` is host:port; `actions` are those that apply now; `mail`
    is what the mail server within a frontend does."""

    id: str
    role: str
    address: str
    pid: int
    state: str
    enabled: bool
    seen_s: float
    actions: tuple[Action, ...]
    mail: str = ""
    workers: Sequence[Worker] = ()


@frozen
class Overview:
    """The cluster as of `age_s` seconds ago; `stale` when no coordinator answers now."""

    servers: list[Server]
    tablets: list[TabletInfo]
    age_s: float
    stale: bool


@frozen
class Effect:
    """What an action will do, for the person who is about to do it."""

    lines: list[str]
    destructive: bool


_ORDER: Final = {"lb": 0, "http": 1, "smtp": 2, "coordinator": 3, "storage": 4, "agent": 5}


def servers_of(view: ClusterView, stale: bool = False) -> list[Server]:
    """All servers of a view, ordered by role and id.

    In a stale one nobody knows which still run: all may be started, stopped and restarted, and the
    coordinators, who do not answer, are suspected.
    """
    nodes = {node.id: node for node in view.nodes}
    for one in view.coordinators:
        if one.id not in nodes:
            nodes[one.id] = NodeInfo("coordinator", one.id, one.host, one.port, one.pid, "live")
    rows = [
        Server(
            node.id,
            node.role,
            address_of(node),
            node.pid,
            "suspected" if stale and node.role == "coordinator" else node.state,
            node.enabled,
            node.seen_s,
            _actions(node, stale),
            node.mail,
            node.workers,
        )
        for node in nodes.values()
    ]
    return sorted(rows, key=lambda row: (_ORDER.get(row.role, 9), _natural(row.id)))


def address_of(node: NodeInfo) -> str:
    """host:port, with brackets around an IPv6 host."""
    return f"[{node.host}]:{node.port}" if ":" in node.host else f"{node.host}:{node.port}"


def _natural(node_id: str) -> tuple[str, int]:
    """`storage-10` behind `storage-9`."""
    name, _, number = node_id.rpartition("-")
    return (name, int(number)) if number.isdecimal() else (node_id, 0)


def _actions(node: NodeInfo, stale: bool) -> tuple[Action, ...]:
    if node.role == "agent":
        return ()  # It is the one that stops and starts the others.
    if stale:
        return ("start", "restart", "stop")
    first: tuple[Action, ...] = ("start",) if node.state == "dead" else ("restart", "stop")
    if node.role != "http":
        return first
    return (*first, "disable" if node.enabled else "enable")


def effect(
    view: ClusterView, node_id: str, action: Action, own_id: str, stale: bool = False
) -> Effect:
    """What `action` on a server does; `own_id` is the frontend that serves the page.

    Raises NoSuchNode, or NotApplicable.
    """
    server = find_server(view, node_id, stale)
    if action not in server.actions:
        raise NotApplicable(_why_not(server, action, stale))
    if action == "start":
        return Effect([f"{node_id} is started and takes up its work where it stopped."], False)
    if action == "enable":
        return Effect([f"The load balancer gives {node_id} new visitors again."], False)
    others = [
        one
        for one in servers_of(view)
        if one.role == server.role and one.id != node_id and one.state == "live" and one.enabled
    ]
    if action == "disable":
        lines, last = _disabled(node_id, others)
        return Effect(lines, last)
    if action == "restart" and server.workers:
        return Effect(
            [
                f"Its {_count_workers(server)} are replaced one by one: new ones take the visitors while the"
                " old ones finish what they have begun. Nobody is cut off."
            ],
            False,
        )
    lines = _stopped(view, server, others)
    if node_id == own_id:
        lines.append("It serves this very page: come back through the load balancer.")
    if action == "restart":
        lines.append("It is started again at once: this lasts a few seconds.")
    else:
        lines.append(f"Nothing is lost; it lasts until {node_id} is started again.")
    return Effect(lines, True)


def find_server(view: ClusterView, node_id: str, stale: bool = False) -> Server:
    """Raises NoSuchNode."""
    for server in servers_of(view, stale):
        if server.id == node_id:
            return server
    raise NoSuchNode(f"There is no server {node_id}.")


def _why_not(server: Server, action: Action, stale: bool) -> str:
    if server.role == "agent":
        return f"{server.id} starts and stops the servers of its host; nobody does that to it."
    if action in ("enable", "disable"):
        if stale:
            return "No coordinator answers: frontends cannot be enabled or disabled now."
        if server.role != "http":
            return f"{server.id} is not a frontend: only those are enabled and disabled."
        return f"{server.id} is {'enabled' if server.enabled else 'disabled'} already."
    if action == "start":
        return f"{server.id} runs already."
    return f"{server.id} does not run."


def _disabled(node_id: str, others: list[Server]) -> tuple[list[str], bool]:
    lines = [f"The load balancer sends no new visitors to {node_id}; those on it stay."]
    if others:
        lines.append(f"New ones go to {_names(others)}.")
        return lines, False
    lines.append("No other frontend is live and enabled: nobody can enter any more.")
    return lines, True


def _stopped(view: ClusterView, server: Server, others: list[Server]) -> list[str]:
    if server.role == "storage":
        return _storage_stopped(view, server)
    if server.role == "http":
        if others:
            return [
                f"Visitors of {server.id} go to {_names(others)};"
                " uploads and downloads under way on it are cut."
            ]
        return ["No other frontend is live: nobody can use PennCloud in a browser."]
    if others:
        return [f"{_names(others)} goes on with the same work."]
    return [
        {
            "smtp": "No mail is accepted from outside or sent to the outside.",
            "lb": "Nobody can enter at the load balancer's address; who is in, stays in.",
            "coordinator": "States are not known any more, and a server that starts meanwhile"
            " is not given its tablets; what runs goes on.",
        }.get(server.role, f"What {server.id} does is not done by anybody else.")
    ]


def _storage_stopped(view: ClusterView, server: Server) -> list[str]:
    live = {node.id for node in view.nodes if node.state == "live"}
    lost: list[TabletInfo] = []
    fewer: list[TabletInfo] = []
    for tablet in view.tablets:
        if server.id not in tablet.members:
            continue
        left = [member for member in tablet.members if member != server.id and member in live]
        (fewer if left else lost).append(tablet)
    lines = []
    if lost:
        lines.append(
            f"{_count(lost, 'becomes', 'become')} unavailable: {_ranges(lost)}."
            " What lies there can be neither read nor written."
        )
    if fewer:
        lines.append(f"{_count(fewer, 'loses', 'lose')} one replica: {_ranges(fewer)}.")
    if not lines:
        lines.append(f"{server.id} holds no tablet: nobody is hit.")
    return lines


def _count_workers(server: Server) -> str:
    count = len({one.number for one in server.workers})
    return "worker" if count == 1 else f"{count} workers"


def _count(tablets: list[TabletInfo], one: str, many: str) -> str:
    return f"1 tablet {one}" if len(tablets) == 1 else f"{len(tablets)} tablets {many}"


def _ranges(tablets: list[TabletInfo]) -> str:
    shown = [f"tablet {t.id} (rows hashed to {hash_range(t.lo, t.hi)})" for t in tablets[:8]]
    if len(tablets) > len(shown):
        shown.append(f"and {len(tablets) - len(shown)} more")
    return ", ".join(shown)


def hash_range(lo: int, hi: int) -> str:
    """A tablet's range as people see it, both ends included."""
    return f"{lo:08x}\N{EN DASH}{hi - 1:08x}"


def _names(servers: list[Server]) -> str:
    return " and ".join(server.id for server in servers)


@define
class Administration:
    """The admin's view and hands. `own_id` is the frontend this runs in."""

    environment: Environment
    directory: Directory
    control: ServerControl
    audit: AuditLog
    own_id: str
    _view: ClusterView | None = None
    _seen_at: float = 0.0
    # Until then the coordinators are not asked again, after they did not answer.
    _silent_until: float = 0.0
    _acting: set[str] = field(factory=set)

    async def overview(self) -> Overview:
        """The servers and tablets now, or as last known. Raises Unavailable when never known."""
        view, stale = await self._current()
        age_s = self.environment.reactor.seconds() - self._seen_at
        return Overview(servers_of(view, stale), view.tablets, age_s, stale)

    async def server_ids(self) -> dict[str, str]:
        """host:port -> id of every server; empty when it was never known."""
        try:
            view, _ = await self._current()
        except Unavailable:
            return {}
        return {server.address: server.id for server in servers_of(view)}

    async def effect(self, node_id: str, action: Action) -> Effect:
        """What the action would do now. Raises NoSuchNode, NotApplicable, Unavailable."""
        view, stale = await self._current()
        return effect(view, node_id, action, self.own_id, stale)

    async def perform(self, actor: str, node_id: str, action: Action) -> None:
        """Do it, with an entry in the audit log before and after.

        Raises NoSuchNode, NotApplicable (also while another action on the server is under way), and
        whatever the agent says (PennCloudError).
        """
        await self.effect(node_id, action)
        if node_id in self._acting:
            raise NotApplicable(f"Something else is being done to {node_id}: wait for its end.")
        self._acting.add(node_id)
        try:
            entry = await self.audit.begin(actor, action, node_id)
            try:
                await self._do(node_id, action)
            except PennCloudError as error:
                await self.audit.end(entry, actor, action, node_id, f"failed: {error}")
                raise
            await self.audit.end(entry, actor, action, node_id, "done")
        finally:
            self._acting.discard(node_id)
            self._silent_until = 0.0

    async def _do(self, node_id: str, action: Action) -> None:
        match action:
            case "start":
                await self.control.start(node_id)
            case "stop":
                await self.control.stop(node_id)
            case "restart":
                await self.control.restart(node_id)
            case "enable" | "disable":
                await self.directory.set_enabled(node_id, action == "enable")

    async def _current(self) -> tuple[ClusterView, bool]:
        """The view, and whether it is an old one.

        With an old one in hand the coordinators get less time to answer, and after a silence a
        pause: the pages are what one mends a cluster with, so they have to come quickly.
        """
        clock = self.environment.reactor
        if self._view is None:
            self._view = await self.directory.view()
        elif clock.seconds() < self._silent_until:
            return self._view, True
        else:
            asking = Deferred.fromCoroutine(self.directory.view())
            asking.addTimeout(_PATIENCE_S, clock)
            try:
                self._view = await asking
            except (Unavailable, DeferredTimeout):
                self._silent_until = clock.seconds() + _PATIENCE_S
                return self._view, True
        self._seen_at = clock.seconds()
        return self._view, False

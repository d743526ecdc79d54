"""What every role tells the coordinators: that it is there, who it is, and, ping by ping, that it lives.

A role keeps a connection to each coordinator. When one opens it calls `Register`; from then on the
coordinator sends `Ping` notes over it, each answered by a `Pong`. To a storage server the coordinator
also calls `Assign` with the tablets it shall hold, again after every registration. A role that stops in
order sends `Leave` first, so that nobody waits for it. What a storage server asks of the coordinators
(`Propose` and the others, by `Registration.ask`) any of them takes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from inspect import isawaitable
from typing import Final, Literal, TypeVar

import msgspec
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.platform.config import Cluster, Role, parse_address
from penncloud.platform.environment import Environment
from penncloud.rpc.auth import load_secret
from penncloud.rpc.calls import Calls
from penncloud.rpc.client import RpcClient
from penncloud.rpc.errors import Disconnected, Refusal, RpcBusy, RpcError
from penncloud.rpc.protocol import Hooks, RpcProtocol

RoleName = Literal["lb", "http", "smtp", "storage", "coordinator", "agent"]
# What the mail server that is a part of a frontend does; empty: it has none.
MailPart = Literal["", "stands by for mail", "serves mail"]

REGISTER_TIMEOUT_S: Final = 5.0
LEAVE_TIMEOUT_S: Final = 1.0
# A server that was lost is looked for at least so often: it has to be back soon after its coordinator.
LONGEST_PAUSE_S: Final = 1.0
_RANDOM_BITS: Final = 10
# Refusals of a coordinator that say that another one, or the same one later, may do it.
ASK_ANOTHER: Final = frozenset({"NOT_LEADER", "NOT_NOW", "UNKNOWN", "FAILED", "INTERNAL"})

_T = TypeVar("_T")


class Identity(msgspec.Struct, frozen=True):
    """Who a server is and where others reach it. `agent`: host:port of its agent, or empty."""

    role: RoleName
    id: str
    host: str
    port: int
    pid: int
    agent: str = ""
    metrics_port: int = 0
    # What a frontend speaks with browsers.
    scheme: Literal["http", "https"] = "http"


def identity(name: RoleName, role: Role, port: int, pid: int) -> Identity:
    """The identity of a process, from its section; `port` is the one it really listens on."""
    return Identity(
        role=name,
        id=role.id,
        host=role.public_host,
        port=port,
        pid=pid,
        agent=role.agent,
        metrics_port=role.metrics_port,
        scheme="https" if getattr(role, "tls_cert", "") else "http",
    )


class Register(msgspec.Struct, tag="register", frozen=True):
    """Call, role to coordinator. `incarnation` is new, and greater, at every start of the role."""

    node: Identity
    incarnation: int


class Registered(msgspec.Struct, tag="registered", frozen=True):
    heartbeat_ms: int


class Coordinators(msgspec.Struct, tag="coordinators", frozen=True):
    """Note, coordinator to role: the members of its group now, id -> host:port. Sent after registration
    and whenever they have changed, so that a role finds coordinators that its configuration does not
    name. `sender` is the coordinator's own id."""

    sender: str
    members: dict[str, str]


class Leave(msgspec.Struct, tag="leave", frozen=True):
    """Call, role to coordinator: this incarnation ends in order."""


class Left(msgspec.Struct, tag="left", frozen=True):
    """Answer to Leave."""


class Ping(msgspec.Struct, tag="ping", frozen=True):
    """Note, coordinator to role."""

    number: int


class Tip(msgspec.Struct, frozen=True):
    """How far a storage server's copy of a tablet reaches on its disk: its last entry's epoch and version.

    `damaged`: it cannot be used, because its files are damaged or gone. `eligible`: it may become
    primary (not blank, not damaged, room on its disk). `declined`: the epoch that names this process
    primary and that it cannot act on any more (0: none); it needs a new one. `size_bytes`: what the copy
    takes on disk. `lag`, of the primary only: how many versions each other replica has yet to ACK.
    """

    tablet: int
    entry_cfg: int
    version: int
    damaged: bool = False
    eligible: bool = True
    declined: int = 0
    size_bytes: int = 0
    lag: dict[str, int] = {}


class Worker(msgspec.Struct, frozen=True):
    """One of the processes that answer for a frontend. `pid` 0: it was not started yet.

    `waiting`: it died and will be started again after a pause. `retiring`: it finishes what it has begun,
    while its successor, which has the same number, serves.
    """

    number: int
    pid: int
    state: Literal["starting", "serving", "retiring", "waiting"]


class Pong(msgspec.Struct, tag="pong", frozen=True):
    """Note, role to coordinator: the answer to the Ping of the same number. `mail`: a frontend's."""

    number: int
    pid: int
    incarnation: int
    tips: Sequence[Tip] = ()
    mail: MailPart = ""
    workers: tuple[Worker, ...] = ()


class TabletAssignment(msgspec.Struct, frozen=True):
    """One tablet: rows with lo <= row_hash < hi. `primary`, `members` and the others are ids.

    `taken`: the server that this is sent to has once answered that it holds the tablet. If its disk does
    not have it any more, then it was lost, and must not be begun anew. `incarnation` is that of the
    primary's process when it was chosen: a later process must not act on it. While a tablet is being
    created it has epoch 0 and no primary. `learners` shall join next; they hold the tablet or catch up,
    and count for nothing. `leaving` are members, never the primary, whose removal the primary shall
    propose.
    """

    id: int
    lo: int
    hi: int
    epoch: int
    primary: str
    members: list[str]
    taken: bool = False
    incarnation: int = 0
    learners: list[str] = []
    leaving: list[str] = []


class Assign(msgspec.Struct, tag="assign", frozen=True):
    """Call, coordinator to storage server: all the tablets of which it is a member or learner.

    `map_version` grows with every change of the tablet map, `term` with every leader of the coordinators. An
    assignment may arrive again; one of a lower `map_version`, or of the same in a lower `term`, or a tablet
    of a lower epoch than the one known, is older news. `peers` are the
    addresses (host:port) of the servers named in the tablets, `suspects` those of them that the
    coordinators take for dead now; both may change while `map_version` stays. A tablet that the server
    holds and that is not in `tablets` is kept, unless `dropped` says that nobody needs its copy any more.
    `outranked` names the peers whose process has a lower incarnation than an earlier one had (an empty disk
    under a clock that was set back): its own, and the greatest before it.
    """

    map_version: int
    tablets: list[TabletAssignment]
    peers: dict[str, str] = {}
    suspects: list[str] = []
    dropped: list[int] = []
    outranked: dict[str, tuple[int, int]] = {}
    term: int = 0


class Assigned(msgspec.Struct, tag="assigned", frozen=True):
    """Answer to Assign: the server has made those tablets that are new, and remembered it, durably."""


class FetchAssignment(msgspec.Struct, tag="fetch-assignment", frozen=True):
    """Call, storage server to any coordinator, answered with Assign as of now (`dropped` is empty)."""

    sender: str


class Propose(msgspec.Struct, tag="propose", frozen=True):
    """Call, the primary of a tablet to any coordinator: its next configuration, answered with Proposed.

    It is applied only while the tablet's epoch is `expect` and `sender`, with `sender_incarnation`, is
    its primary. Members may be removed, and one may join. `incarnation` is that of the named primary's
    process; 0: as the coordinators know it. Refusals, after which the outcome is not known or nothing
    was done, and the proposal is sent again: NOT_LEADER, UNKNOWN.
    """

    sender: str
    sender_incarnation: int
    tablet: int
    expect: int
    primary: str
    incarnation: int
    members: list[str]


class Proposed(msgspec.Struct, tag="proposed", frozen=True):
    """Answer to Propose and ProposeSplit. `epoch` is the tablet's now (0: there is no such tablet);
    `text` says why it was not applied. What was applied comes by `Assign`, too."""

    applied: bool
    epoch: int
    text: str = ""


class ReserveTablets(msgspec.Struct, tag="reserve-tablets", frozen=True):
    """Call, storage server to any coordinator: `count` tablet ids that nobody else gets, for a split."""

    count: int


class Reserved(msgspec.Struct, tag="reserved", frozen=True):
    """Answer to ReserveTablets: the ids from `first` on, as many as were asked for."""

    first: int


class ProposeSplit(msgspec.Struct, tag="propose-split", frozen=True):
    """Call, the primary of a tablet to any coordinator: two tablets in its place; answered with Proposed.

    `low` gets the rows below the hash `at`, `high` the others; both are reserved ids. They begin with
    the tablet's primary and members, one epoch above it. As with Propose; proposing again what was
    applied is answered as applied.
    """

    sender: str
    sender_incarnation: int
    tablet: int
    expect: int
    at: int
    low: int
    high: int


OnAssign = Callable[[Assign], Awaitable[None] | None]
OnCoordinators = Callable[[Sequence[str]], None]


class Registration:
    """Keeps this process registered with every coordinator of the cluster, from start() to stop().

    These are the configured ones, and those that joined the group since, as the coordinators tell.
    `on_coordinators` is given all their addresses when they have changed.
    `on_assign` (storage servers) is given each assignment and returns, or fires, when it is durable;
    what it raises is answered to the coordinator, which sends the assignment again. `tips` tells how
    far the tablets of this server reach, `mail` and `workers` what a frontend's part for mail and its
    processes do; they are called for every ping and have to be quick. `incarnation`: None for a new one by
    the clock.
    """

    log = Logger()

    def __init__(
        self,
        environment: Environment,
        cluster: Cluster,
        info: Identity,
        on_assign: OnAssign | None = None,
        tips: Callable[[], Sequence[Tip]] = tuple,
        *,
        incarnation: int | None = None,
        on_coordinators: OnCoordinators | None = None,
        mail: Callable[[], MailPart] = lambda: "",
        workers: Callable[[], Sequence[Worker]] = tuple,
    ) -> None:
        self.info = info
        self.incarnation = new_incarnation(environment) if incarnation is None else incarnation
        self._environment = environment
        self._cluster = cluster
        self._on_assign = on_assign
        self._tips = tips
        self._mail = mail
        self._workers = workers
        self._on_coordinators = on_coordinators
        self._secret = b""
        self._calls = Calls()
        self._calls.on_note(Ping, self._ping)
        self._calls.on_note(Coordinators, self._coordinators)
        if on_assign is not None:
            self._calls.on_call(Assign, self._assign)
        self._clients: list[RpcClient] = []
        # What each coordinator has told last, by the client that leads to it.
        self._told: dict[RpcClient, Coordinators] = {}
        self._stopping: set[Deferred[None]] = set()

    def start(self) -> None:
        """Begin to register; raises ConfigurationError for a secret file that cannot be used."""
        self._secret = load_secret(self._cluster, self.info.host)
        for address in self._cluster.coordinators:
            self._connect(address)

    def _connect(self, address: str) -> None:
        client = RpcClient(
            self._environment,
            *parse_address(address),
            calls=self._calls,
            secret=self._secret,
            hooks=Hooks(opened=self._connected),
            longest_pause_s=LONGEST_PAUSE_S,
            roles=("coordinator",),
        )
        self._clients.append(client)
        client.start()

    async def stop(self) -> None:
        """Take leave of the coordinators that can be reached and close the connections."""
        clients, self._clients = self._clients, []
        farewells = [
            client.connection.call(Leave(), Left, LEAVE_TIMEOUT_S)
            for client in clients
            if client.connection is not None
        ]
        await DeferredList(farewells, consumeErrors=True)
        ends = [Deferred.fromCoroutine(client.stop()) for client in clients]
        await DeferredList([*ends, *self._stopping])

    async def ask(self, message: msgspec.Struct, answer: type[_T], timeout_s: float) -> _T:
        """Ask the coordinators one after the other until one answers, each for `timeout_s` at most.

        Raises the last one's RpcError when none does: what was asked may have been done or not.
        """
        trouble: RpcError = Disconnected("no coordinator is connected")
        for client in list(self._clients):
            if client.connection is None:
                continue
            try:
                return await client.connection.call(message, answer, timeout_s)
            except Refusal as refusal:
                if refusal.code not in ASK_ANOTHER:
                    raise
                trouble = refusal
            except RpcError as error:
                trouble = error
            # The next question begins with another one.
            if client in self._clients:
                self._clients.remove(client)
                self._clients.append(client)
        raise trouble

    @property
    def connected(self) -> int:
        """To how many coordinators there is a connection now."""
        return sum(client.connection is not None for client in self._clients)

    def trouble(self) -> str:
        """Why the cluster does not know of this process; "" if it does."""
        return "" if self.connected else "no coordinator is connected"

    def _connected(self, connection: RpcProtocol) -> None:
        Deferred.fromCoroutine(self._register(connection)).addErrback(self._failed, connection)

    async def _register(self, connection: RpcProtocol) -> None:
        message = Register(self.info, self.incarnation)
        await connection.call(message, Registered, REGISTER_TIMEOUT_S)
        self.log.info(
            "{id} is registered with the coordinator at {peer}",
            id=self.info.id,
            peer=connection.peer,
        )

    # -- the group of coordinators ---------------------------------------------------------------

    def _coordinators(self, connection: RpcProtocol, news: Coordinators) -> None:
        client = next((one for one in self._clients if one.connection is connection), None)
        if client is None or self._told.get(client) == news:
            return
        self._told[client] = news
        before = {one.address for one in self._clients}
        self._leave_the_needless()
        reached = {told.sender for told in self._told.values()}
        there = {one.address for one in self._clients}
        for node_id, address in self._members().items():
            if node_id not in reached and address not in there:
                self.log.info("{id} joins the coordinators at {at}", id=node_id, at=address)
                self._connect(address)
        now = [one.address for one in self._clients]
        if set(now) != before and self._on_coordinators is not None:
            self._on_coordinators(now)

    def _members(self) -> dict[str, str]:
        return {node: at for told in self._told.values() for node, at in told.members.items()}

    def _leave_the_needless(self) -> None:
        """End connections to those that are no members any more, and second ones to the same: it may
        have another address in the configuration than it tells."""
        configured = set(self._cluster.coordinators)
        members = set(self._members().values())
        for client in list(self._clients):
            if client.address in configured:
                continue
            told = self._told.get(client)
            twice = told is not None and any(
                other is not client and known.sender == told.sender
                for other, known in self._told.items()
            )
            if twice or client.address not in members:
                self._clients.remove(client)
                self._told.pop(client, None)
                ending = Deferred.fromCoroutine(client.stop())
                self._stopping.add(ending)
                ending.addBoth(self._stopped, ending)

    def _stopped(self, result: object, ending: Deferred[None]) -> None:
        self._stopping.discard(ending)
        if isinstance(result, Failure):
            self.log.failure("leaving a coordinator", result)

    # -- registering -----------------------------------------------------------------------------

    def _failed(self, failure: Failure, connection: RpcProtocol) -> None:
        """Without registration the connection is of no use: come back after a pause."""
        if failure.check(Disconnected):
            return
        if not failure.check(RpcError):
            self.log.failure("{id}: registration", failure, id=self.info.id)
        connection.drop(f"registration failed: {failure.getErrorMessage()}")

    def _ping(self, connection: RpcProtocol, ping: Ping) -> None:
        pong = Pong(
            ping.number,
            self.info.pid,
            self.incarnation,
            self._tips(),
            self._mail(),
            tuple(self._workers()),
        )
        try:
            connection.note(pong)
        except (Disconnected, RpcBusy) as error:
            self.log.debug("no pong to {peer}: {why}", peer=connection.peer, why=str(error))

    async def _assign(self, connection: RpcProtocol, assign: Assign) -> Assigned:
        if self._on_assign is not None:
            done = self._on_assign(assign)
            if isawaitable(done):
                await done
        return Assigned()


def new_incarnation(environment: Environment) -> int:
    """A number that is new at every start and greater than earlier ones while clocks go forward.

    Wall clock milliseconds and a few random bits: below 2**53, so that JavaScript can read it.
    """
    milliseconds = int(environment.now() * 1000)
    return milliseconds << _RANDOM_BITS | environment.random.getrandbits(_RANDOM_BITS)

"""What every role tells the coordinators: that it is there, who it is, and, ping by ping, that it lives.

A role keeps a connection to each coordinator. When one opens it calls `Register`; from then on the
coordinator sends `Ping` notes over it, each answered by a `Pong`. To a storage server the coordinator
also calls `Assign` with the tablets it shall hold, again after every registration. A role that stops in
order sends `Leave` first, so that nobody waits for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from inspect import isawaitable
from typing import Final, Literal

import msgspec
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.platform.config import Cluster, Role, parse_address
from penncloud.platform.environment import Environment
from penncloud.rpc.auth import load_secret
from penncloud.rpc.calls import Calls
from penncloud.rpc.client import RpcClient
from penncloud.rpc.errors import Disconnected, RpcBusy, RpcError
from penncloud.rpc.protocol import Hooks, RpcProtocol

RoleName = Literal["lb", "http", "smtp", "storage", "coordinator", "agent"]

REGISTER_TIMEOUT_S: Final = 5.0
LEAVE_TIMEOUT_S: Final = 1.0
# A server that was lost is looked for at least so often: it has to be back soon after its coordinator.
LONGEST_PAUSE_S: Final = 1.0
_RANDOM_BITS: Final = 10


class Identity(msgspec.Struct, frozen=True):
    """Who a server is and where others reach it. `agent`: host:port of its agent, or empty."""

    role: RoleName
    id: str
    host: str
    port: int
    pid: int
    agent: str = ""
    metrics_port: int = 0


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
    )


class Register(msgspec.Struct, tag="register", frozen=True):
    """Call, role to coordinator. `incarnation` is new, and greater, at every start of the role."""

    node: Identity
    incarnation: int


class Registered(msgspec.Struct, tag="registered", frozen=True):
    heartbeat_ms: int


class Leave(msgspec.Struct, tag="leave", frozen=True):
    """Call, role to coordinator: this incarnation ends in order."""


class Left(msgspec.Struct, tag="left", frozen=True):
    """Answer to Leave."""


class Ping(msgspec.Struct, tag="ping", frozen=True):
    """Note, coordinator to role."""

    number: int


class Tip(msgspec.Struct, frozen=True):
    """How far a storage server's copy of a tablet reaches (its last entry's epoch and version).

    `damaged`: it cannot be used, because its files are damaged or gone.
    """

    tablet: int
    epoch: int
    version: int
    damaged: bool = False


class Pong(msgspec.Struct, tag="pong", frozen=True):
    """Note, role to coordinator: the answer to the Ping of the same number."""

    number: int
    pid: int
    incarnation: int
    tips: Sequence[Tip] = ()


class TabletAssignment(msgspec.Struct, frozen=True):
    """One tablet: rows with lo <= row_hash < hi. `primary` and `members` are ids.

    `taken`: the server that this is sent to has once answered that it holds the tablet. If its disk does
    not have it any more, then it was lost, and must not be begun anew.
    """

    id: int
    lo: int
    hi: int
    epoch: int
    primary: str
    members: list[str]
    taken: bool = False


class Assign(msgspec.Struct, tag="assign", frozen=True):
    """Call, coordinator to storage server: all the tablets of which it is a member.

    `map_version` grows with every change of the tablet map. An assignment may arrive again; one of a
    lower `map_version`, or a tablet of a lower epoch than the one known, is older news.
    """

    map_version: int
    tablets: list[TabletAssignment]


class Assigned(msgspec.Struct, tag="assigned", frozen=True):
    """Answer to Assign: the server has made those tablets that are new, and remembered it, durably."""


OnAssign = Callable[[Assign], Awaitable[None] | None]


class Registration:
    """Keeps this process registered with every coordinator of the cluster, from start() to stop().

    `on_assign` (storage servers) is given each assignment and returns, or fires, when it is durable;
    what it raises is answered to the coordinator, which sends the assignment again. `tips` tells how
    far the tablets of this server reach; it is called for every ping and has to be quick.
    """

    log = Logger()

    def __init__(
        self,
        environment: Environment,
        cluster: Cluster,
        info: Identity,
        on_assign: OnAssign | None = None,
        tips: Callable[[], Sequence[Tip]] = tuple,
    ) -> None:
        self.info = info
        self.incarnation = new_incarnation(environment)
        self._environment = environment
        self._cluster = cluster
        self._on_assign = on_assign
        self._tips = tips
        self._clients: list[RpcClient] = []

    def start(self) -> None:
        """Begin to register; raises ConfigurationError for a secret file that cannot be used."""
        secret = load_secret(self._cluster, self.info.host)
        calls = Calls()
        calls.on_note(Ping, self._ping)
        if self._on_assign is not None:
            calls.on_call(Assign, self._assign)
        for address in self._cluster.coordinators:
            client = RpcClient(
                self._environment,
                *parse_address(address),
                calls=calls,
                secret=secret,
                hooks=Hooks(opened=self._connected),
                longest_pause_s=LONGEST_PAUSE_S,
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
        await DeferredList([Deferred.fromCoroutine(client.stop()) for client in clients])

    @property
    def connected(self) -> int:
        """To how many coordinators there is a connection now."""
        return sum(client.connection is not None for client in self._clients)

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

    def _failed(self, failure: Failure, connection: RpcProtocol) -> None:
        """Without registration the connection is of no use: come back after a pause."""
        if failure.check(Disconnected):
            return
        if not failure.check(RpcError):
            self.log.failure("{id}: registration", failure, id=self.info.id)
        connection.drop(f"registration failed: {failure.getErrorMessage()}")

    def _ping(self, connection: RpcProtocol, ping: Ping) -> None:
        pong = Pong(ping.number, self.info.pid, self.incarnation, self._tips())
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

"""Storage servers on simulated hosts, with a coordinator that does what the test says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from attrs import define, field
from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import Clock

from penncloud.placement.successor import choose_successor
from penncloud.placement.tablets import HASH_SPACE
from penncloud.platform import config
from penncloud.platform.disk import Disk
from penncloud.platform.environment import Environment
from penncloud.platform.listening import listen
from penncloud.replication.replica import Replica
from penncloud.rpc.calls import Calls
from penncloud.rpc.errors import Refusal
from penncloud.rpc.protocol import Hooks, RpcProtocol
from penncloud.rpc.registration import (
    Assign,
    Assigned,
    FetchAssignment,
    Ping,
    Pong,
    Propose,
    Proposed,
    ProposeSplit,
    Register,
    Registered,
    Reserved,
    ReserveTablets,
    TabletAssignment,
    Tip,
)
from penncloud.rpc.server import RpcServerFactory
from penncloud.simulation.disk import DiskQuality, SimulatedDisk
from penncloud.simulation.host import Node
from penncloud.simulation.world import World
from penncloud.storage.member import Member
from penncloud.storage.node import StorageNode
from penncloud.storage.reads import Answer
from penncloud.wire.messages import Get, Mutation, Reply, RequestId, Scan

PORT = 8600
WHOLE = 1


@define
class _Seen:
    """One server as the coordinator sees it."""

    connection: RpcProtocol
    incarnation: int
    heard_at: float
    tips: dict[int, Tip] = field(factory=dict)


class PlayedCoordinator:
    """Pings, hears tips, lets proposals in by compare-and-set, and chooses successors by itself.

    It outlives its process, as Raft's log does. `silent`: it says and hears nothing.
    """

    def __init__(self, names: list[str], port: int) -> None:
        self.port = port
        self.silent = False
        self.succeeds = True
        self.map_version = 1
        self.tablets = [TabletAssignment(WHOLE, 0, HASH_SPACE, 0, "", list(names))]
        self.configured: list[TabletAssignment] = []
        self.seen: dict[str, _Seen] = {}
        self._taken: set[tuple[int, str]] = set()
        self._alive: list[str] = []
        self._next_tablet = 101
        self.deaf_to_splits = False
        self.leaderless = False
        self.reservations_refused = 0
        self.damaged_step_down = False
        self.split_proposals = 0
        self.dropped: dict[str, list[int]] = {}
        # Whoever is to have no part in any tablet.
        self.strangers: set[str] = set()
        self._environment: Environment
        self._listening: IListeningPort

    def build(self, environment: Environment, disk: Disk) -> Node:
        self._environment = environment
        return self

    async def start(self) -> None:
        calls = Calls()
        calls.on_call(Register, self._register)
        calls.on_call(Propose, self._propose)
        calls.on_call(ReserveTablets, self._reserve)
        calls.on_call(ProposeSplit, self._split)
        calls.on_call(FetchAssignment, lambda _, fetch: self.assignment(fetch.sender))
        calls.on_note(Pong, self._pong)
        rpc = RpcServerFactory(self._environment, calls, hooks=Hooks())
        self._listening = await listen(self._environment.reactor, "127.0.1.1", PORT, rpc)
        self._tick()

    async def stop(self) -> None:
        await self._listening.stopListening()  # type: ignore[misc]

    def _register(self, connection: RpcProtocol, register: Register) -> Registered:
        now = self._environment.reactor.seconds()
        self.seen[register.node.id] = _Seen(connection, register.incarnation, now)
        self._environment.reactor.callLater(0, self.assign_all)
        return Registered(100)

    def _pong(self, connection: RpcProtocol, pong: Pong) -> None:
        for seen in self.seen.values():
            if seen.connection is connection and not self.silent:
                seen.heard_at = self._environment.reactor.seconds()
                seen.tips = {tip.tablet: tip for tip in pong.tips}

    def _tick(self) -> None:
        self._environment.reactor.callLater(0.1, self._tick)
        if self.silent:
            return
        for seen in self.seen.values():
            if seen.connection.is_open:
                seen.connection.note(Ping(1))
        if self.alive() != self._alive:
            self._alive = self.alive()
            self.assign_all()
        if self.succeeds:
            for tablet in list(self.tablets):
                self._judge(tablet)

    def alive(self) -> list[str]:
        now = self._environment.reactor.seconds()
        return [name for name, seen in self.seen.items() if now - seen.heard_at < 0.5]

    def _judge(self, tablet: TabletAssignment) -> None:
        if not tablet.epoch:
            if {(tablet.id, member) for member in tablet.members} <= self._taken:
                first = tablet.members[0]
                self.configure(tablet.id, first, tablet.members)
            return
        primary = self.seen.get(tablet.primary)
        tip = primary.tips.get(tablet.id) if primary else None
        good = (
            primary is not None
            and tablet.primary in self.alive()
            and primary.incarnation == tablet.incarnation
            and (tip is None or tip.declined != tablet.epoch)
            and not (tip is not None and tip.damaged and self.damaged_step_down)
        )
        if good:
            return
        tips = {
            name: _Choice(self.seen[name].incarnation, tip)
            for name in self.alive()
            if (tip := self.seen[name].tips.get(tablet.id)) is not None
            and not (tip.damaged and self.damaged_step_down)
        }
        chosen = choose_successor(tuple(tablet.members), tips)
        if chosen is not None:
            self.configure(tablet.id, chosen.primary, tablet.members)

    # -- for tests -------------------------------------------------------------------------------

    def tablet(self, number: int = WHOLE) -> TabletAssignment:
        return next(tablet for tablet in self.tablets if tablet.id == number)

    def configure(self, number: int, primary: str, members: list[str]) -> None:
        """Make the next configuration."""
        before = self.tablet(number)
        after = msgspec.structs.replace(
            before,
            epoch=before.epoch + 1,
            primary=primary,
            incarnation=self.seen[primary].incarnation,
            members=list(members),
        )
        self.tablets = [after if tablet is before else tablet for tablet in self.tablets]
        self.configured.append(after)
        self.map_version += 1
        self.assign_all()

    def _propose(self, connection: RpcProtocol, proposal: Propose) -> Proposed:
        tablet = next((one for one in self.tablets if one.id == proposal.tablet), None)
        if tablet is None:
            return Proposed(False, 0, "there is no such tablet")
        if tablet.epoch != proposal.expect or self.silent:
            return Proposed(False, tablet.epoch, "it is another configuration")
        self._environment.reactor.callLater(
            0, self.configure, tablet.id, proposal.primary, proposal.members
        )
        return Proposed(True, tablet.epoch + 1)

    def _reserve(self, _connection: RpcProtocol, wanted: ReserveTablets) -> Reserved:
        """Ids that nobody else gets; `leaderless`: no majority decides."""
        if self.leaderless:
            self.reservations_refused += 1
            raise Refusal("NOT_LEADER", "nobody leads")
        first, self._next_tablet = self._next_tablet, self._next_tablet + wanted.count
        return Reserved(first)

    def _split(self, _connection: RpcProtocol, proposal: ProposeSplit) -> Proposed:
        """Two tablets for one; `deaf_to_splits`: nothing comes of it."""
        whole = next((one for one in self.tablets if one.id == proposal.tablet), None)
        if whole is None:
            done = any(one.id == proposal.low for one in self.tablets)
            return Proposed(done, 0, "" if done else "there is no such tablet")
        self.split_proposals += 1
        if whole.epoch != proposal.expect or self.silent or self.deaf_to_splits:
            return Proposed(False, whole.epoch, "it is another configuration")
        self._environment.reactor.callLater(0, self.split, whole, proposal)
        return Proposed(True, whole.epoch + 1)

    def split(self, whole: TabletAssignment, proposal: ProposeSplit) -> None:
        low = msgspec.structs.replace(whole, id=proposal.low, hi=proposal.at, epoch=whole.epoch + 1)
        high = msgspec.structs.replace(
            whole, id=proposal.high, lo=proposal.at, epoch=whole.epoch + 1
        )
        if whole not in self.tablets:
            return
        self.tablets.remove(whole)
        self.tablets += [low, high]
        self._taken |= {(new.id, member) for new in (low, high) for member in whole.members}
        self.map_version += 1
        self.assign_all()

    def assignment(self, name: str) -> Assign:
        """Whoever lives and is neither member nor stranger is a learner of everything."""
        alive = self.alive()
        tablets = [
            msgspec.structs.replace(
                tablet,
                taken=(tablet.id, name) in self._taken,
                learners=[
                    other for other in alive if other not in {*tablet.members, *self.strangers}
                ],
            )
            for tablet in self.tablets
            if name not in self.strangers
        ]
        peers = {name: f"{name}:8700" for name in self.seen}
        suspects = [name for name in self.seen if name not in alive]
        return Assign(self.map_version, tablets, peers, suspects, self.dropped.get(name, []))

    def assign_all(self) -> None:
        """Tell everybody."""
        if self.silent:
            return
        for name, seen in self.seen.items():
            if seen.connection.is_open:
                assign = self.assignment(name)
                done = seen.connection.call(assign, Assigned, 5.0)
                done.addCallbacks(self._took, self._not_taken, callbackArgs=(name, assign))

    def _not_taken(self, _: object) -> None:
        self._environment.reactor.callLater(1.0, self.assign_all)

    def _took(self, _: Assigned, name: str, assign: Assign) -> None:
        for tablet in assign.tablets:
            if name in tablet.members:
                self._taken.add((tablet.id, name))


@define
class _Choice:
    """A tip with the incarnation of the pong that it came with."""

    incarnation: int
    tip: Tip

    @property
    def entry_cfg(self) -> int:
        return self.tip.entry_cfg

    @property
    def version(self) -> int:
        return self.tip.version

    @property
    def eligible(self) -> bool:
        return self.tip.eligible


class Servers:
    """`count` storage servers s1, s2, ... and a played coordinator."""

    def __init__(
        self,
        count: int = 3,
        seed: int = 1,
        broken: Callable[[str], bool] = lambda _rule: False,
        **settings: Any,
    ) -> None:
        self.world = World(seed, broken, keep_trace=True)
        names = [f"s{number + 1}" for number in range(count)]
        self.coordinator = PlayedCoordinator(names, PORT)
        cluster_keys = {"replication", "read_mode", "min_members", "async_max_lag"}
        of_cluster = {key: settings.pop(key) for key in list(settings) if key in cluster_keys}
        self.cluster = config.Cluster(coordinators=[f"127.0.1.1:{PORT}"], **of_cluster)
        self.settings = settings
        self.world.add_host("coordinator", self.coordinator.build).start()
        self.hosts = {name: self.world.add_host(name, self._storage(name)) for name in names}
        for host in self.hosts.values():
            host.start()

    def _storage(self, name: str) -> Callable[[Environment, Disk], Node]:
        def build(environment: Environment, disk: Disk) -> Node:
            address = self.world.hosts[name].address
            role = config.Storage(id=name, host=address, port=8700, data_dir=name, **self.settings)
            return StorageNode(environment, self.cluster, role, CollectorRegistry(), disk)

        return build

    # -- looking ---------------------------------------------------------------------------------

    def node(self, name: str) -> StorageNode:
        node = self.hosts[name].node
        assert isinstance(node, StorageNode)
        return node

    def member(self, name: str, tablet: int = WHOLE) -> Member:
        return self.node(name)._replicas.members[tablet]

    def replica(self, name: str, tablet: int = WHOLE) -> Replica:
        return self.member(name, tablet).replica

    def up(self) -> list[str]:
        return [
            name
            for name, host in self.hosts.items()
            if host.node is not None and host.node._registration is not None  # type: ignore[attr-defined]
        ]

    def primary(self, tablet: int = WHOLE) -> str:
        """Who serves now; empty: nobody does."""
        for name in self.up():
            if (
                tablet in self.node(name)._replicas.members
                and self.member(name, tablet).tablet.serving
            ):
                return name
        return ""

    def cells(self, name: str, row: bytes, tablet: int = WHOLE) -> dict[bytes, tuple[int, bytes]]:
        """What a server has committed of a row, whether or not it may serve it."""
        engine = self.node(name)._engine
        return {cell.col: (cell.version, cell.value) for cell in engine.scan(tablet, row)}

    # -- acting ----------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        self.world.run(seconds)

    def until(self, done: Callable[[], bool], seconds: float = 20.0) -> None:
        """Let time pass until something is so; an AssertionError when it does not come."""
        if not self.world.run(seconds, done):
            raise AssertionError(
                "\n".join(["it does not come to pass:", *self._story(), *self.world.errors])
            )

    def _story(self) -> list[str]:
        return [line for line in self.world.trace.lines if " data to " not in line][-60:]

    def ready(self) -> str:
        """Wait until somebody serves with everybody as a member; who."""
        everybody = set(self.hosts)

        def done() -> bool:
            primary = self.primary()
            whole = set(self.coordinator.tablet().members) == everybody
            return bool(primary) and whole and self.member(primary).tablet.may_watch()

        self.until(done)
        return self.primary()

    def ask(
        self, name: str, request: Mutation | Get | Scan, request_id: RequestId | None = None
    ) -> list[Reply]:
        """Give a request to a server; the list gets the answer when it comes."""
        answers: list[Reply] = []
        process = self.hosts[name].process
        assert process is not None

        def act() -> None:
            tablets = self.node(name)._tablets
            answer: Answer
            if isinstance(request, Get):
                answer = tablets.get(request)
            elif isinstance(request, Scan):
                answer = tablets.scan(request)
            else:
                answer = tablets.mutate(request, request_id)
            if isinstance(answer, Deferred):
                answer.addCallback(answers.append)
            else:
                answers.append(answer)

        process.execute(act)
        return answers

    def asked(
        self, name: str, request: Mutation | Get | Scan, request_id: RequestId | None = None
    ) -> Reply:
        """Give a request to a server and wait for the answer."""
        answers = self.ask(name, request, request_id)
        self.until(lambda: bool(answers))
        return answers[0]

    def primary_but(self, other: str, tablet: int = WHOLE) -> str:
        """Who serves, besides somebody who may believe that it does."""
        serving = (n for n in self.up() if n != other and self.member(n, tablet).tablet.serving)
        return next(serving, "")

    def kill(self, name: str, wiped: bool = False) -> None:
        """Cut the power of a server; `wiped`: its disk is empty when it comes back."""
        host = self.hosts[name]
        host.kill(power=True)
        if wiped:
            host.disk = SimulatedDisk(Clock(), self.world.random(name), DiskQuality(), 2**30)

    def isolate(self, name: str, *others: str) -> None:
        """Nothing goes between a server and others (all storage servers and the coordinator)."""
        for other in others or [o for o in self.world.hosts if o != name]:
            self.world.network.cut |= {(name, other), (other, name)}

    def mend(self) -> None:
        self.world.network.cut.clear()

"""Coordinators and storage servers that hold nothing, in the simulated world.

A fake storage server answers assignments and pings as a real one does, remembers what it "holds" over
restarts (`Shelf`), and acts as a primary: it proposes to remove who is suspected or shall leave, and to
let learners join that have caught up. What all of them were told is gathered, and checked as it comes:
one primary per tablet and epoch, epochs and map versions that only grow, no copy dropped that counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field
from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from penncloud.client.coordinator_link import CoordinatorDirectory
from penncloud.coordinator.messages import ClusterView
from penncloud.coordinator.node import CoordinatorNode
from penncloud.platform import config
from penncloud.platform.disk import Disk
from penncloud.platform.environment import Environment, nothing_broken
from penncloud.rpc.errors import RpcError
from penncloud.rpc.registration import (
    Assign,
    Propose,
    Proposed,
    ProposeSplit,
    Registration,
    Reserved,
    ReserveTablets,
    TabletAssignment,
    Tip,
    identity,
)
from penncloud.simulation.host import Host, Node
from penncloud.simulation.world import World

BEAT_S = 0.1
COPYING_S = 0.5


@define
class Shelf:
    """What a server's disk holds: tablet -> (epoch, version) of its last entry; None: blank."""

    held: dict[int, tuple[int, int] | None] = field(factory=dict)
    size_bytes: dict[int, int] = field(factory=dict)
    dropped: list[int] = field(factory=list)


class FakeStorage:
    """One start of a storage server."""

    def __init__(
        self, environment: Environment, cluster: config.Cluster, name: str, world: FakeCluster
    ) -> None:
        self.world = world
        self.name = name
        self.shelf = world.shelves[name]
        self.assign = Assign(0, [])
        self.told_at: dict[int, float] = {}
        # Since when each learner of a tablet is heard of; and since when this is a member.
        self._learning: dict[tuple[int, str], float] = {}
        self._clock = environment.reactor
        self._proposing: set[int] = set()
        host = world.world.hosts[name].address
        role = config.Storage(id=name, host=host)
        self.registration = Registration(
            environment,
            cluster,
            identity("storage", role, role.port, environment.pid),
            on_assign=self._assigned,
            tips=self._tips,
        )
        self._beats = LoopingCall(self._beat)
        self._beats.clock = environment.reactor

    async def start(self) -> None:
        self.registration.start()
        self._beats.start(BEAT_S, now=False).addErrback(self._failed)

    async def stop(self) -> None:
        self._beats.stop()
        await self.registration.stop()

    def _failed(self, failure: Failure) -> None:
        self.world.world.internal_error(self.name, failure)

    def _assigned(self, assign: Assign) -> None:
        if assign.map_version < self.assign.map_version:
            return
        self.world.check(self.name, assign)
        before = {tablet.id: tablet.epoch for tablet in self.assign.tablets}
        self.assign = assign
        for tablet in assign.tablets:
            if before.get(tablet.id, -1) < tablet.epoch:
                self.told_at[tablet.id] = self.world.world.timeline.now_s
            if tablet.id not in self.shelf.held:
                fresh = self.name in tablet.members and not tablet.taken
                self.shelf.held[tablet.id] = (tablet.epoch, 0) if fresh else None
        for number in assign.dropped:
            self.shelf.held.pop(number, None)
            self.shelf.dropped.append(number)

    def _tips(self) -> list[Tip]:
        return [self._tip(number, place) for number, place in sorted(self.shelf.held.items())]

    def _tip(self, number: int, place: tuple[int, int] | None) -> Tip:
        if place is None:
            return Tip(number, 0, 0, eligible=False)
        return Tip(number, *place, size_bytes=self.shelf.size_bytes.get(number, 0))

    def serves(self, tablet: TabletAssignment) -> bool:
        mine = (self.name, self.registration.incarnation)
        return (tablet.primary, tablet.incarnation) == mine

    # -- the primary's part ----------------------------------------------------------------------

    def _beat(self) -> None:
        for tablet in self.assign.tablets:
            if self.serves(tablet) and tablet.id not in self._proposing:
                self._write(tablet)
                members = self._next_members(tablet)
                if members != tablet.members:
                    self._proposing.add(tablet.id)
                    work = Deferred.fromCoroutine(self._propose(tablet, members))
                    work.addErrback(self._failed)

    def _write(self, tablet: TabletAssignment) -> None:
        """Everything reaches all members that live and hold a copy."""
        place = self.shelf.held[tablet.id]
        assert place is not None, f"{self.name} is primary of {tablet.id} without a copy"
        latest = (tablet.epoch, place[1] + 1)
        for member in tablet.members:
            shelf = self.world.shelves[member]
            if self.world.talks(self.name, member) and shelf.held.get(tablet.id) is not None:
                shelf.held[tablet.id] = latest

    def _next_members(self, tablet: TabletAssignment) -> list[str]:
        now = self._clock.seconds()
        stay = [
            one
            for one in tablet.members
            if one == self.name
            or (
                one not in tablet.leaving
                and self.world.talks(self.name, one)
                and self.world.shelves[one].held.get(tablet.id) is not None
            )
        ]
        if stay != tablet.members:
            return stay
        for learner in tablet.learners:
            shelf = self.world.shelves[learner]
            since = self._learning.setdefault((tablet.id, learner), now)
            ready = self.world.talks(self.name, learner) and tablet.id in shelf.held
            if ready and now - since >= COPYING_S:
                shelf.held[tablet.id] = self.shelf.held[tablet.id]
                shelf.size_bytes[tablet.id] = self.shelf.size_bytes.get(tablet.id, 0)
                return [*tablet.members, learner]
        return tablet.members

    async def _propose(self, tablet: TabletAssignment, members: list[str]) -> None:
        incarnation = self.registration.incarnation
        message = Propose(
            self.name, incarnation, tablet.id, tablet.epoch, self.name, incarnation, members
        )
        try:
            self.world.proposed.append(await self.registration.ask(message, Proposed, 1.0))
        except RpcError:
            pass  # asked again with the next beat
        finally:
            self._proposing.discard(tablet.id)

    async def split(self, number: int) -> Proposed:
        """Split a tablet in the middle, on all members at once."""
        [tablet] = [one for one in self.assign.tablets if one.id == number]
        reserved = await self.registration.ask(ReserveTablets(2), Reserved, 1.0)
        low, high = reserved.first, reserved.first + 1
        for member in tablet.members:
            held = self.world.shelves[member].held
            held[low] = held[high] = held.pop(number)
        incarnation = self.registration.incarnation
        at = (tablet.lo + tablet.hi) // 2
        call = ProposeSplit(self.name, incarnation, number, tablet.epoch, at, low, high)
        return await self.registration.ask(call, Proposed, 1.0)


class ViewNode:
    """A client that looks at the cluster."""

    def __init__(self, environment: Environment, cluster: config.Cluster) -> None:
        self.directory = CoordinatorDirectory(environment, cluster)

    async def start(self) -> None:
        self.directory.start()

    async def stop(self) -> None:
        await self.directory.stop()


class FakeCluster:
    """Coordinators, fake storage servers and one client; all of them run from the start."""

    def __init__(
        self,
        seed: int,
        coordinators: int = 3,
        storages: int = 3,
        *,
        tablets: int = 6,
        copies: int = 3,
        repair_after_s: float = 10.0,
        broken: Callable[[str], bool] = nothing_broken,
    ) -> None:
        self.world = World(seed, broken)
        self.shelves: dict[str, Shelf] = {}
        self.proposed: list[Proposed] = []
        self._primaries: dict[tuple[int, int], tuple[str, int]] = {}
        self._role: dict[str, Any] = {
            "expect_storage": storages,
            "initial_tablets": tablets,
            "repair_after_s": repair_after_s,
        }
        self.cluster = config.Cluster(
            coordinators=[f"127.0.1.{n + 1}:8600" for n in range(coordinators)],
            replication_factor=copies,
        )
        self.coordinators = [
            self.world.add_host(f"coordinator-{n + 1}", self._coordinator(f"coordinator-{n + 1}"))
            for n in range(coordinators)
        ]
        self.client = self.world.add_host(
            "client", lambda environment, _: ViewNode(environment, self.cluster)
        )
        self.storages: dict[str, Host] = {}
        for number in range(storages):
            self.add(f"storage-{number + 1}")
        for host in self.world.hosts.values():
            host.start()

    def add(self, name: str) -> Host:
        """One more storage server, not started yet."""
        self.shelves[name] = Shelf()
        self.storages[name] = self.world.add_host(
            name, lambda environment, _: FakeStorage(environment, self.cluster, name, self)
        )
        return self.storages[name]

    def _coordinator(self, name: str) -> Callable[[Environment, Disk], Node]:
        def build(environment: Environment, disk: Disk) -> Node:
            address = self.world.hosts[name].address
            role = config.Coordinator(id=name, host=address, data_dir=name, **self._role)
            return CoordinatorNode(environment, self.cluster, role, CollectorRegistry(), disk)

        return build

    # -- looking ---------------------------------------------------------------------------------

    def storage(self, name: str) -> FakeStorage:
        node = self.storages[name].node
        assert isinstance(node, FakeStorage)
        return node

    def leader(self) -> CoordinatorNode | None:
        """Of those that run the one that leads the highest term."""
        nodes = [host.node for host in self.coordinators if host.up]
        leading = [n for n in nodes if isinstance(n, CoordinatorNode) and n.decisions.leads]
        return max(leading, key=lambda node: node.decisions.term, default=None)

    def leader_host(self) -> Host:
        leader = self.leader()
        return next(host for host in self.coordinators if host.node is leader)

    def view(self) -> ClusterView:
        """As the leader has it, or nothing while there is none."""
        leader = self.leader()
        return ClusterView([], [], []) if leader is None else leader.view()

    def talks(self, one: str, other: str) -> bool:
        """Whether both run and reach each other."""
        here, there = self.storages[one], self.storages[other]
        cut = self.world.network.cut
        apart = (one, other) in cut or (other, one) in cut
        runs = there.up and there.process is not None and not there.process.paused
        return here is there or (runs and not apart)

    def served(self) -> dict[int, str]:
        """Tablet -> the server that serves it by the latest epoch, where that one knows."""
        found = {}
        for tablet in self.view().tablets:
            host = self.storages.get(tablet.primary)
            if host is None or not host.up:
                continue
            for told in self.storage(tablet.primary).assign.tablets:
                latest = (told.id, told.epoch) == (tablet.id, tablet.epoch)
                if latest and self.storage(tablet.primary).serves(told):
                    found[told.id] = tablet.primary
        return found

    def all_served(self) -> bool:
        tablets = self.view().tablets
        return bool(tablets) and len(self.served()) == len(tablets)

    def whole(self) -> bool:
        """Whether every tablet is served, has its members, and nothing moves."""
        copies = min(self.cluster.replication_factor, len(self.storages))
        return self.all_served() and all(
            len(tablet.members) == copies
            and not tablet.learners
            and not tablet.leaving
            and all(self.shelves[member].held.get(tablet.id) for member in tablet.members)
            for tablet in self.view().tablets
        )

    # -- going on --------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        self.world.run(seconds)
        self._no_errors()

    def until(self, done: Callable[[], bool], seconds: float = 60.0) -> float:
        """Go on until `done`; the seconds that took. Fails when it is not, in time."""
        start = self.world.timeline.now_s
        arrived = self.world.run(seconds, done)
        self._no_errors()
        assert arrived, f"not in {seconds} s: {self.view().tablets}"
        return self.world.timeline.now_s - start

    def ask(self, call: Callable[[CoordinatorDirectory], Any], seconds: float = 10.0) -> Any:
        """What the client's call gives; raises what it raises."""
        node, process = self.client.node, self.client.process
        assert isinstance(node, ViewNode)
        assert process is not None
        return self.do(self.client, lambda: call(node.directory), seconds)

    def do(self, host: Host, call: Callable[[], Any], seconds: float = 10.0) -> Any:
        """Run a coroutine function in a host's process to its end."""
        results: list[Any] = []
        assert host.process is not None

        def begin() -> None:
            Deferred.fromCoroutine(call()).addBoth(results.append)

        host.process.execute(begin)
        self.until(lambda: bool(results), seconds)
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]

    def _no_errors(self) -> None:
        assert not self.world.errors, self.world.errors[0]

    # -- checking --------------------------------------------------------------------------------

    def check(self, name: str, assign: Assign) -> None:
        """What no server may ever be told."""
        for tablet in assign.tablets:
            if tablet.primary:
                who = (tablet.primary, tablet.incarnation)
                place = (tablet.id, tablet.epoch)
                known = self._primaries.setdefault(place, who)
                assert known == who, f"two primaries of tablet {place}: {known} and {who}"
                assert tablet.primary in tablet.members, tablet
            assert name in (*tablet.members, *tablet.learners), tablet
            named = {*tablet.members, *tablet.learners}
            assert named <= assign.peers.keys(), assign
        here = {tablet.id for tablet in assign.tablets}
        assert not here & set(assign.dropped), assign
        for number in assign.dropped:
            copies = [
                other
                for other, shelf in self.shelves.items()
                if other != name and shelf.held.get(number) is not None
            ]
            split = all(number not in shelf.held for shelf in self.shelves.values())
            children = self.leader() is None or number not in self._tablets()
            assert split or children or len(copies) >= self.cluster.replication_factor, (
                f"{name} drops {number}, held by {copies}"
            )

    def _tablets(self) -> set[int]:
        return {tablet.id for tablet in self.view().tablets}

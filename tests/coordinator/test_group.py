"""Several coordinators in one process, on real sockets and simulated disks."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet import reactor as real_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from penncloud.client.coordinator_link import CoordinatorDirectory
from penncloud.client.directory import ClusterView
from penncloud.client.locator import Locator
from penncloud.client.table import Refused, Unavailable
from penncloud.coordinator.node import CoordinatorNode
from penncloud.platform.config import Cluster, Coordinator
from penncloud.platform.memory_disk import MemoryDisk
from penncloud.raft.log import RaftLog
from penncloud.rpc.registration import Assign, Identity, Registration
from tests.processes.cluster import free_block
from tests.rpc.world import environment

reactor: Any = real_reactor


class GroupTests(TestCase):
    timeout = 300

    def setUp(self) -> None:
        self.first_port = free_block(6)
        self.size = 3
        self.log_bytes = Coordinator().raft_log_bytes
        self.nodes: dict[int, CoordinatorNode] = {}
        self.disks: dict[int, MemoryDisk] = {}
        self.directories = 0

    def tearDown(self) -> Deferred[None]:  # type: ignore[override]
        return Deferred.fromCoroutine(self._stop_all())

    async def _stop_all(self) -> None:
        for number in list(self.nodes):
            await self._crash(number)

    def _cluster(self, size: int = 0) -> Cluster:
        ports = range(self.first_port, self.first_port + (size or self.size))
        return Cluster(coordinators=[f"127.0.0.1:{port}" for port in ports])

    async def _start(self, *numbers: int, size: int = 0) -> None:
        for number in numbers:
            role = Coordinator(
                id=f"coordinator-{number}",
                port=self.first_port + number - 1,
                heartbeat_ms=50,
                expect_storage=2,
                initial_tablets=4,
                raft_log_bytes=self.log_bytes,
            )
            disk = self.disks.setdefault(number, MemoryDisk(reactor, random.Random(number)))
            node = CoordinatorNode(
                environment(reactor, seed=number),
                self._cluster(size),
                role,
                CollectorRegistry(),
                disk,
            )
            self.nodes[number] = node
            await node.start()

    async def _crash(self, number: int) -> None:
        """The end without handing anything over."""
        node = self.nodes.pop(number)
        node.decisions._failed = True
        await node.stop()
        self.disks[number] = self.disks[number].crash()

    async def _until(self, done: Callable[[], object]) -> None:
        while not done():
            await deferLater(reactor, 0.01)

    def _leader(self) -> int:
        """The number of the one that decides; 0 for nobody."""
        terms = {n: node.decisions.term for n, node in self.nodes.items() if node.decisions.leads}
        return max(terms, key=lambda n: terms[n], default=0)

    def _directory(self, *numbers: int) -> CoordinatorDirectory:
        """A client of these coordinators, of all by default."""
        cluster = self._cluster()
        if numbers:
            addresses = [cluster.coordinators[number - 1] for number in numbers]
            cluster = Cluster(coordinators=addresses)
        # Each with chance of its own: two that draw the same request ids are taken for one.
        self.directories += 1
        directory = CoordinatorDirectory(environment(reactor, seed=50 + self.directories), cluster)
        directory.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(directory.stop()))
        return directory

    def _server(self, role: Any, number: int) -> Registration:
        info = Identity(role, f"{role}-{number}", "127.0.0.1", 7000 + number, 100 + number)

        def take(assign: Assign) -> None:
            self.assertTrue(assign.tablets)

        registration = Registration(
            environment(reactor, seed=100 + number),
            self._cluster(),
            info,
            on_assign=take if role == "storage" else None,
        )
        registration.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(registration.stop()))
        return registration

    def _log(self, number: int) -> RaftLog:
        node = self.nodes[number].decisions.node
        assert node is not None
        return node.log

    async def _known(self, view: Callable[[ClusterView], object]) -> None:
        """Every running coordinator's view fulfils this."""
        await self._until(lambda: all(view(node.view()) for node in self.nodes.values()))

    async def _agreed(self) -> bytes:
        """The state, once it is the same bytes everywhere."""

        def states() -> set[bytes]:
            return {node.decisions.machine.snapshot() for node in self.nodes.values()}

        await self._until(lambda: self._leader() and len(states()) == 1)
        return states().pop()

    @staticmethod
    def _roles(view: ClusterView) -> list[str]:
        return sorted(one.role for one in view.coordinators)

    async def test_founded(self) -> None:
        """Three that know only addresses become one group: one leads, and each of them answers."""
        await self._start(1, 2, 3)
        await self._known(lambda v: self._roles(v) == ["follower", "follower", "leader"])
        self._server("storage", 1)
        self._server("storage", 2)
        machine = self.nodes[1].decisions.machine
        await self._until(
            lambda: len([t for t in machine.state.tablets.values() if t.primary]) == 4
        )
        await self._agreed()
        views = [await self._directory(number).view() for number in (1, 2, 3)]
        self.assertEqual([len(view.tablets) for view in views], [4, 4, 4])
        for number in (1, 2, 3):
            locator = Locator(environment(reactor), [self._cluster().coordinators[number - 1]])
            found = await locator.current()
            self.assertEqual(len(found.tablets), 4)
            self.assertTrue(all(tablet.primary for tablet in found.tablets))
            locator.close()

    async def test_founded_only_when_complete(self) -> None:
        """Without all of its founders there is no group, however long the others wait."""
        await self._start(1, 2)
        await deferLater(reactor, 1.0)
        self.assertEqual(self._leader(), 0)
        await self._start(3)
        await self._until(self._leader)

    async def test_changes_by_any(self) -> None:
        """A change is taken by whichever coordinator is asked, and every one knows of it at once."""
        await self._start(1, 2, 3)
        self._server("http", 1)
        await self._known(lambda v: "http-1" in {node.id for node in v.nodes})
        for number in (1, 2, 3):
            await self._directory(number).set_enabled("http-1", number % 2 == 0)
            for other in (1, 2, 3):
                view = await self._directory(other).view()
                [http] = [node for node in view.nodes if node.id == "http-1"]
                self.assertEqual(http.enabled, number % 2 == 0)

    async def test_leader_dies(self) -> None:
        """Another one leads; nothing acknowledged is lost, and the one that comes back has it too."""
        await self._start(1, 2, 3)
        self._server("http", 1)
        await self._known(lambda v: "http-1" in {node.id for node in v.nodes})
        directory = self._directory()
        for round_ in range(4):
            await self._until(self._leader)
            dead = self._leader()
            await self._crash(dead)
            await directory.set_enabled("http-1", round_ % 2 == 0)
            [http] = [node for node in (await directory.view()).nodes if node.id == "http-1"]
            self.assertEqual(http.enabled, round_ % 2 == 0)
            await self._start(dead)
        await self._agreed()

    async def test_all_restarted(self) -> None:
        """The whole group comes back from its disks with the same servers and tablets."""
        await self._start(1, 2, 3)
        self._server("storage", 1)
        self._server("storage", 2)

        def all_served() -> bool:
            tablets = self.nodes[1].decisions.machine.state.tablets.values()
            return len(tablets) == 4 and all(
                tablet.primary and len(tablet.taken) == len(tablet.members) for tablet in tablets
            )

        await self._until(all_served)
        await self._agreed()
        before = self.nodes[1].decisions.machine.state
        for number in (1, 2, 3):
            await self._crash(number)
        await self._start(1, 2, 3)
        await self._until(self._leader)
        await self._agreed()
        after = self.nodes[1].decisions.machine.state
        self.assertEqual(after.tablets, before.tablets)
        self.assertEqual(after.map_version, before.map_version)
        self.assertGreater(after.term, before.term)

    async def test_orderly_stop(self) -> None:
        """A leader that stops hands over: the next term begins before its connections end."""
        await self._start(1, 2, 3)
        await self._until(self._leader)
        await self._known(lambda v: len(v.coordinators) == 3)
        leader = self._leader()
        node = self.nodes.pop(leader)
        term = node.decisions.term
        await node.decisions.close()
        self.assertEqual(node.decisions.term, term + 1)
        self.assertNotIn(node.decisions.leader, ("", f"coordinator-{leader}"))
        await node.stop()
        await self._until(self._leader)

    async def test_minority(self) -> None:
        """One of three answers nobody with what may be old."""
        await self._start(1, 2, 3)
        await self._until(self._leader)
        await self._known(lambda v: len(v.coordinators) == 3)
        await self._crash(1)
        await self._crash(2)
        cluster = Cluster(coordinators=[self._cluster().coordinators[2]])
        directory = CoordinatorDirectory(environment(reactor), cluster, deadline_s=1.0)
        directory.start()
        with self.assertRaises(Unavailable):
            await directory.view()
        await directory.stop()
        locator = Locator(environment(reactor), cluster.coordinators)
        with self.assertRaises(Unavailable):
            await locator.current()
        locator.close()

    async def test_grows_and_shrinks(self) -> None:
        """One more listed coordinator joins by itself, catches up and votes; one can be removed."""
        self.size = 1
        await self._start(1)
        self.size = 3
        await self._start(2, 3)
        await self._known(lambda v: self._roles(v) == ["follower", "follower", "leader"])
        directory = self._directory()
        await directory.transfer_leadership("coordinator-3")
        await self._until(lambda: self._leader() == 3)
        await directory.remove_coordinator("coordinator-3")
        await self._until(lambda: self._leader() in (1, 2))
        leader = self.nodes[self._leader()]
        self.assertEqual(leader.decisions.membership.voters, {"coordinator-1", "coordinator-2"})
        await self._until(lambda: "coordinator-3" not in leader.decisions.machine.state.nodes)
        with self.assertRaises(Refused):
            await directory.remove_coordinator("coordinator-9")

    async def test_clients_learn_of_new_coordinators(self) -> None:
        """Servers and clients that were configured with the first coordinator alone go on with those that
        were added when the first one is gone."""
        self.size = 1
        await self._start(1)
        first_alone = self._cluster()
        told: list[Sequence[str]] = []
        info = Identity("http", "http-1", "127.0.0.1", 7001, 101)
        registration = Registration(
            environment(reactor, seed=70), first_alone, info, on_coordinators=told.append
        )
        registration.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(registration.stop()))
        directory = self._directory()
        locator = Locator(environment(reactor), first_alone.coordinators)
        self.addCleanup(locator.close)
        self.size = 3
        await self._start(2, 3)
        await self._known(lambda v: self._roles(v) == ["follower", "follower", "leader"])
        await self._until(lambda: registration.connected == 3)
        self.assertEqual(sorted(told[-1]), sorted(self._cluster().coordinators))
        await directory.view()
        await self._crash(1)
        await self._until(lambda: self._leader() in (2, 3))
        await self._until(lambda: "http-1" in {n.id for n in self.nodes[2].view().nodes})
        view = await directory.view()
        self.assertIn("http-1", {node.id for node in view.nodes})
        with self.assertRaises(Unavailable):
            await locator.current()
        locator.use_coordinators(told[-1])
        self.assertEqual((await locator.current()).tablets, ())

    async def test_of_five_two_may_be_lost(self) -> None:
        """A group of three that is given two more goes on when any two of them are lost."""
        await self._start(1, 2, 3)
        await self._until(self._leader)
        self.size = 5
        await self._start(4, 5)
        everyone = ["follower"] * 4 + ["leader"]
        await self._known(lambda v: self._roles(v) == everyone)
        self._server("http", 1)
        await self._known(lambda v: "http-1" in {node.id for node in v.nodes})
        leader = self._leader()
        await self._crash(leader)
        await self._crash(leader % 5 + 1)
        directory = self._directory()
        await directory.set_enabled("http-1", False)
        [http] = [node for node in (await directory.view()).nodes if node.id == "http-1"]
        self.assertFalse(http.enabled)
        locator = Locator(environment(reactor), self._cluster().coordinators)
        self.addCleanup(locator.close)
        self.assertEqual((await locator.current()).tablets, ())
        await self._agreed()

    async def test_added_by_an_administrator(self) -> None:
        """One that does not run is no member before it does: it would be taken for one that lost its disk."""
        await self._start(1, 2, 3)
        await self._until(self._leader)
        directory = self._directory()
        address = "127.0.0.1", self.first_port + 3
        with self.assertRaises(Refused) as refused:
            await directory.add_coordinator("coordinator-4", *address)
        self.assertEqual(refused.exception.code, "NOT_STARTED")
        self.size = 4
        await self._start(4)
        await self._known(lambda v: self._roles(v) == ["follower"] * 3 + ["leader"])
        await directory.add_coordinator("coordinator-4", *address)
        await self._agreed()

    async def test_behind_the_log(self) -> None:
        """One that was away while the others replaced their logs by snapshots is sent the state."""
        self.log_bytes = 4096
        await self._start(1, 2, 3)
        self._server("http", 1)
        await self._known(lambda v: "http-1" in {node.id for node in v.nodes})
        away = 1 + self._leader() % 3
        had = self._log(away).last_index
        await self._crash(away)
        directory = self._directory()
        number = 0
        while min(self._log(other).snapshot.index for other in self.nodes) <= had:
            number += 1
            await directory.set_enabled("http-1", number % 2 == 0)
        await self._start(away)
        await self._until(lambda: self.nodes[away].decisions.node)
        await self._agreed()
        self.assertGreater(self._log(away).snapshot.index, had)
        await self._crash(away)
        await self._start(away)
        await self._agreed()

    async def test_lost_disk(self) -> None:
        """One that has lost its disk does not vote until it was removed; then it joins anew."""
        await self._start(1, 2, 3)
        await self._until(self._leader)
        await self._known(lambda v: len(v.coordinators) == 3)
        lost = 1 + self._leader() % 3
        await self._crash(lost)
        self.disks[lost] = MemoryDisk(reactor, random.Random(9))
        await self._start(lost)
        await deferLater(reactor, 1.0)
        self.assertEqual(self.nodes[lost].group.own().phase, "blank")
        await self._directory().remove_coordinator(f"coordinator-{lost}")
        await self._known(lambda v: self._roles(v) == ["follower", "follower", "leader"])
        await self._agreed()

"""Twins of `penncloud.cluster.agent` and `penncloud.client.agents`: the two ends, on real sockets.

The processes are fakes; the directory is its fake.
"""

from __future__ import annotations

import os

import msgspec
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from penncloud.client.agents import AgentControl, AgentUnreachable
from penncloud.client.directory import MemoryDirectory, NodeInfo, NoSuchNode
from penncloud.client.table import Unavailable
from penncloud.cluster import cluster_file
from penncloud.cluster.agent import AgentNode
from penncloud.cluster.configuration import recall
from penncloud.cluster.layout import Layout
from penncloud.cluster.ports import is_free
from penncloud.cluster.topology import Server, Topology
from penncloud.platform.config import Agent, Cluster
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.process import real_environment
from penncloud.platform.supervisor import Ended, Supervised
from penncloud.platform.threads import BoundedPool
from penncloud.rpc.errors import Refusal, RpcError
from tests.platform.fake_process import FakeLauncher
from tests.processes.cluster import free_block


class _NoDirectory(MemoryDirectory):
    async def view(self) -> object:  # type: ignore[override]
        raise Unavailable("no coordinator answers")


class AgentTests(TestCase):
    async def setUp(self) -> None:  # type: ignore[override]
        self.environment = real_environment(reactor, BoundedPool(reactor))
        self.layout = Layout.at(self.mktemp())
        self.layout.make()
        self.layout.secret.write_bytes(b"s" * 32)
        self.cluster = Cluster(secret_file=str(self.layout.secret))
        self.port = free_block(1)
        servers = (
            Server("coordinator", "coordinator-1", 8600),
            Server("storage", "storage-1", 8700),
            Server("http", "http-1", 8081),
            Server("lb", "lb-1", 8080),
        )
        self.launchers = {server.id: FakeLauncher() for server in servers}
        self.events: list[tuple[str, str]] = []
        self.agent = self.make_agent(Topology("penncloud", "127.0.0.1", "", self.port, servers))
        await self.agent.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.agent.stop()))
        self.address = f"127.0.0.1:{self.port}"
        self.directory = MemoryDirectory()
        self.directory.set(
            NodeInfo("storage", "storage-1", "127.0.0.1", 8700, 1, "live", agent=self.address)
        )

    def make_agent(self, topology: Topology) -> AgentNode:
        def changed(process: Supervised) -> None:
            self.events.append((process.id, process.state))

        return AgentNode(
            self.environment,
            self.layout,
            topology,
            cluster=self.cluster,
            config=Agent(restart_first_s=1000, restart_longest_s=1000),
            launch=lambda server: self.launchers[server.id].launch,
            changed=changed,
        )

    def control(self, *fallback: str) -> AgentControl:
        return AgentControl(self.environment, self.cluster, self.directory, fallback)

    def state(self, node_id: str) -> str:
        return self.agent.processes[node_id].state

    async def test_stop_start_restart(self) -> None:
        """An administrator acts on a server by its id, wherever its agent is."""
        control = self.control()
        await control.stop("storage-1")
        self.assertEqual(self.state("storage-1"), "down")
        await control.start("storage-1")
        self.assertEqual(self.state("storage-1"), "running")
        await control.restart("storage-1")
        self.assertEqual(len(self.launchers["storage-1"].started), 3)
        self.assertEqual(self.state("lb-1"), "running")

    async def test_restart_of_a_frontend(self) -> None:
        """One with workers is told to renew them; one that was started without is stopped and started,
        whatever its configuration says by now."""
        control = self.control(self.address)
        launcher = self.launchers["http-1"]
        configuration = self.layout.configuration("http-1")
        await control.restart("http-1")
        self.assertEqual((len(launcher.started), launcher.started[0].signals), (2, ["TERM"]))
        configuration.write_text('[http]\nid = "http-1"\nworkers = 2\n')
        await control.restart("http-1")
        self.assertEqual((len(launcher.started), launcher.started[1].signals), (3, ["TERM"]))
        configuration.write_text('[http]\nid = "http-1"\nworkers = 0\n')
        await control.restart("http-1")
        self.assertEqual((len(launcher.started), launcher.last.signals), (3, ["HUP"]))
        await control.stop("http-1")
        await control.restart("http-1")
        self.assertEqual(len(launcher.started), 4)

    async def test_list(self) -> None:
        """The agent tells each server's state, and why it ended the last time."""
        self.launchers["storage-1"].last.end(Ended(1, None, "disk full\n"))
        found = {server.id: server for server in await self.control().servers(self.address)}
        self.assertEqual(found["lb-1"].state, "running")
        self.assertEqual(found["storage-1"].state, "waiting")
        self.assertEqual(found["storage-1"].last_end, "disk full (exit code 1)")

    async def test_unknown_server(self) -> None:
        """A server that no agent has is an error that names it."""
        with self.assertRaises(NoSuchNode) as caught:
            await self.control(self.address).stop("storage-9")
        self.assertIn("storage-9", str(caught.exception))

    async def test_without_the_directory(self) -> None:
        """A coordinator that is down can be started: the agents known otherwise are asked."""
        self.directory = _NoDirectory()
        await self.control(self.address).stop("coordinator-1")
        self.assertEqual(self.state("coordinator-1"), "down")
        await self.control(self.address).start("coordinator-1")
        self.assertEqual(self.state("coordinator-1"), "running")

    async def test_agent_gone(self) -> None:
        """An agent that does not answer is an error within seconds, not a hang."""
        nobody = f"127.0.0.1:{free_block(1)}"
        node = self.directory.current.nodes[0]
        self.directory.set(msgspec.structs.replace(node, agent=nobody))
        with self.assertRaises(AgentUnreachable) as caught:
            await self.control().stop("storage-1")
        self.assertIn(nobody, str(caught.exception))

    async def test_wrong_secret(self) -> None:
        """Who does not know the cluster's secret stops nothing."""
        other = Layout.at(self.mktemp())
        other.make()
        other.secret.write_bytes(b"x" * 32)
        self.cluster = Cluster(secret_file=str(other.secret))
        with self.assertRaises((AgentUnreachable, RpcError)):
            await self.control().stop("storage-1")
        self.assertEqual(self.state("storage-1"), "running")

    async def test_cluster_file_follows(self) -> None:
        """cluster.json has the pids of the processes as last started, and the agent's."""
        document = cluster_file.read(self.layout)
        assert document is not None
        self.assertEqual(document.agent.pid, os.getpid())
        self.assertEqual(document.storage[0].pid, 100)
        await self.control().restart("storage-1")
        document = cluster_file.read(self.layout)
        assert document is not None
        self.assertEqual(document.storage[0].pid, 101)

    async def test_a_server_is_added(self) -> None:
        """One more storage server gets a free port and a file, and runs; it stays after a restart."""
        self.launchers["storage-2"] = FakeLauncher()
        server = await self.control(self.address).add("storage")
        self.assertEqual((server.id, server.state, server.pid), ("storage-2", "running", 100))
        document = cluster_file.read(self.layout)
        assert document is not None
        self.assertEqual([one.id for one in document.storage], ["storage-1", "storage-2"])
        remembered = recall(self.layout)
        assert remembered is not None
        self.assertEqual([one.id for one in remembered.of("storage")], ["storage-1", "storage-2"])
        await self.control().stop("storage-1")
        with self.assertRaisesRegex(Refusal, "WRONG_ROLE"):
            await self.control(self.address).add("http")

    async def test_a_server_is_removed(self) -> None:
        """It ends, is not started again, and its files of configuration go; nobody else's do."""
        self.launchers["storage-2"] = FakeLauncher()
        control = self.control(self.address)
        await control.add("storage")
        self.directory.set()
        await control.remove("storage-2")
        self.assertFalse(self.launchers["storage-2"].last.alive)
        self.assertNotIn("storage-2", self.agent.processes)
        self.assertFalse(self.layout.configuration("storage-2").exists())
        self.assertTrue(self.layout.configuration("storage-1").exists())
        document = cluster_file.read(self.layout)
        assert document is not None
        self.assertEqual([one.id for one in document.storage], ["storage-1"])
        with self.assertRaises(NoSuchNode):
            await control.remove("storage-2")
        with self.assertRaisesRegex(Refusal, "WRONG_ROLE"):
            await control.remove("lb-1")
        await self.agent.stop()

    async def test_no_start_while_it_is_removed(self) -> None:
        """A server that is being removed is no server of the agent's any more: who starts it before it has
        ended is told so, and nothing goes on running that nobody supervises."""
        launcher = self.launchers["storage-2"] = FakeLauncher(stubborn=True)
        await self.control(self.address).add("storage")
        self.directory.set()
        removing = Deferred.fromCoroutine(self.agent.end("storage-2"))
        with self.assertRaises(NoSuchNode):
            await self.control(self.address).start("storage-2")
        launcher.last.end(Ended(0, None))
        await removing
        self.assertEqual([process.alive for process in launcher.started], [False])

    async def test_removed_while_the_agent_stops(self) -> None:
        """A server that goes for good while the others are stopped keeps none of them running."""
        launcher = self.launchers["storage-2"] = FakeLauncher(stubborn=True)
        await self.control(self.address).add("storage")
        self.launchers["lb-1"].last.stubborn = True
        removing = Deferred.fromCoroutine(self.agent.end("storage-2"))
        stopping = Deferred.fromCoroutine(self.agent.stop())
        while self.state("lb-1") != "stopping":
            await deferLater(reactor, 0.01)
        launcher.last.end(Ended(0, None))
        await removing
        self.launchers["lb-1"].last.end(Ended(0, None))
        await stopping
        self.assertEqual({process.state for process in self.agent.processes.values()}, {"down"})

    async def test_stops_in_order(self) -> None:
        """First those that take requests, last those that others need."""
        self.events.clear()
        await self.agent.stop()
        down = [node_id for node_id, state in self.events if state == "down"]
        self.assertEqual(down, ["lb-1", "http-1", "storage-1", "coordinator-1"])
        self.assertTrue(is_free("127.0.0.1", self.port))

    async def test_port_taken(self) -> None:
        """A second agent on the port is an error that names it, and starts nothing."""
        count = len(self.launchers["lb-1"].started)
        topology = Topology("penncloud", "127.0.0.1", "", self.port, (Server("lb", "lb-1", 8080),))
        with self.assertRaises(ConfigurationError) as caught:
            await self.make_agent(topology).start()
        self.assertIn(str(self.port), str(caught.exception))
        self.assertEqual(len(self.launchers["lb-1"].started), count)

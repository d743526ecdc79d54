"""What a certificate's role allows at a coordinator: on real sockets, with a real authority."""

from __future__ import annotations

import random
from typing import Any

import msgspec
from attrs import evolve
from prometheus_client import CollectorRegistry
from twisted.internet import reactor as real_reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from penncloud.coordinator.commands import SetEnabled
from penncloud.coordinator.group_messages import Decide, Who, WhoIs
from penncloud.coordinator.messages import (
    AddCoordinator,
    ClusterView,
    Enabled,
    EnableNode,
    ViewCluster,
)
from penncloud.coordinator.node import CoordinatorNode
from penncloud.platform.config import Cluster, Coordinator
from penncloud.platform.environment import Environment
from penncloud.platform.memory_disk import MemoryDisk
from penncloud.rpc.client import RpcClient
from penncloud.rpc.errors import Refusal
from penncloud.rpc.registration import Identity, Register, Registered, RoleName
from tests.certificates import TestAuthority
from tests.rpc.world import environment

reactor: Any = real_reactor


class CertificateTests(TestCase):
    timeout = 300

    async def setUp(self) -> None:  # type: ignore[override]
        self.ca = TestAuthority(self.mktemp())
        role = Coordinator(id="coordinator-1", port=0, expect_storage=1)
        self.node = CoordinatorNode(
            self.as_("coordinator", "coordinator-1"),
            Cluster(coordinators=["127.0.0.1:1"], tls_dir=str(self.ca.out)),
            role,
            CollectorRegistry(),
            MemoryDisk(reactor, random.Random(3)),
        )
        await self.node.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.node.stop()))

    def as_(self, role: str, node_id: str) -> Environment:
        return evolve(environment(reactor), credentials=self.ca.issue(role, node_id))

    async def ask(self, role: str, node_id: str, call: msgspec.Struct, answer: Any) -> Any:
        """The answer to a caller with such a certificate, or what it is refused with."""
        client = RpcClient(
            self.as_(role, node_id), "127.0.0.1", self.node.port, roles=("coordinator",)
        )
        client.start()
        try:
            return await client.call(call, answer, 10)
        except Refusal as refusal:
            return refusal.code
        finally:
            await client.stop()

    async def test_frontends_do_not_vote(self) -> None:
        """Raft is for coordinators, whoever else has a certificate."""
        decide = Decide(SetEnabled(1.0, "http-1", False, ""))
        for role in ("http", "storage", "admin", "lb", "smtp", "agent"):
            self.assertEqual(await self.ask(role, "x", WhoIs(), Who), "FORBIDDEN", role)
            self.assertEqual(await self.ask(role, "x", decide, ClusterView), "FORBIDDEN", role)
        who = await self.ask("coordinator", "coordinator-2", WhoIs(), Who)
        self.assertEqual(who.id, "coordinator-1")

    async def test_who_may_change(self) -> None:
        """The group is changed by an administrator; frontends are disabled by one, or on the console."""
        add = AddCoordinator("coordinator-2", "127.0.0.1", 1)
        for role in ("http", "storage", "lb"):
            self.assertEqual(await self.ask(role, "x", add, ClusterView), "FORBIDDEN", role)
        disable = EnableNode("http-9", False, "")
        for role, code in (("storage", "FORBIDDEN"), ("lb", "FORBIDDEN"), ("http", "NO_SUCH_NODE")):
            self.assertEqual(await self.ask(role, "x", disable, Enabled), code, role)
        self.assertEqual(await self.ask("admin", "admin", disable, Enabled), "NO_SUCH_NODE")
        view = await self.ask("lb", "lb-1", ViewCluster(), ClusterView)
        self.assertEqual([each.id for each in view.coordinators], ["coordinator-1"])

    async def test_nobody_registers_as_another(self) -> None:
        """Role and id of a registration have to be those of the certificate."""

        async def register(role: RoleName, node_id: str) -> Any:
            call = Register(Identity(role, node_id, "127.0.0.1", 7001, 1), 5)
            return await self.ask("storage", "storage-1", call, Registered)

        self.assertEqual(await register("storage", "storage-2"), "FORBIDDEN")
        self.assertEqual(await register("http", "storage-1"), "FORBIDDEN")
        self.assertIsInstance(await register("storage", "storage-1"), Registered)

"""The mail server as a node: from a message written here to another server, and back."""

from __future__ import annotations

import smtplib
from typing import Any

from argon2 import PasswordHasher
from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from penncloud.client.memory import MemoryTable
from penncloud.platform.config import Cluster, Smtp
from penncloud.platform.errors import ConfigurationError
from penncloud.services.accounts import Accounts
from penncloud.smtp.node import SmtpNode
from tests.services.mail_world import MailWorld
from tests.smtp.servers import NameServer, ScriptedMail, reactor


class _Client:
    """The in-memory table with the life of a client."""

    def __init__(self, table: MemoryTable) -> None:
        self.table = table

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def use_coordinators(self, addresses: object) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return getattr(self.table, name)


class NodeTests(TestCase):
    async def setUp(self) -> None:  # type: ignore[override]
        self.world = MailWorld(reactor)
        self.names = NameServer()
        self.remote = ScriptedMail()
        self.remote_port = self.remote.listen()
        quick = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
        accounts = Accounts(self.world.table, self.world.environment, quick)
        for name in ("alice", "bob"):
            await accounts.create(name, "correct horse battery")
        self.node = self.make(0)
        await self.node.start()

    def make(self, port: int, standby: bool = False) -> SmtpNode:
        role = Smtp(
            id="smtp-1",
            port=port,
            resolver=self.names.address,
            relay_port=self.remote_port,
            standby=standby,
        )
        client: Any = _Client(self.world.table)
        cluster = Cluster(coordinators=["127.0.0.1:1"])
        return SmtpNode(self.world.environment, cluster, role, client, CollectorRegistry())

    async def tearDown(self) -> None:  # type: ignore[override]
        await self.node.stop()
        await self.remote.stop()
        await self.names.stop()

    async def test_in(self) -> None:
        """A message over SMTP is in the mailbox when the client is told so."""

        def send() -> Any:
            with smtplib.SMTP("127.0.0.1", self.node.port, timeout=20) as client:
                return client.sendmail("x@y.org", ["bob@penncloud"], "Subject: in\r\n\r\nx\r\n")

        await deferToThread(send)
        ((listed,), _) = await self.world.post.mailbox("bob").page("inbox")
        self.assertEqual(listed.entry.subject, "in")

    async def test_out(self) -> None:
        """A message queued here goes to the host that the domain's MX names."""
        self.names.zone.mx["x.org"] = [(10, "mail.x.org")]
        self.names.zone.a["mail.x.org"] = ["127.0.0.1"]
        arrived: Deferred[None] = Deferred()
        self.remote.on_message = lambda: arrived.callback(None)
        await self.world.outbox.send("t", self.world.outgoing("b@x.org"))
        await arrived
        self.assertIn(b"Subject: hi\r\n", self.remote.messages[0])
        self.assertIn("RCPT TO:<b@x.org>", self.remote.lines)

    async def test_port_taken(self) -> None:
        """A port that is taken is an error that an administrator understands."""
        second = self.make(self.node.port)
        with self.assertRaises(ConfigurationError) as caught:
            await second.start()
        self.assertIn(f"cannot listen on 127.0.0.1:{self.node.port}", str(caught.exception))

    async def test_standby(self) -> None:
        """A second node on the port starts all the same, relays, and takes mail in when it is its turn."""
        second = self.make(self.node.port, standby=True)
        await second.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(second.stop()))
        port = self.node.port
        await self.node.stop()
        self.node = self.make(0)
        await self.node.start()

        def greeting() -> int:
            while True:
                try:
                    with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
                        return client.noop()[0]
                except ConnectionRefusedError:
                    continue

        self.assertEqual(await deferToThread(greeting), 250)
        self.assertEqual(second.port, port)

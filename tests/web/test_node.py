"""The frontend as a node, and the first admin account."""

from __future__ import annotations

from collections.abc import Sequence

from argon2 import PasswordHasher
from prometheus_client import CollectorRegistry
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from penncloud.client.directory import MemoryDirectory
from penncloud.client.memory import MemoryTable
from penncloud.client.raw import MemoryRawCells
from penncloud.placement.tablets import TabletMap
from penncloud.platform.config import Cluster, Http
from penncloud.platform.errors import ConfigurationError
from penncloud.services.accounts import Accounts, user_row
from penncloud.services.mail.mailbox import mailbox_row
from penncloud.web.first_admin import ensure_admin, is_loopback_only
from penncloud.web.node import HttpNode
from tests.services.recording_control import RecordingControl
from tests.services.unreliable_table import UnreliableTable
from tests.web.frontend import QUICK, environment_for

LOCAL = Cluster(coordinators=["127.0.0.1:8600"])


class FirstAdminTests(TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.table = MemoryTable()
        self.environment = environment_for(self.clock)
        self.accounts = Accounts(self.table, self.environment, QUICK)

    async def ensure(self, cluster: Cluster, config: Http) -> None:
        await ensure_admin(self.accounts, self.environment, cluster, config)

    async def test_loopback_cluster_gets_the_known_password(self) -> None:
        """admin / password, marked as to be changed."""
        await self.ensure(LOCAL, Http(id="http-1"))
        account = await self.accounts.verify("admin", "password")
        assert account is not None
        self.assertTrue(account.default_password)

    async def test_anywhere_else_a_password_is_asked_for(self) -> None:
        """Whoever can be reached from outside has to choose one before there is an admin."""
        for cluster, config in (
            (Cluster(coordinators=["192.0.2.1:8600"]), Http(id="http-1")),
            (LOCAL, Http(id="http-1", host="0.0.0.0")),
            (LOCAL, Http(id="http-1", advertise="cloud.example")),
        ):
            self.assertFalse(is_loopback_only(cluster, config))
            with self.assertRaisesRegex(ConfigurationError, "admin_password"):
                await self.ensure(cluster, config)
        self.assertFalse(await self.accounts.exists("admin"))

    async def test_password_of_the_configuration(self) -> None:
        """The configured password is taken, and is nothing to be changed."""
        config = Http(id="http-1", host="0.0.0.0", admin_password="correct horse")
        await self.ensure(LOCAL, config)
        account = await self.accounts.verify("admin", "correct horse")
        assert account is not None
        self.assertFalse(account.default_password)

    async def test_configured_password_has_to_be_acceptable(self) -> None:
        """A bad one is the administrator's to mend, at start."""
        with self.assertRaisesRegex(ConfigurationError, "admin_password"):
            await self.ensure(LOCAL, Http(id="http-1", admin_password="short"))

    async def test_existing_admin_is_left_alone(self) -> None:
        """A second start changes nothing, also where it would not be allowed to make one."""
        await self.ensure(LOCAL, Http(id="http-1", admin_password="correct horse"))
        await self.ensure(LOCAL, Http(id="http-1", host="0.0.0.0"))
        self.assertIsNotNone(await self.accounts.verify("admin", "correct horse"))

    def test_store_is_awaited(self) -> None:
        """Roles start in any order: the account is made as soon as the store answers."""
        self.table.unavailable = True
        made = Deferred.fromCoroutine(self.ensure(LOCAL, Http(id="http-1")))
        self.clock.pump([0.25, 0.5, 1.0])
        self.assertNoResult(made)
        self.table.unavailable = False
        self.clock.advance(2.0)
        self.successResultOf(made)


class _Link:
    """Notes when it is started and stopped."""

    def __init__(self, notes: list[str]) -> None:
        self._notes = notes

    def start(self) -> None:
        self._notes.append("start")

    def use_coordinators(self, addresses: Sequence[str]) -> None:
        self._notes.append("use")

    def stop(self) -> None:
        self._notes.append("stop")


class HttpNodeTests(TestCase):
    def node(self, table: MemoryTable, **options: object) -> HttpNode:
        hasher: PasswordHasher = QUICK
        role = {"id": "http-1", "port": 0, **options}
        self.notes: list[str] = []
        return HttpNode(
            environment_for(reactor),
            cluster=Cluster(coordinators=[]),
            role=Http(**role),  # type: ignore[arg-type]
            table=table,
            raw=MemoryRawCells(table, TabletMap(1, ())),
            directory=MemoryDirectory(),
            control=RecordingControl(),
            registry=CollectorRegistry(),
            links=[_Link(self.notes)],
            hasher=hasher,
        )

    async def test_starts_serves_and_stops(self) -> None:
        """Once started it listens and has its admin; once stopped nothing is left."""
        table = MemoryTable()
        node = self.node(table)
        await node.start()
        self.assertGreater(node.port, 0)
        self.assertTrue(await node.context.accounts.exists("admin"))
        self.assertEqual(self.notes, ["start"])
        await node.stop()
        self.assertEqual(self.notes, ["start", "stop"])

    async def test_sweeps_the_files_of_every_account(self) -> None:
        """Each account is visited once, however many pages of the list there are."""
        node = self.node(MemoryTable())
        names = [f"user{number:03}" for number in range(205)]
        for name in names:
            await node.context.accounts.create(name, "correct horse")
        self.assertEqual([name async for name in node.household.account_names()], names)

    async def test_sweeps_past_an_account_that_is_away(self) -> None:
        """One account that cannot be read keeps nobody else's garbage."""
        table = UnreliableTable()
        node = self.node(table)
        for name in ("anna", "berta"):
            await node.context.accounts.create(name, "correct horse")
        table.away = lambda row: row == user_row("anna")
        names = [name async for name in node.household.account_names()]
        self.assertIn("berta", names)

    async def test_sweeps_the_mail_of_every_account(self) -> None:
        """The mark of a deleted message whose text could not be removed goes, and the text with it."""
        table = MemoryTable()
        node = self.node(table)
        row = b"message/0123456789ab"
        await table.put(row, b"raw", b"hello")
        await table.put(row, b"holder/inbox/bob", b"")
        await table.put(mailbox_row("bob"), b"released/0123456789ab/inbox", b"")
        await node.household.release_mail("bob")
        for each in (row, mailbox_row("bob")):
            self.assertEqual((await table.scan(each)).cells, ())

    async def test_can_be_stopped_while_it_waits_for_the_store(self) -> None:
        """A cluster that never came up can still be ended."""
        table = MemoryTable(unavailable=True)
        node = self.node(table)
        starting = Deferred.fromCoroutine(node.start())
        while not node.household.is_preparing:
            await _turn()
        await node.stop()
        await starting

    async def test_port_that_is_taken(self) -> None:
        """The administrator is told which."""
        first = self.node(MemoryTable())
        await first.start()
        second = self.node(MemoryTable(), port=first.port)
        with self.assertRaisesRegex(ConfigurationError, str(first.port)):
            await second.start()
        await first.stop()
        await second.stop()


async def _turn() -> None:
    turned: Deferred[None] = Deferred()
    reactor.callLater(0, turned.callback, None)
    await turned

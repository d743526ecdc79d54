"""Accounts and sessions over the in-memory table."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from penncloud.client.memory import MemoryTable
from penncloud.client.table import Cell, Page, Unavailable
from penncloud.services.accounts import (
    Account,
    Accounts,
    BadName,
    NameTaken,
    NoSuchAccount,
    WrongPassword,
    user_row,
)
from penncloud.services.passwords import BadPassword
from penncloud.services.sessions import MAX_PER_ACCOUNT, Session, Sessions
from tests.services.unreliable_table import UnreliableTable
from tests.web.frontend import QUICK, environment_for

HOUR_S = 3600.0


class Services(TestCase):
    """Both services over one store, at a time that the test sets."""

    def setUp(self) -> None:
        self.wall_s = 1_000_000.0
        self.table = MemoryTable()
        self.clock = Clock()
        environment = environment_for(self.clock, lambda: self.wall_s)
        self.accounts = Accounts(self.table, environment, QUICK)
        self.sessions = Sessions(self.table, environment, 24 * HOUR_S)

    async def logged_in(self, account: Account) -> Session:
        session = await self.sessions.start(account)
        assert session is not None
        return session


class AccountsTests(Services):
    async def test_right_password_opens_the_account(self) -> None:
        """An account opens with its password and with no other."""
        await self.accounts.create("anna", "correct horse")
        found = await self.accounts.verify("anna", "correct horse")
        assert found is not None
        self.assertEqual(found.name, "anna")
        self.assertIsNone(await self.accounts.verify("anna", "correct house"))
        self.assertIsNone(await self.accounts.verify("anna", "x" * 5000))

    async def test_password_is_not_in_the_store(self) -> None:
        """The store holds an argon2id hash, never the password."""
        await self.accounts.create("anna", "correct horse")
        cell = await self.table.get(user_row("anna"), b"account")
        assert cell is not None
        self.assertIn(b"$argon2id$", cell.value)
        self.assertNotIn(b"correct horse", cell.value)

    async def test_name_is_taken_once(self) -> None:
        """The second to ask for a name is refused, and the first keeps their password."""
        await self.accounts.create("anna", "correct horse")
        with self.assertRaises(NameTaken):
            await self.accounts.create("anna", "another horse")
        self.assertIsNotNone(await self.accounts.verify("anna", "correct horse"))

    async def test_name_is_taken_once_even_at_the_same_time(self) -> None:
        """Of two that both saw the name free, the store lets one have it."""
        other = Accounts(self.table, environment_for(Clock()), QUICK)

        async def lost_race(name: str) -> bool:
            await other.create(name, "first horse")
            return False

        self.patch(self.accounts, "exists", lost_race)
        with self.assertRaises(NameTaken):
            await self.accounts.create("anna", "second horse")
        self.assertIsNotNone(await other.verify("anna", "first horse"))

    async def test_maker_is_known_again(self) -> None:
        """Who made an account shows it by their secret, which the store does not hold."""
        await self.accounts.create("anna", "correct horse", maker="secret of anna")
        await self.accounts.create("berta", "correct horse")
        self.assertTrue(await self.accounts.was_made_by("anna", "secret of anna"))
        for name, secret in (("anna", "another"), ("anna", ""), ("berta", ""), ("nobody", "x")):
            self.assertFalse(await self.accounts.was_made_by(name, secret))
        cell = await self.table.get(user_row("anna"), b"account")
        assert cell is not None
        self.assertNotIn(b"secret of anna", cell.value)

    async def test_accounts_of_earlier_versions(self) -> None:
        """A record that says nothing of its maker still opens, and is nobody's to sign up again."""
        hashed = QUICK.hash("correct horse")
        record = b'{"password":"%s","created":1.0}' % hashed.encode()
        await self.table.put(user_row("anna"), b"account", record)
        self.assertIsNotNone(await self.accounts.verify("anna", "correct horse"))
        self.assertFalse(await self.accounts.was_made_by("anna", "x"))

    async def test_names_that_are_possible(self) -> None:
        """Names are small letters, digits and . _ - after a letter; as mail addresses have them, a dot
        is neither at the end nor beside another."""
        for name in ("a", "a.b", "a-b_c.9", "a" * 32, "a-"):
            await self.accounts.create(name, "correct horse")
        for name in ("", "A", "1a", "a.", "a" * 33, "a b", "a/b", "ä", "a\n", "../a", "a..b"):
            with self.assertRaises(BadName):
                await self.accounts.create(name, "correct horse")

    async def test_reserved_names_are_the_administrators_to_give(self) -> None:
        """Nobody can sign up as admin or postmaster."""
        for name in ("admin", "postmaster", "mailer-daemon"):
            with self.assertRaises(NameTaken):
                await self.accounts.create(name, "correct horse")
        account = await self.accounts.create("admin", "correct horse", reserved_names=True)
        self.assertTrue(account.is_admin)

    async def test_passwords_that_are_refused(self) -> None:
        """Too short, too long, the name itself and the well-known default are refused."""
        for password in ("short", "x" * 1025, "annabella", "password", "PASSWORD"):
            with self.assertRaises(BadPassword):
                await self.accounts.create("annabella", password)
        self.assertFalse(await self.accounts.exists("annabella"))

    async def test_unknown_names_cost_as_much_as_wrong_passwords(self) -> None:
        """One hash is verified in both cases: the time does not tell who exists."""
        await self.accounts.create("anna", "correct horse")
        await self.accounts.passwords.prepare()
        verified: list[str] = []
        real = self.accounts.passwords._matches

        def counting(stored: str, password: str) -> bool:
            verified.append(stored)
            return real(stored, password)

        self.patch(self.accounts.passwords, "_matches", counting)
        await self.accounts.verify("anna", "wrong wrong")
        await self.accounts.verify("nobody", "wrong wrong")
        await self.accounts.verify("not a name!", "wrong wrong")
        self.assertEqual(len(verified), 3)

    async def test_changing_the_password_needs_the_present_one(self) -> None:
        """Without the present password nothing changes."""
        await self.accounts.create("anna", "correct horse")
        with self.assertRaises(WrongPassword):
            await self.accounts.change_password("anna", "wrong horse", "battery staple")
        await self.accounts.change_password("anna", "correct horse", "battery staple")
        self.assertIsNone(await self.accounts.verify("anna", "correct horse"))
        self.assertIsNotNone(await self.accounts.verify("anna", "battery staple"))

    async def test_an_overtaken_password_change_changes_nothing(self) -> None:
        """A password that the administrator sets is not undone by who still knew the old one."""
        await self.accounts.create("anna", "correct horse")
        verify = self.accounts.verify

        async def overtaken(name: str, password: str) -> Account | None:
            found = await verify(name, password)
            await self.accounts.set_password(name, "battery staple")
            return found

        self.patch(self.accounts, "verify", overtaken)
        with self.assertRaises(WrongPassword):
            await self.accounts.change_password("anna", "correct horse", "mine for ever")
        self.assertIsNone(await verify("anna", "mine for ever"))
        self.assertIsNotNone(await verify("anna", "battery staple"))

    async def test_disabled_account_does_not_open(self) -> None:
        """A disabled account keeps existing, but nobody gets in until it is enabled again."""
        await self.accounts.create("anna", "correct horse")
        await self.accounts.disable("anna", True)
        self.assertIsNone(await self.accounts.verify("anna", "correct horse"))
        self.assertTrue(await self.accounts.exists("anna"))
        await self.accounts.disable("anna", False)
        self.assertIsNotNone(await self.accounts.verify("anna", "correct horse"))

    async def test_nobody_cannot_be_changed(self) -> None:
        """Administrators' mistakes get a clear error."""
        with self.assertRaises(NoSuchAccount):
            await self.accounts.set_password("nobody", "correct horse")
        with self.assertRaises(NoSuchAccount):
            await self.accounts.disable("nobody", True)

    async def test_list_pages_by_name_and_leaves_out_half_made_accounts(self) -> None:
        """The list is in order; an index entry whose account was never written is not shown."""
        for name in ("berta", "anna", "dora"):
            await self.accounts.create(name, "correct horse")
        await self.table.put(b"users/index", b"carla", b"")
        names = [account.name for account in await self.accounts.list()]
        self.assertEqual(names, ["anna", "berta", "dora"])
        page = await self.accounts.list(start="b", limit=1)
        self.assertEqual([account.name for account in page], ["berta"])

    async def test_names_do_not_depend_on_the_accounts(self) -> None:
        """All names can be gone through, in pages, while an account cannot be read."""
        table = UnreliableTable()
        accounts = Accounts(table, environment_for(self.clock), QUICK)
        for name in ("berta", "anna", "dora"):
            await accounts.create(name, "correct horse")
        table.away = lambda row: row == user_row("anna")
        self.assertEqual(await accounts.names(), ["anna", "berta", "dora"])
        self.assertEqual(await accounts.names("b", limit=1), ["berta"])

    async def test_default_password_is_marked_until_it_is_changed(self) -> None:
        """The mark that prompts for another password goes with the password."""
        made = await self.accounts.create(
            "admin", "password", reserved_names=True, default_password=True
        )
        self.assertTrue(made.default_password)
        changed = await self.accounts.change_password("admin", "password", "battery staple")
        self.assertFalse(changed.default_password)


class SessionsTests(Services):
    async def test_cookie_finds_its_session(self) -> None:
        """Any frontend that sees the store knows the session by its cookie."""
        account = await self.accounts.create("anna", "correct horse")
        session = await self.logged_in(account)
        elsewhere = Sessions(self.table, environment_for(Clock(), lambda: self.wall_s), 60.0)
        found = await elsewhere.find(session.cookie)
        assert found is not None
        self.assertEqual((found.name, found.csrf), ("anna", session.csrf))

    async def test_tokens_are_not_in_the_store(self) -> None:
        """Who reads the store learns no cookie and no CSRF token."""
        session = await self.logged_in(await self.accounts.create("anna", "correct horse"))
        page = await self.table.scan(user_row("anna"))
        held = b"".join(cell.col + cell.value for cell in page.cells)
        self.assertNotIn(session.cookie.partition(":")[2].encode(), held)
        self.assertNotIn(session.csrf.encode(), held)

    async def test_forged_cookies_find_nothing(self) -> None:
        """Neither nonsense nor another's name with one's own token opens anything."""
        session = await self.logged_in(await self.accounts.create("anna", "correct horse"))
        await self.accounts.create("berta", "correct horse")
        token = session.cookie.partition(":")[2]
        for cookie in ("", ":", "anna:", f"berta:{token}", f"anna:{token}x", f"../anna:{token}"):
            self.assertIsNone(await self.sessions.find(cookie))

    async def test_session_ends_when_it_is_not_used(self) -> None:
        """A session is over its lifetime after its last use, not earlier."""
        session = await self.logged_in(await self.accounts.create("anna", "correct horse"))
        self.wall_s += 23 * HOUR_S
        self.assertIsNotNone(await self.sessions.find(session.cookie))
        self.wall_s += 23 * HOUR_S
        self.assertIsNotNone(await self.sessions.find(session.cookie))
        self.wall_s += 24 * HOUR_S
        self.assertIsNone(await self.sessions.find(session.cookie))

    async def test_use_does_not_write_each_time(self) -> None:
        """The expiry moves on once in a while only."""
        session = await self.logged_in(await self.accounts.create("anna", "correct horse"))
        row = user_row("anna")
        written: list[int] = []
        watch = self.table.watch(row, written.append)
        written.clear()
        for _ in range(5):
            self.wall_s += 60.0
            found = await self.sessions.find(session.cookie)
            assert found is not None
            self.assertFalse(found.slid)
        self.assertEqual(written, [])
        self.wall_s += 2 * HOUR_S
        found = await self.sessions.find(session.cookie)
        assert found is not None
        self.assertTrue(found.slid)
        self.assertEqual(len(written), 1)
        watch.stop()

    async def test_log_out_ends_it_everywhere(self) -> None:
        """After logging out the cookie is worth nothing; logging out twice is no error."""
        session = await self.logged_in(await self.accounts.create("anna", "correct horse"))
        await self.sessions.end(session)
        await self.sessions.end(session)
        self.assertIsNone(await self.sessions.find(session.cookie))

    async def test_a_session_outlasts_a_short_absence_of_the_store(self) -> None:
        """Who was seen a short time ago goes on while the account's row is not available; who was
        not, or is no longer, has to wait for it."""
        session = await self.logged_in(await self.accounts.create("anna", "correct horse"))
        stranger = await self.logged_in(await self.accounts.create("berta", "correct horse"))
        self.assertEqual(await self.sessions.find(session.cookie), session)
        self.table.unavailable = True
        self.clock.advance(200.0)
        self.assertEqual(await self.sessions.find(session.cookie), session)
        with self.assertRaises(Unavailable):
            await self.sessions.find(stranger.cookie)
        self.clock.advance(200.0)
        with self.assertRaises(Unavailable):
            await self.sessions.find(session.cookie)

    async def test_a_silent_store_is_not_asked_at_every_request(self) -> None:
        """Pages of a remembered session stay quick; after a pause the store is looked at again."""
        session = await self.logged_in(await self.accounts.create("anna", "correct horse"))
        self.assertEqual(await self.sessions.find(session.cookie), session)
        self.table.unavailable = True
        self.assertEqual(await self.sessions.find(session.cookie), session)
        self.table.unavailable = False
        await self.table.delete(user_row("anna"), b"session/" + session.id.encode())
        self.clock.advance(4.0)
        self.assertEqual(await self.sessions.find(session.cookie), session)
        self.clock.advance(2.0)
        self.assertIsNone(await self.sessions.find(session.cookie))

    async def test_an_ended_or_expired_session_is_not_remembered(self) -> None:
        """Logging out and the expiry hold without the store too."""
        session = await self.logged_in(await self.accounts.create("anna", "correct horse"))
        other = await self.logged_in(await self.accounts.create("berta", "correct horse"))
        for cookie in (session.cookie, other.cookie):
            self.assertIsNotNone(await self.sessions.find(cookie))
        await self.sessions.end(session)
        self.wall_s += 24 * HOUR_S
        self.table.unavailable = True
        for cookie in (session.cookie, other.cookie):
            with self.assertRaises(Unavailable):
                await self.sessions.find(cookie)

    async def test_password_change_and_disabling_end_all_sessions(self) -> None:
        """Both end every session of the account, and of no other."""
        other = await self.logged_in(await self.accounts.create("berta", "correct horse"))
        account = await self.accounts.create("anna", "correct horse")
        first = [await self.logged_in(account) for _ in range(3)]
        account = await self.accounts.change_password("anna", "correct horse", "battery staple")
        second = await self.logged_in(account)
        self.assertEqual([await self.sessions.find(s.cookie) for s in first], [None] * 3)
        await self.accounts.disable("anna", True)
        self.assertIsNone(await self.sessions.find(second.cookie))
        self.assertIsNotNone(await self.sessions.find(other.cookie))

    async def test_log_in_that_a_password_change_overtakes_fails(self) -> None:
        """A password that was verified before the change gives no session after it."""
        await self.accounts.create("anna", "correct horse")
        verified = await self.accounts.verify("anna", "correct horse")
        assert verified is not None
        await self.accounts.set_password("anna", "battery staple")
        self.assertIsNone(await self.sessions.start(verified))

    async def test_log_in_during_a_password_change_does_not_outlive_it(self) -> None:
        """A session that begins between listing and deleting the sessions is deleted too."""
        account = await self.accounts.create("anna", "correct horse")
        started: list[Session] = []
        test = self

        class Racing(MemoryTable):
            async def scan(self, *args: Any, **kwargs: Any) -> Page:
                page = await super().scan(*args, **kwargs)
                if not started:
                    started.append(await test.logged_in(account))
                return page

        racing = Racing()
        racing._rows = self.table._rows
        racing._version = self.table._version
        environment = environment_for(Clock(), lambda: self.wall_s)
        accounts = Accounts(racing, environment, QUICK)
        self.sessions = Sessions(self.table, environment, 24 * HOUR_S)
        await accounts.set_password("anna", "battery staple")
        self.assertEqual(len(started), 1)
        self.assertIsNone(await self.sessions.find(started[0].cookie))

    async def test_sessions_of_an_account_are_bounded(self) -> None:
        """The oldest session makes room; expired ones are swept away first."""
        account = await self.accounts.create("anna", "correct horse")
        first = await self.logged_in(account)
        for _ in range(MAX_PER_ACCOUNT):
            self.wall_s += 1.0
            last = await self.logged_in(account)
        self.assertIsNone(await self.sessions.find(first.cookie))
        self.assertIsNotNone(await self.sessions.find(last.cookie))
        self.wall_s += 25 * HOUR_S
        await self.logged_in(account)
        page = await self.table.scan(user_row("anna"), b"session/", b"session0", limit=200)
        self.assertEqual(len(page.cells), 1)

    async def test_session_that_ends_while_it_slides_stays_ended(self) -> None:
        """Moving the expiry on never brings a deleted session back."""
        session = await self.logged_in(await self.accounts.create("anna", "correct horse"))
        self.wall_s += 5 * HOUR_S
        row = user_row("anna")
        column = b"session/" + session.id.encode()
        real = self.table.get

        class Overtaken(MemoryTable):
            async def get(
                self, row: bytes, col: bytes, *, deadline_s: float | None = None
            ) -> Cell | None:
                cell = await real(row, col)
                await self.delete(row, col)
                return cell

        overtaken = Overtaken()
        overtaken._rows = self.table._rows
        overtaken._version = self.table._version
        sessions = Sessions(overtaken, environment_for(Clock(), lambda: self.wall_s), 24 * HOUR_S)
        self.assertIsNone(await sessions.find(session.cookie))
        self.assertIsNone(await real(row, column))

    async def test_store_that_cannot_be_written_keeps_sessions_readable(self) -> None:
        """A session that cannot be prolonged just now is still a session."""
        session = await self.logged_in(await self.accounts.create("anna", "correct horse"))
        self.wall_s += 5 * HOUR_S

        async def unavailable(*args: object, **kwargs: object) -> int:
            raise Unavailable("no")

        class ReadOnly(MemoryTable):
            put_if_version = unavailable

        read_only = ReadOnly()
        read_only._rows = self.table._rows
        sessions = Sessions(read_only, environment_for(Clock(), lambda: self.wall_s), 24 * HOUR_S)
        self.assertIsNotNone(await sessions.find(session.cookie))

"""Signing up, logging in and out, changing the password, as a browser does it."""

from __future__ import annotations

import random

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.task import Clock

from penncloud.web.security import local_path, same_origin
from tests.services.unreliable_table import UnreliableTable
from tests.web.frontend import Answer, Browser, environment_for
from tests.web.test_application import FrontendTests


class AccountPagesTests(FrontendTests):
    async def test_sign_up_logs_in(self) -> None:
        """A new user is at home at once, with a cookie that scripts cannot read."""
        browser = self.frontend.browser()
        await browser.get("/signup")
        fields = {"name": "Anna", "password": "correct horse", "again": "correct horse"}
        answer = await browser.post("/signup", fields)
        self.assertEqual((answer.status, answer.header("location")), (303, "/"))
        cookie = next(
            line
            for line in answer.headers.getRawHeaders("set-cookie")
            if line.startswith("penncloud_session=anna:")
        )
        self.assertIn("HttpOnly", cookie)
        self.assertIn("SameSite=lax", cookie)
        self.assertIn("Path=/", cookie)
        self.assertIn("Hello, anna", (await browser.get("/")).text)

    async def test_sign_up_says_what_is_wrong(self) -> None:
        """The form comes back with the reason and the name, without the password."""
        await self.frontend.browser().sign_up("anna")
        browser = self.frontend.browser()
        await browser.get("/signup")
        for fields, reason in (
            ({"name": "anna", "password": "correct horse", "again": "correct horse"}, "taken"),
            ({"name": "1", "password": "correct horse", "again": "correct horse"}, "1 to 32"),
            ({"name": "berta", "password": "short", "again": "short"}, "at least 8"),
            ({"name": "berta", "password": "correct horse", "again": "else"}, "differ"),
            ({"name": "<b>", "password": "correct horse", "again": "correct horse"}, "&lt;b&gt;"),
        ):
            answer = await browser.post("/signup", fields)
            self.assertEqual(answer.status, 400)
            self.assertIn(reason, answer.text)
            self.assertNotIn("correct horse", answer.text)

    async def test_sign_up_of_unknown_outcome_is_repeated(self) -> None:
        """Who was told to try again gets the account that was made all the same, at any frontend."""
        browser = await self._half_signed_up()
        answer = await self._sign_up(browser, "correct horse")
        self.assertEqual((answer.status, answer.header("location")), (303, "/"))
        self.assertIn("Hello, anna", (await browser.get("/")).text)

    async def test_sign_up_is_repeated_with_another_password(self) -> None:
        """The account keeps the password that it was made with, and its maker is told so."""
        browser = await self._half_signed_up()
        answer = await self._sign_up(browser, "battery staple")
        self.assertEqual(answer.status, 400)
        self.assertIn("made this account already", answer.text)
        self.assertEqual((await self.frontend.browser().log_in("anna")).status, 303)

    async def test_somebody_elses_sign_up_learns_nothing_of_the_password(self) -> None:
        """For all others the name is taken, whether or not they hit upon its password."""
        await self._half_signed_up()
        stranger = self.frontend.browser()
        for password in ("correct horse", "battery staple"):
            await stranger.get("/signup")
            answer = await self._sign_up(stranger, password)
            self.assertEqual(answer.status, 400)
            self.assertIn("is taken", answer.text)
            self.assertNotIn("penncloud_session", stranger.cookies)

    async def test_repeated_sign_ups_count_as_logins(self) -> None:
        """Signing up again and again tries no more passwords than logging in would."""
        browser = await self._half_signed_up()
        for _ in range(10):
            self.assertEqual((await self._sign_up(browser, "wrong horse")).status, 400)
        self.assertEqual((await self._sign_up(browser, "correct horse")).status, 429)
        self.assertEqual((await browser.log_in("anna")).status, 429)

    async def _half_signed_up(self) -> Browser:
        """A visitor whose account was made while the answer of the store was lost.

        From then on all go to another frontend.
        """
        table = UnreliableTable()
        first = self.start(table=table)
        browser = first.browser()
        await browser.get("/signup")
        table.calls_left, table.fails_after_doing = 1, True
        self.assertEqual((await self._sign_up(browser, "correct horse")).status, 503)
        table.calls_left = None
        # With randomness of its own, as every frontend has.
        environment = evolve(
            environment_for(reactor, lambda: self.wall_s), entropy=random.Random(2).randbytes
        )
        self.frontend = self.start(table=table, environment=environment)
        browser.base = self.frontend.url
        return browser

    async def _sign_up(self, browser: Browser, password: str) -> Answer:
        fields = {"name": "anna", "password": password, "again": password}
        return await browser.post("/signup", fields)

    async def test_log_in_goes_where_one_wanted_to(self) -> None:
        """After the login comes the page that asked for it; never another site."""
        await self.frontend.browser().sign_up("anna")
        for wanted, reached in (
            ("/chat?before=x", "/chat?before=x"),
            ("//evil.example/", "/"),
            ("https://evil.example/", "/"),
            ("/\\evil.example", "/"),
        ):
            browser = self.frontend.browser()
            await browser.get("/login")
            answer = await browser.post(
                "/login", {"name": "anna", "password": "correct horse", "next": wanted}
            )
            self.assertEqual((answer.status, answer.header("location")), (303, reached))

    async def test_wrong_password_and_unknown_name_look_the_same(self) -> None:
        """The answer does not tell who has an account."""
        await self.frontend.browser().sign_up("anna")
        answers = []
        for name in ("anna", "otto"):
            browser = self.frontend.browser()
            await browser.get("/login")
            answer = await browser.post("/login", {"name": name, "password": "wrong horse"})
            answers.append((answer.status, answer.text.replace(name, "NAME")))
        first, second = answers
        self.assertEqual(first[0], 403)
        without_token = [text.split('name="csrf"')[-1][70:] for _, text in (first, second)]
        self.assertEqual(without_token[0], without_token[1])

    async def test_session_changes_at_every_login(self) -> None:
        """A cookie that somebody planted before does not become the session."""
        await self.frontend.browser().sign_up("anna")
        browser = self.frontend.browser()
        await browser.log_in("anna")
        first = browser.cookies["penncloud_session"]
        browser.cookies.pop("penncloud_session")
        await browser.log_in("anna")
        self.assertNotEqual(browser.cookies["penncloud_session"], first)

    async def test_log_out_ends_the_session_on_the_server(self) -> None:
        """The old cookie is worth nothing afterwards."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        cookies = dict(browser.cookies)
        answer = await browser.post("/logout")
        self.assertEqual((answer.status, answer.header("location")), (303, "/login"))
        self.assertNotIn("penncloud_session", browser.cookies)
        browser.cookies = cookies
        self.assertEqual((await browser.get("/")).status, 303)

    async def test_password_change_ends_the_other_sessions(self) -> None:
        """One goes on with a new session; whoever else was logged in is not any more."""
        browser, other = self.frontend.browser(), self.frontend.browser()
        await browser.sign_up("anna")
        await other.log_in("anna")
        await browser.get("/account")
        answer = await browser.post(
            "/account/password",
            {"old": "correct horse", "new": "battery staple", "again": "battery staple"},
        )
        self.assertEqual(answer.header("location"), "/account?changed=1")
        self.assertIn("The password is changed", (await browser.get("/account?changed=1")).text)
        self.assertEqual((await other.get("/")).status, 303)
        self.assertEqual((await self.frontend.browser().log_in("anna")).status, 403)

    async def test_password_change_says_what_is_wrong(self) -> None:
        """Without the present password, or with a bad new one, nothing changes."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        for old, new, again in (
            ("wrong horse", "battery staple", "battery staple"),
            ("correct horse", "short", "short"),
            ("correct horse", "battery staple", "battery"),
        ):
            fields = {"old": old, "new": new, "again": again}
            self.assertEqual((await browser.post("/account/password", fields)).status, 400)
        self.assertEqual((await self.frontend.browser().log_in("anna")).status, 303)

    async def test_guessing_is_throttled(self) -> None:
        """After ten wrong passwords even the right one has to wait; other names do not."""
        for name in ("anna", "berta"):
            await self.frontend.browser().sign_up(name)
        browser = self.frontend.browser()
        await browser.get("/login")
        for _ in range(10):
            answer = await browser.post("/login", {"name": "anna", "password": "wrong horse"})
            self.assertEqual(answer.status, 403)
        answer = await browser.post("/login", {"name": "anna", "password": "correct horse"})
        self.assertEqual(answer.status, 429)
        self.assertGreater(int(answer.header("retry-after")), 0)
        self.assertEqual((await browser.log_in("berta")).status, 303)

    async def test_default_password_is_pointed_out(self) -> None:
        """Until it is changed every page says so."""
        await self.frontend.context.accounts.create(
            "admin", "password", reserved_names=True, default_password=True
        )
        browser = self.frontend.browser()
        await browser.log_in("admin", "password")
        self.assertIn("first password", (await browser.get("/")).text)
        fields = {"old": "password", "new": "battery staple", "again": "battery staple"}
        await browser.post("/account/password", fields)
        self.assertNotIn("first password", (await browser.get("/")).text)

    async def test_logged_in_visitors_of_the_login_page_go_home(self) -> None:
        """There is nothing to do for them there."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        self.assertEqual((await browser.get("/login")).header("location"), "/")
        self.assertEqual((await browser.get("/signup")).header("location"), "/")


class PureTests(FrontendTests):
    def setUp(self) -> None:
        """No frontend is needed."""
        self.clock = Clock()

    def test_local_paths(self) -> None:
        """Only a path on this very site is followed."""
        for good in ("/", "/chat", "/files/a%20b?x=1#y"):
            self.assertEqual(local_path(good), good)
        bad = ("", "chat", "//x", "/\\x", "http://x", "/a\nb", "/a\\b", "javascript:1", "/" * 3000)
        for target in bad:
            self.assertEqual(local_path(target), "/", target)

    def test_origins(self) -> None:
        """Same host and port; the default port may be left out; the scheme may differ."""
        self.assertTrue(same_origin(b"http://localhost:8081", b"localhost:8081"))
        self.assertTrue(same_origin(b"https://cloud.example", b"cloud.example:443"))
        self.assertTrue(same_origin(b"http://Cloud.example:80", b"cloud.example"))
        for origin in (
            b"null",
            b"",
            b"http://localhost",
            b"ftp://localhost:8081",
            b"localhost:8081",
        ):
            self.assertFalse(same_origin(origin, b"localhost:8081"), origin)

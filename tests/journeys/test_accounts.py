"""Becoming a member, coming and going, and changing the password."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.journeys.journey import PASSWORD, Journey


class AccountJourney(Journey):
    """One person and an account."""

    def test_a_new_member_comes_goes_and_changes_the_password(self) -> None:
        """Sign up at the balancer, log out, log in, change the password; the old one is dead."""
        visitor = self.member("ada")
        page = visitor.page
        self.assertNotEqual(self.origin(visitor) + "/", self.cluster.url)
        self.judge(visitor)
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        self.judge(visitor)
        self.log_in(visitor, "ada", PASSWORD)

        page.goto(self.origin(visitor) + "/account")
        self.judge(visitor)
        page.get_by_label("Present password").fill(PASSWORD)
        page.locator("input[name=new]").fill("an even better one")
        page.locator("input[name=again]").fill("an even better one")
        page.get_by_role("button", name="Change the password").click()
        expect(page.get_by_role("status").filter(has_text="password is changed")).to_be_visible()
        page.get_by_role("button", name="Log out").click()

        with visitor.forgiving("403"):
            page.get_by_label("Name").fill("ada")
            page.get_by_label("Password").fill(PASSWORD)
            page.get_by_role("button", name="Log in").click()
            expect(page.get_by_role("alert")).to_contain_text("do not go together")
        self.log_in(visitor, "ada", "an even better one")

    def test_a_stranger_sees_the_login_page_only(self) -> None:
        """Every page of the cloud leads a visitor without account to the login page."""
        visitor = self.person("stranger")
        for path in ("/", "/files", "/mail", "/chat", "/account", "/admin"):
            visitor.page.goto(self.cluster.frontend_url(1) + path)
            expect(visitor.page.get_by_role("heading", name="Log in")).to_be_visible()
        visitor.page.goto(self.cluster.frontend_url(1) + "/signup")
        self.judge(visitor)

    def test_every_frontend_knows_a_session(self) -> None:
        """Who logged in on one frontend is logged in on the other; logging out ends it on both."""
        first, second = self.cluster.frontend_url(1), self.cluster.frontend_url(2)
        visitor = self.member("bela", at=first + "/login")
        page = visitor.page
        page.goto(second)
        expect(page.get_by_role("heading", name="Hello, bela")).to_be_visible()
        cookies = visitor.context.cookies()
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        visitor.context.add_cookies(cookies)  # type: ignore[arg-type]
        page.goto(first + "/account")
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()

"""What the journeys have in common: people, and what is asked of every page they see."""

from __future__ import annotations

import re
from typing import Final

from playwright.sync_api import expect
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.journeys.browser import PATIENCE_MS, Visitor, find_chromium
from tests.journeys.stage import STAGE, VisitedCluster

PASSWORD: Final = "correct horse battery"
ADMIN_PASSWORD: Final = "password"


class Journey(SynchronousTestCase):
    """A test with people at browsers. Every page they saw is judged when it ends."""

    def setUp(self) -> None:
        chromium = find_chromium()
        if chromium is None:
            raise SkipTest("no chromium on this machine (apt install chromium)")
        expect.set_options(timeout=PATIENCE_MS)
        STAGE.enter(chromium)
        self.addCleanup(STAGE.leave)

    @property
    def cluster(self) -> VisitedCluster:
        return STAGE.cluster

    def person(self, name: str) -> Visitor:
        """Somebody at a fresh browser; judged and sent home when the test ends."""
        visitor = STAGE.browser.visitor(name, accept_downloads=True)
        self.addCleanup(visitor.close)
        self.addCleanup(visitor.check)
        return visitor

    def member(self, name: str, at: str = "") -> Visitor:
        """Somebody who has just signed up (at a frontend's address, or by way of the balancer)."""
        visitor = self.person(name)
        visitor.page.goto(at or self.cluster.url)
        self.sign_up(visitor, name)
        return visitor

    def sign_up(self, visitor: Visitor, name: str) -> None:
        """From the login page to the start page of a new account."""
        visitor.page.get_by_role("link", name="Sign up").click()
        visitor.page.locator("input[name=name]").fill(name)
        visitor.page.locator("input[name=password]").fill(PASSWORD)
        visitor.page.locator("input[name=again]").fill(PASSWORD)
        visitor.page.get_by_role("button", name="Sign up").click()
        expect(visitor.page.get_by_role("heading", name=f"Hello, {name}")).to_be_visible()

    def administrator(self) -> Visitor:
        """The admin, logged in."""
        visitor = self.person("admin")
        self.log_in(visitor, "admin", ADMIN_PASSWORD)
        return visitor

    def log_in(self, visitor: Visitor, name: str, password: str, at: str = "") -> None:
        """Log in at the balancer's address (or `at`), and see the start page."""
        visitor.page.goto(at or self.cluster.url)
        visitor.page.get_by_label("Name").fill(name)
        visitor.page.get_by_label("Password").fill(password)
        visitor.page.get_by_role("button", name="Log in").click()
        expect(visitor.page.get_by_role("heading", name=f"Hello, {name}")).to_be_visible()

    def judge(self, visitor: Visitor) -> None:
        """The present page is accessible, fits a phone and has no errors."""
        visitor.check_accessibility()
        visitor.check_phone_width()
        visitor.check()

    def origin(self, visitor: Visitor) -> str:
        """The frontend on which somebody is now."""
        match = re.match(r"https?://[^/]+", visitor.page.url)
        assert match is not None
        return match.group()

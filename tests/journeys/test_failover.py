"""A frontend goes away under people: with the balancer that redirects, they are on another one soon."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.journeys.journey import Journey
from tests.waiting import wait_until

# What a browser says of a frontend that is not there.
_AWAY = (
    "ERR_CONNECTION_REFUSED",
    "ERR_FAILED",
    "ERR_EMPTY_RESPONSE",
    "Failed to fetch",
    "net::ERR",
)


# Seconds until a server that was started is shown as live.
_BACK_S = 60


class FailoverJourney(Journey):
    """The second frontend is stopped while somebody is on it."""

    def stop(self) -> None:
        self.addCleanup(self.start)
        self.cluster.penncloud("node", "stop", "http-2")

    def start(self) -> None:
        self.cluster.penncloud("node", "start", "http-2")
        wait_until(
            lambda: self.cluster.state("http-2") == "live", "http-2 does not come back", _BACK_S
        )

    def comes_to(self, page: Page, path: str) -> None:
        """The page is that of the other frontend, in the time that people are promised and some patience."""
        expect(page).to_have_url(re.compile(re.escape(self.cluster.frontend_url(1) + path)))

    def ready(self, page: Page, path: str) -> Page:
        """A page of the second frontend, over which its worker watches."""
        page.goto(self.cluster.frontend_url(2) + path)
        page.evaluate("() => navigator.serviceWorker.ready.then(() => true)")
        expect(page.locator("[data-connection]")).to_be_hidden()
        return page

    def test_people_go_on_elsewhere(self) -> None:
        """An open page moves by itself, with what was typed; a link that is followed leads to a healthy
        frontend; and nobody has to log in again."""
        tilda = self.member("tilda", at=self.cluster.frontend_url(2) + "/login")
        with tilda.forgiving(*_AWAY):
            quiet = self.ready(tilda.context.new_page(), "/account")
            live = self.ready(tilda.page, "/chat")
            live.locator("#text").fill("half a sentence")
            self.stop()
            self.comes_to(live, "/chat")
            expect(live.locator("#text")).to_have_value("half a sentence")
            quiet.get_by_role("link", name="Files").click()
            self.comes_to(quiet, "/files")
            for page in (live, quiet):
                expect(page.get_by_role("button", name="Log out")).to_be_visible()

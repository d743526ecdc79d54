"""The board, live between browsers on different frontends."""

from __future__ import annotations

import json
from urllib.parse import quote

from playwright.sync_api import Locator, Page, expect

from tests.journeys.journey import Journey


class ChatJourney(Journey):
    """Two people on two frontends."""

    def test_two_frontends_show_one_conversation(self) -> None:
        """What one posts appears at the other without reloading, in the same order for both."""
        carl = self.member("carl", at=self.cluster.frontend_url(1) + "/login")
        dora = self.member("dora", at=self.cluster.frontend_url(2) + "/login")
        carl.page.goto(self.cluster.frontend_url(1) + "/chat")
        dora.page.goto(self.cluster.frontend_url(2) + "/chat")
        for number in range(3):
            self.post(carl.page, f"carl says {number}")
            expect(self.message(dora.page, f"carl says {number}")).to_be_visible()
            self.post(dora.page, f"dora answers {number} <b>&amp;")
            expect(self.message(carl.page, f"dora answers {number} <b>&amp;")).to_be_visible()
        shown = [self.texts(page) for page in (carl.page, dora.page)]
        self.assertEqual(shown[0][-6:], shown[1][-6:])
        self.assertEqual(shown[0][-1], "dora answers 2 <b>&amp;")
        self.judge(carl)
        carl.page.reload()
        expect(self.message(carl.page, "carl says 0")).to_be_visible()
        self.assertEqual(self.texts(carl.page), shown[0])

    def test_a_connection_that_comes_back_misses_nothing(self) -> None:
        """Messages posted while a browser is offline are there, once each, when it is back."""
        emil = self.member("emil", at=self.cluster.frontend_url(1) + "/login")
        fritz = self.member("fritz", at=self.cluster.frontend_url(2) + "/login")
        emil.page.goto(self.cluster.frontend_url(1) + "/chat")
        fritz.page.goto(self.cluster.frontend_url(2) + "/chat")
        self.post(fritz.page, "before the tunnel")
        expect(self.message(emil.page, "before the tunnel")).to_be_visible()
        with emil.forgiving("ERR_INTERNET_DISCONNECTED", "ERR_FAILED", "Failed to fetch"):
            emil.context.set_offline(True)
            for number in range(5):
                self.post(fritz.page, f"in the tunnel {number}")
                expect(self.message(fritz.page, f"in the tunnel {number}")).to_be_visible()
            emil.context.set_offline(False)
            for number in range(5):
                expect(self.message(emil.page, f"in the tunnel {number}")).to_have_count(1)

    def test_a_link_posts_nothing(self) -> None:
        """What a page carries to another frontend counts for its own session: a stranger's link does not."""
        gina = self.member("gina", at=self.cluster.frontend_url(1) + "/login")
        board = self.cluster.frontend_url(1) + "/chat"
        gina.page.goto(board)
        session = gina.page.locator('meta[name="session"]').get_attribute("content")
        for name, text in (("guessed", "not my words"), (session, "my own words")):
            state = {"session": name, "outbox": [{"id": f"carried-{len(text)}", "text": text}]}
            gina.page.goto("about:blank")
            gina.page.goto(f"{board}#state={quote(json.dumps(state))}")
        expect(self.message(gina.page, "my own words")).to_have_count(1)
        expect(self.message(gina.page, "not my words")).to_have_count(0)

    def test_the_next_user_of_a_tab_finds_nothing_unsent(self) -> None:
        """A draft belongs to its author, also when somebody else logs in in the same tab."""
        hugo = self.member("hugo", at=self.cluster.frontend_url(1) + "/login")
        hugo.page.goto(self.cluster.frontend_url(1) + "/chat")
        hugo.page.get_by_label("Message", exact=True).fill("for hugo's eyes")
        hugo.page.reload()
        expect(hugo.page.get_by_label("Message", exact=True)).to_have_value("for hugo's eyes")
        hugo.page.get_by_role("button", name="Log out").click()
        self.sign_up(hugo, "ines")
        hugo.page.goto(self.cluster.frontend_url(1) + "/chat")
        expect(hugo.page.get_by_label("Message", exact=True)).to_have_value("")

    def post(self, page: Page, text: str) -> None:
        page.get_by_label("Message", exact=True).fill(text)
        page.get_by_role("button", name="Send").click()

    def message(self, page: Page, text: str) -> Locator:
        return page.locator("#messages .message p").get_by_text(text, exact=True)

    def texts(self, page: Page) -> list[str]:
        return page.locator("#messages .message p").all_inner_texts()

"""The board, live between browsers on different frontends."""

from __future__ import annotations

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

    def post(self, page: Page, text: str) -> None:
        page.get_by_label("Message", exact=True).fill(text)
        page.get_by_role("button", name="Send").click()

    def message(self, page: Page, text: str) -> Locator:
        return page.locator("#messages .message p").get_by_text(text, exact=True)

    def texts(self, page: Page) -> list[str]:
        return page.locator("#messages .message p").all_inner_texts()

"""The admin console: states, raw cells, and a storage server that is stopped and started again."""

from __future__ import annotations

import hashlib
import re

from playwright.sync_api import Page, expect

from penncloud.placement.tablets import row_hash
from tests.journeys.browser import Visitor
from tests.journeys.journey import Journey
from tests.waiting import PATIENCE_S, wait_until


class AdminJourney(Journey):
    """The admin, and somebody who is not."""

    def test_servers_are_shown_and_a_storage_server_is_stopped_and_started(self) -> None:
        """Of all servers the one that holds the admin's own account is stopped: the console stays
        usable, shows it dead, and starts it again.
        """
        admin = self.administrator()
        page = admin.page
        page.get_by_role("link", name="Admin").first.click()
        for server in ("lb-1", "http-1", "http-2", "smtp-1", "coordinator-1", "storage-3"):
            expect(page.locator(f'tr[data-server="{server}"]')).to_contain_text("live")
        pid = page.locator('tr[data-server="storage-1"] [data-field="pid"]').inner_text()
        self.assertEqual(int(pid), self.cluster.pid("storage-1"))
        self.judge(admin)

        victim = self.holder_of(b"user/admin")
        page.get_by_role("button", name=f"Stop {victim}", exact=True).click()
        expect(page.locator("#effect")).to_contain_text("lose one replica")
        self.judge(admin)
        with admin.forgiving("422"):
            page.locator("#confirm").fill("storage-9")
            page.get_by_role("button", name=f"Stop {victim}").click()
            expect(page.get_by_role("alert")).to_contain_text("nothing was done")
        self.addCleanup(self.cluster.penncloud, "node", "start", victim)
        page.locator("#confirm").fill(victim)
        page.get_by_role("button", name=f"Stop {victim}").click()
        row = page.locator(f'tr[data-server="{victim}"]')
        expect(row).to_contain_text("dead")
        self.assertEqual(self.cluster.state(victim), "dead")

        # Nothing of the store is missed: other servers lead its tablets by then, or in a moment.
        for _ in range(60):
            page.goto(self.origin(admin) + "/admin/cells")
            if not page.get_by_role("alert").count():
                break
            page.wait_for_timeout(250)
        expect(page.get_by_role("alert")).to_have_count(0)
        expect(page.locator("#cells tbody tr").first).to_be_visible()
        page.goto(self.origin(admin) + "/admin")
        self._start(page, victim)
        expect(page.locator(f'tr[data-server="{victim}"]')).to_contain_text("live")

        page.goto(self.origin(admin) + "/admin/audit")
        expect(page.locator("#audit")).to_contain_text(victim)
        self.assertEqual(self.audited(page)[:2], [("start", victim), ("stop", victim)])
        self.judge(admin)

    def test_coordinators_are_stopped_and_started(self) -> None:
        """One of three is not missed. Without a majority the states are marked as stale, and the
        missing ones can be started from the same page."""
        admin = self.administrator()
        page = admin.page
        page.goto(self.cluster.frontend_url(1) + "/admin")
        expect(page.locator("#freshness")).to_contain_text("Live")
        for name in ("coordinator-1", "coordinator-2"):
            page.get_by_role("button", name=f"Stop {name}").click()
            self.addCleanup(self.cluster.penncloud, "node", "start", name)
            page.locator("#confirm").fill(name)
            page.get_by_role("button", name=f"Stop {name}").click()
            if name == "coordinator-1":
                expect(page.locator('tr[data-server="coordinator-1"]')).to_contain_text("dead")
                expect(page.locator("#freshness")).to_contain_text("Live")
        expect(page.locator("#freshness")).to_contain_text("Stale")
        self.judge(admin)
        for name in ("coordinator-2", "coordinator-1"):
            self._start(page, name)
        expect(page.locator("#freshness")).to_contain_text("Live")
        expect(page.locator('tr[data-server="storage-1"]')).to_contain_text("live")

    def _start(self, page: Page, server: str) -> None:
        button = page.get_by_role("button", name=f"Start {server}", exact=True)
        button.click()
        # The page that asks has a button of the same name, and may take a while to come.
        expect(page.locator("#effect")).to_be_visible()
        button.click()

    def test_raw_cells_are_found_by_row_and_downloaded_whole(self) -> None:
        """Binary values come through the shell and the console as they are."""
        admin = self.administrator()
        value = bytes(range(256)) * 300
        self.cluster.penncloud("kv", "put", "raw;journey", "binary", stdin=value)
        self.cluster.penncloud("kv", "put", "raw;journey", "text", "gr\u00fc\u00dfe")
        page = admin.page
        page.goto(self.origin(admin) + "/admin/cells")
        expect(page.locator("#cells tbody tr").first).to_contain_text("storage-")
        self.judge(admin)
        page.get_by_label("Rows that begin with").fill("raw;jour")
        page.get_by_role("button", name="Show").click()
        rows = page.locator("#cells tbody tr")
        expect(rows).to_have_count(2)
        expect(rows.nth(0)).to_contain_text("raw%3Bjourney")
        expect(rows.nth(0)).to_contain_text(str(len(value)))
        expect(rows.nth(0)).to_contain_text("00 01 02 03")
        expect(rows.nth(1)).to_contain_text("gr\u00fc\u00dfe")
        with page.expect_download() as download:
            rows.nth(0).get_by_role("link").click()
        whole = download.value.path().read_bytes()
        self.assertEqual(hashlib.sha256(whole).digest(), hashlib.sha256(value).digest())
        self.judge(admin)

    def test_a_frontend_is_disabled_and_enabled(self) -> None:
        """A disabled one gets no new visitors and is shown as disabled, not as failed."""
        admin = self.administrator()
        page = admin.page
        page.goto(self.cluster.frontend_url(1) + "/admin")
        page.get_by_role("button", name="Disable http-2").click()
        page.get_by_role("button", name="Disable http-2").click()
        row = page.locator('tr[data-server="http-2"]')
        expect(row.get_by_text("disabled", exact=True)).to_be_visible()
        expect(row).not_to_contain_text("dead")
        visitor = self.person("guest")
        for _ in range(4):
            visitor.page.goto(self.cluster.url)
            self.assertEqual(self.origin(visitor), self.cluster.frontend_url(1))
        page.get_by_role("button", name="Enable http-2").click()
        page.get_by_role("button", name="Enable http-2").click()
        expect(row.get_by_text("disabled", exact=True)).to_be_hidden()

    def test_the_frontend_of_the_page_is_restarted(self) -> None:
        """Whoever restarts the very server that they look at is taken to another one."""
        admin = self.administrator()
        page = admin.page
        page.goto(self.cluster.frontend_url(2) + "/admin")
        before = self.cluster.pid("http-2")
        page.get_by_role("button", name="Restart http-2").click()
        page.locator("#confirm").fill("http-2")
        page.get_by_role("button", name="Restart http-2").click()
        expect(page).not_to_have_url(re.compile("/restart$"))
        self.judge(admin)
        wait_until(lambda: self.cluster.pid("http-2") != before, "a new http-2", PATIENCE_S)
        live = self.cluster.state
        wait_until(lambda: live("http-2") == "live", "http-2 does not come back", PATIENCE_S)

    def test_others_are_refused(self) -> None:
        """A member sees no link and gets 403 for every page of the console."""
        visitor = self.member("gast")
        expect(visitor.page.get_by_role("link", name="Admin")).to_have_count(0)
        with visitor.forgiving("403"):
            for path in ("", "/tablets", "/cells", "/audit", "/servers/lb-1/stop"):
                answer = visitor.page.goto(self.origin(visitor) + "/admin" + path)
                self.assertEqual(answer and answer.status, 403)

    def test_the_other_pages_of_the_console(self) -> None:
        """Tablets cover the hash space and are served."""
        admin: Visitor = self.administrator()
        admin.page.goto(self.origin(admin) + "/admin/tablets")
        rows = admin.page.locator("tbody tr")
        self.assertEqual(rows.count(), len(self.cluster.status["tablets"]))
        expect(rows.first).to_contain_text("00000000")
        expect(rows.last).to_contain_text("ffffffff")
        self.judge(admin)

    def holder_of(self, row: bytes) -> str:
        """The storage server that serves a row."""
        place = row_hash(row)
        for tablet in self.cluster.status["tablets"]:
            if tablet["range"][0] <= place < tablet["range"][1]:
                return str(tablet["primary"])
        raise AssertionError("no tablet holds the row")

    def audited(self, page: Page) -> list[tuple[str, str]]:
        """(action, server) of the log's entries, newest first."""
        rows = page.locator("#audit tbody tr").all()
        cells = [row.locator("td").all_inner_texts() for row in rows]
        return [(texts[2], texts[3]) for texts in cells]

"""A frontend goes away under people: they go on at another one soon, whichever way the balancer works."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.journeys.browser import Visitor
from tests.journeys.journey import Journey
from tests.journeys.stage import VisitedCluster
from tests.waiting import PATIENCE_S, wait_until

# What a browser says of a frontend that is not there.
_AWAY = (
    "ERR_CONNECTION_REFUSED",
    "ERR_FAILED",
    "ERR_EMPTY_RESPONSE",
    "Failed to fetch",
    "net::ERR",
)
# An upload that takes some seconds.
_LARGE_BYTES = 200_000_000
_PIECE_BYTES = 1_000_000
_BEGUN = """() => {
  const bar = document.querySelector("[data-uploads] progress");
  return bar !== null && bar.value > bar.max / 10;
}"""
# A request to such an address has been made.
_SENT_ELSEWHERE = """(part) => performance.getEntriesByType("resource")
  .some((entry) => entry.name.includes(part))"""
_UPLOADED_MS = 120_000
# A line that takes everything at once; bytes per second of one on which there is time for something else.
_LINE = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
_SLOWLY = 10_000_000

# Seconds until a server that was started is shown as live.


class _UploadJourney(Journey):
    """What is done with a large file."""

    def begin_upload(self, page: Page, name: str) -> str:
        """Upload something large; returns its digest when a part of it has been sent."""
        path = Path(self.mktemp())
        path.mkdir()
        path /= name
        digest = hashlib.sha256()
        with path.open("wb") as file:
            for _ in range(_LARGE_BYTES // _PIECE_BYTES):
                piece = os.urandom(_PIECE_BYTES)
                digest.update(piece)
                file.write(piece)
        self.addCleanup(path.unlink)
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Upload", exact=True).click()
        chooser.value.set_files([path])
        page.wait_for_function(_BEGUN)
        return digest.hexdigest()

    def under_way(self, page: Page) -> None:
        """The frontend is not killed too late."""
        expect(page.locator("[data-uploads-title]")).to_contain_text("Uploading")

    def arrives(self, visitor: Visitor, page: Page, name: str, digest: str, port: int) -> None:
        """The file is there without anybody's doing, byte for byte."""
        row = page.locator(f'tr[data-name="{name}"]:visible')
        expect(row).to_be_visible(timeout=_UPLOADED_MS)
        cookies = "; ".join(f"{one['name']}={one['value']}" for one in visitor.context.cookies())
        connection = http.client.HTTPConnection("localhost", port, timeout=PATIENCE_S)
        connection.request("GET", f"/files/{name}", headers={"Cookie": cookies})
        answer = connection.getresponse()
        self.assertEqual((answer.status, answer.length), (200, _LARGE_BYTES))
        found = hashlib.sha256()
        while piece := answer.read(_PIECE_BYTES):
            found.update(piece)
        connection.close()
        self.assertEqual(found.hexdigest(), digest)


class FailoverJourney(_UploadJourney):
    """The second frontend is stopped while somebody is on it."""

    def stop(self) -> None:
        self.addCleanup(self.start)
        self.cluster.penncloud("node", "stop", "http-2")

    def start(self) -> None:
        self.cluster.penncloud("node", "start", "http-2")
        wait_until(
            lambda: self.cluster.state("http-2") == "live", "http-2 does not come back", PATIENCE_S
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

    def test_an_upload_goes_on_elsewhere(self) -> None:
        """A frontend is killed in the middle of a large upload: the page sends it to another one."""
        visitor = self.member("ulla", at=self.cluster.frontend_url(2) + "/login")
        other = self.cluster.document.http[0].port
        with visitor.forgiving(*_AWAY):
            page = self.ready(visitor.page, "/files/")
            digest = self.begin_upload(page, "large.bin")
            self.under_way(page)
            # For good, or it would be back before anybody misses it.
            self.addCleanup(self.start)
            self.cluster.kill("http-2")
            self.cluster.penncloud("node", "stop", "http-2")
            page.wait_for_function(_SENT_ELSEWHERE, arg=f":{other}/file/")
            self.arrives(visitor, page, "large.bin", digest, other)


class ProxyFailoverJourney(_UploadJourney):
    """The balancer hands everything on: one address, and two frontends behind it."""

    def setUp(self) -> None:
        super().setUp()
        options = ["--storage=1", "--coordinators=1", "--set=cluster.replication_factor=1"]
        self.proxied = VisitedCluster(self.mktemp(), [*options, "--set=lb.mode=proxy"])
        self.addCleanup(self.proxied.destroy)
        self.proxied.start()

    def test_people_go_on_at_the_same_address(self) -> None:
        """The frontend that serves all of it is killed: the upload is sent again, the board goes on with
        what was typed, and a page that is asked for meanwhile comes."""
        cloud = self.proxied
        cloud.penncloud("lb", "disable", "http-2")
        vera = self.member("vera", at=cloud.url)
        with vera.forgiving("answer 50", "status of 50", *_AWAY):
            board = vera.context.new_page()
            board.goto(cloud.url + "chat")
            board.locator("#text").fill("half a sentence")
            page = vera.page
            page.goto(cloud.url + "files/")
            line = vera.context.new_cdp_session(page)
            line.send("Network.emulateNetworkConditions", {**_LINE, "uploadThroughput": _SLOWLY})
            digest = self.begin_upload(page, "large.bin")
            cloud.penncloud("lb", "enable", "http-2")
            self.under_way(page)
            cloud.kill("http-1")
            line.send("Network.emulateNetworkConditions", _LINE)
            third = vera.context.new_page()
            third.goto(cloud.url + "account")
            expect(third.get_by_role("button", name="Log out")).to_be_visible()
            expect(board.locator("#text")).to_have_value("half a sentence")
            board.locator("#text").press("Enter")
            expect(board.get_by_text("half a sentence")).to_be_visible()
            self.arrives(vera, page, "large.bin", digest, cloud.document.lb[0].port)

"""The admin's pages over a real socket: who may see them, what they show, what their forms do."""

from __future__ import annotations

import json
import re

import msgspec
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from penncloud.client.directory import ClusterView, NodeInfo, TabletInfo, Worker
from penncloud.platform.errors import PennCloudError
from tests.web.frontend import Browser, start_frontend


class AdminPagesTests(TestCase):
    """One frontend (http-1) of a small cluster."""

    def setUp(self) -> None:
        self.frontend = start_frontend(reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.frontend.stop()))
        nodes = [
            NodeInfo("http", "http-1", "127.0.0.1", 8081, 11, "live"),
            NodeInfo(
                "http",
                "http-2",
                "127.0.0.1",
                8082,
                12,
                "live",
                mail="serves mail",
                workers=(Worker(1, 51, "serving"), Worker(2, 0, "waiting")),
            ),
            NodeInfo("storage", "storage-1", "127.0.0.1", 8700, 13, "live"),
            NodeInfo("storage", "storage-2", "127.0.0.1", 8701, 14, "dead"),
        ]
        tablet = TabletInfo(0, 0, 2**32, 1, "storage-1", ["storage-1"], {}, "ok")
        self.frontend.directory.current = ClusterView(nodes, [], [tablet])

    async def admin(self) -> Browser:
        """The admin, logged in."""
        await self.frontend.context.accounts.create("admin", "correct horse", reserved_names=True)
        browser = self.frontend.browser()
        await browser.log_in("admin")
        return browser

    async def test_only_the_admin_gets_in(self) -> None:
        """Members get 403 for pages, data and actions, visitors the login page."""
        member = self.frontend.browser()
        await member.sign_up("ada")
        visitor = self.frontend.browser()
        for path in (
            "/admin",
            "/admin/servers.json",
            "/admin/tablets",
            "/admin/cells",
            "/admin/cells/value?row=YQ&col=YQ",
            "/admin/audit",
            "/admin/servers/storage-1/stop",
        ):
            self.assertEqual((await member.get(path)).status, 403, path)
            self.assertEqual((await visitor.get(path)).status, 303, path)
        answer = await member.post("/admin/servers/storage-1/stop", {"confirm": "storage-1"})
        self.assertEqual(answer.status, 403)
        self.assertEqual(self.frontend.control.asked, [])

    async def test_servers_are_shown_with_what_applies(self) -> None:
        """Role, address, pid, state; a dead one can be started only."""
        browser = await self.admin()
        page = (await browser.get("/admin")).text
        for text in (
            "storage-1",
            "127.0.0.1:8700",
            "dead",
            "frontend",
            "14",
            "serves mail",
            "1: 51, 2: - waiting",
        ):
            self.assertIn(text, page)
        polled = json.loads((await browser.get("/admin/servers.json")).body)
        servers = {server["id"]: server for server in polled["servers"]}
        self.assertEqual(servers["storage-2"]["actions"], ["start"])
        self.assertEqual(servers["http-2"]["actions"], ["restart", "stop", "disable"])
        self.assertEqual(
            servers["http-2"]["workers"][1], {"number": 2, "pid": 0, "state": "waiting"}
        )
        self.assertEqual([servers[f"http-{n}"]["mail"] for n in (1, 2)], ["", "serves mail"])
        self.assertFalse(polled["stale"])

    async def test_tablets_that_are_not_in_order(self) -> None:
        """How many are degraded stands above the table, and who joins and leaves in it."""
        browser = await self.admin()
        self.assertNotIn("not in order", (await browser.get("/admin/tablets")).text)
        current = self.frontend.directory.current
        members = ["storage-1", "storage-2"]
        degraded = TabletInfo(
            7,
            0,
            2**32,
            2,
            "storage-1",
            members,
            {"storage-3": 12},
            "degraded",
            ["storage-3"],
            ["storage-2"],
        )
        self.frontend.directory.current = msgspec.structs.replace(current, tablets=[degraded])
        text = " ".join((await browser.get("/admin/tablets")).text.split())
        self.assertIn("1 of 1 tablets is not in order:", text)
        self.assertIn('<span class="state degraded">1 degraded</span>', text)
        self.assertIn("storage-1, storage-2 leaves, storage-3 (12) joins", text)

    async def test_the_effect_is_told_and_the_name_asked_for(self) -> None:
        """Without the server's name, or with another one, a stop does not happen."""
        browser = await self.admin()
        page = (await browser.get("/admin/servers/storage-1/stop")).text
        self.assertIn("1 tablet becomes unavailable", page)
        for confirm in ("", "storage-2"):
            answer = await browser.post("/admin/servers/storage-1/stop", {"confirm": confirm})
            self.assertEqual(answer.status, 422)
            self.assertIn("nothing was done", answer.text)
        self.assertEqual(self.frontend.control.asked, [])
        answer = await browser.post("/admin/servers/storage-1/stop", {"confirm": "storage-1"})
        self.assertEqual(answer.status, 303)
        self.assertEqual(self.frontend.control.asked, [("stop", "storage-1")])
        followed = await browser.get(answer.header("location"))
        self.assertIn("Done: stop storage-1.", followed.text)
        self.assertIn("storage-1", (await browser.get("/admin/audit")).text)

    async def test_an_action_needs_the_token(self) -> None:
        """Another site's form does nothing, nor does following a link."""
        browser = await self.admin()
        answer = await browser.post(
            "/admin/servers/storage-2/start", {"csrf": "x" * len(browser.csrf)}
        )
        self.assertEqual(answer.status, 403)
        await browser.get("/admin/servers/storage-2/start")
        self.assertEqual(self.frontend.control.asked, [])

    async def test_frontends_are_disabled_and_enabled(self) -> None:
        """By the directory; with another one live it is not destructive and asks for no name."""
        browser = await self.admin()
        await browser.post("/admin/servers/http-2/disable")
        enabled = {node.id: node.enabled for node in self.frontend.directory.current.nodes}
        self.assertFalse(enabled["http-2"])
        answer = await browser.post("/admin/servers/http-1/disable")
        self.assertEqual(answer.status, 422)
        self.assertIn("nobody can enter", answer.text)
        await browser.post("/admin/servers/http-2/enable")
        enabled = {node.id: node.enabled for node in self.frontend.directory.current.nodes}
        self.assertTrue(enabled["http-2"])

    async def test_the_own_frontend_answers_before_it_goes(self) -> None:
        """Stopping the server of this page leads to the balancer, though the call never returns."""
        browser = await self.admin()
        self.frontend.control.until = Deferred()
        answer = await browser.post("/admin/servers/http-1/restart", {"confirm": "http-1"})
        balancer = self.frontend.context.config.lb_url
        self.assertEqual((answer.status, answer.header("refresh")), (200, f"1; url={balancer}"))
        self.assertIn(f'href="{balancer}"', answer.text)
        self.assertEqual(self.frontend.control.asked, [("restart", "http-1")])

    async def test_what_goes_wrong_is_told(self) -> None:
        """Unknown servers and actions, what does not apply, and an agent's refusal."""
        browser = await self.admin()
        for path, status in (
            ("/admin/servers/storage-9/stop", 404),
            ("/admin/servers/storage-1/explode", 404),
            ("/admin/servers/storage-1/start", 409),
        ):
            self.assertEqual((await browser.get(path)).status, status, path)
            self.assertEqual((await browser.post(path)).status, status, path)
        self.frontend.control.problem = PennCloudError("no agent answers")
        answer = await browser.post("/admin/servers/storage-2/start")
        self.assertEqual(answer.status, 502)
        self.assertIn("no agent answers", answer.text)

    async def test_cells_are_escaped_paged_and_downloadable(self) -> None:
        """Markup in a value is text on the page, and a download is a file, never a page."""
        table = self.frontend.table
        evil = b"<script>alert(1)</script>"
        await table.put(b"evil/<b>", b"c", evil)
        for number in range(120):
            await table.put(b"many/%d" % number, b"c", b"v")
        browser = await self.admin()
        page = (await browser.get("/admin/cells?prefix=evil")).text
        self.assertNotIn(evil.decode(), page)
        self.assertIn("&lt;script&gt;", page)
        link = re.search(r'href="(/admin/cells/value[^"]+)"', page)
        assert link is not None
        answer = await browser.get(link[1].replace("&amp;", "&"))
        self.assertEqual(answer.body, evil)
        self.assertEqual(answer.header("content-type"), "application/octet-stream")
        self.assertTrue(answer.header("content-disposition").startswith("attachment"))
        seen = 0
        path = "/admin/cells?prefix=many%2F"
        for _ in range(10):
            page = (await browser.get(path)).text
            seen += page.count("<td>1</td>")
            following = re.search(r'rel="next"\s+href="([^"]+)"', page)
            if following is None:
                break
            path = following[1].replace("&amp;", "&")
        self.assertEqual(seen, 120)

    async def test_damaged_addresses_are_refused(self) -> None:
        """Cursors, prefixes and names from elsewhere give 400 or 404, never 500."""
        browser = await self.admin()
        for path, status in (
            ("/admin/cells?at=nonsense", 400),
            ("/admin/cells?at=1.%21.x", 400),
            ("/admin/cells?prefix=100%25", 400),
            ("/admin/cells/value?row=YQ", 400),
            ("/admin/cells/value?row=&col=", 400),
            ("/admin/cells/value?row=YQ&col=YQ", 404),
            ("/admin/audit?older=%C3%A4", 400),
        ):
            self.assertEqual((await browser.get(path)).status, status, path)

    async def test_the_log_of_an_unavailable_store(self) -> None:
        """503 with a page that says so, while the server table goes on."""
        browser = await self.admin()
        await browser.get("/admin")
        self.frontend.table.unavailable = True
        self.assertEqual((await browser.get("/admin/audit")).status, 503)
        self.assertEqual((await browser.get("/admin")).status, 200)

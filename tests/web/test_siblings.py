"""Pages that go on at another frontend of the host: who may, and what they may do there."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from penncloud.client.directory import NodeInfo
from penncloud.platform.config import Http
from penncloud.services.files import ROOT
from penncloud.web.siblings import Siblings
from tests.web.frontend import Answer, start_frontend


def _node(node_id: str, port: int, host: str = "127.0.0.1", **more: object) -> NodeInfo:
    return NodeInfo("http", node_id, host, port, 1, "live", **more)  # type: ignore[arg-type]


class SiblingsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.siblings = Siblings(Http(id="http-1"))
        self.siblings.update(
            [
                _node("http-1", 8081),
                _node("http-2", 8082),
                _node("http-3", 8083, enabled=False),
                _node("http-4", 8084, "10.0.0.4"),
                _node("http-5", 8085, scheme="https"),
                NodeInfo("smtp", "smtp-1", "127.0.0.1", 2500, 1, "live"),
                NodeInfo("http", "http-6", "127.0.0.1", 8086, 1, "dead"),
            ]
        )

    def test_where_to_go(self) -> None:
        """The live and enabled frontends of this host, under the name that the browser came by."""
        self.assertEqual(
            self.siblings.origins(b"localhost:8081"),
            ["http://localhost:8082", "https://localhost:8085"],
        )
        self.assertEqual(self.siblings.origins(b"127.0.0.1:8081")[0], "http://127.0.0.1:8082")
        self.assertEqual(self.siblings.origins(b"not a host"), [])
        self.assertEqual(self.siblings.origins(b""), [])

    def test_default_ports(self) -> None:
        """An origin has no port where it is its scheme's, as browsers write it."""
        self.siblings.update([_node("http-2", 443, scheme="https"), _node("http-3", 80)])
        origins = ["https://localhost", "http://localhost"]
        self.assertEqual(self.siblings.origins(b"localhost:8081"), origins)
        self.assertTrue(self.siblings.knows(b"https://localhost", b"localhost:8081"))

    def test_domain(self) -> None:
        """With a common domain for cookies those with names under it are siblings, too; no others."""
        config = Http(id="http-1", advertise="http-1.cloud.example", cookie_domain="cloud.example")
        siblings = Siblings(config)
        siblings.update(
            [
                _node("http-2", 443, "HTTP-2.cloud.example", scheme="https"),
                _node("http-3", 8081, "10.0.0.3"),
                _node("http-4", 443, "http-4.evilcloud.example", scheme="https"),
                _node("http-5", 8082, "http-1.cloud.example"),
            ]
        )
        self.assertEqual(
            siblings.origins(b"http-1.cloud.example"),
            ["https://http-2.cloud.example", "http://http-1.cloud.example:8082"],
        )
        host = b"http-1.cloud.example"
        self.assertTrue(siblings.knows(b"https://http-2.cloud.example", host))
        for origin in (
            b"http://http-2.cloud.example",
            b"https://cloud.example",
            b"https://http-4.evilcloud.example",
            b"http://10.0.0.3:8081",
        ):
            self.assertFalse(siblings.knows(origin, host), origin)
        # By its address nobody is logged in elsewhere.
        self.assertEqual(siblings.origins(b"10.0.0.1:8081"), ["http://10.0.0.1:8082"])

    def test_who_comes(self) -> None:
        """A page of any frontend of the host is known, also of one that has died; nobody else is."""
        for origin in (
            b"http://localhost:8082",
            b"http://localhost:8083",
            b"http://localhost:8086",
        ):
            self.assertTrue(self.siblings.knows(origin, b"localhost:8081"), origin)
        for origin in (
            b"http://localhost:9999",
            b"https://localhost:8082",
            b"http://127.0.0.1:8082",
            b"http://localhost:8084",
            b"http://localhost:2500",
            b"http://evil.example:8082",
            b"http://localhost:8082.evil.example",
            b"null",
            b"",
        ):
            self.assertFalse(self.siblings.knows(origin, b"localhost:8081"), origin)


class SiblingRoutesTests(TestCase):
    def setUp(self) -> None:
        self.frontend = start_frontend(reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.frontend.stop()))
        self.frontend.directory.set(_node("http-1", 8081), _node("http-2", 8082))
        self.sibling = f"http://{self.frontend.url.split('//')[1].split(':')[0]}:8082"
        self.browser = self.frontend.browser()

    async def put(self, origin: str, token: str) -> Answer:
        path = f"/file/content?folder={ROOT}&name=a&keep=both&size=2"
        return await self.browser.send(
            "PUT", path, b"hi", {"origin": origin, "x-csrf-token": token, "accept": "text/json"}
        )

    async def test_upload_of_a_siblings_page(self) -> None:
        """It is taken, and its script may read the answer; the token is asked for as ever."""
        await self.browser.sign_up("ada")
        answer = await self.put(self.sibling, self.browser.csrf)
        self.assertEqual(answer.status, 201, answer.text)
        self.assertEqual(answer.header("access-control-allow-origin"), self.sibling)
        self.assertEqual(answer.header("access-control-allow-credentials"), "true")
        self.assertEqual(answer.header("vary"), "origin")
        refused = await self.put(self.sibling, "x" * 43)
        self.assertEqual(refused.status, 403)
        self.assertEqual(refused.header("access-control-allow-origin"), self.sibling)

    async def test_strangers(self) -> None:
        """Another site's page gets neither its wish nor an answer that it could read."""
        await self.browser.sign_up("ada")
        for origin in ("http://evil.example", self.sibling.replace("8082", "8083"), "null"):
            answer = await self.put(origin, self.browser.csrf)
            self.assertEqual(answer.status, 403)
            self.assertEqual(answer.header("access-control-allow-origin"), "")

    async def test_other_routes(self) -> None:
        """What is not needed for uploads is no sibling's business."""
        await self.browser.sign_up("ada")
        answer = await self.browser.send(
            "POST",
            "/file/delete",
            b"{}",
            {"origin": self.sibling, "x-csrf-token": self.browser.csrf},
        )
        self.assertEqual(answer.status, 403)
        listing = await self.browser.get(f"/file/list?folder={ROOT}", origin=self.sibling)
        self.assertEqual(listing.header("access-control-allow-origin"), "")

    async def test_preflight(self) -> None:
        """A browser's question is answered without a login: yes for siblings, with the methods; else no."""
        for origin, allowed in ((self.sibling, self.sibling), ("http://evil.example", "")):
            answer = await self.browser.send("OPTIONS", "/file/content", headers={"origin": origin})
            self.assertEqual(answer.status, 204)
            self.assertEqual(answer.header("access-control-allow-origin"), allowed)
            self.assertEqual(
                answer.header("access-control-allow-methods"), "PUT" if allowed else ""
            )

    async def test_what_a_page_may(self) -> None:
        """A folder's page names its siblings, and its policy lets it speak with exactly these."""
        await self.browser.sign_up("ada")
        page = await self.browser.get("/files/")
        self.assertIn(f'data-elsewhere-origins="{self.sibling}"', page.text)
        policy = page.header("content-security-policy")
        self.assertIn(f"connect-src 'self' {self.sibling};", policy)
        self.assertIn("default-src 'none'", policy)
        other = await self.browser.get("/account")
        self.assertIn("connect-src 'self';", other.header("content-security-policy"))


class BehindProxyTests(TestCase):
    async def test_one_origin(self) -> None:
        """Where a balancer hands everything on there are no siblings to speak of."""
        frontend = start_frontend(
            reactor, config=Http(id="http-1", port=0, trusted_proxies=["127.0.0.1"])
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(frontend.stop()))
        frontend.directory.set(_node("http-2", 8082))
        browser = frontend.browser()
        await browser.sign_up("ada")
        page = await browser.get("/files/")
        self.assertIn('data-elsewhere-origins=""', page.text)
        self.assertIn("connect-src 'self';", page.header("content-security-policy"))
        sibling = f"http://{frontend.url.split('//')[1].split(':')[0]}:8082"
        answer = await browser.send("OPTIONS", "/file/content", headers={"origin": sibling})
        self.assertEqual(answer.header("access-control-allow-origin"), "")


class CookieDomainTests(TestCase):
    async def test_one_session_for_the_domain(self) -> None:
        """The session's cookie is the domain's where the browser came by a name under it; elsewhere a browser
        would not take it."""
        frontend = start_frontend(
            reactor,
            config=Http(
                id="http-1",
                port=0,
                host_names=["http-1.cloud.example", "xcloud.example"],
                cookie_domain=".Cloud.example",
            ),
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(frontend.stop()))
        for host, domain in (
            ("http-1.cloud.example", "cloud.example"),
            ("xcloud.example", ""),
            ("localhost", ""),
        ):
            answer = await frontend.browser().get("/login", host=host)
            [cookie] = answer.headers.getRawHeaders("set-cookie")
            found = [part.strip() for part in cookie.split(";") if "omain" in part]
            self.assertEqual(found, [f"Domain={domain}"] if domain else [], cookie)

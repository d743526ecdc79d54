"""What holds for every page: login, CSRF, hosts, limits, headers, errors."""

from __future__ import annotations

import re
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from penncloud.web.body import ClientGone
from penncloud.web.request import WebRequest
from tests.web.frontend import Frontend, start_frontend


class _Raw(Protocol):
    """Collects one answer, and then ends the connection."""

    def __init__(self) -> None:
        self.received = b""
        self.ended: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        head, separator, body = self.received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if separator and length and len(body) >= int(length[1]):
            assert self.transport is not None
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended.callback(self.received)


class FrontendTests(TestCase):
    """One frontend on a real socket, over the in-memory store."""

    def setUp(self) -> None:
        self.wall_s = 1_700_000_000.0
        self.frontend = self.start()

    def start(self, **options: Any) -> Frontend:
        frontend = start_frontend(reactor, now=lambda: self.wall_s, **options)
        self.addCleanup(lambda: Deferred.fromCoroutine(frontend.stop()))
        return frontend

    async def raw(self, data: bytes) -> bytes:
        """Send bytes as they are; the whole answer up to the end of the connection."""
        protocol = _Raw()
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.frontend.port)
        await connectProtocol(endpoint, protocol)
        assert protocol.transport is not None
        protocol.transport.write(data)
        return await protocol.ended


class AdmissionTests(FrontendTests):
    async def test_visitors_are_led_to_the_login_page(self) -> None:
        """Pages send visitors to /login and remember where they wanted to go."""
        browser = self.frontend.browser()
        answer = await browser.get("/chat?before=0000000000000001")
        self.assertEqual(answer.status, 303)
        self.assertEqual(
            answer.header("location"), "/login?next=%2Fchat%3Fbefore%3D0000000000000001"
        )

    async def test_scripts_of_visitors_get_401(self) -> None:
        """A script could do nothing with a login page."""
        browser = self.frontend.browser()
        answer = await browser.get("/chat/messages", accept="application/json")
        self.assertEqual(answer.status, 401)
        self.assertIn("error", answer.text)

    async def test_nothing_but_the_entrance_is_open(self) -> None:
        """Every route that is registered asks for a login, except those few."""
        app = self.frontend.site.application
        open_paths = {
            rule.rule
            for rule in app.url_map.iter_rules()
            if app._routes[rule.endpoint].access in ("open", "public")
            # A browser asks without cookies whether it may ask.
            and "OPTIONS" not in (rule.methods or ())
        }
        self.assertEqual(
            open_paths,
            {
                "/login",
                "/signup",
                "/healthz",
                "/favicon.ico",
                "/service-worker.js",
                "/static/<version>/<path:name>",
            },
        )

    async def test_change_without_csrf_token_is_refused(self) -> None:
        """A form of another site has the cookie but not the token."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        for token in ("", "x" * 43):
            answer = await browser.post("/logout", {"csrf": token})
            self.assertEqual(answer.status, 403)
        self.assertEqual((await browser.get("/")).status, 200)

    async def test_login_form_needs_a_token_too(self) -> None:
        """Nobody can be logged in to an attacker's account from another site."""
        browser = self.frontend.browser()
        await browser.get("/login")
        answer = await browser.post("/login", {"name": "anna", "password": "x", "csrf": ""})
        self.assertEqual(answer.status, 403)

    async def test_csrf_token_of_another_session_is_refused(self) -> None:
        """Tokens are bound to one session."""
        anna, berta = self.frontend.browser(), self.frontend.browser()
        await anna.sign_up("anna")
        await berta.sign_up("berta")
        answer = await anna.post("/logout", {"csrf": berta.csrf})
        self.assertEqual(answer.status, 403)

    async def test_token_in_the_header_is_as_good(self) -> None:
        """Scripts send it as X-CSRF-Token."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        answer = await browser.send("POST", "/logout", b"", {"x-csrf-token": browser.csrf})
        self.assertEqual(answer.status, 303)

    async def test_other_origins_are_refused(self) -> None:
        """What a browser says to come from another site is refused even with the token."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        for origin in ("http://evil.example", "null", f"http://127.0.0.1:{self.frontend.port + 1}"):
            self.assertEqual((await browser.post("/logout", origin=origin)).status, 403)
        self.assertEqual((await browser.post("/logout", origin=self.frontend.url)).status, 303)

    async def test_session_that_expired_leads_to_the_login_page(self) -> None:
        """After two weeks without use one has to log in again."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        self.wall_s += 13 * 24 * 3600
        answer = await browser.get("/")
        self.assertEqual(answer.status, 200)
        self.assertIn("penncloud_session=anna:", answer.header("set-cookie"))
        self.wall_s += 14 * 24 * 3600
        self.assertEqual((await browser.get("/")).status, 303)

    async def test_session_holds_on_every_frontend(self) -> None:
        """Another frontend over the same store knows the cookie."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        other = self.start(table=self.frontend.table).browser()
        other.cookies = browser.cookies
        self.assertEqual((await other.get("/")).status, 200)


class AnswerTests(FrontendTests):
    async def test_every_answer_has_the_security_headers(self) -> None:
        """Pages, redirects, errors, static files and refused requests alike."""
        browser = self.frontend.browser()
        statics = self.frontend.context.static_url("css/penncloud.css")
        for path in ("/login", "/", "/nothing", statics, "/healthz", "/%00", "/static/x/y"):
            answer = await browser.get(path)
            policy = answer.header("content-security-policy")
            self.assertTrue(policy.startswith("default-src 'none'; script-src 'self';"), path)
            self.assertNotIn("unsafe", policy)
            self.assertEqual(answer.header("x-content-type-options"), "nosniff")
            self.assertEqual(answer.header("referrer-policy"), "same-origin")
            self.assertEqual(answer.header("server"), "PennCloud")
            immutable = path == statics
            self.assertEqual("immutable" in answer.header("cache-control"), immutable, path)
            self.assertEqual("no-store" in answer.header("cache-control"), not immutable, path)

    async def test_pages_hold_no_inline_script_or_style(self) -> None:
        """What the policy forbids does not occur."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        for path in ("/", "/account", "/chat", "/nothing"):
            text = (await browser.get(path)).text
            self.assertNotRegex(text, r"<script(?![^>]*\bsrc=)")
            self.assertNotRegex(text, r"<style|\sstyle=|\son[a-z]+=|javascript:")

    async def test_nothing_there(self) -> None:
        """An address without a page is a 404, with a page for people and JSON for scripts."""
        browser = self.frontend.browser()
        answer = await browser.get("/nothing")
        self.assertEqual(answer.status, 404)
        self.assertIn("<html", answer.text)
        answer = await browser.get("/nothing", accept="application/json")
        self.assertEqual((answer.status, answer.header("content-type")), (404, "application/json"))

    async def test_wrong_method(self) -> None:
        """GET does not log out: it is a 405 that says what is allowed."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        answer = await browser.get("/logout")
        self.assertEqual((answer.status, answer.header("allow")), (405, "POST"))

    async def test_store_away_is_503(self) -> None:
        """While the store is away people are told to wait, not shown an error of ours."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        self.frontend.table.unavailable = True
        answer = await browser.get("/chat")
        self.assertEqual(answer.status, 503)
        self.assertEqual(answer.header("retry-after"), "2")
        self.assertIn("Nothing is lost", answer.text)

    async def test_bug_is_500_without_traceback(self) -> None:
        """The browser sees no inside; the log has it."""
        app = self.frontend.site.application

        @app.route("/bug", access="open")
        def bug(request: WebRequest) -> bytes:
            raise ZeroDivisionError("secret inside")

        answer = await self.frontend.browser().get("/bug")
        self.assertEqual(answer.status, 500)
        self.assertNotIn("secret", answer.text)
        self.assertNotIn("Traceback", answer.text)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_head_has_the_headers_and_no_body(self) -> None:
        """HEAD is GET without its body."""
        browser = self.frontend.browser()
        got = await browser.get("/login")
        answer = await browser.send("HEAD", "/login")
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertEqual(int(answer.header("content-length")), len(got.body))

    async def test_static_files_are_compressed_and_hashed(self) -> None:
        """A file is served under the tree's hash only, gzipped where the client takes it."""
        browser = self.frontend.browser()
        url = self.frontend.context.static_url("js/page.js")
        plain = await browser.send("GET", url, headers={"accept-encoding": "identity"})
        self.assertEqual(plain.header("content-type"), "text/javascript; charset=utf-8")
        self.assertEqual((await browser.get(url)).body, plain.body)
        raw = await self.raw(
            b"GET " + url.encode() + b" HTTP/1.1\r\nHost: localhost\r\n"
            b"Accept-Encoding: gzip\r\nConnection: close\r\n\r\n"
        )
        self.assertIn(b"Content-Encoding: gzip", raw)
        for path in ("/static/0000/js/page.js", "/static/../pyproject.toml", url + "/x"):
            self.assertEqual((await browser.get(path)).status, 404, path)

    async def test_static_paths_do_not_leave_the_tree(self) -> None:
        """Encoded dots and slashes lead nowhere."""
        base = self.frontend.context.static_url("js/page.js").removesuffix("js/page.js")
        for path in ("..%2f..%2fpyproject.toml", "%2e%2e/%2e%2e/setup.py", "/etc/passwd"):
            answer = await self.raw(
                f"GET {base}{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            self.assertIn(b" 404 ", answer.partition(b"\r\n")[0])


class RequestTests(FrontendTests):
    async def status_of(self, *lines: bytes, body: bytes = b"") -> int:
        answer = await self.raw(b"\r\n".join((*lines, b"Connection: close", b"", b"")) + body)
        return int(answer.split(b" ", 2)[1])

    async def test_host_has_to_be_there_once_and_be_ours(self) -> None:
        """Missing, doubled or malformed Host is 400, a foreign one 421."""
        line = b"GET /login HTTP/1.1"
        self.assertEqual(await self.status_of(line), 400)
        self.assertEqual(await self.status_of(line, b"Host: localhost", b"Host: localhost"), 400)
        self.assertEqual(await self.status_of(line, b"Host: local host"), 400)
        self.assertEqual(await self.status_of(line, b"Host: localhost/x"), 400)
        self.assertEqual(await self.status_of(line, b"Host: evil.example"), 421)
        for host in (b"localhost", b"LOCALHOST:80", b"127.0.0.1:8080", b"[::1]:8080"):
            self.assertEqual(await self.status_of(line, b"Host: " + host), 200, host)

    async def test_control_characters_in_headers_are_refused(self) -> None:
        """They are of no use but to confuse somebody further on."""
        for value in (b"a\x01b", b"a\x7fb", b"a\x0bb", b"a\x00b"):
            status = await self.status_of(
                b"GET /login HTTP/1.1", b"Host: localhost", b"X-Thing: " + value
            )
            self.assertEqual(status, 400)

    async def test_paths_that_no_name_could_have(self) -> None:
        """NUL, invalid UTF-8 and paths without a slash are 400, not a traceback."""
        for target in (b"/%00", b"/%ff%fe", b"x", b"*"):
            status = await self.status_of(b"GET " + target + b" HTTP/1.1", b"Host: localhost")
            self.assertEqual(status, 400, target)

    async def test_absolute_form(self) -> None:
        """RFC 9112 section 3.2.2: a server takes the absolute form too, if it means this host."""
        host = b"Host: localhost"
        line = b"GET http://localhost/login HTTP/1.1"
        self.assertEqual(await self.status_of(line, host), 200)
        line = b"GET http://evil.example/login HTTP/1.1"
        self.assertEqual(await self.status_of(line, host), 400)

    async def test_form_too_large_is_refused_before_it_is_sent(self) -> None:
        """The announced length is enough to refuse; nothing is kept."""
        status = await self.status_of(
            b"POST /login HTTP/1.1",
            b"Host: localhost",
            b"Content-Length: 100000000",
            body=b"x" * 10,
        )
        self.assertEqual(status, 413)

    async def test_chunked_form_too_large_is_refused_on_the_way(self) -> None:
        """Without an announced length it is refused when it has become too large."""
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        status = await self.status_of(
            b"POST /login HTTP/1.1",
            b"Host: localhost",
            b"Transfer-Encoding: chunked",
            body=chunk * 17 + b"0\r\n\r\n",
        )
        self.assertEqual(status, 413)

    async def test_malformed_requests_get_400(self) -> None:
        """What cannot be parsed is answered and the connection closed."""
        answer = await self.raw(b"NONSENSE\r\n\r\n")
        self.assertTrue(answer.startswith(b"HTTP/1.1 400 "))
        self.assertIn(b"x-content-type-options: nosniff", answer)

    async def test_bad_forms_get_400(self) -> None:
        """Neither too many fields nor invalid UTF-8 is a traceback."""
        for body in (b"a=%ff", b"&".join(b"a=1" for _ in range(3000)), "ä=1".encode()):
            status = await self.status_of(
                b"POST /login HTTP/1.1",
                b"Host: localhost",
                b"Content-Type: application/x-www-form-urlencoded",
                b"Content-Length: %d" % len(body),
                body=body,
            )
            self.assertEqual(status, 400)


class StreamingTests(FrontendTests):
    """Routes that read their body while it comes."""

    def setUp(self) -> None:
        super().setUp()
        self.pieces: list[bytes] = []
        self.gate: Deferred[None] | None = None
        self.outcome: Deferred[str] = Deferred()

        @self.frontend.site.application.route(
            "/stream", methods=["PUT"], streamed=True, max_body_bytes=50_000_000
        )
        async def stream(request: WebRequest) -> bytes:
            try:
                async for piece in request.body:
                    self.pieces.append(piece)
                    if self.gate is not None:
                        await self.gate
            except ClientGone:
                self.outcome.callback("gone")
                raise
            self.outcome.callback("complete")
            return b"%d" % sum(map(len, self.pieces))

    async def test_whole_body_arrives_in_order(self) -> None:
        """Every byte, whatever the pieces."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        body = bytes(range(256)) * 20_000
        answer = await browser.send("PUT", "/stream", body, {"x-csrf-token": browser.csrf})
        self.assertEqual((answer.status, answer.body), (200, b"%d" % len(body)))
        self.assertEqual(b"".join(self.pieces), body)

    async def test_empty_body(self) -> None:
        """Nothing is a body too (chunked PUTs that store nothing are a classic)."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        answer = await browser.send("PUT", "/stream", b"", {"x-csrf-token": browser.csrf})
        self.assertEqual((answer.status, answer.body), (200, b"0"))

    async def test_strangers_are_refused_before_their_body(self) -> None:
        """Without login or token not one byte is given to the route; 100-continue is not sent."""
        for headers in (b"", b"X-CSRF-Token: nonsense\r\n"):
            answer = await self.raw(
                b"PUT /stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: 40000000\r\n"
                b"Accept: application/json\r\nExpect: 100-continue\r\nConnection: close\r\n"
                + headers
                + b"\r\n"
            )
            self.assertTrue(answer.startswith(b"HTTP/1.1 401 "), answer[:60])
        self.assertEqual(self.pieces, [])

    async def test_missing_token_is_refused_before_the_body(self) -> None:
        """The session alone does not let another site upload."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        answer = await browser.send(
            "PUT", "/stream", b"x" * 100_000, {"accept": "application/json"}
        )
        self.assertEqual(answer.status, 403)
        self.assertEqual(self.pieces, [])

    async def test_client_is_slowed_down_to_the_routes_pace(self) -> None:
        """While the route is busy only a bounded part of the body is taken."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        self.gate = Deferred()
        size = 40_000_000
        answering = Deferred.fromCoroutine(
            browser.send("PUT", "/stream", b"x" * size, {"x-csrf-token": browser.csrf})
        )
        paused: Deferred[None] = Deferred()
        channel = await self._streaming_channel()
        transport = channel.transport
        real = transport.pauseProducing

        def pausing() -> None:
            real()
            if not paused.called:
                paused.callback(None)

        request = channel.requests[-1]
        request.body._pause = pausing
        await paused
        self.assertLess(request.body.received_bytes, 1_000_000)
        gate, self.gate = self.gate, None
        gate.callback(None)
        answer = await answering
        self.assertEqual(answer.body, b"%d" % size)

    async def _streaming_channel(self) -> Any:
        """The channel on which the upload has begun."""
        from twisted.internet.task import deferLater

        while True:
            for channel in self.frontend.site.channels:
                if channel.requests and channel.requests[-1].method == b"PUT":
                    return channel
            await deferLater(reactor, 0, lambda: None)

    async def test_client_that_goes_away_ends_the_route(self) -> None:
        """The route learns that the rest will not come."""
        browser = self.frontend.browser()
        await browser.sign_up("anna")
        protocol = _Raw()
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.frontend.port)
        await connectProtocol(endpoint, protocol)
        assert protocol.transport is not None
        cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
        protocol.transport.write(
            b"PUT /stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
            + f"Cookie: {cookie}\r\nX-CSRF-Token: {browser.csrf}\r\n\r\n".encode()
            + b"x" * 100
        )
        await self._streaming_channel()
        protocol.transport.loseConnection()
        self.assertEqual(await self.outcome, "gone")

    async def test_chunked_body_beyond_the_limit(self) -> None:
        """A route's limit holds for bodies of unknown length too."""
        app = self.frontend.site.application

        @app.route("/small", methods=["PUT"], streamed=True, max_body_bytes=1000)
        async def small(request: WebRequest) -> bytes:
            async for _ in request.body:
                pass
            return b"taken"

        browser = self.frontend.browser()
        await browser.sign_up("anna")
        cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
        answer = await self.raw(
            b"PUT /small HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
            + f"Cookie: {cookie}\r\nX-CSRF-Token: {browser.csrf}\r\n\r\n".encode()
            + (b"200\r\n" + b"x" * 0x200 + b"\r\n") * 3
            + b"0\r\n\r\n"
        )
        self.assertTrue(answer.startswith(b"HTTP/1.1 413 "), answer[:60])

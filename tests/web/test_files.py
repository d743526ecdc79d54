"""Files over real sockets: pages, actions, uploads and downloads."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from penncloud.client.table import PutCell
from penncloud.platform.config import Http
from penncloud.services.blobs import CHUNK_BYTES
from penncloud.services.files import ROOT, Upload
from penncloud.web.files._uploads import MAX_UPLOADS_PER_USER
from tests.services.unreliable_table import UnreliableTable
from tests.web.frontend import Answer, Browser, start_frontend

ODD_NAMES = ("a b", ";%#?&=+", "100%25", "日本語.txt", "<b>&\"'", "..x", "C:\\x", "é" * 100)


class Client:
    """What the page's scripts do."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser

    async def get(self, path: str, **query: Any) -> Answer:
        path += "?" + urlencode(query) if query else ""
        return await self.browser.send("GET", path, headers={"Accept": "application/json"})

    async def post(self, path: str, value: Any, csrf: str | None = None) -> Answer:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        headers["X-CSRF-Token"] = self.browser.csrf if csrf is None else csrf
        return await self.browser.send("POST", path, json.dumps(value).encode(), headers)

    async def put(self, name: str, data: bytes, folder: str = ROOT, **query: Any) -> Answer:
        path = "/file/content?" + urlencode({"folder": folder, "name": name, **query})
        headers = {"Accept": "application/json", "X-CSRF-Token": self.browser.csrf}
        return await self.browser.send("PUT", path, data, headers)

    async def folder(self, name: str, parent: str = ROOT) -> str:
        answer = await self.post("/file/folder", {"folder": parent, "name": name})
        assert answer.status == 201, answer
        return str(json.loads(answer.body)["entry"]["id"])

    async def entries(self, folder: str = ROOT) -> dict[str, dict[str, Any]]:
        answer = await self.get("/file/list", folder=folder)
        return {entry["name"]: entry for entry in json.loads(answer.body)["entries"]}


class FilesCase(TestCase):
    """A frontend, and a user who is logged in."""

    config = Http(id="http-1", port=0)

    def setUp(self) -> Any:
        self.table = UnreliableTable()
        self.frontend = start_frontend(reactor, table=self.table, config=self.config)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.frontend.stop()))
        self.browser = self.frontend.browser()
        self.client = Client(self.browser)
        return Deferred.fromCoroutine(self.browser.sign_up("ann"))


class Pages(FilesCase):
    async def test_one_user_leaves_room_for_others(self) -> None:
        """However many uploads one user has under way, another's is taken."""
        other = self.frontend.browser()
        await other.sign_up("bob")
        self.table.hold = lambda row: row == b"files/ann"
        running = [
            Deferred.fromCoroutine(self.client.put(f"{number}", b"x"))
            for number in range(MAX_UPLOADS_PER_USER)
        ]
        while len(self.table.held) < 2 * MAX_UPLOADS_PER_USER:
            await deferLater(reactor, 0, lambda: None)
        self.assertEqual((await self.client.put("one more", b"x")).status, 503)
        self.assertEqual((await Client(other).put("f", b"x")).status, 201)
        self.table.hold = lambda row: False
        self.table.release(len(self.table.held))
        for each in running:
            self.assertEqual((await each).status, 201)
        self.assertEqual((await self.client.put("one more", b"x")).status, 201)

    async def test_login_first(self) -> None:
        """Without a session there is nothing to see and nothing to change."""
        stranger = self.frontend.browser()
        page = await stranger.get("/files/", accept="text/html")
        self.assertEqual((page.status, page.header("location")[:6]), (303, "/login"))
        self.assertEqual((await Client(stranger).put("f", b"x")).status, 401)
        self.assertEqual((await Client(stranger).get("/file/list", folder=ROOT)).status, 401)

    async def test_odd_names(self) -> None:
        """Every name appears escaped in the page, and its address leads to it."""
        for name in ODD_NAMES:
            folder = await self.client.folder(name)
            self.assertEqual((await self.client.put(name, name.encode(), folder)).status, 201)
        page = await self.browser.get("/files/", accept="text/html")
        self.assertNotIn("<b>", page.text)
        for name, entry in (await self.client.entries()).items():
            self.assertEqual(entry["url"], "/files/" + quote(name, safe=""))
            self.assertIn(f'href="{entry["url"]}"', page.text)
            inside = await self.browser.get(entry["url"], accept="text/html")
            self.assertEqual(inside.status, 200, name)
            [file] = (await self.client.entries(entry["id"])).values()
            content = await self.browser.get(file["url"])
            self.assertEqual(content.body, name.encode())

    async def test_what_is_not_there(self) -> None:
        """Unknown paths, paths through files, and traversal are 404, never anything else."""
        await self.client.put("f", b"x")
        for path in ("/files/x", "/files/f/", "/files/f/x", "/files/..%2ff", "/files/%2e%2e/f"):
            self.assertEqual((await self.browser.get(path)).status, 404, path)
        self.assertEqual((await self.browser.get("/files/%00")).status, 400)
        self.assertEqual((await self.client.get("/file/list", folder="../x")).status, 404)
        self.assertEqual((await self.client.get("/file/list", folder=ROOT, limit=0)).status, 400)
        self.assertEqual((await self.client.get("/file/list", folder=ROOT, cursor="é")).status, 404)

    async def test_long_folders_come_in_pages(self) -> None:
        """The page has the first entries and a way to the next ones, with and without scripts."""
        for number in range(450):
            answer = await self.client.put(f"{number:04}", b"")
            self.assertEqual(answer.status, 201)
        page = await self.browser.get("/files/", accept="text/html")
        self.assertIn('data-name="0199"', page.text)
        self.assertNotIn('data-name="0200"', page.text)
        cursor = page.text.partition("?from=")[2].partition('"')[0]
        following = await self.browser.get(f"/files/?from={cursor}", accept="text/html")
        self.assertIn('data-name="0200"', following.text)

    async def test_the_admin_is_no_exception(self) -> None:
        """Users see their own files only."""
        await self.client.put("f", b"x")
        other = self.frontend.browser()
        await other.sign_up("bob")
        self.assertEqual((await other.get("/files/f")).status, 404)


class Actions(FilesCase):
    async def test_csrf(self) -> None:
        """No change without the token, whoever asks."""
        for path in (
            "/file/folder",
            "/file/rename",
            "/file/move",
            "/file/delete",
            "/file/selection",
        ):
            answer = await self.client.post(path, {"folder": ROOT, "name": "x"}, csrf="wrong")
            self.assertEqual(answer.status, 403, path)
        self.browser.csrf = "wrong"
        self.assertEqual((await self.client.put("f", b"x")).status, 403)
        self.assertEqual(self.table.chunk_rows(), [])

    async def test_folders(self) -> None:
        """Create, rename, move, delete; conflicts say what is in the way."""
        a = await self.client.folder("a")
        b = await self.client.folder("b")
        taken = await self.client.post("/file/folder", {"folder": ROOT, "name": "a"})
        self.assertEqual(taken.status, 409)
        self.assertEqual(json.loads(taken.body)["reason"], "taken")
        await self.client.put("f", b"x", a)
        moved = await self.client.post(
            "/file/move", {"folder": ROOT, "items": [{"name": "a"}], "target": b}
        )
        self.assertEqual(json.loads(moved.body), {"done": 1, "refused": []})
        self.assertEqual((await self.browser.get("/files/b/a/f")).body, b"x")
        cycle = await self.client.post(
            "/file/move", {"folder": ROOT, "items": [{"name": "b"}], "target": a}
        )
        self.assertEqual(json.loads(cycle.body)["refused"][0]["reason"], "into-itself")
        renamed = await self.client.post(
            "/file/rename", {"folder": ROOT, "name": "b", "new_name": "c d"}
        )
        self.assertEqual(json.loads(renamed.body)["entry"]["url"], "/files/c%20d")
        await self.client.post("/file/delete", {"folder": ROOT, "items": [{"name": "c d"}]})
        self.assertEqual(await self.client.entries(), {})
        self.assertEqual((await self.client.put("g", b"x", a)).status, 404)

    async def test_stale_versions(self) -> None:
        """A tab that shows old things changes nothing that it does not show."""
        await self.client.put("f", b"1")
        old = (await self.client.entries())["f"]["version"]
        self.assertEqual((await self.client.put("f", b"2", replace=old)).status, 201)
        stale = [{"name": "f", "version": old}]
        for path, more in (("/file/delete", {}), ("/file/move", {"target": ROOT})):
            answer = await self.client.post(path, {"folder": ROOT, "items": stale, **more})
            self.assertEqual(json.loads(answer.body)["refused"][0]["reason"], "changed")
        answer = await self.client.post(
            "/file/rename", {"folder": ROOT, "name": "f", "version": old, "new_name": "g"}
        )
        self.assertEqual(answer.status, 409)
        self.assertEqual((await self.browser.get("/files/f")).body, b"2")

    async def test_bad_requests(self) -> None:
        """Nonsense is answered with 4xx and a text."""
        for path, value in (
            ("/file/folder", {"folder": ROOT, "name": "a/b"}),
            ("/file/folder", {"folder": ROOT, "name": ""}),
            ("/file/folder", {"folder": ROOT, "name": "x" * 300}),
            ("/file/folder", {"folder": 5}),
            ("/file/folder", [1]),
            ("/file/rename", {"folder": ROOT, "name": "x", "version": "-1", "new_name": "y"}),
            ("/file/delete", {"folder": ROOT}),
            ("/file/delete", {"folder": ROOT, "items": [{"name": "x"}] * 501}),
        ):
            answer = await self.client.post(path, value)
            self.assertEqual(answer.status, 400, (path, value))
            self.assertTrue(json.loads(answer.body)["error"])
        missing = await self.client.post("/file/folder", {"folder": "nope", "name": "x"})
        self.assertEqual(missing.status, 404)

    async def test_plain_forms(self) -> None:
        """Everything can be done without scripts."""
        html = {"accept": "text/html"}
        made = await self.browser.post("/file/folder", {"folder": ROOT, "name": "a b"}, **html)
        self.assertEqual((made.status, made.header("location")), (303, "/files/"))
        await self.client.put("f;x", b"x")
        version = (await self.client.entries())["f;x"]["version"]
        item = {"folder": ROOT, "item": f"{version}:f;x"}
        for doing in ("rename", "move", "delete"):
            page = await self.browser.post("/file/selection", {**item, "do": doing}, **html)
            self.assertEqual(page.status, 200)
            self.assertIn("f;x", page.text)
        moved = await self.browser.post("/file/move", {**item, "target_path": "a b"}, **html)
        self.assertEqual(moved.status, 303)
        self.assertEqual((await self.browser.get("/files/a%20b/f%3Bx")).body, b"x")
        gone = await self.browser.post("/file/delete", item, **html)
        self.assertEqual(gone.status, 409)
        self.assertIn("does not exist", gone.text)
        nothing = await self.browser.post(
            "/file/selection", {"folder": ROOT, "do": "delete"}, **html
        )
        self.assertEqual(nothing.status, 400)

    async def test_the_store_is_away(self) -> None:
        """503 with a time to come back, for pages and scripts."""
        self.table.calls_left = 0
        answer = await self.client.post("/file/folder", {"folder": ROOT, "name": "x"})
        self.assertEqual(answer.status, 503)
        self.assertTrue(answer.header("retry-after"))
        self.assertEqual((await self.client.put("f", b"x")).status, 503)
        self.table.calls_left = None
        self.assertEqual(await self.client.entries(), {})


class Uploads(FilesCase):
    config = Http(id="http-1", port=0, max_upload_bytes=8 * CHUNK_BYTES)

    async def test_sizes(self) -> None:
        """Files of every odd size come back byte for byte, with hash and length."""
        for size in (
            0,
            1,
            65536,
            CHUNK_BYTES - 1,
            CHUNK_BYTES,
            CHUNK_BYTES + 1,
            5 * CHUNK_BYTES + 7,
        ):
            data = random.Random(size).randbytes(size)
            answer = await self.client.put(f"f{size}", data, size=size)
            self.assertEqual(answer.status, 201)
            entry = json.loads(answer.body)["entry"]
            self.assertEqual(entry["size"], size)
            got = await self.browser.get(entry["url"])
            self.assertEqual(got.body, data)
            self.assertEqual(got.header("etag"), f'"{hashlib.sha256(data).hexdigest()}"')

    async def test_taken_names(self) -> None:
        """409 tells the version; with it the file is replaced, or both are kept."""
        await self.client.put("f.x", b"1")
        taken = await self.client.put("f.x", b"2")
        self.assertEqual(taken.status, 409)
        told = json.loads(taken.body)
        self.assertEqual((told["reason"], told["kind"]), ("taken", "file"))
        both = await self.client.put("f.x", b"3", keep="both")
        self.assertEqual(json.loads(both.body)["entry"]["name"], "f (2).x")
        self.assertEqual((await self.client.put("f.x", b"4", replace=told["version"])).status, 201)
        late = await self.client.put("f.x", b"5", replace=told["version"])
        self.assertEqual(json.loads(late.body)["reason"], "changed")
        self.assertEqual((await self.browser.get("/files/f.x")).body, b"4")
        check = await self.client.get("/file/entry", folder=ROOT, name="f.x")
        self.assertEqual(json.loads(check.body)["entry"]["size"], 1)
        check = await self.client.get("/file/entry", folder=ROOT, name="none")
        self.assertIsNone(json.loads(check.body)["entry"])

    async def test_refused_early(self) -> None:
        """Too large, no such folder, bad name: refused before anything is stored."""
        self.assertEqual((await self.client.put("f", bytes(8 * CHUNK_BYTES + 1))).status, 413)
        self.assertEqual((await self.client.put("f", b"x", "nope")).status, 404)
        self.assertEqual((await self.client.put("a/b", b"x")).status, 400)
        self.assertEqual((await self.client.put("f", b"x", replace="x")).status, 400)
        self.assertEqual(self.table.chunk_rows(), [])

    async def test_incomplete(self) -> None:
        """When less arrives than the browser meant to send nothing becomes visible."""
        answer = await self.client.put("f", bytes(2 * CHUNK_BYTES), size=2 * CHUNK_BYTES + 1)
        self.assertEqual(answer.status, 400)
        self.assertEqual(await self.client.entries(), {})
        self.assertEqual(self.table.chunk_rows(), [])

    async def test_nobody_waits_for_the_clearing(self) -> None:
        """That an upload failed is said at once, also where removing its beginning takes long."""

        async def endless(upload: Upload) -> None:
            await Deferred()

        self.patch(Upload, "abort", endless)
        answer = await self.client.put("f", b"x", size=2)
        self.assertEqual(answer.status, 400)

    async def test_the_store_fails_midway(self) -> None:
        """503, nothing visible; what the store still has is collected from its mark."""
        self.table.calls_left = 3
        answer = await self.client.put("f", bytes(6 * CHUNK_BYTES))
        self.assertEqual(answer.status, 503)
        self.table.calls_left = None
        self.assertEqual(await self.client.entries(), {})
        self.assertEqual(len([c for c in self.table.columns(b"files/ann") if b"pending" in c]), 1)

    async def test_a_broken_connection(self) -> None:
        """A client that goes away in the middle leaves nothing behind."""
        raw = await self._begin_put("f", 4 * CHUNK_BYTES)
        raw.transport.write(bytes(2 * CHUNK_BYTES + 5))
        await self._until(lambda: len(self.table.chunk_rows()) == 2)
        raw.transport.abortConnection()
        await self._until(lambda: not self.table.columns(b"files/ann"))
        self.assertEqual(self.table.chunk_rows(), [])
        self.assertEqual(await self.client.entries(), {})

    async def test_memory_stays_flat(self) -> None:
        """While the store does not answer the client is paused: little is held of what it sends."""
        self.table.hold = lambda row: row.startswith(b"blob/")
        raw = await self._begin_put("f", 8 * CHUNK_BYTES)
        sender = _Sender(raw, 8 * CHUNK_BYTES)
        await self._until(lambda: len(self.table.held) == 4)
        [channel] = [each for each in self.frontend.site.channels if each.requests]
        body = channel.requests[0].body
        await self._until(lambda: body._paused)
        self.assertLessEqual(body._waiting_bytes, 512 * 1024)
        self.assertEqual(len(self.table.held), 4)
        while not raw.received:
            if self.table.held:
                self.table.release()
            await self._turn()
        self.assertIn(b"201 Created", raw.received)
        self.assertEqual(self.table.most_held, 4)
        self.assertEqual(sender.left, 0)
        self.table.hold = lambda row: False
        self.assertEqual((await self.client.entries())["f"]["size"], 8 * CHUNK_BYTES)
        raw.transport.loseConnection()

    async def test_sent_again(self) -> None:
        """The answer was lost, and the upload is sent to another frontend: it has the first one's outcome."""
        upload = "0123456789abcdef"
        await self.client.put("f", b"old")
        self.table.calls_left, self.table.fails_after_doing = 2, True
        lost = await self.client.put("f", b"new", keep="both", upload=upload)
        self.assertEqual(lost.status, 503)
        self.table.calls_left = None
        other = start_frontend(reactor, table=self.table, config=self.config)
        self.addCleanup(lambda: Deferred.fromCoroutine(other.stop()))
        self.browser.base = other.url
        for _ in range(2):
            again = await self.client.put("f", b"new", keep="both", upload=upload)
            self.assertEqual(again.status, 201)
            self.assertEqual(json.loads(again.body)["entry"]["name"], "f (2)")
        self.assertEqual(set(await self.client.entries()), {"f", "f (2)"})
        for asked, known in ((upload, True), (upload[::-1], False)):
            told = await self.client.get("/file/entry", folder=ROOT, name="f", upload=asked)
            self.assertEqual(json.loads(told.body)["is_stored"], known)
        bad = await self.client.put("g", b"x", upload="../" * 10)
        self.assertEqual(bad.status, 400)

    async def test_a_form_sent_again(self) -> None:
        """Who loads the page again after a plain form has been sent has each of its files once."""
        page = await self.browser.get("/files/")
        [token] = re.findall(r'name="upload" value="([^"]+)"', page.text)
        fields = [("csrf", self.browser.csrf), ("folder", ROOT), ("upload", token)]
        for _ in range(2):
            answer = await self._form(fields, [("a.txt", b"1"), ("b.txt", b"1")])
            self.assertEqual(answer.status, 303)
        self.assertEqual(set(await self.client.entries()), {"a.txt", "b.txt"})

    async def test_two_tabs(self) -> None:
        """Of two uploads of one name that run at the same time one is refused, whole."""
        self.table.hold = lambda row: row.startswith(b"blob/")
        running = [Deferred.fromCoroutine(self.client.put("f", data * 10)) for data in (b"1", b"2")]
        await self._until(lambda: len(self.table.held) == 2)
        self.table.hold = lambda row: False
        self.table.release(2)
        answers = [await each for each in running]
        self.assertEqual(sorted(answer.status for answer in answers), [201, 409])
        self.assertIn((await self.browser.get("/files/f")).body, (b"1" * 10, b"2" * 10))
        self.assertEqual(len(self.table.chunk_rows()), 1)

    async def test_multipart_form(self) -> None:
        """Without scripts: several files in one form, taken names numbered, nothing chosen refused."""
        files = [("a b.txt", b"1" * 70_000), ("é.bin", bytes(range(256)) * 3000), ("", b"")]
        answer = await self._form([("csrf", self.browser.csrf), ("folder", ROOT)], files)
        self.assertEqual((answer.status, answer.header("location")), (303, "/files/"))
        await self._form([("csrf", self.browser.csrf), ("folder", ROOT)], files[:1])
        names = await self.client.entries()
        self.assertEqual(set(names), {"a b (2).txt", "a b.txt", "é.bin"})
        got = await self.browser.get(names["é.bin"]["url"])
        self.assertEqual(got.body, files[1][1])
        empty = await self._form([("csrf", self.browser.csrf)], files[2:])
        self.assertEqual(empty.status, 400)

    async def test_multipart_refusals(self) -> None:
        """A token that is wrong, missing or late stores nothing; bad names are reported."""
        files = [("f", b"x")]
        for fields in ([("csrf", "wrong")], [("folder", ROOT)], []):
            self.assertEqual((await self._form(fields, files)).status, 403)
        self.assertEqual(self.table.columns(b"files/ann"), [])
        bad = await self._form([("csrf", self.browser.csrf)], [("a/b", b"x"), ("good", b"y")])
        self.assertEqual(bad.status, 409)
        self.assertEqual(set(await self.client.entries()), {"good"})
        headers = {"Content-Type": "multipart/form-data; boundary=xx", "Accept": "text/html"}
        cut = await self.browser.send("POST", "/file/upload", b"--xx\r\n", headers)
        self.assertEqual(cut.status, 400)
        other = await self.browser.send("POST", "/file/upload", b"x", {"Accept": "text/html"})
        self.assertEqual(other.status, 400)

    async def _form(self, fields: list[tuple[str, str]], files: list[tuple[str, bytes]]) -> Answer:
        body = b""
        for name, value in fields:
            body += f'--xx\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
            body += value.encode() + b"\r\n"
        for filename, data in files:
            head = f'--xx\r\nContent-Disposition: form-data; name="file"; filename="{filename}"'
            body += head.encode() + b"\r\nContent-Type: text/html\r\n\r\n" + data + b"\r\n"
        body += b"--xx--\r\n"
        headers = {"Content-Type": "multipart/form-data; boundary=xx", "Accept": "text/html"}
        return await self.browser.send("POST", "/file/upload", body, headers)

    async def _begin_put(self, name: str, length: int) -> _Raw:
        endpoint = HostnameEndpoint(reactor, "127.0.0.1", self.frontend.port)
        raw: _Raw = await connectProtocol(endpoint, _Raw())
        cookies = "; ".join(f"{key}={value}" for key, value in self.browser.cookies.items())
        raw.transport.write(
            f"PUT /file/content?folder={ROOT}&name={name} HTTP/1.1\r\nHost: localhost\r\n"
            f"Cookie: {cookies}\r\nX-CSRF-Token: {self.browser.csrf}\r\n"
            f"Content-Length: {length}\r\nConnection: close\r\n\r\n".encode()
        )
        return raw

    async def _turn(self) -> None:
        turned: Deferred[None] = Deferred()
        reactor.callLater(0, turned.callback, None)
        await turned

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Let the reactor turn until it holds; the test's own timeout is the bound."""
        while not condition():
            await self._turn()


class _Raw(Protocol):
    """A client that says exactly what it is told."""

    transport: Any

    def __init__(self) -> None:
        self.received = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data


@implementer(IPushProducer)
class _Sender:
    """Sends zeros as fast as the connection takes them."""

    def __init__(self, raw: _Raw, length: int) -> None:
        self.left = length
        self._raw = raw
        self._paused = False
        raw.transport.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        self._paused = False
        while self.left and not self._paused:
            piece = min(self.left, 65536)
            self.left -= piece
            self._raw.transport.write(bytes(piece))
        if not self.left:
            self._raw.transport.unregisterProducer()

    def pauseProducing(self) -> None:
        self._paused = True

    def stopProducing(self) -> None:
        self.left = 0


class Downloads(FilesCase):
    async def test_ranges(self) -> None:
        """Single ranges, also across chunks; conditions; what cannot be had."""
        data = random.Random(3).randbytes(2 * CHUNK_BYTES + 100)
        await self.client.put("f", data)
        url = "/files/f"
        start, stop = CHUNK_BYTES - 3, 2 * CHUNK_BYTES + 5
        part = await self.browser.get(url, range=f"bytes={start}-{stop}")
        self.assertEqual((part.status, part.body), (206, data[start : stop + 1]))
        self.assertEqual(part.header("content-range"), f"bytes {start}-{stop}/{len(data)}")
        tail = await self.browser.get(url, range="bytes=-10")
        self.assertEqual((tail.status, tail.body), (206, data[-10:]))
        beyond = await self.browser.get(url, range=f"bytes={len(data)}-")
        self.assertEqual(beyond.status, 416)
        self.assertEqual(beyond.header("content-range"), f"bytes */{len(data)}")
        etag = part.header("etag")
        same = await self.browser.get(url, range="bytes=0-1", if_range=etag)
        self.assertEqual(same.status, 206)
        other = await self.browser.get(url, range="bytes=0-1", if_range='"other"')
        self.assertEqual((other.status, len(other.body)), (200, len(data)))
        several = await self.browser.get(url, range="bytes=0-1,4-5")
        self.assertEqual((several.status, len(several.body)), (200, len(data)))
        cached = await self.browser.get(url, if_none_match=etag)
        self.assertEqual((cached.status, cached.body), (304, b""))

    async def test_head(self) -> None:
        """HEAD has the headers of GET and no body."""
        await self.client.put("f", b"12345")
        head = await self.browser.send("HEAD", "/files/f")
        self.assertEqual((head.status, head.body), (200, b""))
        self.assertEqual(head.header("content-length"), "5")
        self.assertEqual(head.header("accept-ranges"), "bytes")
        # The connection is still in step.
        self.assertEqual((await self.browser.get("/files/f")).body, b"12345")

    async def test_nothing_runs(self) -> None:
        """What users upload is an attachment in a sandbox; pictures and text can be looked at."""
        for name, shown in (
            ("x.html", "text/plain; charset=utf-8"),
            ("x.svg", "text/plain; charset=utf-8"),
            ("x.png", "image/png"),
            ("x.pdf", None),
            ("x", None),
        ):
            await self.client.put(name, b"<script>alert(1)</script>")
            plain = await self.browser.get(f"/files/{name}")
            self.assertTrue(plain.header("content-disposition").startswith("attachment;"))
            viewed = await self.browser.get(f"/files/{name}?view=1")
            kind = viewed.header("content-disposition").partition(";")[0]
            self.assertEqual(kind, "attachment" if shown is None else "inline", name)
            if shown is not None:
                self.assertEqual(viewed.header("content-type"), shown)
            for answer in (plain, viewed):
                self.assertIn("sandbox", answer.header("content-security-policy"))
                self.assertNotIn("script", answer.header("content-security-policy"))
                self.assertEqual(answer.header("x-content-type-options"), "nosniff")

    async def test_the_icon_may_be_shown_beside_a_sandbox(self) -> None:
        """A tab with a user's file asks for the icon from an origin of its own."""
        icon = await self.browser.get("/favicon.ico")
        self.assertEqual(icon.header("cross-origin-resource-policy"), "cross-origin")

    async def test_empty_file(self) -> None:
        """Nothing, with its length; no range of it."""
        await self.client.put("f", b"")
        whole = await self.browser.get("/files/f")
        self.assertEqual((whole.status, whole.body), (200, b""))
        head = await self.browser.send("HEAD", "/files/f")
        self.assertEqual(head.header("content-length"), "0")
        self.assertEqual((await self.browser.get("/files/f", range="bytes=0-")).status, 416)

    async def test_a_hole_is_not_the_end(self) -> None:
        """A missing first chunk is a 500; a later one breaks the connection off."""
        await self.client.put("f", bytes(2 * CHUNK_BYTES))
        first, second = self.table.chunk_rows()
        await self.table.delete(second, b"data")
        with self.assertRaises(Exception):  # noqa: B017 - whatever the client calls it
            await self.browser.get("/files/f")
        await self.table.mutate(second, [PutCell(b"data", bytes(CHUNK_BYTES))])
        await self.table.delete(first, b"data")
        self.assertEqual((await self.browser.get("/files/f")).status, 500)
        self.assertEqual(len(self.flushLoggedErrors()), 2)

"""A large file through a real cluster: byte for byte, with flat memory in the frontend.

`PENNCLOUD_TEST_LARGE_FILE_MB` sets the size; the default is that of the promise in the README.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

from twisted.trial.unittest import SynchronousTestCase

from tests.processes.cluster import RunningCluster

SIZE = int(os.environ.get("PENNCLOUD_TEST_LARGE_FILE_MB", "500")) * 1_000_000
# How much a frontend may grow at most, beyond what it has after a small file.
GROWTH = 60 * 1024 * 1024
PIECE = 1024 * 1024


class _Visitor:
    """A browser of few words that streams; one connection."""

    def __init__(self, host: str, port: int) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=300)
        self._cookies: dict[str, str] = {}
        self.csrf = ""

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        """The answer, its body still to be read."""
        cookies = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        self._connection.request(
            method, path, body, {"Cookie": cookies, "Accept": "text/html", **(headers or {})}
        )
        answer = self._connection.getresponse()
        for line in answer.headers.get_all("set-cookie") or []:
            name, _, value = line.partition(";")[0].partition("=")
            self._cookies[name] = value
        return answer

    def page(self, path: str) -> None:
        """Look at a page, for its CSRF token."""
        text = self.ask("GET", path).read().decode()
        found = re.search(r'<meta name="csrf" content="([^"]*)"', text)
        assert found is not None, text
        self.csrf = found[1]

    def sign_up(self, name: str) -> None:
        self.page("/signup")
        password = "a long enough password"
        form = {"csrf": self.csrf, "name": name, "password": password, "again": password}
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = self.ask("POST", "/signup", urlencode(form).encode(), kind)
        assert answer.status == 303, answer.read()
        answer.read()
        self.page("/files/")

    def upload(self, name: str, size: int, seed: int) -> str:
        """Send `size` random bytes; their digest."""
        digest = hashlib.sha256()

        def pieces() -> Iterator[bytes]:
            for piece in content(size, seed):
                digest.update(piece)
                yield piece

        query = urlencode({"folder": "root", "name": name, "size": size})
        headers = {
            "X-CSRF-Token": self.csrf,
            "Accept": "application/json",
            "Content-Length": str(size),
        }
        answer = self.ask("PUT", f"/file/content?{query}", pieces(), headers)
        text = answer.read()
        assert answer.status == 201, text
        assert json.loads(text)["entry"]["size"] == size
        return digest.hexdigest()

    def download(self, path: str) -> str:
        """The digest of what comes."""
        answer = self.ask("GET", path)
        assert answer.status == 200, answer.status
        digest = hashlib.sha256()
        while piece := answer.read(PIECE):
            digest.update(piece)
        return digest.hexdigest()


def content(size: int, seed: int) -> Iterator[bytes]:
    """Bytes that do not repeat, cheaply: a random piece with its number in front."""
    noise = random.Random(seed).randbytes(PIECE)
    for number, start in enumerate(range(0, size, PIECE)):
        yield (number.to_bytes(8, "big") + noise[8:])[: size - start]


def peak_bytes(pid: int) -> int:
    """The largest resident size of a process since the last `forget_peak`."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def forget_peak(pid: int) -> None:
    """See proc(5), clear_refs: the peak begins anew from the present size."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


class LargeFile(SynchronousTestCase):
    def test_memory_of_the_frontend_stays_flat(self) -> None:
        """Hundreds of megabytes go up and down through a frontend that grows by a few."""
        cluster = RunningCluster(self.mktemp(), ["--http=1"])
        self.addCleanup(cluster.destroy)
        cluster.start()
        frontend = cluster.document.http[0]
        pid = cluster.pid(frontend.id)
        visitor = _Visitor(frontend.host, frontend.port)
        visitor.sign_up("lena")
        self.assertEqual(visitor.upload("small", 5 * PIECE, 1), visitor.download("/files/small"))
        forget_peak(pid)
        before = peak_bytes(pid)
        sent = visitor.upload("large", SIZE, 2)
        after_upload = peak_bytes(pid)
        self.assertLess(after_upload - before, GROWTH, "while uploading")
        self.assertEqual(visitor.download("/files/large"), sent)
        self.assertLess(peak_bytes(pid) - before, GROWTH, "while downloading")
        part = visitor.ask("GET", "/files/large", headers={"Range": f"bytes={SIZE - 10}-"})
        self.assertEqual((part.status, len(part.read())), (206, 10))

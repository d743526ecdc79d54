"""A frontend of several processes under load: workers are killed and renewed, and what fails is counted."""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from twisted.trial.unittest import SynchronousTestCase

from penncloud.services.files import ROOT
from tests.processes.cluster import RunningCluster
from tests.processes.member import Member
from tests.waiting import PATIENCE_S, wait_until

_CLIENTS: Final = 12
# Of each client between two requests: workers that start need some of the processor, too.
_PAUSE_S: Final = 0.03
_PASSWORD: Final = "correct horse battery"


class Load:
    """Clients that ask for a page again and again, half of them over one connection as long as it lasts.

    `refused` connections could not be made; `cut` requests got no whole answer; `wrong` ones another status.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._stop = threading.Event()
        self.seen: Counter[str] = Counter()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def failed(self) -> dict[str, int]:
        return {kind: count for kind, count in self.seen.items() if kind != "done"}

    def more(self, count: int) -> None:
        """Return when so many more requests were answered."""
        goal = self.seen["done"] + count
        wait_until(lambda: self.seen["done"] >= goal, lambda: f"{self.seen}", PATIENCE_S)

    async def _run(self) -> None:
        await asyncio.gather(*(self._client(number % 2 == 0) for number in range(_CLIENTS)))

    async def _client(self, keeps: bool) -> None:
        streams: Any = None
        while not self._stop.is_set():
            if streams is None:
                try:
                    streams = await asyncio.open_connection("127.0.0.1", self._port)
                except OSError:
                    self.seen["refused"] += 1
                    await asyncio.sleep(0.05)
                    continue
            try:
                reader, writer = streams
                stays = await self._ask(reader, writer, keeps)
            except (OSError, asyncio.IncompleteReadError):
                self.seen["cut"] += 1
                stays = False
            if not stays:
                streams[1].close()
                streams = None
            await asyncio.sleep(_PAUSE_S)
        if streams is not None:
            streams[1].close()

    async def _ask(self, reader: Any, writer: Any, keeps: bool) -> bool:
        wish = b"keep-alive" if keeps else b"close"
        head = b"GET /login HTTP/1.1\r\nHost: localhost\r\nConnection: %s\r\n\r\n" % wish
        writer.write(head)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = re.search(rb"content-length: (\d+)", answer)
        assert length is not None, answer
        await reader.readexactly(int(length[1]))
        self.seen["done" if answer.startswith(b"http/1.1 200") else "wrong"] += 1
        return b"connection: close" not in answer


class WorkersTests(SynchronousTestCase):
    def setUp(self) -> None:
        options = ["--storage=1", "--coordinators=1", "--http=1", "--set=http.workers=2"]
        self.cluster = RunningCluster(
            self.mktemp(), [*options, "--set=cluster.replication_factor=1"]
        )
        self.addCleanup(self.cluster.destroy)
        self.cluster.start()

    def workers(self) -> list[dict[str, Any]]:
        """As `penncloud status` shows them."""
        [node] = [one for one in self.cluster.status["nodes"] if one["role"] == "http"]
        workers: list[dict[str, Any]] = node["workers"]
        return workers

    def serving(self) -> set[int]:
        return {one["pid"] for one in self.workers() if one["state"] == "serving"}

    def both_serve(self, *, without: set[int]) -> set[int]:
        """The pids of both workers, once there are two that serve and none of them is one of those."""
        found: set[int] = set()

        def are_there() -> bool:
            nonlocal found
            found = self.serving()
            return len(found) == 2 and not found & without

        wait_until(are_there, lambda: f"two workers that serve: {self.workers()}", PATIENCE_S)
        return found

    def test_killed_and_renewed_under_load(self) -> None:
        """Renewing the workers fails no request, also not an upload that lasts; killing one cuts at most what
        it was just answering; no connection is ever refused; and sessions know no workers."""
        port = self.cluster.document.http[0].port
        front = self.cluster.pid("http-1")
        anna = Member(f"http://localhost:{port}", "anna")
        anna.sign_up(_PASSWORD)
        first = self.both_serve(without=set())
        with Load(port) as load:
            load.more(200)
            upload = SlowUpload(anna, "slow", 400)
            upload.begin()
            self.cluster.penncloud("node", "restart", "http-1")
            second = self.both_serve(without=first)
            upload.finish()
            load.more(200)
            os.kill(front, signal.SIGHUP)
            third = self.both_serve(without=first | second)
            load.more(200)
            self.assertEqual(load.failed, {}, "renewing fails nothing")

            cut = 0
            for victim in sorted(third):
                os.kill(victim, signal.SIGKILL)
                self.both_serve(without={victim})
                load.more(100)
                self.assertLessEqual(set(load.failed), {"cut"}, "nobody is refused")
                # Each client has one request under way at most.
                self.assertLessEqual(load.seen["cut"] - cut, _CLIENTS)
                cut = load.seen["cut"]
        self.assertEqual(self.cluster.pid("http-1"), front)
        self.assertEqual(anna.download("slow"), upload.content)
        self._the_front_dies(front)

    def _the_front_dies(self, front: int) -> None:
        """Its workers end with it, so that its successor finds the port free."""
        orphans = self.serving()
        os.kill(front, signal.SIGKILL)
        wait_until(
            lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans),
            "the workers of a front that was killed end",
            PATIENCE_S,
        )
        self.both_serve(without=orphans)


class SlowUpload:
    """A file of somebody's of which one half is sent at the beginning and the other at the end."""

    def __init__(self, member: Member, name: str, size_kib: int) -> None:
        self.content = bytes(range(256)) * 4 * size_kib
        self._half = len(self.content) // 2
        self._connection = http.client.HTTPConnection(
            urlsplit(member.url).netloc, timeout=PATIENCE_S
        )
        path = f"/file/content?folder={ROOT}&name={name}&size={len(self.content)}"
        self._connection.putrequest("PUT", path)
        cookies = "; ".join(f"{name}={value}" for name, value in member.cookies.items())
        for header, value in (
            ("Cookie", cookies),
            ("X-CSRF-Token", member.csrf),
            ("Content-Length", str(len(self.content))),
        ):
            self._connection.putheader(header, value)

    def begin(self) -> None:
        self._connection.endheaders(self.content[: self._half])

    def finish(self) -> None:
        """Raises AssertionError unless the file was taken."""
        self._connection.send(self.content[self._half :])
        answer = self._connection.getresponse()
        said = answer.read()
        self._connection.close()
        assert answer.status == 201, said

"""A cluster behind a balancer in proxy mode: frontends are killed while people use it by one address."""

from __future__ import annotations

import http.client
import threading
import time

from twisted.trial.unittest import SynchronousTestCase

from tests.processes.cluster import RunningCluster
from tests.processes.member import Member, Unanswered
from tests.waiting import PATIENCE_S

_KILLS = 4


class ProxyTests(SynchronousTestCase):
    def test_frontends_die(self) -> None:
        """Pages come without a gap while frontends are killed, uploads and streams are back, and
        nobody is logged out."""
        cluster = RunningCluster(
            self.mktemp(), ["--coordinators=1", "--storage=1", "--http=2", "--set=lb.mode=proxy"]
        )
        self.addCleanup(cluster.destroy)
        cluster.start()
        alice = Member(cluster.url, "alice")
        alice.sign_up("correct horse battery")
        reader = Member(cluster.url, "alice", dict(alice.cookies), alice.csrf)
        answers = {"pages": 0, "broken": 0}
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                try:
                    reader.get("/account")
                    answers["pages"] += 1
                except Unanswered:
                    answers["broken"] += 1

        reading = threading.Thread(target=read)
        reading.start()
        self.addCleanup(stop.set)
        data = bytes(range(256)) * 40_000
        for number in range(_KILLS):
            victim = f"http-{1 + number % 2}"
            before = answers["pages"]
            stream = self.events(cluster, alice)
            cluster.kill(victim)
            self.soon(lambda name=f"file-{number}": alice.upload(name, data))
            stream.close()
            self.soon(lambda: self.events(cluster, alice).close())
            self.until(lambda before=before: answers["pages"] > before + 5)
            self.until(lambda victim=victim: self.is_live(cluster, victim))
        stop.set()
        reading.join(PATIENCE_S)
        # A frontend killed between the first and the last byte of an answer: nothing can be repeated then.
        self.assertLessEqual(answers["broken"], _KILLS, answers)
        for number in range(_KILLS):
            self.assertEqual(alice.download(f"file-{number}"), data)

    def events(self, cluster: RunningCluster, member: Member) -> http.client.HTTPConnection:
        """An open stream of events, by the balancer's address. Raises Unanswered."""
        connection = http.client.HTTPConnection(
            "localhost", cluster.document.lb[0].port, timeout=PATIENCE_S
        )
        cookies = "; ".join(f"{name}={value}" for name, value in member.cookies.items())
        try:
            connection.request("GET", "/events?topics=chat&since=", headers={"cookie": cookies})
            answer = connection.getresponse()
            if answer.status != 200 or not answer.read(1):
                raise Unanswered(f"events: {answer.status}")
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Unanswered(str(error)) from error
        return connection

    def soon(self, act: object) -> None:
        """As a page does it: again until it succeeds."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                act()  # type: ignore[operator]
            except Unanswered as error:
                self.assertLess(time.monotonic(), deadline, str(error))
                time.sleep(0.1)
            else:
                return

    def until(self, condition: object) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():  # type: ignore[operator]
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)

    def is_live(self, cluster: RunningCluster, node_id: str) -> bool:
        listed = cluster.penncloud("lb", "list").stdout.decode()
        line = next((line for line in listed.splitlines() if node_id in line), "")
        return "live" in line

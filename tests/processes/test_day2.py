"""What an administrator looks at on a running cluster: metrics, readiness, and logs that follow a request."""

from __future__ import annotations

import http.cookiejar
import json
import re
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

from twisted.trial.unittest import SynchronousTestCase

from tests.processes.cluster import RunningCluster
from tests.waiting import PATIENCE_S, wait_until

SMALL = ["--coordinators=1", "--storage=1", "--http=1", "--smtp=1"]
LOUD = [
    "--set=cluster.log_format=json",
    "--set=storage.log_slower_ms=0",
    "--set=http.log_slower_ms=0",
]


def get(url: str, context: ssl.SSLContext | None = None) -> tuple[int, bytes]:
    """Status and body; a refusal is an answer, too."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S, context=context) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


class Day2Tests(SynchronousTestCase):
    def test_watching_a_cluster(self) -> None:
        """Every role shows metrics that Prometheus takes, is ready, and logs what a request did."""
        cluster = RunningCluster(self.mktemp(), [*SMALL, *LOUD])
        self.addCleanup(cluster.destroy)
        cluster.start()
        tls = cluster.tls_context()
        for listener in cluster.document.listeners:
            site = f"https://127.0.0.1:{listener.metrics_port}"
            self.assertEqual(get(f"{site}/healthz", tls), (200, b"ok\n"), listener.id)
            self.wait_for_ready(f"{site}/readyz", tls, listener.id)
            self.check_metrics(listener.id, get(f"{site}/metrics", tls)[1])
        self.check_request_id(cluster)
        self.check_doctor(cluster)
        cluster.penncloud("node", "stop", "http-1")
        (balancer,) = cluster.document.lb
        readyz = f"https://127.0.0.1:{balancer.metrics_port}/readyz"
        why = "a balancer without frontends is not ready"
        wait_until(lambda: get(readyz, tls)[0] == 503, why, PATIENCE_S)

    def wait_for_ready(self, readyz: str, tls: ssl.SSLContext, node_id: str) -> None:
        """A frontend that serves may still be making sure that there is a first account."""
        ready = (200, b"ready\n")
        wait_until(lambda: get(readyz, tls) == ready, f"{node_id} is not ready", PATIENCE_S)

    def check_doctor(self, cluster: RunningCluster) -> None:
        """The doctor sees every server's clock and version, and this host's disk; what is bad, fails."""
        well = json.loads(cluster.penncloud("doctor", "--json", expect=None).stdout)["findings"]
        found = {finding["subject"]: finding for finding in well}
        self.assertEqual(found["clocks"]["level"], "ok", well)
        self.assertEqual(found["versions"]["level"], "ok", well)
        self.assertIn(str(cluster.layout.root), found)
        # One coordinator and one copy of everything: it serves, and should not stay so.
        self.assertEqual(found["coordinators"]["level"], "warn")
        cluster.penncloud("node", "stop", "storage-1")
        deadline = time.monotonic() + PATIENCE_S
        while (ill := cluster.penncloud("doctor", expect=None)).returncode != 1:
            self.assertLess(time.monotonic(), deadline, ill.stdout)
        self.assertIn(b"unavailable", ill.stdout)
        cluster.penncloud("node", "start", "storage-1")

    def check_metrics(self, node_id: str, text: bytes) -> None:
        self.assertIn(b"penncloud_", text, node_id)
        if shutil.which("promtool") is None:
            return
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, check=False
        )
        said = done.stdout.decode() + done.stderr.decode()
        # Python's own collectors have names that promtool would not choose.
        ours = [line for line in said.splitlines() if "penncloud_" in line]
        self.assertEqual(ours, [], node_id)
        self.assertIn(done.returncode, (0, 3), said)

    def check_request_id(self, cluster: RunningCluster) -> None:
        """The id of a login is in the answer, and in the logs of the frontend and a storage server."""
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        browser = urllib.request.build_opener(jar)
        (frontend,) = cluster.document.http
        login = f"http://localhost:{frontend.port}/login"
        page = browser.open(login, timeout=PATIENCE_S).read().decode()
        token = re.search(r'name="csrf" value="([^"]+)"', page)
        assert token is not None, page
        form = {"csrf": token[1], "name": "nobody", "password": "wrong"}
        request = urllib.request.Request(
            login,
            urllib.parse.urlencode(form).encode(),
            {"x-request-id": "from-the-test.1", "origin": f"http://localhost:{frontend.port}"},
        )
        try:
            answer = browser.open(request, timeout=PATIENCE_S)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            self.assertEqual(answer.headers["x-request-id"], "from-the-test.1")
        for node_id in ("http-1", "storage-1"):
            lines = cluster.layout.log(node_id).read_text().splitlines()
            events = [json.loads(line) for line in lines]
            ours = [event for event in events if event.get("request") == "from-the-test.1"]
            self.assertTrue(ours, f"{node_id} says nothing of the request")

"""Backup, destroy, restore: real clusters, of different sizes, with what people had in them."""

from __future__ import annotations

import http.cookiejar
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.processes.cluster import RunningCluster, program_environment
from tests.waiting import PATIENCE_S

FILE = os.urandom(2_000_000)


class Person:
    """A browser of few words."""

    def __init__(self, cluster: RunningCluster) -> None:
        self.site = f"http://localhost:{cluster.document.http[0].port}"
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._browser = urllib.request.build_opener(jar)

    def get(self, path: str) -> bytes:
        with self._browser.open(self.site + path, timeout=PATIENCE_S) as answer:
            found: bytes = answer.read()
        return found

    def csrf(self, path: str) -> str:
        page = self.get(path).decode()
        found = re.search(r'name="csrf"[^>]* (?:value|content)="([^"]+)"', page)
        assert found is not None, page
        return found[1]

    def post(self, path: str, page: str, **form: str) -> bytes:
        data = urllib.parse.urlencode({"csrf": self.csrf(page), **form}).encode()
        with self._browser.open(self.site + path, data, timeout=PATIENCE_S) as answer:
            found: bytes = answer.read()
        return found

    def log_in(self, name: str, password: str) -> None:
        self.post("/login", "/login", name=name, password=password)


class BackupTests(SynchronousTestCase):
    def cluster(self, *options: str) -> RunningCluster:
        cluster = RunningCluster(self.mktemp(), list(options))
        self.addCleanup(cluster.destroy)
        cluster.start()
        return cluster

    def test_backup_destroy_restore(self) -> None:
        """Under writes a backup is one moment; another cluster, larger, holds it and serves people."""
        directory = str(Path(self.mktemp()).absolute())
        old = self.cluster("--coordinators=1", "--storage=2", "--http=1", "--smtp=1")
        old.penncloud("user", "add", "alice", stdin=b"alice's password\n")
        alice = Person(old)
        alice.log_in("alice", "alice's password")
        self.send_file(old)
        for text in ("first", "second", "third"):
            self.say(old, alice, text)
        first = self.backup(old, directory)
        self.assertIn("of which 2,", first)
        with self.writer(old):
            second = self.backup(old, directory)
        written = int(re.search(r"of which ([0-9,]+)", second)[1].replace(",", ""))  # type: ignore[index]
        self.assertLess(written, 1_000_000, "what was saved before is not saved again")
        checked = old.penncloud("backup", directory, "--verify=all").stdout.decode()
        self.assertEqual(checked.count("are as they were written"), 2)
        old.destroy()
        shutil.rmtree(old.layout.root)

        new = self.cluster("--coordinators=1", "--storage=3", "--http=1", "--smtp=1")
        refused = new.penncloud("restore", directory, expect=2).stderr.decode()
        self.assertIn("http-1", refused)
        refused = new.penncloud("restore", directory, "--stop-frontends", expect=1).stderr.decode()
        self.assertIn("--replace", refused)
        said = self.restore(new, directory)
        self.assertIn("verified", said)
        self.assertIn("counting on", said)
        self.check_cut(new)
        self.check_people(new)

    def backup(self, cluster: RunningCluster, directory: str) -> str:
        done = cluster.command(
            ["backup", directory, f"--data={cluster.layout.root}"], timeout_s=180
        )
        return done.stdout.decode()

    def restore(self, cluster: RunningCluster, directory: str) -> str:
        arguments = ["restore", directory, "--replace", "--stop-frontends"]
        done = cluster.command([*arguments, f"--data={cluster.layout.root}"], timeout_s=300)
        return done.stdout.decode()

    # -- while it is backed up ---------------------------------------------------------------------

    def writer(self, cluster: RunningCluster) -> _Writer:
        return _Writer(cluster)

    def check_cut(self, cluster: RunningCluster) -> None:
        """Of writes that were made one after the other, none is there without those before it."""
        numbers = []
        for row in range(_Writer.ROWS):
            got = cluster.penncloud("kv", "get", f"cut/{row}", "n", expect=None)
            numbers.append(int(got.stdout) if got.returncode == 0 else -1)
        newest = max(numbers)
        self.assertGreaterEqual(newest, 0, "nothing was written during the backup")
        expected = [
            max((n for n in range(newest + 1) if n % _Writer.ROWS == row), default=-1)
            for row in range(_Writer.ROWS)
        ]
        self.assertEqual(numbers, expected)

    # -- people ------------------------------------------------------------------------------------

    def send_file(self, cluster: RunningCluster) -> None:
        """As an attachment-sized cell row: chunks of a blob, large enough to lie in packs."""
        path = Path(self.mktemp())
        for number in range(4):
            piece = FILE[number * 500_000 : (number + 1) * 500_000]
            path.write_bytes(piece)
            cluster.penncloud("kv", "put", f"test/chunk/{number}", "data", f"--file={path}")

    def say(self, cluster: RunningCluster, person: Person, text: str) -> None:
        person.post("/chat", "/chat", text=text, id=os.urandom(16).hex())

    def check_people(self, cluster: RunningCluster) -> None:
        """Alice logs in with her password; what she says now comes behind what was said before."""
        got = cluster.penncloud("kv", "get", "test/chunk/2", "data").stdout
        self.assertEqual(got, FILE[1_000_000:1_500_000])
        alice = Person(cluster)
        alice.log_in("alice", "alice's password")
        self.say(cluster, alice, "fourth")
        page = alice.get("/chat").decode()
        places = [page.find(f">{text}<") for text in ("first", "second", "third", "fourth")]
        self.assertNotIn(-1, places, page)
        self.assertEqual(places, sorted(places))


class _Writer:
    """Writes 0, 1, 2, ... one after the other into rows of different tablets, until it is left."""

    ROWS = 4
    _PROGRAM = """
import argparse, sys
from twisted.internet.protocol import Protocol
from twisted.internet.stdio import StandardIO
from penncloud.cli._table import with_table
from penncloud.cli._target import add_target

async def write(table, environment):
    over = []
    class Stdin(Protocol):
        def connectionLost(self, reason=None):
            over.append(1)
    StandardIO(Stdin(), stdout=2)
    number = 0
    while not over:
        await table.put(b"cut/%d" % (number % int(sys.argv[2])), b"n", b"%d" % number)
        number += 1
        if number == 50:
            print("begun", flush=True)
    return 0

parser = argparse.ArgumentParser()
add_target(parser)
sys.exit(with_table(parser.parse_args(["--data", sys.argv[1]]), write))
"""

    def __init__(self, cluster: RunningCluster) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self._PROGRAM, str(cluster.layout.root), str(self.ROWS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=program_environment(),
        )

    def __enter__(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"begun\n"

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=PATIENCE_S)

"""Twin of `penncloud.cli.lsm`: what the commands print, and their exit codes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import time

from prometheus_client import CollectorRegistry
from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from penncloud.cli import _main
from penncloud.lsm.engine import Engine
from penncloud.lsm.keys import HASH_SPACE
from penncloud.lsm.options import EngineOptions
from penncloud.lsm.record import HEADER_BYTES
from penncloud.platform.environment import Environment
from penncloud.platform.lockfile import DirectoryLock
from penncloud.platform.real_disk import RealDisk
from penncloud.storage.quarantine import Quarantine
from tests.lsm.machine import Machine, no_threads, put


class LsmCommandTests(TestCase):
    """On a real directory, written by the engine on a real disk."""

    async def setUp(self) -> None:  # type: ignore[override]
        self.path = self.mktemp()
        os.mkdir(self.path)
        disk = RealDisk(self.path, reactor)
        environment = Environment(reactor, time.time, random.Random(0), os.urandom, no_threads)
        engine = Engine(disk, environment, EngineOptions(segment_bytes=1000), CollectorRegistry())
        await engine.open()
        await engine.create_tablet(1, 0, HASH_SPACE)
        for version in (1, 2):
            entry = Machine().entry(1, version, put("row;", f"c{version}", "value"))
            await engine.append([entry])
            engine.commit(1, version)
            if version == 1:
                await engine.checkpoint(1)
        await engine.close()
        await disk.close()

    def _call(self, *arguments: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = _main.run(["lsm", *arguments])
        return code, out.getvalue(), err.getvalue()

    def test_inspect(self) -> None:
        """The overview is a table with a line per tablet."""
        code, out, _err = self._call("inspect", self.path)
        self.assertEqual(code, 0)
        self.assertIn("00000000-100000000", out)
        self.assertIn("ok", out)

    def test_verify(self) -> None:
        """Exit code 0 for a sound directory, 1 with the damaged file's name for another."""
        self.assertEqual(self._call("verify", self.path)[0], 0)
        name = os.path.join(self.path, "lsm", "tables", "00000001.table")
        with open(name, "r+b") as file:
            file.seek(20)
            file.write(b"\xff\xff")
        code, out, _err = self._call("verify", self.path)
        self.assertEqual(code, 1)
        self.assertIn("DAMAGED: lsm/tables/00000001.table", out)

    def test_dump(self) -> None:
        """One JSON document per cell, names encoded as on the wire."""
        code, out, _err = self._call("dump", self.path, "--values")
        self.assertEqual(code, 0)
        first = json.loads(out.splitlines()[0])
        self.assertEqual((first["row"], first["col"], first["value"]), ("row%3B", "c1", "dmFsdWU="))
        self.assertEqual(len(out.splitlines()), 2)

    def test_wrong_directory(self) -> None:
        """Another directory, or that of a running server, is refused in one line."""
        code, _out, err = self._call("verify", os.path.dirname(self.path) or ".")
        self.assertEqual((code, err.count("\n")), (2, 1))
        lock = DirectoryLock(self.path)
        try:
            code, _out, err = self._call("verify", self.path)
        finally:
            lock.release()
        self.assertEqual((code, err.count("\n")), (2, 1))

    async def test_quarantine(self) -> None:
        """Cuts are listed, also of a running server; one of them can be dumped; nonsense is refused."""
        disk = RealDisk(self.path, reactor)
        entry = Machine().entry(1, 7, put("row;", "c", "value"))
        await Quarantine(disk, lambda: 0.0, 10_000).keep(1, [entry], "diverged")
        await disk.close()
        lock = DirectoryLock(self.path)
        self.addCleanup(lock.release)
        code, out, _err = self._call("quarantine", self.path)
        self.assertEqual(code, 0)
        name = "00000001-00000001.entries"
        for shown in (name, "7-7", "1970-01-01 00:00:00", "diverged"):
            self.assertIn(shown, out)
        code, out, _err = self._call("quarantine", self.path, name, "--values")
        line = json.loads(out)
        self.assertEqual((line["version"], line["effects"][0]["value"]), (7, "dmFsdWU="))
        code, _out, err = self._call("quarantine", self.path, "other")
        self.assertEqual((code, "other" in err), (2, True))
        with open(os.path.join(self.path, "quarantine", name), "r+b") as file:
            file.seek(HEADER_BYTES + 3)
            file.write(b"?")
        self.assertEqual(self._call("quarantine", self.path)[0], 1)
        # What can be read of a damaged cut is dumped all the same.
        code, out, err = self._call("quarantine", self.path, name, "--values")
        self.assertEqual((code, json.loads(out)), (1, line))
        self.assertIn("damaged", err)

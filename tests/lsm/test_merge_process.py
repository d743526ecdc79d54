"""Compaction in a child process: the same result as in the reactor, and failures that are told."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time

import msgspec
from prometheus_client import CollectorRegistry
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from penncloud.lsm import compaction, merge_child
from penncloud.lsm.block import encode_cell
from penncloud.lsm.engine import Engine
from penncloud.lsm.errors import TableDamaged, TabletDamaged
from penncloud.lsm.keys import ABOVE_ALL, HASH_SPACE
from penncloud.lsm.memtable import StoredCell
from penncloud.lsm.merge_job import InputDamaged, Merged, MergeJob, MergeRequest, Refused
from penncloud.lsm.merge_process import ProcessMerger
from penncloud.lsm.options import EngineOptions
from penncloud.lsm.table_writer import TableWriter
from penncloud.platform.child import ChildFailed
from penncloud.platform.environment import Environment
from penncloud.platform.plain_files import PlainFiles
from penncloud.platform.real_disk import RealDisk
from tests.lsm.machine import Machine, delete, no_threads, put


class ProcessMergerTests(TestCase):
    """On a real disk, with every compaction in a child."""

    async def setUp(self) -> None:  # type: ignore[override]
        self.patch(compaction, "_CHILD_BYTES", 0)
        self.path = self.mktemp()
        os.mkdir(self.path)
        self.disk = RealDisk(self.path, reactor)
        self.merger = ProcessMerger(reactor, self.path)
        environment = Environment(reactor, time.time, random.Random(0), os.urandom, no_threads)
        options = EngineOptions(segment_bytes=100_000, block_bytes=500, compression="zstd")
        self.make = lambda: Engine(
            self.disk, environment, options, CollectorRegistry(), self.merger
        )
        self.engine = self.make()
        await self.engine.open()
        await self.engine.create_tablet(1, 0, HASH_SPACE)
        for version in (1, 2, 3):
            effects = [put("row", f"c{n}", f"v{version}") for n in range(0, 200, version)]
            gone = [delete("row", "c0")] if version == 3 else []
            entry = Machine().entry(1, version, *effects, *gone)
            await self.engine.append([entry])
            self.engine.commit(1, version)
            await self.engine.checkpoint(1)

    async def tearDown(self) -> None:  # type: ignore[override]
        await self.engine.close()
        await self.disk.close()

    async def test_same_cells(self) -> None:
        """The merged table has the newest cells, and the inputs are gone."""
        before = list(self.engine.scan_tablet(1))
        await self.engine.compact(1)
        self.assertEqual(list(self.engine.scan_tablet(1)), before)
        self.assertEqual(len(before), 199)
        self.assertEqual(len(self.disk.listdir("lsm/tables")), 1)
        (table,) = self.engine._tablets[1].tables
        table.verify()
        self.assertEqual(table.properties.tombstones, 0)

    async def test_damaged_input(self) -> None:
        """What the child finds damaged is reported as in the reactor, and nothing is left over."""
        name = os.path.join(self.path, "lsm/tables/00000001.table")
        with open(name, "r+b") as file:
            file.seek(700)
            file.write(b"\0\0\0\0")
        with self.assertRaises(TableDamaged):
            await self.engine.compact(1)
        self.assertIn("00000001.table", self.engine.damage(1))
        with self.assertRaises(TabletDamaged):
            await self.engine.compact(1)
        self.assertEqual(len(self.disk.listdir("lsm/tables")), 3)

    async def test_stopped(self) -> None:
        """A stop does not wait for the child; nothing has happened then."""
        before = list(self.engine.scan_tablet(1))
        compacting = self.engine.compact(1)
        await deferLater(reactor, 0.05)
        closing = Deferred.fromCoroutine(self.engine.close())
        with self.assertRaises(ChildFailed):
            await compacting
        await closing
        self.engine = self.make()
        (found,) = await self.engine.open()
        self.assertEqual(found.version, 3)
        self.assertEqual(list(self.engine.scan_tablet(1)), before)
        self.assertEqual(len(self.disk.listdir("lsm/tables")), 3)

    async def test_killed(self) -> None:
        """When something kills the child, the server does its work."""
        before = list(self.engine.scan_tablet(1))
        compacting = self.engine.compact(1)
        reactor.callLater(0.02, self.merger.stop)
        await compacting
        self.assertEqual(list(self.engine.scan_tablet(1)), before)
        self.assertEqual(len(self.disk.listdir("lsm/tables")), 1)


class MergeChildTests(SynchronousTestCase):
    """The child's own side, without a process around it."""

    def test_starts_without_twisted(self) -> None:
        """The child imports little: each merge pays for its start."""
        program = (
            "import sys, penncloud.lsm.merge_child;"
            "print([name for name in ('twisted', 'asyncio', 'prometheus_client') if name in sys.modules])"
        )
        path = os.pathsep.join(entry for entry in sys.path if entry)
        done = subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.assertEqual(done.stdout.strip(), "[]")

    def test_refusals(self) -> None:
        """What the disk refuses, and a table of a later version, come back as an answer."""
        path = self.mktemp()
        os.mkdir(path)
        files = PlainFiles(path)
        options = EngineOptions(block_bytes=500)
        new = files.create("table")
        writer = TableWriter(new.write, 1, 5, options)
        writer.add([(b"key", encode_cell(b"key", StoredCell(1, b"value")))])
        writer.finish()
        new.sync()
        new.close()
        job = MergeJob(["table"], "merged", b"", ABOVE_ALL, True, 7, 500, 12, "none")

        def answer(job: MergeJob) -> Merged | InputDamaged | Refused:
            data = merge_child._answer(msgspec.msgpack.encode(MergeRequest(path, job)))
            return msgspec.msgpack.decode(data, type=Merged | InputDamaged | Refused)

        self.assertEqual(answer(job), Merged(True))
        refused = answer(job)
        assert isinstance(refused, Refused)
        self.assertIn("merged", refused.text)
        missing = answer(msgspec.structs.replace(job, inputs=["no table"]))
        assert isinstance(missing, InputDamaged)
        self.assertEqual(missing.path, "no table")
        nothing = msgspec.structs.replace(job, output="nothing", low=b"z")
        self.assertEqual(answer(nothing), Merged(False))

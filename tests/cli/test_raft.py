"""`penncloud raft inspect` and `penncloud coordinator`, as far as they go without a cluster."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from twisted.internet import reactor as real_reactor
from twisted.internet.defer import ensureDeferred
from twisted.trial.unittest import TestCase

from penncloud.cli import _main
from penncloud.coordinator.raft_store import SNAPSHOT, RaftStore
from penncloud.coordinator.state import StateMachine
from penncloud.platform.real_disk import RealDisk
from penncloud.raft.messages import Entry, HardState, Membership
from tests.coordinator.commands import FOUNDING

reactor: Any = real_reactor


class InspectTests(TestCase):
    async def _fill(self) -> Path:
        directory = Path(self.mktemp()).absolute()
        directory.mkdir(parents=True)
        machine = StateMachine()
        for command in FOUNDING:
            machine.apply(command)
        disk = RealDisk(str(directory), reactor)
        store = RaftStore(disk, reactor)
        members = Membership(frozenset({"coordinator-1", "coordinator-2"}))
        await store.found(members, machine.snapshot())
        change = Entry(2, 4, "membership", b"", Membership(frozenset({"coordinator-1"})))
        await store.save(HardState(4, "coordinator-2"), None, [Entry(1, 4, "noop"), change])
        await store.close()
        await disk.close()
        return directory

    def _inspect(self, path: Path) -> tuple[int, str, str]:
        out, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            code = _main.run(["raft", "inspect", str(path)])
        return code, out.getvalue(), error.getvalue()

    async def test_shown(self) -> None:
        """Term, vote, snapshot and entries, for people; nothing is changed."""
        directory = await ensureDeferred(self._fill())
        before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
        code, text, _ = self._inspect(directory)
        self.assertEqual(code, 0)
        for expected in ("term      4", "vote      coordinator-2", "2 tablets", "membership"):
            self.assertIn(expected, text)
        after = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
        self.assertEqual(after, before)

    async def test_damaged(self) -> None:
        """Damage is told on stderr in one line, with exit code 1."""
        directory = await ensureDeferred(self._fill())
        snapshot = directory / SNAPSHOT
        snapshot.write_bytes(snapshot.read_bytes()[:-1] + b"?")
        code, _, error = self._inspect(directory)
        self.assertEqual(code, 1)
        self.assertIn(SNAPSHOT, error)
        self.assertEqual(len(error.splitlines()), 1)

    def test_nothing_there(self) -> None:
        """A directory of something else, or none, is a usage error."""
        empty = Path(self.mktemp())
        empty.mkdir(parents=True)
        for path in (empty, empty / "none"):
            code, _, error = self._inspect(path)
            self.assertEqual(code, 2)
            self.assertIn(str(path), error)

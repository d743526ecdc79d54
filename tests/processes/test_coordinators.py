"""Three coordinators as processes of their own, whose leader is killed or stopped again and again."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet import reactor as real_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from penncloud.client.coordinator_link import CoordinatorDirectory
from penncloud.client.directory import ClusterView
from penncloud.client.table import Unavailable
from penncloud.coordinator.commands import Command, SetEnabled
from penncloud.coordinator.raft_store import Kept, inspect
from penncloud.coordinator.state import StateMachine
from penncloud.platform.config import Cluster
from penncloud.platform.real_disk import RealDisk
from penncloud.rpc.registration import Identity, Registration
from tests.processes.cluster import ROOT, free_block, program_environment
from tests.rpc.world import environment

reactor: Any = real_reactor

_ROUNDS = 10
_SERVERS = 8
# Changes that have to succeed after each fault before the next.
_BETWEEN = 20
_TWISTD = "from twisted.scripts.twistd import run; run()"


class CoordinatorsTests(TestCase):
    timeout = 600

    def setUp(self) -> None:
        first = free_block(3)
        self.cluster = Cluster(coordinators=[f"127.0.0.1:{first + n}" for n in range(3)])
        self.directory_path = Path(self.mktemp()).absolute()
        self.directory_path.mkdir(parents=True)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        # What was acknowledged last for each server, and values whose outcome is not known.
        self.acknowledged: dict[str, bool] = {}
        self.unknown: dict[str, set[bool]] = {}
        self.acknowledgements = 0
        self.writing = True

    def _start(self, number: int) -> None:
        node_id = f"coordinator-{number}"
        with (self.directory_path / f"{node_id}.log").open("ab") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-c", _TWISTD, "-n", "--pidfile=", "penncloud-coordinator"),
                    f"--id={node_id}",
                    f"--port={self.cluster.coordinators[number - 1].rpartition(':')[2]}",
                    f"--data-dir={self.directory_path / node_id}",
                    f"--cluster-coordinators={','.join(self.cluster.coordinators)}",
                ],
                cwd=ROOT,
                env=program_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.processes[node_id] = process
        self.addCleanup(self._end, process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.kill()
        process.wait()

    def _leave(self, registration: Registration) -> Deferred[None]:
        return Deferred.fromCoroutine(registration.stop())

    async def _pause(self, seconds: float) -> None:
        await deferLater(reactor, seconds)

    async def _view(self, fulfils: Callable[[ClusterView], object]) -> ClusterView:
        while True:
            try:
                view = await self.directory.view()
            except Unavailable:
                continue
            if fulfils(view):
                return view
            await self._pause(0.05)

    def _complete(self, view: ClusterView) -> bool:
        roles = sorted(one.role for one in view.coordinators)
        alive = {one.id: one.pid for one in view.coordinators}
        pids = {node_id: process.pid for node_id, process in self.processes.items()}
        return roles == ["follower", "follower", "leader"] and alive == pids

    async def _write(self) -> None:
        """Toggle one server after the other until told to stop."""
        number = 0
        while self.writing:
            number += 1
            node_id = f"http-{number % _SERVERS + 1}"
            enabled = (number // _SERVERS) % 2 == 0
            self.unknown.setdefault(node_id, set()).add(enabled)
            try:
                await self.directory.set_enabled(node_id, enabled)
            except Unavailable:
                continue
            self.acknowledged[node_id] = enabled
            self.unknown[node_id].clear()
            self.acknowledgements += 1

    async def test_leader_dies_ten_times(self) -> None:
        """No acknowledged change is lost, the stream goes on after each fault, and in the end all
        three logs and states are the same."""
        for number in (1, 2, 3):
            self._start(number)
        self.directory = CoordinatorDirectory(environment(reactor, seed=3), self.cluster)
        self.directory.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.directory.stop()))
        for number in range(1, _SERVERS + 1):
            info = Identity("http", f"http-{number}", "127.0.0.1", 7000 + number, 100 + number)
            registration = Registration(environment(reactor, seed=number), self.cluster, info)
            registration.start()
            self.addCleanup(self._leave, registration)
        await self._view(
            lambda view: (
                self._complete(view) and sum(node.role == "http" for node in view.nodes) == _SERVERS
            )
        )
        writer = Deferred.fromCoroutine(self._write())
        for round_ in range(_ROUNDS):
            view = await self._view(self._complete)
            [leader] = [one for one in view.coordinators if one.role == "leader"]
            process = self.processes[leader.id]
            goal = self.acknowledgements + _BETWEEN
            if round_ % 2:
                process.send_signal(signal.SIGSTOP)
            else:
                process.kill()
                process.wait()
            while self.acknowledgements < goal:
                await self._pause(0.01)
            if round_ % 2:
                process.send_signal(signal.SIGCONT)
            else:
                self._start(int(leader.id[-1]))
        view = await self._view(self._complete)
        self.writing = False
        await writer
        view = await self._view(lambda _: True)
        flags = {node.id: node.enabled for node in view.nodes if node.role == "http"}
        for node_id, enabled in self.acknowledged.items():
            self.assertIn(flags[node_id], {enabled, *self.unknown[node_id]}, node_id)
        await self._compare_logs()

    async def _compare_logs(self) -> None:
        """Once every one of them has everything: the test ends in its time-out if that never comes."""
        while True:
            kept = self._kept()
            if kept[0].entries == kept[1].entries == kept[2].entries:
                break
            await self._pause(0.2)
        self.assertEqual({one.snapshot.index for one in kept}, {0})
        machine = StateMachine()
        changes = 0
        for entry in kept[0].entries:
            if entry.kind == "command":
                command = _decode(entry.data)
                changes += isinstance(command, SetEnabled)
                machine.apply(command)
        self.assertGreaterEqual(changes, self.acknowledgements)
        # Each of ten faults took leadership away, but a stop that was too short to be noticed.
        self.assertGreater(machine.state.term, _ROUNDS // 2)

    def _kept(self) -> list[Kept]:
        """What each of them has on its disk, at one moment."""
        for process in self.processes.values():
            process.send_signal(signal.SIGSTOP)
        kept: list[Kept] = []
        for node_id in self.processes:
            found, damages = inspect(RealDisk(str(self.directory_path / node_id), None))
            assert found is not None
            self.assertEqual(damages, [])
            kept.append(found)
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
        return kept


def _decode(data: bytes) -> Command:
    command: Command = msgspec.msgpack.decode(data, type=Command)
    return command

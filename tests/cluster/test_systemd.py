"""Twins of `systemd` and `systemd_agent`: servers that systemd runs, seen and acted on by their ids."""

from __future__ import annotations

from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from penncloud.client.agents import AgentControl, SupervisedServer
from penncloud.client.directory import MemoryDirectory, NoSuchNode
from penncloud.cluster.systemd import SystemdRefused, Unit, real_systemctl
from penncloud.cluster.systemd_agent import SystemdAgent, servers_in
from penncloud.platform.config import Agent, Cluster
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.process import real_environment
from penncloud.platform.threads import BoundedPool
from penncloud.rpc.errors import Refusal

DOCUMENT = {"storage": {"id": "storage-7"}, "lb": {"id": "lb-1"}, "smtp": {}}


class FakeSystemctl:
    """Remembers what was asked; `shown` is what `show` prints, `refusal` what it fails with."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.shown = "ActiveState=active\nMainPID=42\nNRestarts=3\nResult=success\nLoadState=loaded"
        self.refusal = ""

    async def __call__(self, *arguments: str) -> str:
        self.asked.append(arguments[:2])
        if self.refusal:
            raise SystemdRefused(self.refusal)
        return self.shown if arguments[0] == "show" else ""


class UnitTests(TestCase):
    async def shown(self, text: str) -> SupervisedServer:
        systemctl = FakeSystemctl()
        systemctl.shown = text
        return await Unit("lb-1", "lb", "penncloud-lb.service", systemctl).describe()

    async def test_running(self) -> None:
        found = await self.shown("ActiveState=active\nMainPID=42\nNRestarts=3\nResult=success")
        self.assertEqual(found, SupervisedServer("lb-1", "lb", "running", 42, 3, ""))

    async def test_waiting(self) -> None:
        """A service that systemd is about to start again tells why it ended."""
        found = await self.shown(
            "ActiveState=activating\nMainPID=0\nNRestarts=9\nResult=exit-code\nExecMainStatus=1"
        )
        expected = SupervisedServer("lb-1", "lb", "waiting", None, 9, "exit-code (status 1)")
        self.assertEqual(found, expected)

    async def test_down(self) -> None:
        for state in ("inactive", "failed", ""):
            found = await self.shown(f"ActiveState={state}\nMainPID=0\nNRestarts=0")
            self.assertEqual((found.state, found.pid), ("down", None))

    async def test_not_installed(self) -> None:
        """A unit that is not there is said to be so, with what to do."""
        with self.assertRaises(SystemdRefused) as caught:
            await self.shown("LoadState=not-found\nActiveState=inactive")
        self.assertIn("penncloud install --role lb", str(caught.exception))


class AgentTests(TestCase):
    async def setUp(self) -> None:  # type: ignore[override]
        self.environment = real_environment(reactor, BoundedPool(reactor))
        self.systemctl = FakeSystemctl()
        self.agent = SystemdAgent(
            self.environment, DOCUMENT, Cluster(), Agent(port=0), self.systemctl
        )
        await self.agent.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.agent.stop()))
        self.address = f"127.0.0.1:{self.agent.port}"
        self.control = AgentControl(self.environment, Cluster(), MemoryDirectory(), [self.address])

    async def test_act(self) -> None:
        """What is asked of a server is asked of the unit of its role."""
        await self.control.stop("storage-7")
        await self.control.start("storage-7")
        await self.control.restart("lb-1")
        acted = [call for call in self.systemctl.asked if call[0] != "show"]
        self.assertEqual(
            acted,
            [
                ("stop", "penncloud-storage.service"),
                ("start", "penncloud-storage.service"),
                ("restart", "penncloud-lb.service"),
            ],
        )

    async def test_restart_of_a_frontend(self) -> None:
        """One with workers renews them at a reload; where it does not run, it is started."""
        for workers, verb in ((2, "reload-or-restart"), (0, "restart")):
            document = {"http": {"id": "http-1", "workers": workers}}
            agent = SystemdAgent(
                self.environment, document, Cluster(), Agent(port=0), self.systemctl
            )
            await agent.start()
            control = AgentControl(
                self.environment, Cluster(), MemoryDirectory(), [f"127.0.0.1:{agent.port}"]
            )
            await control.restart("http-1")
            await agent.stop()
            self.assertIn((verb, "penncloud-http.service"), self.systemctl.asked)

    async def test_list(self) -> None:
        found = await self.control.servers(self.address)
        self.assertEqual({server.id for server in found}, {"storage-7", "lb-1"})

    async def test_refused(self) -> None:
        """What systemd says reaches who asked."""
        self.systemctl.refusal = "Interactive authentication required."
        with self.assertRaises(Refusal) as caught:
            await self.control.stop("lb-1")
        self.assertIn("Interactive authentication", str(caught.exception))

    async def test_others(self) -> None:
        """It acts on no service but its host's PennCloud servers."""
        with self.assertRaises(NoSuchNode):
            await self.control.stop("ssh")
        self.assertEqual(self.systemctl.asked, [])

    def test_servers(self) -> None:
        """A section without an id is no server; a host without servers needs no agent."""
        self.assertEqual(
            sorted(servers_in(DOCUMENT)),
            [
                ("lb-1", "lb", "penncloud-lb.service"),
                ("storage-7", "storage", "penncloud-storage.service"),
            ],
        )
        with self.assertRaises(ConfigurationError):
            SystemdAgent(self.environment, {}, Cluster(), Agent(port=0), self.systemctl)


class SystemctlTests(TestCase):
    def program(self, script: str) -> str:
        path = Path(self.mktemp()).absolute()
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    async def test_output(self) -> None:
        """The arguments arrive, without a question for a password, and what is printed comes back."""
        systemctl = real_systemctl(reactor, self.program('echo "$@"'))
        self.assertEqual(await systemctl("show", "x"), "--no-ask-password --no-pager show x")

    async def test_failure(self) -> None:
        """What the program says when it fails is the error."""
        systemctl = real_systemctl(reactor, self.program("echo no such unit >&2; exit 5"))
        with self.assertRaises(SystemdRefused) as caught:
            await systemctl("stop", "x")
        self.assertEqual(str(caught.exception), "no such unit")

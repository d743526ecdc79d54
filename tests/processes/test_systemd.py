"""The units under a real systemd: installed, started, watched over, stopped from outside and in order."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from penncloud.cluster.configuration import to_toml
from tests.processes.cluster import RunningCluster, free_block
from tests.processes.systemd_machine import SystemdMachine, why_not
from tests.waiting import PATIENCE_S, wait_until

ROLES = ("coordinator", "storage", "http", "smtp", "lb")
CONFIGURATION = "/etc/penncloud/penncloud.toml"


class SystemdTests(SynchronousTestCase):
    def setUp(self) -> None:
        missing = why_not()
        if missing:
            raise SkipTest(missing)
        self.machine = SystemdMachine()
        self.addCleanup(self.machine.destroy)

    def eventually(self, is_so: Callable[[], bool], what: str) -> None:
        wait_until(is_so, what, PATIENCE_S)

    def configuration(self) -> dict[str, dict[str, object]]:
        first = free_block(16)
        ports = {role: first + number for number, role in enumerate((*ROLES, "agent"))}
        agent = f"127.0.0.1:{ports['agent']}"
        self.coordinators = f"127.0.0.1:{ports['coordinator']}"
        document: dict[str, dict[str, object]] = {"cluster": {"coordinators": [self.coordinators]}}
        for number, role in enumerate(ROLES):
            document[role] = {
                "id": f"{role}-1",
                "port": ports[role],
                "metrics_port": first + 8 + number,
                "agent": agent,
            }
        document["coordinator"].update(data_dir="/var/lib/penncloud/coordinator", expect_storage=1)
        document["storage"]["data_dir"] = "/srv/disk1/storage"
        document["agent"] = {"port": ports["agent"]}
        return document

    def state(self, role: str) -> str:
        return self.machine.show(f"penncloud-{role}", "ActiveState")

    def test_install_kill_stop(self) -> None:
        """`install --now` starts all; a killed or hanging role is back; console and systemd stop them."""
        machine = self.machine
        machine.write(CONFIGURATION, to_toml(self.configuration()))
        # As `systemctl edit` would: so that the test need not wait for the watchdog's usual patience.
        drop_in = "/etc/systemd/system/penncloud-lb.service.d/watchdog.conf"
        machine.write(drop_in, "[Service]\nWatchdogSec=3\n")
        with_agent = (
            shutil.which("polkitd") is not None
            or machine.run("test", "-x", "/usr/lib/polkit-1/polkitd", expect=None).returncode == 0
        )
        roles = ",".join((*ROLES, "agent"))
        machine.run(
            "penncloud", "install", "--role", roles, "--config", CONFIGURATION,
            "--bin", "/opt/penncloud/bin", "--now", timeout_s=180,
        )  # fmt: skip
        # A service is active when its READY has come.
        self.eventually(
            lambda: {self.state(role) for role in ROLES} == {"active"}, "every role serves"
        )
        self.assertIn("storage-1 serves", machine.show("penncloud-storage", "StatusText"))
        self.assertEqual(machine.run("stat", "-c", "%U %a", CONFIGURATION).stdout, "root 640\n")
        self.assertEqual(
            machine.run("stat", "-c", "%U", "/srv/disk1/storage").stdout, "penncloud\n"
        )
        commands = RunningCluster("unused")
        target = ["--coordinators", self.coordinators]
        put = ["kv", "put", "row", "col", "hello", *target]
        self.eventually(
            lambda: commands.command(put, expect=None).returncode == 0, "the store takes a value"
        )
        self.check_journal()
        self.check_reload()
        self.check_death()
        if with_agent:
            self.check_console(commands, target)
        machine.run("systemctl", "stop", "penncloud.target")
        self.eventually(
            lambda: {self.state(role) for role in ROLES} == {"inactive"}, "everything is stopped"
        )
        self.assertEqual(machine.show("penncloud-storage", "Result"), "success")

    def check_journal(self) -> None:
        """Every line of the log is a JSON object, and the journal knows how serious it is."""
        text = self.machine.journal("penncloud-storage")
        lines = [line for line in text.splitlines() if line.startswith("{")]
        self.assertTrue(
            any(json.loads(line)["message"] == "storage-1 serves" for line in lines), text
        )
        serious = self.machine.journal("penncloud-storage", "-p", "err")
        self.assertEqual(serious.strip(), "")

    def check_reload(self) -> None:
        """`systemctl reload` takes up what it can, names what it cannot, and ends nothing."""
        machine = self.machine
        before = machine.show("penncloud-smtp", "MainPID")
        changes = 's/^\\[smtp\\]/[smtp]\\nexpire_hours = 12\\nhostname = "mx.example"/'
        machine.run("sed", "-i", changes, CONFIGURATION)
        machine.run("systemctl", "reload", "penncloud-smtp")
        self.eventually(
            lambda: "configuration reloaded" in machine.journal("penncloud-smtp"), "it is reloaded"
        )
        said = machine.journal("penncloud-smtp", "-p", "warning")
        self.assertIn("hostname has changed: restart to use it", said)
        self.assertNotIn("expire_hours", said)
        machine.run("sed", "-i", "s/^expire_hours.*/colour = 1/", CONFIGURATION)
        machine.run("systemctl", "reload", "penncloud-smtp")
        self.eventually(
            lambda: "not reloaded" in machine.journal("penncloud-smtp"), "a mistake is told"
        )
        machine.run("sed", "-i", "/^colour/d", CONFIGURATION)
        self.assertEqual(machine.show("penncloud-smtp", "MainPID"), before)
        self.assertEqual(self.state("smtp"), "active")

    def check_death(self) -> None:
        """A role that is killed, and one that stands still, is started again by systemd."""
        machine = self.machine
        before = machine.show("penncloud-storage", "MainPID")
        machine.kill("penncloud-storage", signal.SIGKILL)
        self.eventually(
            lambda: (
                self.state("storage") == "active"
                and machine.show("penncloud-storage", "MainPID") != before
            ),
            "the killed storage server is back",
        )
        before = machine.show("penncloud-lb", "MainPID")
        machine.kill("penncloud-lb", signal.SIGSTOP)
        self.eventually(
            lambda: (
                self.state("lb") == "active" and machine.show("penncloud-lb", "MainPID") != before
            ),
            "the watchdog has replaced the balancer that stood still",
        )

    def check_console(self, commands: RunningCluster, target: list[str]) -> None:
        """What the admin console does reaches systemd: a server that was stopped stays down."""
        self.machine.run("systemctl", "start", "dbus", "polkit")
        commands.command(["node", "stop", "smtp-1", *target])
        self.assertEqual(self.state("smtp"), "inactive")
        commands.command(["node", "start", "smtp-1", *target])
        self.assertEqual(self.state("smtp"), "active")
        # Of other services the agent's user may stop none.
        refused = self.machine.run(
            "runuser", "-u", "penncloud", "--", "systemctl", "--no-ask-password", "stop",
            "systemd-journald", expect=None,
        )  # fmt: skip
        self.assertNotEqual(refused.returncode, 0)

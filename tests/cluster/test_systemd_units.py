"""Twins of `systemd_units` and `installation`: the units say what they should, to systemd's own judges."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from penncloud.cluster import systemd_units
from penncloud.cluster.installation import Plan, plan
from penncloud.cluster.systemd_units import SERVICES, Installation, service, unit_name
from penncloud.platform.errors import ConfigurationError

ETC = Path(__file__).resolve().parents[2] / "etc" / "systemd"
BIN = PurePosixPath("/opt/penncloud/bin")
CONFIG = PurePosixPath("/etc/penncloud/penncloud.toml")


def document(**sections: dict[str, Any]) -> dict[str, Any]:
    return {"cluster": {"coordinators": ["10.0.0.1:8600"]}, **sections}


class UnitTests(SynchronousTestCase):
    def test_files(self) -> None:
        """etc/systemd holds what is made for an installation in /opt/penncloud."""
        made = {unit_name(role): service(role, Installation()) for role in SERVICES}
        made["penncloud.target"] = systemd_units.target()
        made["penncloud.sysusers.conf"] = systemd_units.sysusers()
        made["50-penncloud.rules"] = systemd_units.polkit_rule()
        self.assertEqual({path.name: path.read_text() for path in ETC.iterdir()}, made)

    def test_low_port(self) -> None:
        """Only a port below 1024 needs, and gets, a capability."""
        low = service("smtp", Installation(), [25])
        self.assertIn("\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n", low)
        self.assertIn("\nCapabilityBoundingSet=\n", service("smtp", Installation(), [2500]))

    def test_odd_paths(self) -> None:
        """A path that a unit would take for something else is refused."""
        for path in ("relative/bin", "/opt/penn cloud", "/opt/%n", "/opt/a\nExecStart=/x"):
            with self.assertRaises(ConfigurationError):
                service("lb", Installation(bin=PurePosixPath(path)))

    def test_unknown_role(self) -> None:
        with self.assertRaises(ConfigurationError) as caught:
            unit_name("postfix")
        self.assertIn("storage", str(caught.exception))


class JudgeTests(SynchronousTestCase):
    """systemd-analyze's word on the units."""

    def setUp(self) -> None:
        if shutil.which("systemd-analyze") is None:
            raise SkipTest("systemd-analyze is missing (apt install systemd)")

    def test_verify(self) -> None:
        """`systemd-analyze verify` has nothing to say."""
        directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, directory)
        bin_ = directory / "bin"
        bin_.mkdir()
        for name in ("twistd", "penncloud"):
            (bin_ / name).write_text("#!/bin/sh\n")
            (bin_ / name).chmod(0o755)
        where = Installation(bin=PurePosixPath(bin_))
        paths = []
        for name, text in [
            *((unit_name(role), service(role, where, [25])) for role in SERVICES),
            ("penncloud.target", systemd_units.target()),
        ]:
            (directory / name).write_text(text)
            paths.append(str(directory / name))
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", *paths],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        # It also speaks of units of the machine that it runs on.
        ours = [line for line in done.stderr.splitlines() if "penncloud" in line]
        self.assertEqual((done.returncode, ours), (0, []), done.stderr)

    def test_security(self) -> None:
        """The exposure of every service is "OK" or better."""
        units = [str(ETC / unit_name(role)) for role in SERVICES]
        for unit in units:
            done = subprocess.run(
                ["systemd-analyze", "security", "--offline=true", "--no-pager", unit],
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            said = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
            if said is None:
                raise SkipTest(f"this systemd cannot judge offline: {done.stderr.strip()}")
            self.assertLess(float(said[1]), 5.0, unit)


class PlanTests(SynchronousTestCase):
    def plan(self, roles: list[str], **sections: dict[str, Any]) -> Plan:
        return plan(document(**sections), roles, BIN, CONFIG)

    def refused(self, roles: list[str], **sections: dict[str, Any]) -> str:
        with self.assertRaises(ConfigurationError) as caught:
            self.plan(roles, **sections)
        return str(caught.exception)

    def test_data_elsewhere(self) -> None:
        """A data directory outside of /var/lib/penncloud is writable to its role and to no other."""
        wanted = self.plan(
            ["storage", "lb"],
            storage={"id": "storage-1", "data_dir": "/srv/disk1"},
            lb={"id": "lb-1"},
        )
        units = {path.name: text for path, text in wanted.files.items()}
        self.assertIn("\nReadWritePaths=/srv/disk1\n", units["penncloud-storage.service"])
        self.assertNotIn("ReadWritePaths", units["penncloud-lb.service"])
        self.assertEqual(wanted.data, (PurePosixPath("/srv/disk1"),))

    def test_data_at_home(self) -> None:
        """Below the state directory nothing has to be opened."""
        section = {"id": "storage-1", "data_dir": "/var/lib/penncloud/storage"}
        self.assertEqual(self.plan(["storage"], storage=section).data, ())

    def test_agent(self) -> None:
        """The agent comes with the rule that lets it act; without it nobody gets one."""
        with_agent = self.plan(["agent"], agent={"id": "agent-1"})
        self.assertTrue(any(path.suffix == ".rules" for path in with_agent.files))
        without = self.plan(["lb"], lb={"id": "lb-1"})
        self.assertFalse(any(path.suffix == ".rules" for path in without.files))

    def test_secret(self) -> None:
        """What the servers have to read is named."""
        given = document(lb={"id": "lb-1"})
        given["cluster"]["secret_file"] = "/etc/penncloud/secret"
        wanted = plan(given, ["lb"], BIN, CONFIG)
        self.assertEqual(wanted.readable, (CONFIG, PurePosixPath("/etc/penncloud/secret")))
        given["cluster"]["tls_dir"] = "/etc/penncloud/tls"
        wanted = plan(given, ["lb"], BIN, CONFIG)
        self.assertEqual(wanted.readable[2:], (PurePosixPath("/etc/penncloud/tls/lb-1.key"),))

    def test_incomplete(self) -> None:
        """A role that could not start is refused before anything is written."""
        self.assertIn("no section [storage]", self.refused(["storage"]))
        self.assertIn("id", self.refused(["lb"], lb={}))
        self.assertIn("postfix", self.refused(["postfix"]))
        with self.assertRaises(ConfigurationError) as caught:
            plan({"lb": {"id": "lb-1"}}, ["lb"], BIN, CONFIG)
        self.assertIn("coordinators", str(caught.exception))

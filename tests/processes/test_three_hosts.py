"""Three hosts with addresses of their own, each with what `scripts/ec2` puts onto a machine."""

from __future__ import annotations

import json
import os
import smtplib
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from penncloud.cluster.authority import Authority
from penncloud.torture.lan import Namespaces, NoNamespaces
from tests.processes.cluster import RunningCluster
from tests.processes.hosts import Host, Visitor
from tests.processes.member import Member, Unanswered
from tests.waiting import PATIENCE_S, wait_until

_MISSING = "" if find_spec("boto3") else "boto3 is missing (pip install '.[test]')"
if TYPE_CHECKING or not _MISSING:
    from scripts.ec2 import hosts, shape
    from scripts.ec2.cloud import Instance
    from scripts.ec2.steps import unwell

# All roles twice, and a third host whose voice and copies make it a majority.
_DESCRIPTION = """
name = "cloud"
region = "eu-central-1"
key_name = "admin"
domain = "example.org"

[[machines]]
roles = ["coordinator", "storage", "lb", "http", "smtp"]
count = 2

[[machines]]
roles = ["coordinator", "storage"]
count = 1
"""
_PASSWORD = "correct horse battery"


class ThreeHostsTests(SynchronousTestCase):
    timeout = 600
    skip = _MISSING or None

    def setUp(self) -> None:
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        try:
            self.lan = Namespaces()
            self.addCleanup(self.lan.remove)
            file = directory / "cluster.toml"
            file.write_text(_DESCRIPTION)
            self.description = shape.read(file)
            self.machines = shape.machines(self.description)
            self.hosts = [self.host(machine.name) for machine in self.machines]
        except NoNamespaces as error:
            raise SkipTest(str(error)) from error
        self.visitor = Visitor(self.lan)
        self.addCleanup(self.visitor.leave)
        self.deploy(directory)

    def host(self, name: str) -> Host:
        host = Host(self.lan, name)
        self.addCleanup(host.destroy)
        return host

    def deploy(self, directory: Path) -> None:
        """Certificates and configuration as `scripts/ec2` makes them; each role by twistd."""
        authority = Authority(directory / "authority", time.time)
        authority.init()
        authority.publish(directory / "issued")
        there = {
            host.name: Instance(host.name, host.name, "running", "zone", *[host.address] * 2)
            for host in self.hosts
        }
        for host, machine in zip(self.hosts, self.machines, strict=True):
            instance = there[machine.name]
            for path in hosts.certificates(authority, directory / "issued", machine, instance):
                host.write(f"{hosts.TLS}/{path.name}", path.read_bytes())
            text = hosts.configuration(
                self.description, machine, self.machines, there, "administrator"
            )
            host.write(hosts.CONFIGURATION, text.encode())
        # In any order.
        for host, machine in zip(self.hosts, self.machines, strict=True):
            for role in reversed(machine.roles):
                host.start(role, ["--config", hosts.CONFIGURATION])

    # -- what is there ---------------------------------------------------------------------------

    def unwell(self) -> str:
        """What `penncloud status`, asked on the first host, says is not well; "" if all is."""
        coordinators = ",".join(f"{host.address}:8600" for host in self.hosts)
        done = RunningCluster("unused").command(
            ["status", "--json", "--coordinators", coordinators, "--tls-dir", hosts.TLS],
            expect=None,
            inside=self.hosts[0].inside,
        )
        if done.returncode != 0:
            return done.stderr.decode()
        self.status = json.loads(done.stdout)
        return unwell(done.stdout.decode(), self.machines)

    def until_well(self) -> None:
        def said() -> str:
            return "\n".join(
                [self.unwell(), *(text for each in self.hosts for text in each.ended())]
            )

        wait_until(lambda: not self.unwell(), said, PATIENCE_S, look_s=1.0)

    def member(self, host: Host, name: str, port: int) -> Member:
        return Member(f"http://{host.address}:{port}", name)

    def mail(self, host: Host, subject: str) -> None:
        """Mail from outside to alice through a host's mail server."""
        with smtplib.SMTP(host.address, 2500, timeout=PATIENCE_S) as client:
            text = f"Subject: {subject}\r\n\r\nhello\r\n"
            client.sendmail("x@example.com", ["alice@example.org"], text)

    def eventually(self, what: str, step: Callable[..., object], *arguments: object) -> None:
        """Until `step`, done by the visitor, is answered: servers that have just gone are still asked."""
        trouble: list[str] = []

        def done() -> bool:
            try:
                self.visitor.call(step, *arguments)
            except (Unanswered, OSError, smtplib.SMTPException) as error:
                trouble.append(str(error))
                return False
            return True

        wait_until(done, lambda: f"{what}: {trouble[-1]}", PATIENCE_S, look_s=0.5)

    # -- the test --------------------------------------------------------------------------------

    def test_one_host_cut_off_and_back(self) -> None:
        """Mail, files and the board through two hosts; without one of them; and when it is back."""
        first, second, third = self.hosts
        # First what is cheap to ask.
        self.eventually("the first page", self.member(first, "", 8080).get, "/login")
        self.until_well()
        # Whoever of a host came first has its port for mail, the other waits for it.
        frontends = [node for node in self.status["nodes"] if node["role"] == "http"]
        self.assertEqual([bool(node["mail"]) for node in frontends], [True, True])
        # By the balancers' addresses, as browsers do.
        alice = self.member(first, "alice", 8080)
        bob = self.member(second, "bob", 8080)
        for member in (alice, bob):
            self.eventually("an account", member.sign_up, _PASSWORD)
        self.visitor.call(self.mail, first, "by the first")
        self.visitor.call(self.mail, second, "by the second")
        self.visitor.call(alice.upload, "photo", b"\x89" * 700_000)
        self.visitor.call(alice.say, "hello bob", os.urandom(16).hex())
        self.assertEqual(self.visitor.call(bob.board), ["hello bob"])

        for other in (first, third):
            self.lan.cut(second.name, other.name)
            self.lan.cut(other.name, second.name)
        self.eventually(
            "the board without a host", alice.say, "where are you?", os.urandom(16).hex()
        )
        self.eventually("mail without a host", self.mail, first, "while it is away")
        self.eventually("a file without a host", alice.upload, "second photo", b"\x88" * 700_000)
        self.assertEqual(self.visitor.call(alice.download, "photo"), b"\x89" * 700_000)
        self.assertIn(f"-{second.name.split('-')[-1]}", self.unwell())

        for other in (first, third):
            self.lan.mend(second.name, other.name)
            self.lan.mend(other.name, second.name)
        # At the frontend of the host that was away.
        there = self.member(second, "alice", 8081)
        self.eventually("the host that was away", there.log_in, _PASSWORD)
        self.until_well()
        self.assertEqual(self.visitor.call(there.board), ["hello bob", "where are you?"])
        self.assertEqual(self.visitor.call(there.download, "second photo"), b"\x88" * 700_000)
        self.assertEqual(
            set(self.visitor.call(there.inbox)),
            {"by the first", "by the second", "while it is away"},
        )
        self.assertEqual([text for host in self.hosts for text in host.ended()], [])

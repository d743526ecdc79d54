"""scripts/ec2 against moto's EC2 over HTTP: every step, done again, interrupted, and refused."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import tarfile
import tomllib
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from penncloud.platform.config import read_file
from penncloud.platform.errors import ConfigurationError

_MISSING = ""
if not all(map(find_spec, ("boto3", "moto"))):
    _MISSING = "boto3 and moto are missing (pip install '.[test]')"
if TYPE_CHECKING or not _MISSING:
    # What moto has as images: two of Debian's. It looks once, when it is imported.
    os.environ["MOTO_AMIS_PATH"] = str(Path(__file__).with_name("images.json"))
    import boto3
    from botocore.exceptions import ClientError
    from moto.server import ThreadedMotoServer

    from scripts.ec2 import shape
    from scripts.ec2.__main__ import main
    from scripts.ec2.cloud import Cloud, CloudRefused
    from scripts.ec2.reach import CommandFailed, archive, quoted
    from scripts.ec2.steps import Steps, unwell


@cache
def endpoint() -> str:
    """Of moto's server, which runs as long as this process."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    return f"http://127.0.0.1:{server.get_host_and_port()[1]}"


DESCRIPTION = """
name = "cloud"
region = "eu-central-1"
key_name = "admin"
ssh_from = ["203.0.113.7/32", "2001:db8::/64"]
domain = "example.org"

[[machines]]
roles = ["coordinator", "storage"]
count = 3

[[machines]]
roles = ["lb", "http", "smtp"]
count = 2
type = "t3.medium"
"""
NODES = [f"{role}-{n}" for role in ("coordinator", "storage") for n in (1, 2, 3)] + [
    f"{role}-{n}" for role in ("lb", "http", "smtp") for n in (4, 5)
]


def healthy() -> str:
    return json.dumps(
        {
            "nodes": [{"id": node, "state": "live"} for node in NODES],
            "coordinators": [{"role": "leader"}],
            "tablets": [{"state": "ok"}],
        }
    )


class FakeReach:
    """Machines that do what they are told. `statuses` are answered one after the other, the last for ever;
    `broken` names a command that fails."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.commands: list[tuple[str, str]] = []
        self.statuses = [healthy()]
        self.broken = ""

    def run(self, address: str, command: str, stdin: bytes = b"") -> str:
        self.commands.append((address, command))
        if self.broken and self.broken in command:
            raise CommandFailed(f"{address}: {command}: exit code 1")
        if " status" in command:
            return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return ""

    def put(self, address: str, files: Mapping[str, bytes]) -> None:
        self.files.setdefault(address, {}).update(files)

    def until_prepared(self, address: str) -> None:
        self.commands.append((address, "prepared?"))


class Ec2TestCase(SynchronousTestCase):
    skip = _MISSING or None

    def setUp(self) -> None:
        self.endpoint = endpoint()
        credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        patched = mock.patch.dict(os.environ, credentials)
        patched.start()
        self.addCleanup(patched.stop)
        self.ec2: Any = boto3.client("ec2", region_name="eu-central-1", endpoint_url=self.endpoint)
        with contextlib.suppress(self.ec2.exceptions.ClientError):  # An earlier test has made it.
            self.ec2.create_key_pair(KeyName="admin")
        directory = Path(self.mktemp())
        directory.mkdir()
        self.file = directory / "cluster.toml"
        self.file.write_text(DESCRIPTION)
        self.wheel = directory / "penncloud-1.0-py3-none-any.whl"
        self.wheel.write_bytes(b"a wheel")
        self.reach = FakeReach()
        self.said: list[str] = []
        self.steps = self.make_steps()
        self.addCleanup(self.steps.cloud.destroy)

    def make_steps(self) -> Steps:
        description = shape.read(self.file)
        now = [0.0]
        return Steps(
            description,
            Cloud(description, self.said.append, self.endpoint, {"Delay": 0, "MaxAttempts": 3}),
            self.reach,
            self.file.parent / "secrets",
            self.said.append,
            # Time flies, so that patience ends after a few looks.
            sleep=lambda seconds: now.__setitem__(0, now[0] + 40 * seconds),
            clock=lambda: now[0],
        )

    def machines(self) -> list[Any]:
        found = self.ec2.describe_instances()["Reservations"]
        every = [instance for each in found for instance in each["Instances"]]
        return [each for each in every if each["State"]["Name"] != "terminated"]


class LaunchTests(Ec2TestCase):
    def test_plan(self) -> None:
        """Machines over the zones, ports and the price; and nothing is made."""
        text = self.steps.plan()
        self.assertIn(
            "cloud-1: t3.small, 20 GB, eu-central-1a: coordinator 8600, storage 8700", text
        )
        self.assertIn("eu-central-1b", text)
        # 3 t3.small and 2 t3.medium for 730 h, 5 disks of 20 GB.
        expected = 3 * 0.0208 * 730 + 2 * 0.0416 * 730 + 5 * 20 * 0.08
        self.assertIn(f"about ${expected:.2f} a month (prices of", text)
        self.assertEqual(self.machines(), [])

    def test_launch(self) -> None:
        """The machines are there, over all zones, with encrypted disks and the user-data."""
        self.steps.launch()
        machines = self.machines()
        self.assertEqual(len(machines), 5)
        self.assertEqual({m["State"]["Name"] for m in machines}, {"running"})
        self.assertEqual({m["ImageId"] for m in machines}, {"ami-0debian12new"})
        self.assertEqual(len({m["Placement"]["AvailabilityZone"] for m in machines}), 3)
        attribute = self.ec2.describe_instance_attribute(
            InstanceId=machines[0]["InstanceId"], Attribute="userData"
        )
        self.assertIn("UserData", attribute)

    def test_inside_only(self) -> None:
        """The world reaches the doors alone; internal ports are open to the cluster's own group."""
        self.steps.launch()
        group = self.group()
        public, inside = set(), set()
        for rule in group["IpPermissions"]:
            if any(each["CidrIp"] == "0.0.0.0/0" for each in rule["IpRanges"]):
                public.add(rule["FromPort"])
            for pair in rule["UserIdGroupPairs"]:
                self.assertEqual(pair["GroupId"], group["GroupId"])
                inside.add(rule["FromPort"])
        self.assertEqual(public, {8080, 2500})
        self.assertLessEqual({8500, 8600, 8700, 9600, 9700}, inside)
        ssh = [rule for rule in group["IpPermissions"] if rule["FromPort"] == 22]
        self.assertEqual(
            [each["CidrIp"] for rule in ssh for each in rule["IpRanges"]], ["203.0.113.7/32"]
        )

    def group(self) -> Any:
        filters = [{"Name": "tag:penncloud-cluster", "Values": ["cloud"]}]
        (group,) = self.ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
        return group

    def test_again(self) -> None:
        """A second launch changes nothing, not even in the security group."""
        self.steps.launch()
        before = {m["InstanceId"] for m in self.machines()}
        rules = self.group()["IpPermissions"]
        self.make_steps().launch()
        self.assertEqual({m["InstanceId"] for m in self.machines()}, before)
        self.assertEqual(self.group()["IpPermissions"], rules)

    def test_interrupted(self) -> None:
        """What was cut off is completed: machines that are missing are made, stopped ones started."""
        self.steps.launch()
        first, second, *others = [m["InstanceId"] for m in self.machines()]
        self.ec2.terminate_instances(InstanceIds=[first])
        self.ec2.stop_instances(InstanceIds=[second])
        self.make_steps().launch()
        there = self.machines()
        self.assertEqual(len(there), 5)
        self.assertEqual({m["State"]["Name"] for m in there}, {"running"})
        self.assertLessEqual({second, *others}, {m["InstanceId"] for m in there})

    def test_rules_follow(self) -> None:
        """A rule that the description has no more is taken away."""
        self.steps.launch()
        self.file.write_text(self.file.read_text().replace("203.0.113.7/32", "198.51.100.1/32"))
        self.make_steps().launch()
        sources = [
            each["CidrIp"]
            for rule in self.group()["IpPermissions"]
            for each in rule["IpRanges"]
            if rule["FromPort"] == 22
        ]
        self.assertEqual(sources, ["198.51.100.1/32"])

    def test_refusals(self) -> None:
        """What EC2 refuses is an error with its words, and what cannot be found is named."""
        good = self.file.read_text()
        client = self.steps.cloud._client
        really = client.run_instances
        made: list[str] = []

        def refuse_the_third(**arguments: Any) -> Any:
            if len(made) == 2:
                raise ClientError({"Error": {"Code": "VcpuLimitExceeded", "Message": "no"}}, "Run")
            made.append(arguments["ClientToken"])
            return really(**arguments)

        refusing = mock.patch.object(client, "run_instances", refuse_the_third)
        with refusing, self.assertRaises(CloudRefused) as caught:
            self.steps.launch()
        self.assertIn("VcpuLimitExceeded", str(caught.exception))
        self.assertEqual(len(self.machines()), 2)
        self.steps.launch()
        self.assertEqual(len(self.machines()), 5)
        self.steps.cloud.destroy()
        self.file.write_text(good.replace("domain =", 'zones = ["eu-central-1z"]\ndomain ='))
        with self.assertRaises(ConfigurationError) as unknown:
            self.make_steps().launch()
        self.assertIn("eu-central-1z", str(unknown.exception))

    def test_unreachable(self) -> None:
        """Without a network it is an error, not a traceback."""
        description = shape.read(self.file)
        cloud = Cloud(description, self.said.append, "http://127.0.0.1:1")
        with (
            mock.patch.dict(os.environ, {"AWS_MAX_ATTEMPTS": "1"}),
            self.assertRaises(CloudRefused),
        ):
            cloud.instances()


class DeployTests(Ec2TestCase):
    def deploy(self) -> str:
        self.steps.launch()
        return self.steps.deploy(self.wheel, "correct horse")

    def public(self, name: str) -> str:
        return self.steps.cloud.instances()[name].public_ip

    def test_not_launched(self) -> None:
        with self.assertRaises(ConfigurationError) as caught:
            self.steps.deploy(self.wheel, "correct horse")
        self.assertIn("launch first", str(caught.exception))

    def test_configuration(self) -> None:
        """Each machine has a configuration that its roles accept, and knows all coordinators."""
        url = self.deploy()
        self.assertEqual(url, f"http://{self.public('cloud-4')}:8080/")
        privates = {name: each.private_ip for name, each in self.steps.cloud.instances().items()}
        for machine in self.steps.machines:
            text = self.reach.files[self.public(machine.name)]["/etc/penncloud/penncloud.toml"]
            path = Path(self.mktemp())
            path.write_bytes(text)
            document = read_file(str(path))
            self.assertEqual(
                document["cluster"]["coordinators"],
                [f"{privates[f'cloud-{n}']}:8600" for n in (1, 2, 3)],
            )
            for role in machine.roles:
                self.assertEqual(document[role]["id"], f"{role}-{machine.number}")
        frontend = tomllib.loads(
            self.reach.files[self.public("cloud-4")]["/etc/penncloud/penncloud.toml"].decode()
        )
        self.assertEqual(frontend["http"]["advertise"], privates["cloud-4"])
        self.assertEqual(
            frontend["http"]["trusted_proxies"], [privates["cloud-4"], privates["cloud-5"]]
        )
        self.assertIn(self.public("cloud-5"), frontend["http"]["host_names"])
        self.assertEqual(frontend["lb"]["mode"], "proxy")

    def test_certificates(self) -> None:
        """A machine has the keys of its own servers and of no others; the authority stays here."""
        self.deploy()
        files = self.reach.files[self.public("cloud-5")]
        keys = {path.rpartition("/")[2] for path in files if path.endswith(".key")}
        self.assertEqual(keys, {"lb-5.key", "http-5.key", "smtp-5.key", "agent-5.key"})
        everywhere = {path for each in self.reach.files.values() for path in each}
        self.assertFalse([path for path in everywhere if "authority" in path or "ca-1" in path])

    def test_install(self) -> None:
        """The program and the roles are installed on every machine, and started."""
        self.deploy()
        commands = [command for at, command in self.reach.commands if at == self.public("cloud-1")]
        self.assertEqual(commands[0], "prepared?")
        self.assertIn(f"bash /opt/penncloud-setup.sh /opt/{self.wheel.name}", commands)
        (install,) = [command for command in commands if " install " in command]
        self.assertIn("--role coordinator,storage,agent", install)
        self.assertIn("--now", install)

    def test_interrupted(self) -> None:
        """A deployment that failed half-way is done again with the same certificates."""
        self.steps.launch()
        self.reach.broken = "install --role lb"
        with self.assertRaises(CommandFailed):
            self.steps.deploy(self.wheel, "correct horse")
        first = dict(self.reach.files[self.public("cloud-1")])
        self.reach.broken = ""
        self.steps.deploy(self.wheel, "correct horse")
        self.assertEqual(self.reach.files[self.public("cloud-1")], first)

    def test_never_healthy(self) -> None:
        """A cluster that does not come up is an error that says what is missing."""
        self.steps.launch()
        self.reach.statuses = [
            healthy().replace('"storage-2", "state": "live"', '"storage-2", "state": "dead"')
        ]
        code, said = self.run_main(
            "deploy", "--wheel", str(self.wheel), stdin="correct horse\n", patience=True
        )
        self.assertEqual(code, 1)
        self.assertIn("storage-2", said)

    def test_upgrade(self) -> None:
        """One machine at a time: the next one only when every tablet is well again."""
        self.deploy()
        ill = healthy().replace('"ok"', '"degraded"')
        self.reach.commands.clear()
        self.reach.statuses = [healthy(), ill, ill, healthy()]
        self.steps.upgrade(self.wheel)
        kinds = [
            "install" if " install " in command else "status"
            for _, command in self.reach.commands
            if " install " in command or " status" in command
        ]
        self.assertEqual(kinds[:6], ["status", "install", "status", "status", "status", "install"])
        self.assertEqual(kinds.count("install"), 5)

    def test_upgrade_of_an_ill_cluster(self) -> None:
        """Nothing is touched while something is wrong already."""
        self.deploy()
        self.reach.commands.clear()
        self.reach.statuses = [healthy().replace('"ok"', '"unavailable"')]
        with self.assertRaises(Exception) as caught:
            self.steps.upgrade(self.wheel)
        self.assertIn("not well", str(caught.exception))
        self.assertFalse([command for _, command in self.reach.commands if " install " in command])

    def test_status(self) -> None:
        self.assertIn("cloud-1: not there", self.steps.status())
        self.deploy()
        text = self.steps.status()
        self.assertIn("cloud-5: running", text)
        self.assertIn("leader", text)

    def run_main(self, *arguments: str, stdin: str = "", patience: bool = False) -> tuple[int, str]:
        out = io.StringIO()
        more: list[Any] = [mock.patch("sys.stdin", io.StringIO(stdin))]
        if patience:
            more.append(mock.patch("scripts.ec2.steps._HEALTHY_S", 0.0))
        for each in more:
            each.start()
        try:
            with redirect_stdout(out), redirect_stderr(out):
                code = main(["--cluster", str(self.file), *arguments], self.reach, self.endpoint)
        finally:
            for each in more:
                each.stop()
        return code, out.getvalue()

    def test_commands(self) -> None:
        """From the shell: plan, launch, deploy, status, destroy, and what is refused."""
        self.assertEqual(self.run_main("plan")[0], 0)
        self.assertEqual(self.run_main("launch")[0], 0)
        code, said = self.run_main("deploy", "--wheel", str(self.wheel), stdin="correct horse\n")
        self.assertEqual(code, 0, said)
        self.assertIn("PennCloud serves at http://", said)
        self.assertEqual(self.run_main("deploy", "--wheel", str(self.wheel), stdin="short\n")[0], 2)
        self.assertEqual(self.run_main("deploy", "--wheel", str(self.file), stdin="x" * 9)[0], 2)
        self.assertEqual(self.run_main("status")[0], 0)
        self.assertEqual(self.run_main("destroy", stdin="another\n")[0], 2)
        self.assertEqual(len(self.machines()), 5)
        self.assertEqual(self.run_main("destroy", stdin="cloud\n")[0], 0)
        self.assertEqual(self.machines(), [])


class DestroyTests(Ec2TestCase):
    def test_nothing_else(self) -> None:
        """Machines and groups of others stay; done again it has nothing to do."""
        (other,) = self.ec2.run_instances(ImageId="ami-0debian12old", MinCount=1, MaxCount=1)[
            "Instances"
        ]
        self.addCleanup(self.ec2.terminate_instances, InstanceIds=[other["InstanceId"]])
        self.steps.launch()
        self.steps.destroy("cloud")
        self.assertEqual([m["InstanceId"] for m in self.machines()], [other["InstanceId"]])
        self.steps.destroy("cloud")

    def test_name(self) -> None:
        self.steps.launch()
        for name in ("", "Cloud", "other"):
            with self.assertRaises(ConfigurationError):
                self.steps.destroy(name)
        self.assertEqual(len(self.machines()), 5)


class ShapeTests(SynchronousTestCase):
    skip = _MISSING or None

    def refused(self, text: str) -> str:
        path = Path(self.mktemp())
        path.write_text(text)
        with self.assertRaises(ConfigurationError) as caught:
            shape.read(path)
        return str(caught.exception)

    def test_mistakes(self) -> None:
        """What cannot become a cluster is refused before anything is made."""
        good = DESCRIPTION
        for before, after, word in (
            ("count = 3", "count = 2", "coordinators"),
            ('["lb", "http", "smtp"]', '["http", "smtp"]', "lb"),
            ('["lb", "http", "smtp"]', '["lb", "http", "postfix"]', "roles"),
            ("203.0.113.7/32", "203.0.113.7/99", "ssh_from"),
            ('name = "cloud"', 'name = "my cloud"', "name"),
            ("count = 2", "count = 0", "count"),
            ("domain", "colour", "colour"),
            ("[[machines]]", "[[machines", ""),
        ):
            self.assertIn(word, self.refused(good.replace(before, after, 1)))

    def test_unknown_price(self) -> None:
        path = Path(self.mktemp())
        path.write_text(DESCRIPTION.replace("t3.medium", "x9.huge"))
        text = shape.plan_text(shape.read(path), [])
        self.assertIn("price unknown", text)
        self.assertIn("and the types without a price", text)

    def test_redirect(self) -> None:
        """Where balancers redirect, browsers have to reach the frontends."""
        path = Path(self.mktemp())
        path.write_text('mode = "redirect"\n' + DESCRIPTION)
        public = {
            rule.first for rule in shape.rules(shape.read(path)) if rule.source == "0.0.0.0/0"
        }
        self.assertEqual(public, {8080, 8081, 2500})

    def test_unwell(self) -> None:
        path = Path(self.mktemp())
        path.write_text(DESCRIPTION)
        machines = shape.machines(shape.read(path))
        self.assertEqual(unwell(healthy(), machines), "")
        self.assertIn("http-4", unwell(healthy().replace("http-4", "http-9"), machines))
        self.assertIn("leads", unwell(healthy().replace("leader", "follower"), machines))
        self.assertIn("nothing that can be read", unwell("oops", machines))

    def test_shell(self) -> None:
        """Commands and files reach the other side as they are; keys for root alone."""
        self.assertEqual(quoted("it's"), "'it'\\''s'")
        with tarfile.open(
            fileobj=io.BytesIO(archive({"/etc/a.key": b"k", "/etc/a.pem": b"p"}))
        ) as tar:
            modes = {entry.name: oct(entry.mode) for entry in tar}
        self.assertEqual(modes, {"etc/a.key": "0o600", "etc/a.pem": "0o644"})

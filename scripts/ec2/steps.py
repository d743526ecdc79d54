"""The steps from a description to a cluster that serves, and back; each may be done again at any time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from attrs import frozen

from penncloud.cluster.authority import Authority
from penncloud.platform.errors import ConfigurationError, PennCloudError
from scripts.ec2 import hosts, shape
from scripts.ec2.cloud import Cloud, Instance
from scripts.ec2.reach import Reach
from scripts.ec2.shape import PORTS, Description, Machine

USER_DATA: Final = Path(__file__).with_name("user-data.sh")
_SETUP: Final = "/opt/penncloud-setup.sh"
_HEALTHY_S: Final = 600.0
_PAUSE_S: Final = 3.0


class NotHealthy(PennCloudError):
    """The cluster has not come back within the bound; nothing further was done."""


@frozen
class Steps:
    """`files`: where this machine keeps the cluster's certificate authority. `sleep`, `clock`: of `time`."""

    description: Description
    cloud: Cloud
    reach: Reach
    files: Path
    say: Callable[[str], None]
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    @property
    def machines(self) -> list[Machine]:
        return shape.machines(self.description)

    def plan(self) -> str:
        return shape.plan_text(self.description, self.cloud.zones())

    def launch(self) -> None:
        """Raises CloudRefused, ConfigurationError."""
        rules = shape.rules(self.description)
        self.cloud.launch(self.machines, rules, USER_DATA.read_text("utf-8"))

    def _there(self) -> dict[str, Instance]:
        """All machines with their addresses. Raises ConfigurationError unless `launch` has been done."""
        found = self.cloud.instances()
        for machine in self.machines:
            instance = found.get(machine.name)
            if instance is None or instance.state != "running":
                state = "is not there" if instance is None else f"is {instance.state}"
                raise ConfigurationError(f"{machine.name} {state}: launch first")
            if not instance.private_ip or not instance.public_ip:
                raise ConfigurationError(f"{machine.name} has no address yet: try again")
        return found

    def deploy(self, wheel: Path, admin_password: str) -> str:
        """Bring program, certificates and configuration to every machine and start its roles, in any
        order; what to open in a browser."""
        there = self._there()
        authority = Authority(self.files / "authority", time.time)
        if not authority.exists:
            authority.init()
        issued = self.files / "issued"
        authority.publish(issued)
        for machine in self.machines:
            instance = there[machine.name]
            self.reach.until_prepared(instance.public_ip)
            text = hosts.configuration(
                self.description, machine, self.machines, there, admin_password
            )
            paths = hosts.certificates(authority, issued, machine, instance)
            files = {f"{hosts.TLS}/{path.name}": path.read_bytes() for path in paths}
            self.reach.put(instance.public_ip, {**files, hosts.CONFIGURATION: text.encode()})
            self._install(machine, instance, wheel)
        self.until_healthy()
        return hosts.address(self.machines, there)

    def _install(self, machine: Machine, instance: Instance, wheel: Path) -> None:
        target = f"/opt/{wheel.name}"
        address = instance.public_ip
        self.reach.put(address, {target: wheel.read_bytes(), _SETUP: USER_DATA.read_bytes()})
        self.reach.run(address, f"bash {_SETUP} {target}")
        roles = ",".join((*machine.roles, "agent"))
        command = f"/opt/penncloud/bin/penncloud install --role {roles}"
        self.reach.run(address, f"{command} --config {hosts.CONFIGURATION} --now")
        self.say(f"{machine.name}: {wheel.name}, {roles}")

    def upgrade(self, wheel: Path) -> None:
        """One machine after the other; each only when every tablet is well again."""
        there = self._there()
        self.until_healthy()
        for machine in self.machines:
            self._install(machine, there[machine.name], wheel)
            self.until_healthy()

    def status(self) -> str:
        """The machines, and what a coordinator says of the cluster."""
        found = self.cloud.instances()
        lines = []
        for machine in self.machines:
            instance = found.get(machine.name)
            if instance is None:
                lines.append(f"{machine.name}: not there")
            else:
                lines.append(
                    f"{machine.name}: {instance.state}, {instance.zone}, {instance.private_ip},"
                    f" {instance.public_ip or 'no public address'}"
                )
        if all(name in found for name in (machine.name for machine in self.machines)):
            lines += ["", self._penncloud("status")]
        return "\n".join(lines)

    def _penncloud(self, command: str) -> str:
        """A command on the first coordinator's machine."""
        there = self._there()
        coordinators = [each for each in self.machines if "coordinator" in each.roles]
        addresses = ",".join(
            f"{there[each.name].private_ip}:{PORTS['coordinator']}" for each in coordinators
        )
        line = f"/opt/penncloud/bin/penncloud {command} --coordinators {addresses}"
        return self.reach.run(
            there[coordinators[0].name].public_ip, f"{line} --tls-dir {hosts.TLS}"
        )

    def until_healthy(self) -> None:
        """Every server lives, a coordinator leads, every tablet is well. Raises NotHealthy."""
        deadline = self.clock() + _HEALTHY_S
        while True:
            try:
                wrong = unwell(self._penncloud("status --json"), self.machines)
            except PennCloudError as error:
                wrong = str(error)
            if not wrong:
                return
            if self.clock() >= deadline:
                raise NotHealthy(f"after {_HEALTHY_S:g} s: {wrong}")
            self.sleep(_PAUSE_S)

    def destroy(self, confirmed_name: str) -> None:
        """Raises ConfigurationError unless the cluster's name was given."""
        if confirmed_name != self.description.name:
            raise ConfigurationError(
                f"that is not the cluster's name ({self.description.name}): nothing was done"
            )
        self.cloud.destroy()


def unwell(status_json: str, machines: list[Machine]) -> str:
    """What is not well yet in the output of `penncloud status --json`; "" if everything is."""
    try:
        status = json.loads(status_json)
    except ValueError:
        return "penncloud status says nothing that can be read"
    live = {node["id"] for node in status["nodes"] if node["state"] == "live"}
    wanted = {machine.node_id(role) for machine in machines for role in machine.roles}
    if wanted - live:
        return f"not there yet: {', '.join(sorted(wanted - live))}"
    if not any(each["role"] == "leader" for each in status["coordinators"]):
        return "no coordinator leads"
    ill = [tablet for tablet in status["tablets"] if tablet["state"] != "ok"]
    if ill or not status["tablets"]:
        return f"{len(ill)} tablets are not well" if ill else "there are no tablets yet"
    return ""

"""What a cluster on EC2 consists of: read from its description, computed, priced. Pure.

name = "cloud"                     # of everything that is made; unique in the account and region
region = "eu-central-1"
key_name = "admin"                 # an EC2 key pair that exists
ssh_from = ["203.0.113.7/32"]      # who may log in to the machines
domain = "example.org"             # mail addresses are user@DOMAIN

[[machines]]                       # so many alike, over the availability zones in turn
roles = ["coordinator", "storage"]
count = 3
type = "t3.small"
disk_gb = 30

[[machines]]
roles = ["lb", "http", "smtp"]
count = 2
type = "t3.small"
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Final, Literal

import msgspec

from penncloud.cluster.topology import COORDINATOR_COUNTS, ROLES
from penncloud.platform.errors import ConfigurationError

# Where each role listens, and its metrics. Fixed: one server of a role per machine.
PORTS: Final = {"coordinator": 8600, "storage": 8700, "http": 8081, "smtp": 2500, "lb": 8080}
AGENT_PORT: Final = 8500
METRICS_OFFSET: Final = 1000
# What the world reaches, by role; everything else is for the cluster's own machines.
PUBLIC: Final = {"lb": 8080, "http": 8081, "smtp": 2500}
SSH_PORT: Final = 22

# US dollars per month (730 h, on demand, Linux), us-east-1, as listed on this date. An estimate: other
# regions, traffic and addresses cost more.
PRICES_OF: Final = "2025-01"
_HOURS: Final = 730
_HOURLY: Final = {
    "t2.micro": 0.0116,
    "t3.micro": 0.0104,
    "t3.small": 0.0208,
    "t3.medium": 0.0416,
    "t3.large": 0.0832,
    "t4g.small": 0.0168,
    "t4g.medium": 0.0336,
    "m5.large": 0.096,
    "m6i.large": 0.096,
    "c6i.large": 0.085,
    "r6i.large": 0.126,
}
_GB_MONTH: Final = 0.08  # gp3


class MachineGroup(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    roles: list[str]
    count: int
    type: str = "t3.small"
    disk_gb: int = 20


class Description(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The file. `mode` of the balancers: with "proxy" they alone are open to browsers. `image`: an AMI,
    empty for the newest Debian 12; `vpc`: empty for the default one; `zones`: empty for all of the region;
    `ssh_user`: as the image has it."""

    name: str
    region: str
    key_name: str
    machines: list[MachineGroup]
    domain: str = "penncloud"
    ssh_from: list[str] = []
    ssh_user: str = "admin"
    image: str = ""
    vpc: str = ""
    zones: list[str] = []
    replication_factor: int = 3
    mode: Literal["proxy", "redirect"] = "proxy"


class Machine(msgspec.Struct, frozen=True):
    """One instance. `number` counts over the cluster, from 1; the zone is chosen by it."""

    name: str
    number: int
    roles: list[str]
    type: str
    disk_gb: int

    def node_id(self, role: str) -> str:
        return f"{role}-{self.number}"


class Rule(msgspec.Struct, frozen=True):
    """What may come in: TCP ports, from a network or (empty) from the cluster's own machines."""

    first: int
    last: int
    source: str
    why: str


def read(path: Path) -> Description:
    """Raises ConfigurationError with what is wrong."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
        found = msgspec.convert(document, Description)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    _check(path, found)
    return found


def _check(path: Path, found: Description) -> None:
    def wrong(text: str) -> ConfigurationError:
        return ConfigurationError(f"{path}: {text}")

    if not found.name.replace("-", "").isalnum() or len(found.name) > 40:
        raise wrong("name: letters, digits and -, at most 40")
    for network in found.ssh_from:
        try:
            ip_network(network)
        except ValueError as error:
            raise wrong(f"ssh_from: {error}") from error
    for group in found.machines:
        unknown = [role for role in group.roles if role not in ROLES]
        if unknown or not group.roles or len(set(group.roles)) != len(group.roles):
            raise wrong(f"machines: roles: some of {', '.join(ROLES)}, each once")
        if not 1 <= group.count <= 100 or not 8 <= group.disk_gb <= 16_000:
            raise wrong("machines: count is 1 to 100, disk_gb 8 to 16000")
    counts = {role: sum(g.count for g in found.machines if role in g.roles) for role in ROLES}
    missing = [role for role, count in counts.items() if not count and role != "smtp"]
    if missing:
        raise wrong(f"machines: nobody is {', '.join(missing)}")
    if counts["coordinator"] not in COORDINATOR_COUNTS:
        raise wrong(f"machines: {counts['coordinator']} coordinators; they are 1, 3, 5 or 7")
    if counts["storage"] < found.replication_factor:
        raise wrong(
            f"machines: {counts['storage']} storage servers, but replication_factor"
            f" {found.replication_factor}"
        )


def machines(description: Description) -> list[Machine]:
    """All of them; the names stay the same when groups grow at their end."""
    found: list[Machine] = []
    for group in description.machines:
        for _ in range(group.count):
            number = len(found) + 1
            name = f"{description.name}-{number}"
            found.append(Machine(name, number, list(group.roles), group.type, group.disk_gb))
    return found


def rules(description: Description) -> list[Rule]:
    """The security group: the world reaches the doors, machines reach each other, some may log in."""
    roles = {role for group in description.machines for role in group.roles}
    doors = [
        Rule(port, port, "0.0.0.0/0", f"{role} for everybody")
        for role, port in PUBLIC.items()
        if role in roles and (role != "http" or description.mode == "redirect")
    ]
    internal = [AGENT_PORT, *PORTS.values(), *(port + METRICS_OFFSET for port in PORTS.values())]
    inside = [Rule(port, port, "", "between the machines") for port in sorted(set(internal))]
    logins = [Rule(SSH_PORT, SSH_PORT, network, "ssh") for network in description.ssh_from]
    return [*doors, *inside, *logins]


def monthly_price(machine: Machine) -> float | None:
    """US dollars; None for a type that the table does not have."""
    hourly = _HOURLY.get(machine.type)
    return None if hourly is None else hourly * _HOURS + machine.disk_gb * _GB_MONTH


def plan_text(description: Description, zones: Sequence[str]) -> str:
    """What `launch` would make, and about what it costs."""
    lines = [f"cluster {description.name} in {description.region}", "", "machines"]
    total, unknown = 0.0, False
    for machine in machines(description):
        price = monthly_price(machine)
        unknown = unknown or price is None
        total += price or 0.0
        shown = "price unknown" if price is None else f"${price:.2f} a month"
        ports = ", ".join(f"{role} {PORTS[role]}" for role in machine.roles)
        zone = zones[(machine.number - 1) % len(zones)] if zones else "any zone"
        lines.append(
            f"  {machine.name}: {machine.type}, {machine.disk_gb} GB, {zone}: {ports}; {shown}"
        )
    lines += ["", f"security group {description.name}"]
    for rule in rules(description):
        source = rule.source or "its own machines"
        lines.append(f"  {rule.first} from {source} ({rule.why})")
    more = " and the types without a price" if unknown else ""
    lines += [
        "",
        f"about ${total:.2f} a month{more} (prices of {PRICES_OF}, us-east-1, no traffic)",
    ]
    return "\n".join(lines)

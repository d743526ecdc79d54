"""What each machine gets: its configuration, its certificates, the roles to install. Pure but for the
certificates, which the cluster's authority on this machine makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from penncloud.cluster.authority import Authority
from penncloud.cluster.configuration import to_toml
from penncloud.platform.tls import ADMIN
from scripts.ec2.cloud import Instance
from scripts.ec2.shape import AGENT_PORT, METRICS_OFFSET, PORTS, Description, Machine

CONFIGURATION: Final = "/etc/penncloud/penncloud.toml"
TLS: Final = "/etc/penncloud/tls"
DATA: Final = "/var/lib/penncloud"


def configuration(
    description: Description,
    machine: Machine,
    wanted: Sequence[Machine],
    there: Mapping[str, Instance],
    admin_password: str,
) -> str:
    """The machine's /etc/penncloud/penncloud.toml; every machine of the cluster has to have addresses."""
    me = there[machine.name]
    agent = f"{me.private_ip}:{AGENT_PORT}"
    coordinators = [each for each in wanted if "coordinator" in each.roles]
    document: dict[str, dict[str, Any]] = {
        "cluster": {
            "coordinators": [
                f"{there[each.name].private_ip}:{PORTS['coordinator']}" for each in coordinators
            ],
            "domain": description.domain,
            "tls_dir": TLS,
            "replication_factor": description.replication_factor,
        }
    }
    balancers = [there[each.name] for each in wanted if "lb" in each.roles]
    # What browsers talk to directly is told to others by its outside address.
    outside = "http" if description.mode == "redirect" else ""
    for role in machine.roles:
        section: dict[str, Any] = {
            "id": machine.node_id(role),
            "host": "0.0.0.0",
            "advertise": me.public_ip if role == outside else me.private_ip,
            "port": PORTS[role],
            "metrics_port": PORTS[role] + METRICS_OFFSET,
            "agent": agent,
        }
        if role in ("coordinator", "storage"):
            section["data_dir"] = f"{DATA}/{role}"
        if role == "coordinator":
            section["expect_storage"] = sum("storage" in each.roles for each in wanted)
        if role == "http":
            section["lb_url"] = address(wanted, there)
            section["admin_password"] = admin_password
            section["host_names"] = [me.private_ip, *(each.public_ip for each in balancers)]
            section["trusted_proxies"] = [each.private_ip for each in balancers]
            if "smtp" in machine.roles:
                # The frontend takes mail in whenever the mail server is away.
                section["mail_config"] = CONFIGURATION
        if role == "smtp":
            section["standby"] = "http" in machine.roles
        if role == "lb":
            section["mode"] = description.mode
        document[role] = section
    document["agent"] = {
        "id": machine.node_id("agent"),
        "host": "0.0.0.0",
        "advertise": me.private_ip,
        "port": AGENT_PORT,
    }
    return to_toml(document)


def address(wanted: Sequence[Machine], there: Mapping[str, Instance]) -> str:
    """What people open: the first balancer."""
    balancer = next(each for each in wanted if "lb" in each.roles)
    return f"http://{there[balancer.name].public_ip}:{PORTS['lb']}/"


def certificates(
    authority: Authority, out: Path, machine: Machine, instance: Instance
) -> list[Path]:
    """The files that the machine needs, made where they are missing or old."""
    hosts = [address for address in (instance.private_ip, instance.public_ip) if address]
    files = [out / "ca.pem"]
    for role in (*machine.roles, "agent"):
        node_id = machine.node_id(role)
        authority.ensure(out, role, node_id, hosts)
        files += [out / f"{node_id}.pem", out / f"{node_id}.key"]
    if "coordinator" in machine.roles:
        # `penncloud status` and the like are run there.
        authority.ensure(out, ADMIN, ADMIN, [])
        files += [out / f"{ADMIN}.pem", out / f"{ADMIN}.key"]
    return files

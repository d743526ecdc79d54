"""`penncloud agent`: lets the admin console stop and start the servers that systemd runs on this host."""

from __future__ import annotations

import argparse
from typing import Any

from penncloud.cli._service import run_service
from penncloud.cluster.systemd import SYSTEMCTL, real_systemctl
from penncloud.cluster.systemd_agent import SystemdAgent
from penncloud.platform.config import Agent, Cluster, read_file, section
from penncloud.platform.tls import Credentials


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "agent",
        help="act on this host's servers where systemd runs them",
        description="Stops and starts the servers of this host through systemd, for the admin console and"
        " `penncloud node`. penncloud-agent.service runs it; `penncloud up` has an agent of its own.",
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="the host's configuration")
    parser.add_argument("--systemctl", default=SYSTEMCTL, metavar="FILE", help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    document = read_file(arguments.config)
    cluster = section(Cluster, document.get("cluster", {}), f"{arguments.config}: [cluster]")
    config = section(Agent, document.get("agent", {}), f"{arguments.config}: [agent]")
    return run_service(
        config.id,
        lambda environment: SystemdAgent(
            environment,
            document,
            cluster,
            config,
            real_systemctl(environment.reactor, arguments.systemctl),
        ),
        Credentials.at(cluster.tls_dir, config.id) if cluster.tls_dir else None,
    )

"""Which cluster a command is meant for: a local one by its data directory, any by its coordinators."""

from __future__ import annotations

import argparse

from penncloud.client.table import Unavailable
from penncloud.cluster import cluster_file
from penncloud.cluster.layout import Layout
from penncloud.platform.config import Cluster, parse_address
from penncloud.platform.tls import ADMIN, Credentials
from penncloud.rpc.endpoints import address_text

DEFAULT_DATA = "penncloud-data"


def add_data(parser: argparse.ArgumentParser) -> None:
    """`--data` alone, for commands about the processes of this machine."""
    parser.add_argument(
        "--data", default=DEFAULT_DATA, metavar="DIR", help="default: ./%(default)s"
    )


def add_target(parser: argparse.ArgumentParser) -> None:
    """`--data`, or `--coordinators` for a cluster on other machines."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--data", default=DEFAULT_DATA, metavar="DIR", help="default: ./%(default)s")
    where.add_argument("--coordinators", metavar="HOST:PORT,...", help="instead of --data")
    parser.add_argument(
        "--tls-dir",
        metavar="DIR",
        help="with --coordinators: where ca.pem, admin.pem and admin.key are",
    )
    parser.add_argument(
        "--secret-file", metavar="FILE", help="with --coordinators: the cluster's secret, if any"
    )
    parser.add_argument(
        "--timeout", type=float, default=15.0, metavar="S", help="seconds to try (default: 15)"
    )


def cluster_of(arguments: argparse.Namespace) -> Cluster:
    """How to reach the cluster. Raises ConfigurationError when the options cannot be understood, and
    Unavailable when there is no cluster where they point."""
    if arguments.coordinators:
        addresses = [part.strip() for part in arguments.coordinators.split(",") if part.strip()]
        for address in addresses:
            parse_address(address)
        return Cluster(
            coordinators=addresses,
            secret_file=arguments.secret_file or "",
            tls_dir=arguments.tls_dir or "",
        )
    layout = Layout.at(arguments.data)
    document = cluster_file.read(layout)
    if document is None:
        # A cluster may be about to start there: scripts wait for it as for one that is down.
        raise Unavailable(
            f"there is no cluster in {layout.root}; `penncloud up --data` starts one,"
            " --coordinators names one elsewhere"
        )
    return Cluster(
        coordinators=[address_text(entry.host, entry.port) for entry in document.coordinators],
        domain=document.domain,
        secret_file=str(layout.secret),
        tls_dir=str(layout.tls) if document.tls is not None else "",
    )


def credentials_of(arguments: argparse.Namespace) -> Credentials | None:
    """What an administrator's command shows the servers; None where connections are in the clear.

    Raises ConfigurationError for files that cannot be used.
    """
    if arguments.coordinators:
        found = Credentials.at(arguments.tls_dir, ADMIN) if arguments.tls_dir else None
    else:
        document = cluster_file.read(Layout.at(arguments.data))
        tls = document.tls if document is not None else None
        found = Credentials(tls.ca, tls.cert, tls.key) if tls is not None else None
    if found is not None:
        found.context()
    return found


def agents_of(arguments: argparse.Namespace) -> list[str]:
    """The agents that are known without asking a coordinator."""
    if arguments.coordinators:
        return []
    document = cluster_file.read(Layout.at(arguments.data))
    return [] if document is None else [address_text(document.agent.host, document.agent.port)]

"""The certificates of a local cluster: made by `penncloud up`, made again by the agent before they end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from penncloud.cluster.authority import Authority
from penncloud.cluster.cluster_file import ClientCertificate
from penncloud.cluster.layout import Layout
from penncloud.cluster.topology import Topology
from penncloud.lb.redirect import is_loopback
from penncloud.platform.tls import ADMIN, Credentials

AGENT: Final = "agent-1"
# Pause between looks at whether one is due: they are made again with months left.
CHECK_S: Final = 6 * 3600.0


def make_certificates(layout: Layout, topology: Topology, now: Callable[[], float]) -> int:
    """Make what is missing or will not do for long; how many were made. Raises ConfigurationError."""
    if not topology.tls:
        return 0
    authority = Authority(layout.authority, now)
    if not authority.exists:
        authority.init()
    authority.publish(layout.tls)
    hosts = list(dict.fromkeys([topology.public_host, topology.host]))
    if any(is_loopback(host) for host in hosts):
        hosts += [host for host in ("localhost", "127.0.0.1") if host not in hosts]
    wanted = [(server.role, server.id) for server in topology.servers]
    wanted += [("agent", AGENT), (ADMIN, ADMIN)]
    return sum(authority.ensure(layout.tls, role, node_id, hosts) for role, node_id in wanted)


def admin_certificate(layout: Layout, topology: Topology) -> ClientCertificate | None:
    """Where an administrator's commands find theirs; None where connections are in the clear."""
    if not topology.tls:
        return None
    found = Credentials.at(str(layout.tls), ADMIN)
    return ClientCertificate(found.ca, found.certificate, found.key)


def agent_credentials(layout: Layout, topology: Topology) -> Credentials | None:
    """What the agent itself shows; None where connections are in the clear."""
    return Credentials.at(str(layout.tls), AGENT) if topology.tls else None

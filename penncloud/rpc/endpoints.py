"""Where to connect to."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any, Final

from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint

from penncloud.platform.environment import Environment
from penncloud.platform.tls import Roles, over_tls

# Who listens for the cluster's own connections.
SERVERS: Final = frozenset(("coordinator", "storage", "agent"))


def client_endpoint(reactor: Any, host: str, port: int, timeout_s: float) -> IStreamClientEndpoint:
    """An endpoint for an IPv4 or IPv6 address or a name; names are looked up at each connect."""
    try:
        version = ip_address(host).version
    except ValueError:
        return HostnameEndpoint(reactor, host, port, timeout=timeout_s)
    kind = TCP4ClientEndpoint if version == 4 else TCP6ClientEndpoint
    return kind(reactor, host, port, timeout=timeout_s)


def internal_endpoint(
    environment: Environment, host: str, port: int, timeout_s: float, roles: Roles = SERVERS
) -> IStreamClientEndpoint:
    """An endpoint for a server of the cluster that has to have one of `roles`.

    By TLS where the environment has credentials; it then fires when the server has shown a certificate.
    """
    return secured(environment, client_endpoint(environment.reactor, host, port, timeout_s), roles)


def secured(
    environment: Environment, endpoint: IStreamClientEndpoint, roles: Roles
) -> IStreamClientEndpoint:
    """`endpoint` with TLS around it, where the environment has credentials; see `internal_endpoint`."""
    if environment.credentials is None:
        return endpoint
    return over_tls(environment.reactor, environment.credentials, roles, endpoint)


def address_text(host: str, port: int) -> str:
    """`host:port` as people and configuration write it: IPv6 addresses in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

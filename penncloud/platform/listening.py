"""Listening on a TCP port, with an error that an administrator understands."""

from __future__ import annotations

import errno
import socket
from typing import Any, cast

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import ServerFactory

from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.tls import Roles, entrance


class PortTaken(ConfigurationError):
    """Another process listens there."""


async def listen(reactor: Any, host: str, port: int, factory: Any) -> IListeningPort:
    """Listen, or raise ConfigurationError (PortTaken) with a text for the administrator."""
    kind = TCP6ServerEndpoint if ":" in host else TCP4ServerEndpoint
    try:
        endpoint = kind(reactor, port, interface=host, backlog=1024)
        listening: IListeningPort = await endpoint.listen(factory)
        return listening
    except CannotListenError as error:
        reason = getattr(error.socketError, "strerror", None) or error.socketError
        taken = getattr(error.socketError, "errno", None) == errno.EADDRINUSE
        kind_of = PortTaken if taken else ConfigurationError
        raise kind_of(f"cannot listen on {host}:{port}: {reason}") from error


class _NeverAsked(ServerFactory):
    """Of a port that accepts nothing."""

    noisy = False


async def hold_port(reactor: Any, host: str, port: int) -> IListeningPort:
    """Listen without ever accepting: connections wait for the processes that inherit the socket.

    Raises as `listen` does.
    """
    held: Any = await listen(reactor, host, port, _NeverAsked())
    held.stopReading()
    return cast(IListeningPort, held)


def descriptor_of(held: IListeningPort | None) -> int:
    """The socket of a port that is held, to be inherited."""
    return int(cast(Any, held).fileno())


def accept_from(reactor: Any, descriptor: int, factory: Any) -> IListeningPort:
    """Accept from an inherited listening socket, which is taken over: its descriptor is closed when this ends
    to listen. The socket itself stays open for the others that have it."""
    inherited = socket.socket(fileno=descriptor)
    found: IListeningPort = reactor.adoptStreamPort(descriptor, inherited.family, factory)
    # The port has a duplicate of its own.
    inherited.close()
    return found


async def listen_internal(
    environment: Environment, host: str, port: int, factory: Any, roles: Roles
) -> IListeningPort:
    """Listen for the cluster's own connections: by TLS, from holders of certificates of `roles`.

    In the clear, from anybody, where the environment has no credentials. Raises ConfigurationError.
    """
    if environment.credentials is not None:
        factory = entrance(environment.reactor, environment.credentials, roles, factory)
    return await listen(environment.reactor, host, port, factory)


def port_of(listening: IListeningPort | None) -> int:
    """The TCP port that is listened on; asking before it is there is the caller's mistake."""
    assert listening is not None
    address = listening.getHost()
    assert isinstance(address, IPv4Address | IPv6Address)
    return int(address.port)

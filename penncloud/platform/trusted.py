"""Proxies whose word on who the client is counts: by address, as the administrator has named them."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from attrs import frozen

from penncloud.platform.errors import ConfigurationError


@frozen
class Trusted:
    """Addresses and networks. Raises ConfigurationError for what is neither."""

    networks: Sequence[str] = ()

    def __attrs_post_init__(self) -> None:
        for network in self.networks:
            try:
                ip_network(network, strict=False)
            except ValueError as error:
                raise ConfigurationError(
                    f"trusted_proxies: {network!r} is no address or network"
                ) from error

    def __contains__(self, address: object) -> bool:
        try:
            found = ip_address(str(address))
        except ValueError:
            return False
        return any(found in ip_network(network, strict=False) for network in self.networks)

    def client(self, peer: str, forwarded_for: Sequence[str]) -> str:
        """Who the client is: of `X-Forwarded-For` (its addresses, in order) and the connection's own peer
        the last one that is no proxy of ours. What stands before that anybody may have written."""
        found = peer
        for address in reversed(forwarded_for):
            if found not in self:
                break
            found = address
        return found

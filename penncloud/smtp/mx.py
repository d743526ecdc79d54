"""Where mail for a domain goes (RFC 5321 section 5, RFC 7505), asked of DNS by twisted.names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any, Final, Protocol

from attrs import define, frozen
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectError
from twisted.names import cache, client, dns, hosts
from twisted.names.error import DNSNameError, DomainError, ResolverError
from twisted.names.resolve import ResolverChain

from penncloud.platform.config import parse_address
from penncloud.platform.environment import Environment
from penncloud.platform.errors import PennCloudError
from penncloud.services.mail.addresses import BadAddress, ascii_domain

# Seconds that one question waits for its answer, at the first and the following attempts.
QUERY_TIMEOUTS_S: Final = (2, 5, 8)
# Hosts of one domain that are tried, and addresses of one host.
MAX_HOSTS: Final = 10
MAX_ADDRESSES: Final = 6


class NoRoute(PennCloudError):
    """There is nowhere to send mail for the domain; `is_permanent`: and asking again will not help."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.is_permanent = status.startswith("5")


class Resolver(Protocol):
    """The questions that are asked; each answers (answers, authority, additional)."""

    def lookupMailExchange(self, name: str, timeout: Sequence[int]) -> Deferred[Any]: ...

    def lookupAddress(self, name: str, timeout: Sequence[int]) -> Deferred[Any]: ...

    def lookupIPV6Address(self, name: str, timeout: Sequence[int]) -> Deferred[Any]: ...


def make_resolver(environment: Environment, server: str) -> Resolver:
    """A resolver that asks `server` (host:port), or the system's servers if that is empty."""
    reactor = environment.reactor
    if server:
        resolver: Resolver = client.Resolver(servers=[parse_address(server)], reactor=reactor)
        return resolver
    chain: Resolver = ResolverChain(
        [
            hosts.Resolver(),
            cache.CacheResolver(reactor=reactor),
            client.Resolver(resolv="/etc/resolv.conf", reactor=reactor),
        ]
    )
    return chain


@frozen
class Exchange:
    """One MX record."""

    preference: int
    host: str


@define
class MxRouter:
    """Finds the hosts for a domain and their addresses. `hostname` is our own name: mail that would
    come back to us is not sent. `literals`: whether mail goes to domains like [192.0.2.1]."""

    _environment: Environment
    _resolver: Resolver
    _hostname: str
    _literals: bool = False

    async def hosts(self, domain: str) -> list[str]:
        """Host names or addresses in the order in which they are to be tried. Raises NoRoute."""
        if domain.startswith("["):
            if not self._literals:
                raise NoRoute("5.7.1", "Mail to address literals is not sent from here")
            return [_literal(domain)]
        try:
            name = ascii_domain(domain)
        except BadAddress as error:
            raise NoRoute("5.1.2", f"The domain {domain} is not valid") from error
        answers = await self._ask(self._resolver.lookupMailExchange, name, dns.MX)
        exchanges = [
            Exchange(answer.preference, str(answer.name).rstrip(".").lower()) for answer in answers
        ]
        if not exchanges:
            return [name]  # the implicit MX: the domain's own addresses
        if [exchange.host for exchange in exchanges] == [""]:
            raise NoRoute("5.1.10", f"{domain} does not accept mail (null MX)")
        return self._ordered([each for each in exchanges if each.host], domain)

    def _ordered(self, exchanges: list[Exchange], domain: str) -> list[str]:
        """By preference, equal ones in random order; from our own name on nobody is asked."""
        own = [each.preference for each in exchanges if each.host == self._hostname.lower()]
        if own:
            exchanges = [each for each in exchanges if each.preference < min(own)]
            if not exchanges:
                raise NoRoute("5.4.6", f"Mail for {domain} would come back to us")
        self._environment.random.shuffle(exchanges)
        exchanges.sort(key=lambda each: each.preference)
        return [each.host for each in exchanges][:MAX_HOSTS]

    async def addresses(self, host: str) -> list[str]:
        """The IP addresses of a host. Raises NoRoute when there are none."""
        try:
            return [str(ip_address(host))]
        except ValueError:
            pass
        four = await self._ask(self._resolver.lookupAddress, host, dns.A)
        found = [answer.dottedQuad() for answer in four]
        try:
            six = await self._ask(self._resolver.lookupIPV6Address, host, dns.AAAA)
        except NoRoute:
            # RFC 4074: name servers there are that fail, or deny the name, when asked for AAAA.
            if not found:
                raise
            six = []
        found += [str(ip_address(answer.address)) for answer in six]
        if not found:
            raise NoRoute("5.1.2", f"{host} has no address")
        return found[:MAX_ADDRESSES]

    async def _ask(self, question: Any, name: str, kind: int) -> list[Any]:
        """The payloads of the answers of this kind. NoRoute 5.1.2: no such name; 4.4.3: no answer."""
        try:
            answers, _, _ = await question(name, timeout=QUERY_TIMEOUTS_S)
        except DNSNameError as error:
            raise NoRoute("5.1.2", f"There is no domain {name}") from error
        except (DomainError, ResolverError, DeferredTimeout, ConnectError, OSError) as error:
            raise NoRoute("4.4.3", f"The name servers give no answer for {name}") from error
        return [answer.payload for answer in answers if answer.type == kind]


def _literal(domain: str) -> str:
    text = re.sub(r"(?i)^ipv6:", "", domain.strip("[]"))
    try:
        return str(ip_address(text))
    except ValueError as error:
        raise NoRoute("5.1.2", f"{domain} is not an address") from error

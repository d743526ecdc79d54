"""Which headers go through the balancer, and what it adds: from values only.

Hop-by-hop headers (RFC 9110 section 7.6.1) end here, in both directions. `X-Forwarded-*` and `Forwarded`
say who the client is, and anybody can write them: what comes from outside is dropped and written anew, unless
it comes from a proxy that the administrator has named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import frozen
from twisted.web.http_headers import Headers

from penncloud.platform.trusted import Trusted

_HOP_BY_HOP: Final = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_ABOUT_THE_CLIENT: Final = frozenset(
    (
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-proto",
        b"x-real-ip",
    )
)
# The body is as long as it is: whoever writes it says so.
_FRAMING: Final = frozenset((b"content-length",))
_MAX_FORWARDED: Final = 10


@frozen
class Client:
    """Where a request comes from: the address of the connection, and whether it is encrypted."""

    address: str
    is_secure: bool


def to_frontend(headers: Headers, client: Client, trusted: Trusted, request_id: str) -> Headers:
    """The headers with which a request goes on to a frontend."""
    believed = client.address in trusted
    sent = Headers()
    dropped = _ended_here(headers) | _FRAMING | {b"expect"}
    for name, values in headers.getAllRawHeaders():
        lower = name.lower()
        if lower not in dropped and lower not in _ABOUT_THE_CLIENT:
            sent.setRawHeaders(name, values)
    passed_on = headers.getRawHeaders(b"x-forwarded-for", []) if believed else []
    addresses = [each.strip() for value in passed_on for each in value.split(b",") if each.strip()]
    addresses = [*addresses[-_MAX_FORWARDED:], client.address.encode("ascii", "replace")]
    sent.setRawHeaders(b"x-forwarded-for", [b", ".join(addresses)])
    scheme = b"https" if client.is_secure else b"http"
    for name, value in (
        (b"x-forwarded-proto", scheme),
        (b"x-forwarded-host", headers.getRawHeaders(b"host", [b""])[0]),
    ):
        told = headers.getRawHeaders(name) if believed else None
        sent.setRawHeaders(name, [told[0] if told else value])
    sent.setRawHeaders(b"x-request-id", [request_id.encode("ascii")])
    return sent


def to_client(headers: Headers) -> list[tuple[bytes, Sequence[bytes]]]:
    """The headers of an answer that go on to the client."""
    dropped = _ended_here(headers)
    return [(n, v) for n, v in headers.getAllRawHeaders() if n.lower() not in dropped]


def _ended_here(headers: Headers) -> frozenset[bytes]:
    """What ends at the next hop by itself, and what `Connection` names."""
    named = {
        name.strip().lower()
        for value in headers.getRawHeaders(b"connection", [])
        for name in value.split(b",")
    }
    # Whoever names these would have them removed on their way.
    return _HOP_BY_HOP | (named - {b"host", b"cookie", b"authorization", b"x-csrf-token"})

"""Where a request is sent: the Location of a redirect, from values only.

The place is always that of a frontend which the directory named. Of what the client says only one word
is ever used: `localhost`. Cookies belong to a host name and are shared by its ports, but `localhost` and
`127.0.0.1` are two names: a browser that came to `localhost` has to stay there, or it would lose its
session each time that it returns through the balancer. Any other Host is ignored, so that a forged one
cannot lead anywhere else (open redirect, cache poisoning).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from penncloud.client.directory import NodeInfo
from penncloud.platform.errors import PennCloudError

# RFC 3986 section 3.2.2, without percent-encoding and user names: what browsers send.
_HOST = re.compile(
    rb"(?P<name>[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5})?)?"
)
_TARGET = re.compile(rb"[\x21-\x7e]*")


class BadRequest(PennCloudError):
    """The request breaks HTTP's rules; the text says which one."""


def requested_name(hosts: Sequence[bytes], http_1_1: bool) -> str:
    """The host name that the client asked for, lower case, without port; "" if it gave none.

    RFC 9112 section 3.2: a 1.1 request without a Host, with two, or with an invalid one gets 400.
    """
    if not hosts and not http_1_1:
        return ""
    if len(hosts) != 1:
        raise BadRequest("exactly one Host header is needed")
    match = _HOST.fullmatch(hosts[0].strip(b" \t"))
    if match is None:
        raise BadRequest("the Host header is not a host name")
    return match["name"].decode("ascii").lower()


def origin_form(target: bytes) -> bytes:
    """Path and query of a request's target, as they came.

    RFC 9112 section 3.2.2: a server takes the absolute form as well; its authority is ignored here.
    """
    if not _TARGET.fullmatch(target):
        raise BadRequest("the address holds characters that have to be percent-encoded")
    absolute = re.match(rb"https?://[^/?]*", target, re.IGNORECASE)
    if absolute:
        target = target[absolute.end() :]
        if not target.startswith(b"/"):
            target = b"/" + target
    if not target.startswith(b"/"):
        raise BadRequest("the address has to begin with /")
    return target


def is_loopback(host: str) -> bool:
    """Whether a host is this machine's loopback, by name or number."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def location(frontend: NodeInfo, name: str, target: bytes) -> bytes:
    """The address of `target` at a frontend, for a client that asked for the host `name`."""
    host = frontend.host
    if name == "localhost" and is_loopback(host):
        host = name
    elif ":" in host:
        host = f"[{host}]"
    return f"{frontend.scheme}://{host}:{frontend.port}".encode("ascii") + target

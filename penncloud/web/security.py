"""What keeps browsers and others in bounds: headers of every answer, hosts, origins, redirects."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from typing import Final

# script-src covers workers too; img-src data: is for the icons inside Pico's style sheet.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

# Added to every answer that does not set them itself.
SECURITY_HEADERS: Final = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    # Not "no-referrer": with that browsers send `Origin: null` when they post a form.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"cache-control", b"no-store"),
)

SAFE_METHODS: Final = frozenset({b"GET", b"HEAD", b"OPTIONS"})

_HOST: Final = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_CONTROL_TEXT: Final = re.compile(r"[\x00-\x1f\x7f]")


def has_control(value: bytes) -> bool:
    """Whether a header's value holds a control character (a tab is none here)."""
    return _CONTROL.search(value) is not None


def host_name(host: bytes) -> str | None:
    """The name in a Host header, lower case and without port; None if it is malformed."""
    match = _HOST.fullmatch(host)
    if match is None:
        return None
    return match[1].decode("ascii").lower().strip("[]").rstrip(".")


def split_host(host: bytes) -> tuple[str, str]:
    """Name and port of a Host header, the name as it stands there; ("", "") if it is malformed."""
    match = _HOST.fullmatch(host)
    if match is None:
        return "", ""
    return match[1].decode("ascii").lower(), (match[2] or b"").decode("ascii")


def is_under(name: str, domain: str) -> bool:
    """Whether a host name (lower case) is `domain` or a name under it; nothing is under ""."""
    domain = domain.lower().strip(".")
    return bool(domain) and (name == domain or name.endswith("." + domain))


class HostNames:
    """The names a frontend answers to: guards against DNS rebinding and forged links."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {"localhost", "127.0.0.1", "::1"}
        self._names.update(name.lower().strip("[]").rstrip(".") for name in names if name)

    def accepts(self, name: str, own_address: str) -> bool:
        """`own_address` is the one on which the connection came in."""
        return name in self._names or name == own_address


def same_origin(origin: bytes, host: bytes) -> bool:
    """Whether an Origin header names the very host (and port) that was asked.

    The scheme is left out: behind something that ends TLS it differs legitimately.
    """
    scheme, separator, netloc = origin.partition(b"://")
    if not separator or scheme not in (b"http", b"https"):
        return False
    return _without_default_port(netloc, scheme) == _without_default_port(host, scheme)


def _without_default_port(netloc: bytes, scheme: bytes) -> bytes:
    return netloc.lower().removesuffix(b":443" if scheme == b"https" else b":80")


def same_token(given: str, expected: str) -> bool:
    """Compare secrets in constant time."""
    return hmac.compare_digest(given.encode(), expected.encode())


def local_path(target: str, default: str = "/") -> str:
    """`target` if it is a path on this site, else `default`: no open redirect."""
    if not target.startswith("/") or target[1:2] in ("/", "\\"):
        return default
    if _CONTROL_TEXT.search(target) or "\\" in target or len(target) > 2000:
        return default
    return target

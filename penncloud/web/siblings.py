"""The other frontends at which a visitor is logged in as well: where a page can go on when its own is gone.

Cookies know host names and no ports, so a browser is logged in at every frontend of a host, and with a
`cookie_domain` at all those with names under it. A page's scripts may therefore send an upload to another
one, though it is another origin. That takes three permissions, and they are given for exactly these origins:
the page's (`connect-src`), the frontend's answer to the browser (CORS), and its own check of the origin.
Behind a proxy there is but one origin, and nothing to do.
"""

from __future__ import annotations

from collections.abc import Sequence

from penncloud.client.directory import NodeInfo
from penncloud.platform.config import Http
from penncloud.web.security import SECURITY_HEADERS, is_under, split_host


class Siblings:
    """Of the frontend with this configuration. `update` is told of all servers."""

    def __init__(self, config: Http) -> None:
        self._id = config.id
        self._host = config.public_host
        self._domain = config.cookie_domain
        self._known: Sequence[NodeInfo] = ()

    def update(self, nodes: Sequence[NodeInfo]) -> None:
        """From the directory."""
        self._known = [node for node in nodes if node.role == "http" and node.id != self._id]

    def origins(self, host: bytes) -> list[str]:
        """Where a page that was asked for at `host` (a Host header) may go on: live ones that are enabled."""
        name, _ = split_host(host)
        found = [
            self._origin(node, name)
            for node in self._known
            if node.enabled and node.state != "dead"
        ]
        return [origin for origin in found if origin]

    def knows(self, origin: bytes, host: bytes) -> bool:
        """Whether `origin` is that of another frontend, as seen from `host`, be it dead by now."""
        name, _ = split_host(host)
        text = origin.decode("ascii", "replace").lower()
        return bool(text) and any(text == self._origin(node, name) for node in self._known)

    def _origin(self, node: NodeInfo, name: str) -> str:
        """A sibling's origin for a browser that came by `name`; "" where it would not be logged in."""
        if not name:
            return ""
        if node.host != self._host:
            if not (is_under(name, self._domain) and is_under(node.host.lower(), self._domain)):
                return ""
            name = node.host.lower()
        default = 443 if node.scheme == "https" else 80
        port = "" if node.port == default else f":{node.port}"
        return f"{node.scheme}://{name}{port}"


def page_policy(origins: Sequence[str]) -> bytes:
    """The Content-Security-Policy of a page whose scripts may speak with these origins besides its own."""
    policy = dict(SECURITY_HEADERS)[b"content-security-policy"]
    wanted = " ".join(["connect-src 'self'", *origins]).encode()
    return policy.replace(b"connect-src 'self'", wanted)

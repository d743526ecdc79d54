"""The other frontends under the same host name: where a page can go on when its own frontend is gone.

Cookies know host names and no ports, so a browser is logged in at every frontend of a host. A page's scripts
may therefore send an upload to another one, whose origin differs by the port alone. That takes three
permissions, and they are given for exactly these origins: the page's (`connect-src`), the frontend's answer
to the browser (CORS), and its own check of the origin. Frontends on other hosts are other names to a browser:
there nobody would be logged in. Behind a proxy there is but one origin, and nothing to do.
"""

from __future__ import annotations

from collections.abc import Sequence

from penncloud.client.directory import NodeInfo
from penncloud.platform.config import Http
from penncloud.web.security import SECURITY_HEADERS, split_host


class Siblings:
    """Of the frontend with this configuration. `update` is told of all servers."""

    def __init__(self, config: Http) -> None:
        self._id = config.id
        self._host = config.public_host
        self._known: Sequence[NodeInfo] = ()

    def update(self, nodes: Sequence[NodeInfo]) -> None:
        """From the directory."""
        self._known = [
            node
            for node in nodes
            if node.role == "http" and node.id != self._id and node.host == self._host
        ]

    def origins(self, host: bytes) -> list[str]:
        """Where a page that was asked for at `host` (a Host header) may go on: live ones that are enabled."""
        name, _ = split_host(host)
        return [
            f"{node.scheme}://{name}:{node.port}"
            for node in self._known
            if name and node.enabled and node.state != "dead"
        ]

    def knows(self, origin: bytes, host: bytes) -> bool:
        """Whether `origin` is that of another frontend under the name in `host`, be it dead by now."""
        name, _ = split_host(host)
        text = origin.decode("ascii", "replace").lower()
        return any(
            name and text == f"{node.scheme}://{name}:{node.port}".lower() for node in self._known
        )


def page_policy(origins: Sequence[str]) -> bytes:
    """The Content-Security-Policy of a page whose scripts may speak with these origins besides its own."""
    policy = dict(SECURITY_HEADERS)[b"content-security-policy"]
    wanted = " ".join(["connect-src 'self'", *origins]).encode()
    return policy.replace(b"connect-src 'self'", wanted)

"""Certificates for tests, signed by an authority that is made for the occasion."""

from __future__ import annotations

import time
from pathlib import Path

from penncloud.cluster.authority import Authority
from penncloud.platform.tls import Credentials


class TestAuthority:
    """An authority below `directory`; what it issues is in `out`."""

    __test__ = False

    def __init__(self, directory: str) -> None:
        root = Path(directory).absolute()
        self.out = root / "tls"
        self.authority = Authority(root / "authority", time.time)
        self.authority.init()

    def issue(self, role: str, node_id: str, *hosts: str) -> Credentials:
        """A member of the cluster."""
        self.authority.issue(self.out, role, node_id, hosts)
        return Credentials.at(str(self.out), node_id)

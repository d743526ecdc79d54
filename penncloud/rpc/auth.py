"""The cluster's shared secret, and how two processes show each other that they have it.

Both sides send a fresh random nonce. The side that connected proves itself first; only then does the
other answer, so that nobody can have a listening server compute anything for him:

    proof(side) = HMAC-SHA256(secret, "penncloud rpc 1 " + side + nonce of client + nonce of server)

`side` is in the proof so that one side's proof cannot be sent back as the other's. It does not encrypt:
between hosts there is TLS (`platform.tls`), whose certificates say more than a secret that all share. The
secret is for clusters in the clear on one machine, and keeps out its other users.
"""

from __future__ import annotations

import hashlib
import hmac
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Literal

from penncloud.platform.config import Cluster, parse_address
from penncloud.platform.errors import ConfigurationError

NONCE_BYTES: Final = 32
# Less could be guessed offline from one overheard proof.
MIN_SECRET_BYTES: Final = 16

Side = Literal["client", "server"]


def proof(secret: bytes, side: Side, client_nonce: bytes, server_nonce: bytes) -> bytes:
    text = b"penncloud rpc 1 " + side.encode() + client_nonce + server_nonce
    return hmac.new(secret, text, hashlib.sha256).digest()


def proves(mac: bytes, secret: bytes, side: Side, client_nonce: bytes, server_nonce: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(mac, proof(secret, side, client_nonce, server_nonce))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host` (a name other than localhost: assume not)."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load_secret(cluster: Cluster, *hosts: str) -> bytes:
    """The secret of `cluster.secret_file`; empty when none is asked.

    `hosts` are the addresses this process listens on. Raises ConfigurationError when the file cannot be
    read or holds too little, and for connections in the clear that other machines could see.
    """
    if not cluster.tls_dir:
        for host in (*hosts, *(parse_address(text)[0] for text in cluster.coordinators)):
            if not is_loopback(host):
                raise ConfigurationError(
                    f"[cluster]: tls_dir: {host} is not a loopback address, so internal connections"
                    " have to be encrypted: name the directory with this host's certificates"
                    " (`penncloud ca` makes them)"
                )
    if not cluster.secret_file:
        return b""
    path = cluster.secret_file
    try:
        secret = Path(path).read_bytes().strip()
    except OSError as error:
        raise ConfigurationError(f"secret file {path}: cannot be read: {error.strerror}") from error
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigurationError(
            f"secret file {path}: {len(secret)} bytes; at least {MIN_SECRET_BYTES} are needed"
        )
    return secret

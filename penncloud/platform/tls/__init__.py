"""Encrypted connections: whom a certificate speaks for, reloading it, and the way in.

`names.py` says who a peer is by its certificate, `credentials.py` is what a process proves itself with
inside the cluster, `entrance.py` lets in only those who have shown a certificate. `public.py` is for the
outside: browsers and other mail servers.
"""

from penncloud.platform.tls.credentials import Credentials, Roles
from penncloud.platform.tls.entrance import entrance, over_tls, peer_of
from penncloud.platform.tls.names import ADMIN, ANY_ROLE, ROLES, PeerName, name_of, subject_of
from penncloud.platform.tls.public import AnybodysCertificate, ServerCertificate, over_https

__all__ = [
    "ADMIN",
    "ANY_ROLE",
    "ROLES",
    "AnybodysCertificate",
    "Credentials",
    "PeerName",
    "Roles",
    "ServerCertificate",
    "entrance",
    "name_of",
    "over_https",
    "over_tls",
    "peer_of",
    "subject_of",
]

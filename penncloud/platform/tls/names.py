"""Whom a certificate of the cluster speaks for: a role and an id, in its subject.

    O = PennCloud, OU = storage, CN = storage-1

The role decides what its holder may do; the id has to be the one it registers with. Addresses are not
looked at: who may stand for a server is what the certificate says, wherever it runs.
"""

from __future__ import annotations

import re
from typing import Final

from attrs import frozen
from cryptography import x509
from cryptography.x509.oid import NameOID

from penncloud.platform.errors import PennCloudError

ORGANIZATION: Final = "PennCloud"
# The servers; those who administer; those who only read metrics.
ROLES: Final = ("coordinator", "storage", "http", "smtp", "lb", "agent", "admin", "monitor")
ANY_ROLE: Final = frozenset(ROLES)
ADMIN: Final = "admin"

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


class NotOurs(PennCloudError):
    """The certificate does not say who its holder is in this cluster."""


@frozen
class PeerName:
    """Who somebody is. `role` is one of ROLES."""

    role: str
    id: str

    def __str__(self) -> str:
        return f"{self.id} ({self.role})"


def checked(role: str, node_id: str) -> PeerName:
    """Raises NotOurs for a role or id that no certificate may have."""
    if role not in ROLES:
        raise NotOurs(f"{role!r} is no role; there are {', '.join(ROLES)}")
    if not _ID.match(node_id):
        raise NotOurs(f"{node_id!r} is no id: up to 64 letters, digits and ._-")
    return PeerName(role, node_id)


def subject_of(name: PeerName) -> x509.Name:
    """The subject of a certificate for `name`."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, name.role),
            x509.NameAttribute(NameOID.COMMON_NAME, name.id),
        ]
    )


def name_of(certificate: x509.Certificate) -> PeerName:
    """Whom it speaks for. Raises NotOurs, also where a part is missing or stands there twice."""
    try:
        parts = {
            oid: [str(found.value) for found in certificate.subject.get_attributes_for_oid(oid)]
            for oid in (
                NameOID.ORGANIZATION_NAME,
                NameOID.ORGANIZATIONAL_UNIT_NAME,
                NameOID.COMMON_NAME,
            )
        }
    except ValueError as error:
        raise NotOurs(f"the subject cannot be read: {error}") from error
    organizations, roles, ids = parts.values()
    if organizations != [ORGANIZATION] or len(roles) != 1 or len(ids) != 1:
        raise NotOurs(f"{certificate.subject.rfc4514_string()} is no server of PennCloud")
    return checked(roles[0], ids[0])

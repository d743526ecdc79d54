"""What a process proves itself with inside the cluster, and by whom it believes others.

Theory of operation
    Three files: `ca`, the certificates of the authorities that are believed, one after the other (two of
    them while the authority is being replaced); `certificate` and `key`, this process's own. When they
    change they are read again (`reloading.py`).

    Both sides of a connection have to show a certificate that an authority has signed, that is valid
    now, and whose role (`names.py`) is one of those that the other side accepts there. OpenSSL asks
    during the handshake, so that nothing is read from, or written to, anybody else. Only TLS 1.3 is
    spoken, and no session is resumed: a resumed one would not be asked for its certificate again.

    Connections last, certificates and authorities do not: `refusal` tells of a peer that was let in
    earlier why it would not be now, and `entrance.py` asks it again and again.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from OpenSSL import SSL, crypto
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from zope.interface import implementer

from penncloud.platform.errors import ConfigurationError
from penncloud.platform.tls.names import NotOurs, PeerName, name_of
from penncloud.platform.tls.reloading import Reloading, ssl_reason

Roles = Collection[str]

_VERIFY: Final = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT


class Credentials(Reloading):
    """The paths of the three PEM files. The first use raises ConfigurationError when they are no good."""

    def __init__(self, ca: str, certificate: str, key: str) -> None:
        super().__init__(ca, certificate, key)
        self.ca = ca
        self.certificate = certificate
        self.key = key
        self._name: PeerName | None = None

    @classmethod
    def at(cls, directory: str, node_id: str) -> Credentials:
        """`ca.pem`, `ID.pem` and `ID.key` of a directory."""
        where = Path(directory)
        return cls(
            str(where / "ca.pem"), str(where / f"{node_id}.pem"), str(where / f"{node_id}.key")
        )

    @property
    def name(self) -> PeerName:
        """Whom our own certificate speaks for. Raises ConfigurationError."""
        self.context()
        assert self._name is not None
        return self._name

    def connecting(self, roles: Roles) -> ConnectionCreator:
        """For connections that we make; the server has to have one of `roles`."""
        return ConnectionCreator(self, frozenset(roles))

    def accepting(self, roles: Roles) -> ConnectionCreator:
        """For connections that are made to us; the client has to have one of `roles`."""
        return ConnectionCreator(self, frozenset(roles))

    def refusal(self, certificate: crypto.X509) -> str:
        """Why a certificate that was good at the handshake would be refused now: it has expired, or its
        authority is not believed any more. "" if it is still good."""
        store = self.context().get_cert_store()
        if store is None:
            return "no authority is believed"
        try:
            crypto.X509StoreContext(store, certificate).verify_certificate()
        except crypto.X509StoreContextError as error:
            number = error.errors[0]
            if number == _NOT_VALID_YET:
                # It was at the handshake, so our clock has been set back: no reason to part.
                return ""
            return _X509_ERRORS.get(number, f"its certificate: {error}")
        return ""

    def load(self) -> SSL.Context:
        """See `Reloading`."""
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_options(SSL.OP_NO_TICKET)
        context.set_verify(_VERIFY, _verify)
        path = self.ca
        try:
            context.load_verify_locations(path)
            path = self.certificate
            context.use_certificate_chain_file(path)
            own = crypto.load_certificate(crypto.FILETYPE_PEM, Path(path).read_bytes())
            name = name_of(own.to_cryptography())
            path = self.key
            context.use_privatekey_file(path)
            context.check_privatekey()
        except (SSL.Error, crypto.Error, OSError, NotOurs) as error:
            raise ConfigurationError(f"{path}: {_reason(error)}") from error
        self._name = name
        return context


@implementer(IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator)
class ConnectionCreator:
    """What Twisted asks for a new OpenSSL connection. `roles` are those that the peer may have.

    The TLS protocol gets a `verdict`, into which the outcome is written.
    """

    def __init__(self, credentials: Credentials, roles: frozenset[str]) -> None:
        self._credentials = credentials
        self._roles = roles

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        return self._connection(tlsProtocol)

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        return self._connection(tlsProtocol)

    def _connection(self, tls: Any) -> SSL.Connection:
        tls.verdict = Verdict(self._roles)
        connection = SSL.Connection(self._credentials.context(), None)
        connection.set_app_data(tls)
        return connection


class Verdict:
    """What came out of looking at a peer's certificate: its name, or why it was refused."""

    def __init__(self, roles: frozenset[str]) -> None:
        self.roles = roles
        self.name: PeerName | None = None
        self.refusal = ""


def _verify(
    connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, good: int
) -> bool:
    """OpenSSL's question for each certificate of the peer's chain; `good` is its own opinion."""
    verdict: Verdict = connection.get_app_data().verdict
    if not good:
        verdict.refusal = verdict.refusal or _X509_ERRORS.get(error, f"its certificate: {error}")
        return False
    if depth > 0:
        return True
    try:
        name = name_of(certificate.to_cryptography())
    except (NotOurs, ValueError) as refused:
        verdict.refusal = str(refused)
        return False
    if name.role not in verdict.roles:
        verdict.refusal = f"{name} is not one of {', '.join(sorted(verdict.roles))}"
        return False
    verdict.name = name
    return True


# X509_V_ERR_*, those that an administrator meets.
_NOT_VALID_YET: Final = 9
_X509_ERRORS: Final = {
    _NOT_VALID_YET: "its certificate is not valid yet (is a clock wrong?)",
    10: "its certificate has expired",
    18: "its certificate is signed by nobody",
    19: "its certificate is of another cluster's authority",
    20: "its certificate is of an authority that is not believed here",
    21: "its certificate is of an authority that is not believed here",
    26: "its certificate is not for this use",
}


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return str(error.strerror)
    if isinstance(error, NotOurs):
        return str(error)
    return ssl_reason(error)

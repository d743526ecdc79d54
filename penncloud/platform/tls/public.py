"""TLS with the outside world: a server certificate from files, and asking others for encryption.

Browsers and mail servers believe authorities of their own choice; the files come from there (certbot and
its kin, which renew them in place: `reloading.py`).
"""

from __future__ import annotations

import contextlib
from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from penncloud.platform.errors import ConfigurationError
from penncloud.platform.tls.reloading import Reloading, ssl_reason


@implementer(IOpenSSLServerConnectionCreator)
class ServerCertificate(Reloading):
    """A certificate with its chain, and its key, both PEM; TLS 1.2 or newer is spoken.

    The first use raises ConfigurationError when the files are no good.
    """

    def __init__(self, certificate: str, key: str) -> None:
        super().__init__(key, certificate)
        self._certificate = certificate
        self._key = key

    @classmethod
    def configured(cls, certificate: str, key: str, where: str) -> ServerCertificate | None:
        """None where neither is set. Raises ConfigurationError for files that are no good."""
        if not certificate and not key:
            return None
        if not certificate or not key:
            raise ConfigurationError(f"{where}: tls_cert and tls_key: both are needed, or neither")
        made = cls(certificate, key)
        made.context()
        return made

    def load(self) -> SSL.Context:
        """See `Reloading`."""
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE | SSL.OP_NO_RENEGOTIATION)
        # Tickets resume sessions without a state that the workers of a server would have to share.
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        path = self._certificate
        try:
            context.use_certificate_chain_file(path)
            path = self._key
            context.use_privatekey_file(path)
            context.check_privatekey()
        except (SSL.Error, crypto.Error) as error:
            raise ConfigurationError(f"{path}: {ssl_reason(error)}") from error
        return context

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        return SSL.Connection(self.context(), None)


def over_https(reactor: Any, certificate: ServerCertificate | None, factory: Any) -> Any:
    """A factory to listen with: `factory` behind TLS, or as it is where there is no certificate."""
    if certificate is None:
        return factory
    return TLSMemoryBIOFactory(certificate, False, factory, clock=reactor)


@implementer(IOpenSSLClientConnectionCreator)
class AnybodysCertificate:
    """For the side that connects and takes whatever certificate it is shown.

    Opportunistic encryption (RFC 7435): better than none, and no protection from somebody who stands
    between. `host` is told to the server (SNI).
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        self._context.set_verify(SSL.VERIFY_NONE)

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        # A name that DNS does not know is none that the server would look for.
        with contextlib.suppress(UnicodeError):
            connection.set_tlsext_host_name(self._host.encode("idna"))
        return connection

"""Connections from the balancer to the frontends: kept open, one request at a time on each."""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.client import HTTPConnectionPool, _HTTP11ClientFactory

from penncloud.client.directory import NodeInfo
from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.tls import over_tls
from penncloud.rpc.endpoints import client_endpoint

CONNECT_S: Final = 2.0
# A frontend closes an idle connection after a minute: we do before.
_IDLE_S: Final = 30
_KEPT_PER_FRONTEND: Final = 64


class _QuietFactory(_HTTP11ClientFactory):
    noisy = False


class Frontends:
    """Where requests are handed on to. A frontend that speaks HTTPS has to show the certificate of its role
    in the cluster; nobody can stand for one with another."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._kept = self._pool(persistent=True)
        self._fresh = self._pool(persistent=False)

    def connect(self, frontend: NodeInfo, *, fresh: bool) -> Deferred[Any]:
        """Fires with a connection for one request; errors: those of the endpoint.

        One that was kept may be closed by the frontend just when it is used, so a request that cannot be
        repeated needs a `fresh` one.
        """
        pool = self._fresh if fresh else self._kept
        key = (frontend.id, frontend.incarnation, frontend.host, frontend.port)
        connecting: Deferred[Any] = pool.getConnection(key, self.endpoint(frontend))
        return connecting

    def close(self) -> Deferred[Any]:
        """Close the connections that nobody uses."""
        closing: Deferred[Any] = self._kept.closeCachedConnections()
        return closing

    def _pool(self, *, persistent: bool) -> HTTPConnectionPool:
        pool = HTTPConnectionPool(self._environment.reactor, persistent)
        pool.maxPersistentPerHost = _KEPT_PER_FRONTEND
        pool.cachedConnectionTimeout = _IDLE_S
        # What is repeated is decided where it is known which frontends are left.
        pool.retryAutomatically = False
        pool._factory = _QuietFactory
        return pool

    def endpoint(self, frontend: NodeInfo) -> IStreamClientEndpoint:
        """Where a frontend listens. Raises ConfigurationError."""
        environment = self._environment
        endpoint = client_endpoint(environment.reactor, frontend.host, frontend.port, CONNECT_S)
        if frontend.scheme != "https":
            return endpoint
        if environment.credentials is None:
            raise ConfigurationError(
                f"{frontend.id} speaks HTTPS, and without tls_dir this balancer cannot tell that it is it"
            )
        return over_tls(environment.reactor, environment.credentials, ("http",), endpoint)

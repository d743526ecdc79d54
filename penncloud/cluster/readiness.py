"""Whether what was started really serves: every port, and a login page behind the balancer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from twisted.internet.defer import CancelledError
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.web.client import Agent, ResponseFailed, ResponseNeverReceived, readBody
from twisted.web.http_headers import Headers
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from penncloud.platform.tls import AnybodysCertificate
from penncloud.rpc.endpoints import address_text, client_endpoint

_POLL_S: Final = 0.1
_CONNECT_S: Final = 2.0
_ANSWER_S: Final = 5.0
_MAX_REDIRECTS: Final = 5
_MAX_PAGE_BYTES: Final = 1024 * 1024


def local(host: str) -> str:
    """Where a server that listens on `host` is reached from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


class _QuietFactory(Factory):
    noisy = False


async def listens(reactor: Any, host: str, port: int, given_up: Callable[[], bool]) -> bool:
    """Return True as soon as the port takes a connection, False once `given_up()`."""
    endpoint = client_endpoint(reactor, local(host), port, _CONNECT_S)
    while not given_up():
        try:
            connection: Any = await endpoint.connect(_QuietFactory.forProtocol(Protocol))
        except (ConnectError, CancelledError):
            await deferLater(reactor, _POLL_S)
        else:
            connection.transport.loseConnection()
            return True
    return False


@implementer(IPolicyForHTTPS)
class _WhateverCertificate:
    """Who looks from within the host asks whether it serves, not who it is."""

    def creatorForNetloc(self, hostname: bytes, port: int) -> AnybodysCertificate:
        return AnybodysCertificate(hostname.decode("ascii", "replace"))


async def serves_login(reactor: Any, host: str, url: str) -> bool:
    """Whether `url` leads, over its redirects, to a page with a form.

    `host` is where all of this host's servers listen: the names and addresses that others are told need
    not be reachable from here.
    """
    agent = Agent(reactor, _WhateverCertificate(), connectTimeout=_CONNECT_S)
    for _ in range(_MAX_REDIRECTS):
        parts = urlsplit(url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        here = f"{parts.scheme}://{address_text(local(host), port)}{path}"
        headers = Headers({b"host": [parts.netloc.encode()]})
        try:
            request = agent.request(b"GET", here.encode(), headers)
            response = await request.addTimeout(_ANSWER_S, reactor)
            length = response.length if isinstance(response.length, int) else 0
            if length > _MAX_PAGE_BYTES:
                return False
            body = await readBody(response).addTimeout(_ANSWER_S, reactor)
        except (
            ConnectError,
            ResponseFailed,
            ResponseNeverReceived,
            DeferredTimeout,
            CancelledError,
        ):
            return False
        where = response.headers.getRawHeaders(b"location")
        if response.code in (301, 302, 303, 307, 308) and where:
            url = urljoin(url, where[0].decode("ascii", "replace"))
            continue
        return response.code == 200 and b"<form" in body
    return False

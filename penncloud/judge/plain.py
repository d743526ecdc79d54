"""Asking a store by hand, as with netcat: one connection, one request without a request id, no retries.

The real client gives every mutation a request id, so that it is executed once. The protocol does without,
too, and what the server then promises has to be tried as well.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout

from penncloud.client.connection import Disconnected, Overloaded, Peer
from penncloud.client.router import RoutedTable
from penncloud.client.table import Conflict, Refused, Unavailable
from penncloud.platform.config import parse_address
from penncloud.platform.environment import Environment
from penncloud.wire.messages import CompareAndPut, Error, Mismatch, Ok
from penncloud.wire.requests import encode_request


async def compare_and_put(
    environment: Environment, table: RoutedTable, request: CompareAndPut, deadline_s: float
) -> None:
    """Done when it returns. Raises Conflict, Refused; Unavailable leaves the outcome open."""
    tablet = (await table.tablet_map()).find(request.row)
    if tablet is None or not tablet.primary:
        raise Unavailable("the tablet has no primary")
    peer = Peer(environment, *parse_address(tablet.primary))
    asking = Deferred.fromCoroutine(peer.request(encode_request(request)))
    asking.addTimeout(deadline_s, environment.reactor)
    try:
        reply = await asking
    except (Disconnected, Overloaded, DeferredTimeout) as error:
        raise Unavailable(str(error)) from error
    finally:
        peer.close()
    if isinstance(reply, Mismatch):
        raise Conflict(reply.version, reply.value)
    if isinstance(reply, Error):
        raise Refused(reply.code, reply.text)
    if not isinstance(reply, Ok):
        raise Unavailable(f"answered {type(reply).__name__}")

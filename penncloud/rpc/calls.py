"""What one side of a connection answers: a function per kind of message.

A message is a msgspec Struct with a tag that no other message of the same side has, e.g.
`class Register(msgspec.Struct, tag="register", frozen=True)`. Fields may be added with defaults:
unknown ones are ignored, missing ones get their default, so that versions can be mixed for a while.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, Union

import msgspec

from penncloud.platform.tls import ANY_ROLE, PeerName, Roles
from penncloud.rpc.errors import Refusal

if TYPE_CHECKING:
    from penncloud.rpc.protocol import RpcProtocol

M = TypeVar("M", bound=msgspec.Struct)

ServeCall = Callable[["RpcProtocol", Any], "Awaitable[msgspec.Struct] | msgspec.Struct"]
ServeNote = Callable[["RpcProtocol", Any], None]


class Calls:
    """The calls and notes that one side takes; filled before its first connection."""

    def __init__(self) -> None:
        self._calls: dict[type[msgspec.Struct], ServeCall] = {}
        self._notes: dict[type[msgspec.Struct], ServeNote] = {}
        self._roles: dict[type[msgspec.Struct], frozenset[str]] = {}
        self._call_decoder: msgspec.msgpack.Decoder[Any] | None = None
        self._note_decoder: msgspec.msgpack.Decoder[Any] | None = None

    def on_call(
        self,
        kind: type[M],
        serve: Callable[[RpcProtocol, M], Awaitable[msgspec.Struct] | msgspec.Struct],
        roles: Roles = ANY_ROLE,
    ) -> None:
        """Answer calls of this kind with what `serve(connection, message)` returns.

        It may be async; a `Refusal` it raises arrives at the caller as it is. A caller whose certificate
        has none of `roles` is refused (FORBIDDEN).
        """
        self._calls[kind] = serve
        self._roles[kind] = frozenset(roles)
        self._call_decoder = None

    def on_note(
        self,
        kind: type[M],
        serve: Callable[[RpcProtocol, M], None],
        roles: Roles = ANY_ROLE,
    ) -> None:
        """Give notes of this kind to `serve(connection, message)`, which must not block."""
        self._notes[kind] = serve
        self._roles[kind] = frozenset(roles)
        self._note_decoder = None

    def decode_call(
        self, body: msgspec.Raw, sender: PeerName | None = None
    ) -> tuple[ServeCall, msgspec.Struct]:
        """Raises Refusal for a message that is no call of this side, or not one of `sender`'s role.

        `sender` is None where connections are in the clear: then it may be anybody.
        """
        if not self._calls:
            raise Refusal("UNKNOWN_CALL", "this side takes no calls")
        if self._call_decoder is None:
            self._call_decoder = msgspec.msgpack.Decoder(Union[tuple(self._calls)])  # noqa: UP007
        message = _decode(self._call_decoder, body)
        self._check(type(message), sender)
        return self._calls[type(message)], message

    def decode_note(
        self, body: msgspec.Raw, sender: PeerName | None = None
    ) -> tuple[ServeNote, msgspec.Struct]:
        """Raises Refusal for a message that is no note of this side, or not one of `sender`'s role."""
        if not self._notes:
            raise Refusal("UNKNOWN_CALL", "this side takes no notes")
        if self._note_decoder is None:
            self._note_decoder = msgspec.msgpack.Decoder(Union[tuple(self._notes)])  # noqa: UP007
        message = _decode(self._note_decoder, body)
        self._check(type(message), sender)
        return self._notes[type(message)], message

    def _check(self, kind: type[msgspec.Struct], sender: PeerName | None) -> None:
        if sender is not None and sender.role not in self._roles[kind]:
            raise Refusal("FORBIDDEN", f"{kind.__name__} is not for {sender} to ask")


def _decode(decoder: msgspec.msgpack.Decoder[Any], body: msgspec.Raw) -> msgspec.Struct:
    try:
        message: msgspec.Struct = decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise Refusal("BAD_MESSAGE", str(error)) from error
    return message

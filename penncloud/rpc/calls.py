"""What one side of a connection answers: a function per kind of message.

A message is a msgspec Struct with a tag that no other message of the same side has, e.g.
`class Register(msgspec.Struct, tag="register", frozen=True)`. Fields may be added with defaults:
unknown ones are ignored, missing ones get their default, so that versions can be mixed for a while.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, Union

import msgspec

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
        self._call_decoder: msgspec.msgpack.Decoder[Any] | None = None
        self._note_decoder: msgspec.msgpack.Decoder[Any] | None = None

    def on_call(
        self,
        kind: type[M],
        serve: Callable[[RpcProtocol, M], Awaitable[msgspec.Struct] | msgspec.Struct],
    ) -> None:
        """Answer calls of this kind with what `serve(connection, message)` returns.

        It may be async; a `Refusal` it raises arrives at the caller as it is.
        """
        self._calls[kind] = serve
        self._call_decoder = None

    def on_note(self, kind: type[M], serve: Callable[[RpcProtocol, M], None]) -> None:
        """Give notes of this kind to `serve(connection, message)`, which must not block."""
        self._notes[kind] = serve
        self._note_decoder = None

    def decode_call(self, body: msgspec.Raw) -> tuple[ServeCall, msgspec.Struct]:
        """Raises Refusal for a message that is no call of this side."""
        if not self._calls:
            raise Refusal("UNKNOWN_CALL", "this side takes no calls")
        if self._call_decoder is None:
            self._call_decoder = msgspec.msgpack.Decoder(Union[tuple(self._calls)])  # noqa: UP007
        message = _decode(self._call_decoder, body)
        return self._calls[type(message)], message

    def decode_note(self, body: msgspec.Raw) -> tuple[ServeNote, msgspec.Struct]:
        """Raises Refusal for a message that is no note of this side."""
        if not self._notes:
            raise Refusal("UNKNOWN_CALL", "this side takes no notes")
        if self._note_decoder is None:
            self._note_decoder = msgspec.msgpack.Decoder(Union[tuple(self._notes)])  # noqa: UP007
        message = _decode(self._note_decoder, body)
        return self._notes[type(message)], message


def _decode(decoder: msgspec.msgpack.Decoder[Any], body: msgspec.Raw) -> msgspec.Struct:
    try:
        message: msgspec.Struct = decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise Refusal("BAD_MESSAGE", str(error)) from error
    return message

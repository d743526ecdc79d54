"""A message as it goes over the wire: CRLF line ends, leading dots doubled, the final dot. No I/O."""

from __future__ import annotations

import re

_LONE = re.compile(rb"\r(?!\n)|(?<!\r)\n")


class Stuffer:
    """Fed with a message in pieces; what it gives is right however the pieces were cut.

    A CR or LF alone becomes CRLF, as receivers refuse it and some take it for the end of a line.
    """

    def __init__(self) -> None:
        self._at_line_start = True
        self._held = b""  # a CR whose LF may come with the next piece

    def feed(self, data: bytes) -> bytes:
        """The bytes to send for this piece."""
        data = self._held + data
        self._held = b"\r" if data.endswith(b"\r") else b""
        return self._stuffed(data[: len(data) - len(self._held)])

    def finish(self) -> bytes:
        """The bytes that end the message."""
        rest = self._stuffed(self._held)
        self._held = b""
        return rest + (b".\r\n" if self._at_line_start else b"\r\n.\r\n")

    def _stuffed(self, data: bytes) -> bytes:
        if not data:
            return b""
        if data.count(b"\r\n") != data.count(b"\r") or data.count(b"\r\n") != data.count(b"\n"):
            data = _LONE.sub(b"\r\n", data)
        starts_with_dot = self._at_line_start and data[:1] == b"."
        self._at_line_start = data.endswith(b"\n")
        data = data.replace(b"\r\n.", b"\r\n..")
        return b"." + data if starts_with_dot else data

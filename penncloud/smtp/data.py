"""What follows DATA: found to its end, unstuffed, checked (RFC 5321 4.1.1.4, 4.5.2). No I/O.

Only CRLF.CRLF ends a message. Everything that other servers might take for a line end (a bare CR or LF)
makes the message invalid, but never its end: so no part of it can be smuggled in as another message.
"""

from __future__ import annotations

# Bytes of one line without its CRLF. RFC 5321 4.5.3.1.6 asks for 998; real mail has longer ones.
MAX_LINE_BYTES = 16_384


class DataReader:
    """Fed with bytes as they come; gives complete lines, each with its CRLF.

    `has_bare_newline` and `has_long_line` say what was wrong so far; what comes after that is still
    read to its end, but its content does not matter any more.
    """

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self.has_bare_newline = False
        self.has_long_line = False
        self._max_line_bytes = max_line_bytes
        self._held = b""
        self._at_line_start = True

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """(content lines, None), or at the end of the message (content lines, what came behind it)."""
        buffer = self._held + data
        rest: bytes | None = None
        if self._at_line_start and buffer.startswith(b".\r\n"):
            cut, rest = 0, buffer[3:]
        else:
            end = buffer.find(b"\r\n.\r\n")
            if end >= 0:
                cut, rest = end + 2, buffer[end + 5 :]
            else:
                cut = buffer.rfind(b"\r\n") + 2 if b"\r\n" in buffer else 0
        block = buffer[:cut]
        self._held = b"" if rest is not None else buffer[cut:]
        content = self._checked(block)
        if len(self._held.removesuffix(b"\r")) > self._max_line_bytes:
            self._drop_held()
        return content, rest

    def _checked(self, block: bytes) -> bytes:
        if not block:
            return b""
        ends = block.count(b"\r\n")
        if block.count(b"\r") != ends or block.count(b"\n") != ends:
            self.has_bare_newline = True
        if len(block) > self._max_line_bytes and any(
            len(line) > self._max_line_bytes for line in block.split(b"\r\n")
        ):
            self.has_long_line = True
        if self._at_line_start and block[:1] == b".":
            block = block[1:]
        self._at_line_start = True
        return block.replace(b"\r\n.", b"\r\n")

    def _drop_held(self) -> None:
        """Forget a line that is too long already, except a CR that may begin its end."""
        self.has_long_line = True
        last = self._held[-1:]
        if b"\n" in self._held or b"\r" in self._held[:-1]:
            self.has_bare_newline = True
        self._held = last if last == b"\r" else b""
        self._at_line_start = False

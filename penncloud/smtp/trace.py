"""The header section of an incoming message on its way through: trace added, loops seen. No I/O."""

from __future__ import annotations

import re

# More Received fields than this is a loop (RFC 5321 6.3).
MAX_RECEIVED = 100
# Bytes of a header section; it is held in memory.
MAX_HEADER_BYTES = 256 * 1024

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")
_MESSAGE_ID = re.compile(rb"[ \t]*(<[^<>\s]+>)")


class TraceHeaders:
    """Fed with complete lines; gives what is to be stored.

    Our `received` field goes on top. Return-Path fields are dropped (ours is the envelope's sender,
    which the mailbox keeps), and Authentication-Results that claim our name, as nobody else may speak in
    it (RFC 8601 5). Where the lines do not begin with a header, an empty line is put before them.
    """

    def __init__(self, received: bytes, hostname: str) -> None:
        self.is_loop = False
        self.is_too_large = False
        self.message_id = b""
        self._received = received
        self._hostname = hostname.lower().encode()
        self._kept: list[bytes] = []
        self._field: list[bytes] = []
        self._count = 0
        self._bytes = 0
        self._done = False

    def feed(self, lines: bytes) -> bytes:
        """Lines with their CRLF in, what to store out; empty while the header section lasts."""
        if self._done:
            return lines
        at = 0
        while at < len(lines):
            end = lines.find(b"\r\n", at) + 2
            line = lines[at:end]
            if line == b"\r\n":
                return self._finish() + lines[at:]
            is_continuation = line[:1] in (b" ", b"\t") and bool(self._field)
            if not is_continuation and not _FIELD.match(line):
                return self._finish() + b"\r\n" + lines[at:]
            if not is_continuation:
                self._close_field()
            self._field.append(line)
            self._bytes += len(line)
            if self._bytes > MAX_HEADER_BYTES:
                self.is_too_large = True
                self._field.clear()
                self._kept.clear()
                self._done = True
                return b""
            at = end
        return b""

    def finish(self) -> bytes:
        """The end of the message: what is still held, with an empty line if there was none."""
        return b"" if self._done else self._finish() + b"\r\n"

    def _finish(self) -> bytes:
        self._close_field()
        self._done = True
        return self._received + b"".join(self._kept)

    def _close_field(self) -> None:
        if not self._field:
            return
        field = b"".join(self._field)
        self._field.clear()
        name, _, value = field.partition(b":")
        match name.strip().lower():
            case b"return-path":
                return
            case b"authentication-results":
                claimed = value.strip().split(b";")[0].strip().lower()
                if claimed.split()[:1] == [self._hostname]:
                    return
            case b"received":
                self._count += 1
                self.is_loop = self.is_loop or self._count >= MAX_RECEIVED
            case b"message-id" if not self.message_id:
                found = _MESSAGE_ID.match(value.replace(b"\r\n", b""))
                self.message_id = found.group(1) if found else b""
        self._kept.append(field)

"""Cutting a byte stream into lines and counted values, whatever pieces it arrives in.

Theory of operation
    A grammar is a generator that runs for the life of the connection: it `yield`s whenever it needs
    more bytes than have arrived and is resumed when they are there. It so never parses anything
    twice, and reads like the protocol's description. What it understood it puts in `output`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Generic, TypeVar

from penncloud.wire.limits import MAX_HEADER_BYTES

_T = TypeVar("_T")

Steps = Generator[None, None, _T]


class FramingLost(Exception):
    """Nobody can tell where the next message begins."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


class StreamDecoder(Generic[_T]):
    """Feed bytes, get messages. Subclasses write `_grammar` (which never returns)."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._start = 0
        self._need = 1
        self._output: list[_T] = []
        self._lost = False
        # The grammar has nothing of the next message: it may be looked at by other means first.
        self._between = False
        self._running: Steps[Any] = self._grammar()
        next(self._running)

    def feed(self, data: bytes) -> list[_T]:
        """The messages that `data` completes, in order. After a fatal one: nothing, ever."""
        if self._lost:
            return []
        if self._between:
            taken = self._shortcut(data)
            if taken:
                data = data[taken:]
        if data:
            self._feed(data)
        output, self._output = self._output, []
        return output

    def _feed(self, data: bytes) -> None:
        """Let the grammar go on."""
        self._buffer += data
        if len(self._buffer) - self._start >= self._need:
            try:
                self._running.send(None)
            except FramingLost as error:
                self._lost = True
                self._buffer.clear()
                self._start = 0
                self._output.append(self._fatal(error))
            else:
                del self._buffer[: self._start]
                self._start = 0

    @property
    def buffered_bytes(self) -> int:
        """Bytes of an incomplete message held back."""
        return len(self._buffer) - self._start

    def _grammar(self) -> Steps[Any]:
        raise NotImplementedError

    def _shortcut(self, data: bytes) -> int:
        """Decode whole messages at the beginning of `data` without the grammar; return where they end."""
        return 0

    def _fatal(self, error: FramingLost) -> _T:
        raise NotImplementedError

    # -- for grammars ----------------------------------------------------------------------------

    def _more(self, size: int) -> Steps[None]:
        """Wait until `size` bytes are there."""
        while len(self._buffer) - self._start < size:
            self._need = size
            yield
        self._need = 1

    def _header(self, fields: int) -> Steps[tuple[list[bytes], bool]]:
        """The next fields, up to the `fields`-th `;` or the end of the line.

        Returns them and whether the line has ended. `fields` 0 takes the whole line.
        """
        scanned = 0
        while True:
            buffer, start = self._buffer, self._start
            end = buffer.find(b"\r\n", start + max(scanned - 1, 0), start + MAX_HEADER_BYTES + 2)
            limit = end if end >= 0 else len(buffer)
            if fields:
                head = bytes(buffer[start : min(limit, start + MAX_HEADER_BYTES)])
                parts = head.split(b";", fields)
                if len(parts) > fields:
                    self._start = start + len(head) - len(parts[fields])
                    return parts[:fields], False
            if end >= 0:
                line = bytes(buffer[start:end])
                self._start = end + 2
                return line.split(b";"), True
            # One byte more than a line may have: it could be the first of its line end.
            if len(buffer) - start > MAX_HEADER_BYTES + 1:
                raise FramingLost("LINE", f"a line is longer than {MAX_HEADER_BYTES} bytes")
            scanned = len(buffer) - start
            yield from self._more(scanned + 1)

    def _take(self, size: int) -> Steps[bytes]:
        """Exactly `size` bytes."""
        yield from self._more(size)
        value = bytes(self._buffer[self._start : self._start + size])
        self._start += size
        return value

    def _discard(self, size: int) -> Steps[None]:
        """Throw `size` bytes away without holding them."""
        while size > 0:
            held = min(size, len(self._buffer) - self._start)
            self._start += held
            size -= held
            if size:
                del self._buffer[: self._start]
                self._start = 0
                self._need = 1
                yield

    def _separator(self, expected: bytes) -> Steps[None]:
        found = yield from self._take(len(expected))
        if found != expected:
            raise FramingLost("FRAMING", "a value is not followed by what the line promised")

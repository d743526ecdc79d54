"""The body of a request as it arrives, with back-pressure to the client.

A streamed route reads the body piece by piece: `async for piece in request.body`. What has arrived and
was not read yet is bounded: above `HIGH_WATER` the connection is not read until it has been.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

from twisted.internet.defer import Deferred

from penncloud.platform.errors import PennCloudError

# Bytes that wait in memory before the connection is paused. One read of the socket (64 KiB) may come
# on top.
HIGH_WATER: Final = 256 * 1024


class ClientGone(PennCloudError):
    """The client closed the connection before everything was received or sent."""


class BodyTooLarge(PennCloudError):
    """The body is larger than this route takes."""


class Body:
    """Iterate over it once, from one place. `length` is what the client announced, if it did."""

    def __init__(
        self, length: int | None, limit: int, pause: Callable[[], None], resume: Callable[[], None]
    ) -> None:
        self.length = length
        self._limit = limit
        self._pause = pause
        self._resume = resume
        self._pieces: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._received_bytes = 0
        self._paused = False
        self._ended = False
        self._discarding = False
        self._error: PennCloudError | None = None
        self._reader: Deferred[None] | None = None
        # Called once, when somebody first waits for the body: time for "100 Continue".
        self.on_first_read: Callable[[], None] | None = None

    async def read(self) -> bytes:
        """The next piece, b"" at the end. Raises ClientGone, BodyTooLarge."""
        if self.on_first_read is not None:
            first, self.on_first_read = self.on_first_read, None
            first()
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._ended:
                return b""
            self._reader = Deferred()
            await self._reader
        piece = self._pieces.popleft()
        self._waiting_bytes -= len(piece)
        if self._paused and self._waiting_bytes <= HIGH_WATER // 2:
            self._paused = False
            self._resume()
        return piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self.read():
            yield piece

    def received(self, data: bytes) -> None:
        """From the connection: some more of the body."""
        self._received_bytes += len(data)
        if self._discarding or self._error is not None or not data:
            return
        if self._received_bytes > self._limit:
            self._fail(BodyTooLarge(f"at most {self._limit} bytes are accepted"))
            return
        self._pieces.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes > HIGH_WATER and not self._paused:
            self._paused = True
            self._pause()
        self._wake()

    def ended(self) -> None:
        """From the connection: the body is complete."""
        self._ended = True
        self._wake()

    def lost(self) -> None:
        """From the connection: it is gone."""
        if not self._ended:
            self._fail(ClientGone("the client closed the connection"))

    def discard(self) -> None:
        """Nobody reads the rest: let it come and throw it away."""
        self._discarding = True
        self._pieces.clear()
        self._waiting_bytes = 0
        if self._paused:
            self._paused = False
            self._resume()

    @property
    def received_bytes(self) -> int:
        return self._received_bytes

    def _fail(self, error: PennCloudError) -> None:
        self._pieces.clear()
        self._waiting_bytes = 0
        self._error = error
        if self._paused:
            self._paused = False
            self._resume()
        self._wake()

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.callback(None)

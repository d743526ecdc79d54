"""One connection to each kind of server: sends a request, says when its reply is complete."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any, Final, Protocol

# Called with whether the reply was a success.
Done = Callable[[bool], None]


class Wire(Protocol):
    """A connection with at most one request under way."""

    def get(self, key: bytes, done: Done) -> None: ...

    def put(self, key: bytes, value: bytes, done: Done) -> None: ...


class _Connection(asyncio.Protocol):
    """What all have in common: bytes out, bytes in, one waiting `done`."""

    def __init__(self) -> None:
        self._done: Done | None = None
        self._buffer = bytearray()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(False)

    def _send(self, data: bytes, done: Done) -> None:
        if self.transport is None or self.transport.is_closing():
            asyncio.get_running_loop().call_later(0.005, done, False)
            return
        self._done = done
        self.transport.write(data)

    def _finish(self, ok: bool) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(ok)


class PennCloudWire(_Connection):
    """The text protocol; a mutation carries a request id."""

    _names = 0

    def __init__(self) -> None:
        super().__init__()
        PennCloudWire._names += 1
        self._name = b"bench%d" % PennCloudWire._names
        self._sequence = 0

    def name(self, prefix: bytes) -> None:
        """Let the request ids be those of nobody else."""
        self._name = prefix + self._name

    def get(self, key: bytes, done: Done) -> None:
        self._send(b"GET;%b;v\r\n" % key, done)

    def put(self, key: bytes, value: bytes, done: Done) -> None:
        self._sequence += 1
        header = b"RQID;%b;%d\r\nPUTV;%b;v;%d;" % (self._name, self._sequence, key, len(value))
        self._send(b"%b%b\r\n" % (header, value), done)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._buffer.startswith(b"+VAL;"):
            parts = bytes(self._buffer[:64]).split(b";", 3)
            if len(parts) < 4:
                return
            whole = sum(map(len, parts[:3])) + 3 + int(parts[2]) + 2
            if len(self._buffer) < whole:
                return
        elif not self._buffer.endswith(b"\r\n"):
            return
        ok = self._buffer[:1] == b"+"
        self._buffer.clear()
        self._finish(ok)


class RedisWire(_Connection):
    """RESP. A write is a SET and a WAIT for one replica in one go, done when both are answered."""

    def __init__(self) -> None:
        super().__init__()
        self._awaited = 0

    def get(self, key: bytes, done: Done) -> None:
        self._awaited = 1
        self._send(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key), done)

    def put(self, key: bytes, value: bytes, done: Done) -> None:
        self._awaited = 2
        request = b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$1\r\n0\r\n"
        self._send(request % (len(key), key, len(value), value), done)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        buffer = self._buffer
        if buffer.startswith(b"$"):
            end = buffer.find(b"\r\n")
            if end < 0:
                return
            size = int(buffer[1:end])
            if size >= 0 and len(buffer) < end + 2 + size + 2:
                return
            ok = size >= 0
        else:
            if buffer.count(b"\r\n") < self._awaited:
                return
            # SET's OK, and at least one replica.
            ok = buffer.startswith(b"+OK\r\n:") and not buffer.startswith(b"+OK\r\n:0")
        buffer.clear()
        self._finish(ok)


# -- etcd: gRPC on HTTP/2 ------------------------------------------------------------------------

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_LARGEST_WINDOW: Final = 2**31 - 1
_FRAME_BYTES: Final = 16_384


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    length = len(payload).to_bytes(3, "big")
    return b"%b%b%b" % (length, struct.pack(">BBI", kind, flags, stream), payload)


def _text(value: bytes) -> bytes:
    """A string of HPACK, as it is; shorter than 127 bytes."""
    return bytes((len(value),)) + value


def _request_headers(path: bytes) -> bytes:
    """Header fields that refer to the static table only: the same bytes for every request."""
    fields = b"\x83\x86\x04" + _text(path) + b"\x01" + _text(b"bench")
    fields += b"\x0f\x10" + _text(b"application/grpc")
    return fields + b"\x00" + _text(b"te") + _text(b"trailers")


_PUT: Final = _request_headers(b"/etcdserverpb.KV/Put")
_RANGE: Final = _request_headers(b"/etcdserverpb.KV/Range")


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(number: int, value: bytes) -> bytes:
    return b"%c%b%b" % (number << 3 | 2, _varint(len(value)), value)


class EtcdWire(_Connection):
    """gRPC: a request is HEADERS and DATA, its reply is good when it has data and no error."""

    def __init__(self) -> None:
        super().__init__()
        self._stream = -1
        self._got = 0
        self._reads = False
        # How much the server lets us send: in all, and of a new stream; and what has to wait for more.
        self._window = self._first_window = 65_535
        self._stream_window = 0
        self._rest = b""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        settings = struct.pack(">HI", 4, _LARGEST_WINDOW)
        more = struct.pack(">I", _LARGEST_WINDOW - 65_535)
        transport.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, 0, 0, settings)
            + _frame(_WINDOW, 0, 0, more)
        )

    def get(self, key: bytes, done: Done) -> None:
        self._reads = True
        self._ask(_RANGE, _field(1, key), done)

    def put(self, key: bytes, value: bytes, done: Done) -> None:
        self._reads = False
        self._ask(_PUT, _field(1, key) + _field(2, value), done)

    def _ask(self, headers: bytes, message: bytes, done: Done) -> None:
        self._stream += 2
        self._got = 0
        self._stream_window = self._first_window
        self._rest = struct.pack(">BI", 0, len(message)) + message
        self._send(_frame(_HEADERS, _END_HEADERS, self._stream, headers) + self._data(), done)

    def _data(self) -> bytes:
        """Frames of as much of the rest as may be sent now."""
        out = b""
        while self._rest:
            size = min(len(self._rest), _FRAME_BYTES, self._window, self._stream_window)
            if size <= 0:
                break
            part, self._rest = self._rest[:size], self._rest[size:]
            self._window -= size
            self._stream_window -= size
            out += _frame(_DATA, 0 if self._rest else _END_STREAM, self._stream, part)
        return out

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= 9:
            length = int.from_bytes(buffer[start : start + 3], "big")
            if len(buffer) - start < 9 + length:
                break
            kind, flags, stream = struct.unpack_from(">BBI", buffer, start + 3)
            payload = bytes(buffer[start + 9 : start + 9 + length])
            start += 9 + length
            self._take(kind, flags, stream, payload)
        del buffer[:start]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self._got += len(payload)
        elif kind == _SETTINGS and not flags & _ACK:
            for at in range(0, len(payload), 6):
                name, value = struct.unpack_from(">HI", payload, at)
                if name == 4:
                    self._first_window = value
            self.transport.write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self.transport.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW:
            more = struct.unpack(">I", payload)[0]
            if stream == 0:
                self._window += more
            elif stream == self._stream:
                self._stream_window += more
            if self._rest:
                self.transport.write(self._data())
        elif kind in (_RESET, _GOAWAY):
            self._finish(False)
        if kind in (_DATA, _HEADERS) and flags & _END_STREAM and stream == self._stream:
            # A range that found something is longer than its head of about 40 bytes.
            self._finish(self._got > (64 if self._reads else 5))

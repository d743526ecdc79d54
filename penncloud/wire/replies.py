"""Replies: their encoding, and the decoder that a client feeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penncloud.wire.limits import MAX_SCAN_CELLS, MAX_TEXT_BYTES, MAX_VALUE_BYTES
from penncloud.wire.messages import (
    At,
    Busy,
    CellLine,
    Cells,
    Changed,
    Error,
    Malformed,
    Mismatch,
    Missing,
    Moved,
    Ok,
    Reply,
    TabletLine,
    Tablets,
    Unknown,
    Value,
)
from penncloud.wire.names import number, quote, unquote
from penncloud.wire.plain import take_replies
from penncloud.wire.stream import FramingLost, Steps, StreamDecoder

# Tablets of one cluster that a client accepts: a bound on what a broken coordinator can send.
_MAX_TABLETS = 1_000_000

# -- encoding ------------------------------------------------------------------------------------


def encode_reply(reply: Reply) -> bytes:
    """The bytes of one reply, with its line end."""
    return _ENCODERS[type(reply)](reply)


def _encode_mismatch(r: Mismatch) -> bytes:
    if r.value is None:
        return b"-MISMATCH;0;-1;\r\n"
    return b"-MISMATCH;%d;%d;%b\r\n" % (r.version, len(r.value), r.value)


def _encode_cells(r: Cells) -> bytes:
    lines = [b"+CELLS;%d;%d\r\n" % (len(r.cells), r.more)]
    for cell in r.cells:
        names = quote(cell.row), quote(cell.col)
        sizes = cell.version, cell.size, len(cell.value)
        lines.append(b"%b;%b;%d;%d;%d;%b\r\n" % (*names, *sizes, cell.value))
    return b"".join(lines)


def _encode_tablets(r: Tablets) -> bytes:
    lines = [b"+MAP;%d;%d\r\n" % (r.version, len(r.tablets))]
    for t in r.tablets:
        lines.append(b"%d;%d;%d;%d;%b\r\n" % (t.tablet, t.lo, t.hi, t.epoch, t.address.encode()))
    return b"".join(lines)


def _text(text: str) -> bytes:
    """Words for people, kept to one line of bounded length."""
    line = text[:MAX_TEXT_BYTES].encode("ascii", "replace")
    return line.replace(b"\r", b" ").replace(b"\n", b" ")


_ENCODERS: dict[type[Any], Callable[[Any], bytes]] = {
    Ok: lambda r: (b"+OK;%d;local\r\n" if r.local else b"+OK;%d\r\n") % r.version,
    Value: lambda r: b"+VAL;%d;%d;%b\r\n" % (r.version, len(r.value), r.value),
    Missing: lambda r: b"-MISSING\r\n",  # noqa: ARG005 (all encoders are called alike)
    Mismatch: _encode_mismatch,
    Moved: lambda r: b"-MOVED;%b;%d\r\n" % (r.address.encode(), r.epoch),
    Busy: lambda r: b"-BUSY;%d\r\n" % r.retry_ms,
    Unknown: lambda r: b"-UNKNOWN\r\n",  # noqa: ARG005
    Error: lambda r: b"-ERR;%b;%b\r\n" % (r.code.encode(), _text(r.text)),
    Cells: _encode_cells,
    At: lambda r: b"+AT;%d;%d;%b\r\n" % (r.tablet, r.epoch, r.address.encode()),
    Tablets: _encode_tablets,
    Changed: lambda r: b"!CHANGED;%b;%d\r\n" % (quote(r.row), r.version),
}

# -- decoding ------------------------------------------------------------------------------------

_LINES: dict[bytes, tuple[int, Callable[[list[bytes]], Reply]]] = {
    b"-MISSING": (0, lambda f: Missing()),  # noqa: ARG005
    b"-MOVED": (2, lambda f: Moved(f[0].decode("ascii"), number(f[1]))),
    b"-BUSY": (1, lambda f: Busy(number(f[0]))),
    b"-UNKNOWN": (0, lambda f: Unknown()),  # noqa: ARG005
    b"+AT": (3, lambda f: At(number(f[0]), number(f[1]), f[2].decode("ascii"))),
    b"!CHANGED": (2, lambda f: Changed(unquote(f[0]), number(f[1]))),
}


class ReplyDecoder(StreamDecoder[Reply | Malformed]):
    """What arrives at a client, as replies. Anything wrong is fatal: the server is broken."""

    def _fatal(self, error: FramingLost) -> Malformed:
        return Malformed(error.code, error.text, fatal=True)

    def _shortcut(self, data: bytes) -> int:
        return take_replies(data, self._output)

    def _grammar(self) -> Steps[None]:
        while True:
            if len(self._buffer) == self._start:
                self._between = True
                yield
                self._between = False
            try:
                reply = yield from self._reply()
            except ValueError as error:
                raise FramingLost("FORMAT", str(error)) from error
            self._output.append(reply)

    def _reply(self) -> Steps[Reply]:
        (kind,), ended = yield from self._header(1)
        if kind == b"+VAL" and not ended:
            (version, size), _ = yield from self._fields(2)
            return Value(number(version), (yield from self._counted(size)))
        if kind == b"-MISMATCH" and not ended:
            (version, size), _ = yield from self._fields(2)
            if size == b"-1":
                yield from self._separator(b"\r\n")
                return Mismatch(0, None)
            return Mismatch(number(version), (yield from self._counted(size)))
        if kind == b"-ERR" and not ended:
            (code,), ended = yield from self._header(1)
            rest = [] if ended else (yield from self._header(0))[0]
            return Error(code.decode("ascii"), b";".join(rest).decode("ascii"))
        if kind == b"+CELLS" and not ended:
            return (yield from self._cells())
        if kind == b"+MAP" and not ended:
            return (yield from self._tablets())
        fields = [] if ended else (yield from self._header(0))[0]
        if kind == b"+OK" and (len(fields) == 1 or fields[1:] == [b"local"]):
            return Ok(number(fields[0]), len(fields) == 2)
        if kind not in _LINES or _LINES[kind][0] != len(fields):
            raise FramingLost("FORMAT", f"not a reply: {kind[:40]!r}")
        return _LINES[kind][1](fields)

    def _fields(self, count: int) -> Steps[tuple[list[bytes], bool]]:
        fields, ended = yield from self._header(count)
        if ended:
            raise FramingLost("FORMAT", "a reply ends too early")
        return fields, ended

    def _counted(self, size: bytes) -> Steps[bytes]:
        length = number(size)
        if length > MAX_VALUE_BYTES:
            raise FramingLost("SIZE", "a value is larger than any may be")
        value = yield from self._take(length)
        yield from self._separator(b"\r\n")
        return value

    def _cells(self) -> Steps[Cells]:
        (count_text, more), _ = yield from self._header(0)
        count = number(count_text)
        if count > MAX_SCAN_CELLS:
            raise FramingLost("LIMIT", "a scan has more cells than any may have")
        cells = []
        for _ in range(count):
            (row, col, version, full, size), _ = yield from self._fields(5)
            value = yield from self._counted(size)
            cells.append(CellLine(unquote(row), unquote(col), number(version), number(full), value))
        return Cells(tuple(cells), more == b"1")

    def _tablets(self) -> Steps[Tablets]:
        (version, count_text), _ = yield from self._header(0)
        count = number(count_text)
        if count > _MAX_TABLETS:
            raise FramingLost("LIMIT", "more tablets than any cluster has")
        tablets = []
        for _ in range(count):
            (tablet, lo, hi, epoch, address), _ = yield from self._header(0)
            numbers = number(tablet), number(lo), number(hi), number(epoch)
            tablets.append(TabletLine(*numbers, address.decode("ascii")))
        return Tablets(number(version), tuple(tablets))

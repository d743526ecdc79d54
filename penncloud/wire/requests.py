"""Requests: their encoding, and the decoder that a server feeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penncloud.wire.limits import (
    MAX_CLIENT_BYTES,
    MAX_COL_BYTES,
    MAX_DISCARD_BYTES,
    MAX_MUTATION_BYTES,
    MAX_MUTATIONS,
    MAX_PREFIX_BYTES,
    MAX_ROW_BYTES,
    MAX_SCAN_CELLS,
    MAX_TRACE_BYTES,
    MAX_VALUE_BYTES,
)
from penncloud.wire.messages import (
    AppendCell,
    CompareAndPut,
    CompareVersionAndPut,
    Delete,
    DeleteCell,
    Get,
    IfValue,
    IfVersion,
    Malformed,
    Map,
    Mutate,
    Put,
    PutCell,
    Request,
    RequestId,
    Scan,
    ScanTablet,
    SubOperation,
    TraceId,
    Unwatch,
    Watch,
    Where,
)
from penncloud.wire.names import BadField, number, quote, unquote
from penncloud.wire.plain import take_requests
from penncloud.wire.stream import FramingLost, Steps, StreamDecoder

# -- encoding ------------------------------------------------------------------------------------


def encode_request(request: Request) -> bytes:
    """The bytes of one request, with its line end."""
    return _ENCODERS[type(request)](request)


def _encode_put(r: Put) -> bytes:
    return b"PUTV;%b;%b;%d;%b\r\n" % (quote(r.row), quote(r.col), len(r.value), r.value)


def _encode_cput(r: CompareAndPut) -> bytes:
    names = quote(r.row), quote(r.col)
    sizes = len(r.expected), len(r.value)
    return b"CPUT;%b;%b;%d;%d;%b;%b\r\n" % (*names, *sizes, r.expected, r.value)


def _encode_scan(r: Scan) -> bytes:
    command = b"SCANR" if r.reverse else b"SCAN"
    names = quote(r.row), quote(r.start), quote(r.stop)
    cut = b"" if r.max_value is None else b";%d" % r.max_value
    return b"%b;%b;%b;%b;%d%b\r\n" % (command, *names, r.limit, cut)


def _encode_mutate(r: Mutate) -> bytes:
    head = b"MUTA;%b;%d\r\n" % (quote(r.row), len(r.operations))
    return head + b"".join([_SUB_ENCODERS[type(op)](op) for op in r.operations])


_SUB_ENCODERS: dict[type[Any], Callable[[Any], bytes]] = {
    PutCell: lambda o: b"PUT;%b;%d;%b\r\n" % (quote(o.col), len(o.value), o.value),
    AppendCell: lambda o: b"APP;%b;%d;%b\r\n" % (quote(o.prefix), len(o.value), o.value),
    DeleteCell: lambda o: b"DEL;%b\r\n" % quote(o.col),
    IfVersion: lambda o: b"IFV;%b;%d\r\n" % (quote(o.col), o.version),
    IfValue: lambda o: b"IFE;%b;%d;%b\r\n" % (quote(o.col), len(o.value), o.value),
}

_ENCODERS: dict[type[Any], Callable[[Any], bytes]] = {
    Get: lambda r: b"GET;%b;%b\r\n" % (quote(r.row), quote(r.col)),
    Put: _encode_put,
    CompareAndPut: _encode_cput,
    CompareVersionAndPut: lambda r: (
        b"CPUV;%b;%b;%d;%d;%b\r\n" % (quote(r.row), quote(r.col), r.version, len(r.value), r.value)
    ),
    Delete: lambda r: b"DELE;%b;%b\r\n" % (quote(r.row), quote(r.col)),
    RequestId: lambda r: b"RQID;%b;%d\r\n" % (quote(r.client), r.seq),
    TraceId: lambda r: b"TRAC;%b\r\n" % quote(r.id),
    Scan: _encode_scan,
    ScanTablet: lambda r: (
        b"SCANT;%d;%b;%b;%d;%d\r\n" % (r.tablet, quote(r.row), quote(r.col), r.limit, r.max_value)
    ),
    Mutate: _encode_mutate,
    Watch: lambda r: b"WATCH;%b\r\n" % quote(r.row),
    Unwatch: lambda r: b"UNWATCH;%b\r\n" % quote(r.row),
    Where: lambda r: b"WHERE;%b;%b\r\n" % (quote(r.row), quote(r.col)),
    Map: lambda r: b"MAP\r\n",  # noqa: ARG005 (all encoders are called alike)
}

# -- decoding ------------------------------------------------------------------------------------


def _name(text: bytes, limit: int, what: str, empty: bool = False) -> bytes:
    name = unquote(text)
    if len(name) > limit:
        raise BadField(f"a {what} has at most {limit} bytes")
    if not name and not empty:
        raise BadField(f"an empty {what}")
    return name


def _row(text: bytes) -> bytes:
    return _name(text, MAX_ROW_BYTES, "row")


def _col(text: bytes) -> bytes:
    return _name(text, MAX_COL_BYTES, "column")


def _bound(text: bytes) -> bytes:
    """Where a scan begins or ends: a column, nothing, or the first name behind the longest column."""
    return _name(text, MAX_COL_BYTES + 1, "column", empty=True)


def _prefix(text: bytes) -> bytes:
    return _name(text, MAX_PREFIX_BYTES, "prefix", empty=True)


def _limit(text: bytes) -> int:
    limit = number(text)
    if not 0 < limit <= MAX_SCAN_CELLS:
        raise BadField(f"a limit is between 1 and {MAX_SCAN_CELLS}")
    return limit


def _client(text: bytes) -> bytes:
    return _name(text, MAX_CLIENT_BYTES, "client")


def _trace(text: bytes) -> bytes:
    return _name(text, MAX_TRACE_BYTES, "trace id")


def _scan(fields: list[bytes], reverse: bool) -> Scan:
    cut = number(fields[4]) if len(fields) == 5 else None
    names = _row(fields[0]), _bound(fields[1]), _bound(fields[2])
    return Scan(*names, _limit(fields[3]), reverse, cut)


# command -> (allowed numbers of fields after it, constructor)
_LINES: dict[bytes, tuple[tuple[int, ...], Callable[[list[bytes]], Request]]] = {
    b"GET": ((2,), lambda f: Get(_row(f[0]), _col(f[1]))),
    b"DELE": ((2,), lambda f: Delete(_row(f[0]), _col(f[1]))),
    b"RQID": ((2,), lambda f: RequestId(_client(f[0]), number(f[1]))),
    b"TRAC": ((1,), lambda f: TraceId(_trace(f[0]))),
    b"SCAN": ((4, 5), lambda f: _scan(f, False)),
    b"SCANR": ((4, 5), lambda f: _scan(f, True)),
    b"SCANT": (
        (5,),
        lambda f: ScanTablet(
            number(f[0]),
            _name(f[1], MAX_ROW_BYTES, "row", empty=True),
            _bound(f[2]),
            _limit(f[3]),
            number(f[4]),
        ),
    ),
    b"WATCH": ((1,), lambda f: Watch(_row(f[0]))),
    b"UNWATCH": ((1,), lambda f: Unwatch(_row(f[0]))),
    b"WHERE": ((2,), lambda f: Where(_row(f[0]), _col(f[1]))),
    b"MAP": ((0,), lambda f: Map()),  # noqa: ARG005 (all constructors are called alike)
}

# command -> fields of the line including the command, before the first value
_VALUED: dict[bytes, int] = {b"PUTV": 4, b"CPUT": 5, b"CPUV": 5}
_SUB_VALUED = frozenset((b"PUT", b"APP", b"IFE"))
_SUB_LINES = {b"DEL": 1, b"IFV": 2}


class RequestDecoder(StreamDecoder[Request | Malformed]):
    """What arrives at a server, as requests. A wrong one comes as `Malformed`, in its place."""

    def _fatal(self, error: FramingLost) -> Malformed:
        return Malformed(error.code, error.text, fatal=True)

    def _shortcut(self, data: bytes) -> int:
        return take_requests(data, self._output)

    def _grammar(self) -> Steps[None]:
        while True:
            if len(self._buffer) == self._start:
                self._between = True
                yield
                self._between = False
            fields, ended = yield from self._header(1)
            command = fields[0]
            try:
                if command in _VALUED and not ended:
                    request: Request | Malformed = yield from self._valued(command)
                elif command == b"MUTA" and not ended:
                    request = yield from self._mutate()
                else:
                    request = yield from self._line(command, ended)
            except BadField as error:
                request = Malformed("FORMAT", str(error))
            self._output.append(request)

    def _line(self, command: bytes, ended: bool) -> Steps[Request | Malformed]:
        fields: list[bytes] = []
        if not ended:
            fields, _ = yield from self._header(0)
        if command not in _LINES:
            if command in _VALUED or command == b"MUTA":
                raise BadField(f"{command.decode()} needs more fields")
            return Malformed("COMMAND", "unknown command")
        counts, construct = _LINES[command]
        if len(fields) not in counts:
            accepted = " or ".join(map(str, counts))
            raise BadField(f"{command.decode()} takes {accepted} fields")
        return construct(fields)

    def _valued(self, command: bytes) -> Steps[Request]:
        fields, ended = yield from self._header(_VALUED[command] - 1)
        if ended:
            raise BadField(f"{command.decode()} needs more fields")
        if command == b"CPUT":
            first, second = _size(fields[2]), _size(fields[3])
            values, problem = yield from self._values((first, second))
            self._raise(problem)
            return CompareAndPut(_row(fields[0]), _col(fields[1]), *values)
        values, problem = yield from self._values((_size(fields[-1]),))
        self._raise(problem)
        if command == b"PUTV":
            return Put(_row(fields[0]), _col(fields[1]), values[0])
        version = number(fields[2])
        return CompareVersionAndPut(_row(fields[0]), _col(fields[1]), version, values[0])

    def _values(self, sizes: tuple[int, ...]) -> Steps[tuple[list[bytes], BadField | None]]:
        """The values of a line and its end; over-large ones are thrown away and told about."""
        if max(sizes) > MAX_VALUE_BYTES:
            if sum(sizes) > MAX_DISCARD_BYTES:
                raise FramingLost("SIZE", f"a value has at most {MAX_VALUE_BYTES} bytes")
            yield from self._discard(sum(sizes) + len(sizes) - 1)
            yield from self._separator(b"\r\n")
            return [], BadField(f"a value has at most {MAX_VALUE_BYTES} bytes")
        values = []
        for size in sizes[:-1]:
            values.append((yield from self._take(size)))
            yield from self._separator(b";")
        values.append((yield from self._take(sizes[-1])))
        yield from self._separator(b"\r\n")
        return values, None

    def _mutate(self) -> Steps[Request]:
        fields, _ = yield from self._header(0)
        if len(fields) != 2:
            raise FramingLost("FORMAT", "MUTA takes 2 fields")
        count = _size(fields[1])
        if not 0 < count <= MAX_MUTATIONS:
            raise FramingLost("LIMIT", f"MUTA takes 1 to {MAX_MUTATIONS} sub-operations")
        # A wrong sub-operation refuses the whole, but the others have to be read to know where
        # the next request begins.
        problem: BadField | None = None
        operations: list[SubOperation] = []
        held = 0
        for _ in range(count):
            try:
                operation = yield from self._sub_operation()
                held += len(getattr(operation, "value", b""))
                if held > MAX_MUTATION_BYTES:
                    operations.clear()
                    raise BadField(f"values of one MUTA have at most {MAX_MUTATION_BYTES} bytes")
                operations.append(operation)
            except BadField as error:
                problem = problem or error
        self._raise(problem)
        return Mutate(_row(fields[0]), tuple(operations))

    def _sub_operation(self) -> Steps[SubOperation]:
        (kind,), ended = yield from self._header(1)
        if kind in _SUB_VALUED and not ended:
            fields, ended = yield from self._header(2)
            if ended:
                raise FramingLost("FORMAT", f"{kind.decode()} needs more fields")
            values, problem = yield from self._values((_size(fields[1]),))
            self._raise(problem)
            col = _prefix(fields[0]) if kind == b"APP" else _col(fields[0])
            if kind == b"PUT":
                return PutCell(col, values[0])
            return AppendCell(col, values[0]) if kind == b"APP" else IfValue(col, values[0])
        fields = []
        if not ended:
            fields, _ = yield from self._header(0)
        if _SUB_LINES.get(kind) != len(fields):
            raise FramingLost("COMMAND", "not a sub-operation of MUTA")
        if kind == b"DEL":
            return DeleteCell(_col(fields[0]))
        return IfVersion(_col(fields[0]), number(fields[1]))

    @staticmethod
    def _raise(problem: BadField | None) -> None:
        if problem is not None:
            raise problem


def _size(text: bytes) -> int:
    """A size that tells where the next message begins: when it is no number, framing is lost."""
    try:
        return number(text)
    except BadField as error:
        raise FramingLost("SIZE", "a size has to be a decimal number") from error

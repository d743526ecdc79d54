"""Requests and replies in their plain form, recognized at once.

Nearly all requests are a GET, a PUTV, or what stands before them, arrive whole, and have names without
escapes; nearly all replies are their answers. One search of a compiled expression finds the bounds of such a
message and checks them, much faster than the grammars in `requests.py` and `replies.py`. Whatever it does not
match is left to the grammar: that decides what is a message, and what is wrong with it. For what matches both
give the same (`tests/wire`).
"""

from __future__ import annotations

import re
from typing import Final

from penncloud.wire.limits import (
    MAX_CLIENT_BYTES,
    MAX_COL_BYTES,
    MAX_COUNTER,
    MAX_ROW_BYTES,
    MAX_TRACE_BYTES,
    MAX_VALUE_BYTES,
)
from penncloud.wire.messages import (
    Get,
    Malformed,
    Missing,
    Ok,
    Put,
    Reply,
    Request,
    RequestId,
    TraceId,
    Value,
)

# A name in which nothing is escaped and nothing has to be; see `names.py`.
_PLAIN: Final = rb"[\x20-\x24\x26-\x3a\x3c-\x7e]{1,%d}"
_ROW: Final = _PLAIN % MAX_ROW_BYTES
_COL: Final = _PLAIN % MAX_COL_BYTES
# The number of the last group tells which of them it was.
_REQUEST: Final = re.compile(
    rb"GET;(%b);(%b)\r\n|PUTV;(%b);(%b);([0-9]{1,7});|RQID;(%b);([0-9]{1,19})\r\n|TRAC;(%b)\r\n"
    % (_ROW, _COL, _ROW, _COL, _PLAIN % MAX_CLIENT_BYTES, _PLAIN % MAX_TRACE_BYTES)
)
_REPLY: Final = re.compile(
    rb"\+VAL;([0-9]{1,19});([0-9]{1,7});|\+OK;([0-9]{1,19})\r\n|(-MISSING)\r\n"
)
_GET: Final = 2
_PUT: Final = 5
_REQUEST_ID: Final = 7
_VALUE: Final = 2
_OK: Final = 3


def take_requests(data: bytes, output: list[Request | Malformed]) -> int:
    """Append the plain requests at the beginning of `data` to `output`; return where they end."""
    at, size = 0, len(data)
    while at < size:
        found = _REQUEST.match(data, at)
        if found is None:
            break
        end, kind = found.end(), found.lastindex
        if kind == _GET:
            output.append(Get(found[1], found[2]))
        elif kind == _PUT:
            length = int(found[5])
            begin, end = end, end + length + 2
            if length > MAX_VALUE_BYTES or data[end - 2 : end] != b"\r\n":
                break
            output.append(Put(found[3], found[4], data[begin : end - 2]))
        elif kind == _REQUEST_ID:
            number = int(found[7])
            if number > MAX_COUNTER:
                break
            output.append(RequestId(found[6], number))
        else:
            output.append(TraceId(found[8]))
        at = end
    return at


def take_replies(data: bytes, output: list[Reply | Malformed]) -> int:
    """Append the plain replies at the beginning of `data` to `output`; return where they end."""
    at, size = 0, len(data)
    while at < size:
        found = _REPLY.match(data, at)
        if found is None:
            break
        end, kind = found.end(), found.lastindex
        if kind == _VALUE:
            version, length = int(found[1]), int(found[2])
            begin, end = end, end + length + 2
            whole = data[end - 2 : end] == b"\r\n"
            if version > MAX_COUNTER or length > MAX_VALUE_BYTES or not whole:
                break
            output.append(Value(version, data[begin : end - 2]))
        elif kind == _OK:
            version = int(found[3])
            if version > MAX_COUNTER:
                break
            output.append(Ok(version))
        else:
            output.append(Missing())
        at = end
    return at

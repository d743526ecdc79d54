"""Strategies for every message of the protocol, for the property tests."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from penncloud.wire import messages as m
from penncloud.wire.limits import (
    MAX_CLIENT_BYTES,
    MAX_COL_BYTES,
    MAX_COUNTER,
    MAX_PREFIX_BYTES,
    MAX_ROW_BYTES,
    MAX_SCAN_CELLS,
    MAX_TRACE_BYTES,
)

# Bytes that the framing itself uses are what a decoder could trip over.
_TRICKY = st.sampled_from([b";", b"%", b"\r\n", b"\r", b"\n", b"\x00", b"%41", b"-1", b"+OK;1\r\n"])


def _bytes(smallest: int, largest: int) -> SearchStrategy[bytes]:
    plain = st.binary(min_size=smallest, max_size=min(largest, 40))
    mixed = st.lists(_TRICKY | st.binary(max_size=3), min_size=1, max_size=6).map(b"".join)
    return (plain | mixed.map(lambda name: name[:largest])).filter(lambda b: len(b) >= smallest)


rows = _bytes(1, MAX_ROW_BYTES)
cols = _bytes(1, MAX_COL_BYTES)
bounds = st.just(b"") | cols
values = _bytes(0, 200)
counters = st.integers(0, MAX_COUNTER)
limits = st.integers(1, MAX_SCAN_CELLS)

sub_operations: SearchStrategy[m.SubOperation] = st.one_of(
    st.builds(m.PutCell, cols, values),
    st.builds(m.AppendCell, _bytes(0, MAX_PREFIX_BYTES), values),
    st.builds(m.DeleteCell, cols),
    st.builds(m.IfVersion, cols, counters),
    st.builds(m.IfValue, cols, values),
)

requests: SearchStrategy[m.Request] = st.one_of(
    st.builds(m.Get, rows, cols),
    st.builds(m.Put, rows, cols, values),
    st.builds(m.CompareAndPut, rows, cols, values, values),
    st.builds(m.CompareVersionAndPut, rows, cols, counters, values),
    st.builds(m.Delete, rows, cols),
    st.builds(m.RequestId, _bytes(1, MAX_CLIENT_BYTES), counters),
    st.builds(m.TraceId, _bytes(1, MAX_TRACE_BYTES)),
    st.builds(m.Scan, rows, bounds, bounds, limits, st.booleans(), st.none() | counters),
    st.builds(m.ScanTablet, counters, st.just(b"") | rows, bounds, limits, counters),
    st.builds(m.Mutate, rows, st.lists(sub_operations, min_size=1, max_size=8).map(tuple)),
    st.builds(m.Watch, rows),
    st.builds(m.Unwatch, rows),
    st.builds(m.Where, rows, cols),
    st.builds(m.Map),
)

_words = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40)
_codes = st.text(st.characters(min_codepoint=0x41, max_codepoint=0x5A), min_size=1, max_size=10)
_addresses = st.just("") | st.builds("{}:{}".format, st.ip_addresses(v=4), st.integers(1, 65535))

_cells = st.builds(m.CellLine, rows, cols, counters, counters, values)
_tablets = st.builds(m.TabletLine, counters, counters, counters, counters, _addresses)

replies: SearchStrategy[m.Reply] = st.one_of(
    st.builds(m.Ok, counters),
    st.builds(m.Value, counters, values),
    st.just(m.Missing()),
    st.builds(m.Mismatch, counters, values),
    st.just(m.Mismatch(0, None)),
    st.builds(m.Moved, _addresses, counters),
    st.builds(m.Busy, counters),
    st.just(m.Unknown()),
    st.builds(m.Error, _codes, _words),
    st.builds(m.Cells, st.lists(_cells, max_size=5).map(tuple), st.booleans()),
    st.builds(m.At, counters, counters, _addresses),
    st.builds(m.Tablets, counters, st.lists(_tablets, max_size=5).map(tuple)),
    st.builds(m.Changed, rows, counters),
)


@st.composite
def pieces(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    """`stream` cut anywhere, as a network may deliver it."""
    cuts = draw(st.lists(st.integers(0, len(stream)), max_size=12))
    edges = [0, *sorted(cuts), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]

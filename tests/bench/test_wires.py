"""The benchmark's clients: a reply is complete when it is, in whatever pieces it arrives."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from bench.kv.wires import EtcdWire, PennCloudWire, RedisWire


class _Transport:
    """Remembers what was written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


class WiresTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.told: list[bool] = []
        self.transport: Any = _Transport()

    def _connected(self, wire: Any) -> Any:
        wire.connection_made(self.transport)
        return wire

    def _arrives(self, wire: asyncio.Protocol, data: bytes) -> None:
        """Byte by byte: nothing may be told before the last one."""
        for at in range(len(data)):
            self.assertEqual(self.told, [], data[:at])
            wire.data_received(data[at : at + 1])
        self.assertEqual(len(self.told), 1)

    def test_penncloud_value_with_line_ends(self) -> None:
        """A value is as long as its size says, whatever it holds."""
        wire = self._connected(PennCloudWire())
        wire.get(b"k", self.told.append)
        self.assertEqual(self.transport.written, b"GET;k;v\r\n")
        self._arrives(wire, b"+VAL;7;6;a\r\n;b\n\r\n")
        self.assertEqual(self.told, [True])

    def test_penncloud_refusal(self) -> None:
        """What was not written does not count."""
        wire = self._connected(PennCloudWire())
        wire.put(b"k", b"value", self.told.append)
        self.assertTrue(self.transport.written.endswith(b";1\r\nPUTV;k;v;5;value\r\n"))
        self._arrives(wire, b"-BUSY;20\r\n")
        self.assertEqual(self.told, [False])

    def test_redis_write_waits_for_a_replica(self) -> None:
        """Only a write that one replica has counts."""
        for replicas, good in ((b"1", True), (b"0", False)):
            self.told.clear()
            wire = self._connected(RedisWire())
            wire.put(b"k", b"v", self.told.append)
            self._arrives(wire, b"+OK\r\n:%b\r\n" % replicas)
            self.assertEqual(self.told, [good])

    def test_redis_value(self) -> None:
        """A bulk string with line ends in it."""
        wire = self._connected(RedisWire())
        wire.get(b"k", self.told.append)
        self._arrives(wire, b"$5\r\na\r\nbc\r\n")
        self.assertEqual(self.told, [True])

    def test_etcd_reply(self) -> None:
        """Data and trailers are a success; trailers alone are an error."""
        headers, trailers = _frame(1, 4, 1, b"\x88"), _frame(1, 5, 1, b"\x88")
        for data, good in ((_frame(0, 0, 1, b"\0" * 30), True), (b"", False)):
            self.told.clear()
            wire = self._connected(EtcdWire())
            wire.put(b"k", b"v", self.told.append)
            self._arrives(wire, headers + data + trailers)
            self.assertEqual(self.told, [good])

    def test_etcd_window(self) -> None:
        """No more is sent than the server has room for; the rest follows when it says so."""
        wire = self._connected(EtcdWire())
        before = len(self.transport.written)
        wire.put(b"k", b"v" * 70_000, self.told.append)
        self.assertLess(len(self.transport.written) - before, 66_000)
        more = struct.pack(">I", 10_000)
        wire.data_received(_frame(8, 0, 0, more))
        self.assertLess(len(self.transport.written) - before, 66_000)
        wire.data_received(_frame(8, 0, 1, more))
        self.assertGreater(len(self.transport.written) - before, 70_000)

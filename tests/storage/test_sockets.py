"""The text protocol over real sockets, behind the switch that shares the port with rpc."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from penncloud.placement.tablets import HASH_SPACE
from penncloud.rpc.registration import TabletAssignment
from penncloud.rpc.switch import SwitchFactory
from penncloud.storage.factory import TextFactory
from penncloud.wire.limits import MAX_DISCARD_BYTES, MAX_VALUE_BYTES
from penncloud.wire.messages import Put
from tests.storage.alone import Alone
from tests.storage.memory_engine import MemoryEngine

_T = TypeVar("_T")
# A blocking client that hangs fails by its own socket timeout.
TIMEOUT_S = 60.0


class SocketTests(TestCase):
    """A blocking client in a thread, as a script would be one."""

    timeout = 300

    def setUp(self) -> Any:
        return Deferred.fromCoroutine(self.begin())

    async def begin(self) -> None:
        server = Alone(reactor, MemoryEngine(instant=True))
        server.open()
        whole = TabletAssignment(1, 0, HASH_SPACE, 1, "storage-1", ["storage-1"], incarnation=1)
        server.assign([msgspec.structs.replace(whole, epoch=0)])
        server.assign([whole])
        self.tablets = server.tablets
        while not server.member().tablet.serving:
            await deferLater(reactor, 0)
        self.text = TextFactory(reactor, self.tablets, 32)
        tcp: Any = reactor
        factory = SwitchFactory(reactor, Factory(), self.text)
        self.port: IListeningPort = tcp.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(lambda: Deferred.fromCoroutine(self.close()))

    async def close(self) -> None:
        await maybeDeferred(self.port.stopListening)
        await self.text.stop(1.0)

    async def talk(self, conversation: Callable[[socket.socket], _T]) -> _T:
        """Hold a conversation in a thread."""
        address: Any = self.port.getHost()

        def connected() -> _T:
            with socket.create_connection((address.host, address.port), TIMEOUT_S) as client:
                return conversation(client)

        return await deferToThread(connected)

    async def test_pipelined_and_half_closed(self) -> None:
        """As by `printf ... | nc -N`: all replies come, in order, then the end."""

        def conversation(client: socket.socket) -> bytes:
            client.sendall(b"PUTV;r;c;3;a\r\n\r\nGET;r;c\r\n" + b"GET;r;none\r\n" * 100)
            client.shutdown(socket.SHUT_WR)
            return _rest(client)

        expected = b"+OK;2\r\n+VAL;2;3;a\r\n\r\n" + b"-MISSING\r\n" * 100
        self.assertEqual(await self.talk(conversation), expected)

    async def test_byte_by_byte(self) -> None:
        """Delivery in single bytes."""

        def conversation(client: socket.socket) -> bytes:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in b"PUTV;r;c;1;x\r\nGET;r;c\r\n":
                client.sendall(bytes((byte,)))
            client.shutdown(socket.SHUT_WR)
            return _rest(client)

        self.assertEqual(await self.talk(conversation), b"+OK;2\r\n+VAL;2;1;x\r\n")

    async def test_a_fatal_error_arrives(self) -> None:
        """Also at a client that is still sending: its unread bytes do not reset the answer away."""

        def conversation(client: socket.socket) -> bytes:
            client.sendall(b"GET;r;c\r\nPUTV;r;c;%d;" % (MAX_DISCARD_BYTES + 1))
            client.sendall(b"v" * 2_000_000)
            client.shutdown(socket.SHUT_WR)
            return _rest(client)

        answer = await self.talk(conversation)
        self.assertTrue(answer.startswith(b"-MISSING\r\n-ERR;SIZE;"), answer)

    async def test_a_slow_reader(self) -> None:
        """Hundreds of large replies are not gathered in memory, and all arrive in the end."""
        await self.write(b"v" * MAX_VALUE_BYTES)
        count = 200

        def conversation(client: socket.socket) -> tuple[int, int]:
            client.sendall(b"GET;r;c\r\n" * count)
            self.assertTrue(client.recv(1))
            held = max(
                protocol._replies.held_bytes + len(protocol.transport.dataBuffer)  # type: ignore[union-attr]
                for protocol in self.text.connections
            )
            client.shutdown(socket.SHUT_WR)
            return held, len(_rest(client)) + 1

        held, received = await self.talk(conversation)
        self.assertLess(held, 4 * MAX_VALUE_BYTES)
        self.assertEqual(
            received, count * len(b"+VAL;2;%d;\r\n" % MAX_VALUE_BYTES) + count * MAX_VALUE_BYTES
        )

    async def write(self, value: bytes) -> None:
        answer = self.tablets.mutate(Put(b"r", b"c", value), None)
        assert isinstance(answer, Deferred)
        await answer


def _rest(client: socket.socket) -> bytes:
    """Everything up to the end of the connection."""
    received = bytearray()
    while data := client.recv(65536):
        received += data
    return bytes(received)

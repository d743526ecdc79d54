"""The outside world for the tests of the relay: a scripted mail server and a name server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import ServerFactory
from twisted.names import dns, error, server
from twisted.names.common import ResolverBase
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure

reactor: Any = _reactor


class ScriptedMail(ServerFactory):
    """A mail server that answers as `script` says: command word (or "DOT", "CONNECT") -> reply lines.

    A reply may be a function of the line. None instead of a reply closes the connection, "" says
    nothing. `messages` are the bodies as they came over the wire, unstuffed by the simplest rule.
    """

    noisy = False

    def __init__(self, script: dict[str, Any] | None = None) -> None:
        self.script: dict[str, Any] = {
            "CONNECT": "220 there",
            "EHLO": "250-there\r\n250 SIZE 1000000",
            "HELO": "250 there",
            "MAIL": "250 2.1.0 ok",
            "RCPT": "250 2.1.5 ok",
            "DATA": "354 go",
            "DOT": "250 2.0.0 taken",
            "QUIT": "221 bye",
            **(script or {}),
        }
        self.lines: list[str] = []
        self.messages: list[bytes] = []
        self.connections = 0
        self.open: set[_Conversation] = set()
        self.on_message: Callable[[], None] = lambda: None
        self.port: Any = None

    def listen(self, host: str = "127.0.0.1", port: int = 0) -> int:
        self.port = reactor.listenTCP(port, self, interface=host)
        return int(self.port.getHost().port)

    async def stop(self) -> None:
        await self.port.stopListening()
        for conversation in list(self.open):
            conversation.transport.abortConnection()
            await conversation.closed

    def go_on(self) -> None:
        """Answer DATA, as `script` now says, to all who wait for it."""
        for conversation in list(self.open):
            conversation.reply("DATA", "")

    def buildProtocol(self, addr: Any) -> _Conversation:
        return _Conversation(self)


class _Conversation(LineReceiver):
    transport: Any

    def __init__(self, world: ScriptedMail) -> None:
        self.world = world
        self.body: bytes | None = None
        self.closed: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.world.connections += 1
        self.world.open.add(self)
        self.reply("CONNECT", "")

    def connectionLost(self, reason: Any = None) -> None:
        self.world.open.discard(self)
        self.closed.callback(None)

    def reply(self, word: str, line: str) -> None:
        said = self.world.script.get(word, "500 what?")
        if callable(said):
            said = said(line)
        if said is None:
            self.transport.loseConnection()
            return
        if said:
            self.transport.write(said.encode() + b"\r\n")
        if word == "DATA" and said.startswith("354"):
            self.body = b""
            self.setRawMode()

    def lineReceived(self, line: bytes) -> None:
        text = line.decode()
        self.world.lines.append(text)
        self.reply(text.split(" ")[0].split(":")[0].upper(), text)

    def rawDataReceived(self, data: bytes) -> None:
        assert self.body is not None
        self.body += data
        at = 0 if self.body.startswith(b".\r\n") else self.body.find(b"\r\n.\r\n") + 2
        if at == 1:
            return
        message, rest = self.body[:at], self.body[at + 3 :]
        lines = message.split(b"\r\n")
        self.world.messages.append(b"\r\n".join(each.removeprefix(b".") for each in lines))
        self.body = None
        self.world.on_message()
        self.reply("DOT", "")
        self.setLineMode(rest)


class Zone(ResolverBase):
    """Names -> records; a name may also stand for an exception, or None for silence."""

    def __init__(self) -> None:
        super().__init__()
        self.mx: dict[str, Any] = {}
        self.a: dict[str, Any] = {}
        self.aaaa: dict[str, Exception] = {}
        self.asked: list[str] = []

    def _lookup(self, name: bytes, cls: int, kind: int, timeout: Any) -> Deferred[Any]:
        text = name.decode().lower()
        self.asked.append(f"{dns.QUERY_TYPES.get(kind, kind)} {text}")
        if text not in self.mx and text not in self.a:
            return _failed(error.AuthoritativeDomainError(name))
        found: list[Any] = []
        if kind == dns.MX:
            given = self.mx.get(text, [])
            if isinstance(given, Exception):
                return _failed(given)
            found = [dns.Record_MX(preference, host, 60) for preference, host in given]
        elif kind == dns.A:
            found = [dns.Record_A(address, 60) for address in self.a.get(text, [])]
        elif kind == dns.AAAA and text in self.aaaa:
            return _failed(self.aaaa[text])
        headers = [dns.RRHeader(name, record.TYPE, dns.IN, 60, record) for record in found]
        return succeed((headers, [], []))


def _failed(exception: Exception) -> Deferred[Any]:
    failing: Deferred[Any] = Deferred()
    failing.errback(Failure(exception))
    return failing


class NameServer:
    """A real name server on a UDP port of the loopback address."""

    def __init__(self) -> None:
        self.zone = Zone()
        factory = server.DNSServerFactory(authorities=[self.zone], verbose=0)
        factory.noisy = False
        protocol = dns.DNSDatagramProtocol(factory, reactor=reactor)
        protocol.noisy = False
        self._port = reactor.listenUDP(0, protocol, interface="127.0.0.1")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port.getHost().port}"

    async def stop(self) -> None:
        await self._port.stopListening()

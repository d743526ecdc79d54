"""What the tests of rpc share: an environment on a clock, and two connected sides in memory."""

from __future__ import annotations

import random
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, fail
from twisted.internet.testing import MemoryReactorClock
from twisted.test.iosim import FakeTransport, IOPump, connect

from penncloud.platform.environment import Environment
from penncloud.rpc.calls import Calls
from penncloud.rpc.protocol import Hooks, RpcProtocol


class Add(msgspec.Struct, tag="add", frozen=True):
    a: int
    b: int


class Sum(msgspec.Struct, tag="sum", frozen=True):
    value: int


class Heard(msgspec.Struct, tag="heard", frozen=True):
    text: str


def no_threads(*_: Any, **__: Any) -> Deferred[Any]:
    return fail(AssertionError("rpc needs no threads"))


def environment(reactor: Any, seed: int = 7) -> Environment:
    """Repeatable chance; `now` is the reactor's clock from a fixed day on."""
    chance = random.Random(seed)
    return Environment(
        reactor=reactor,
        now=lambda: 1_700_000_000 + reactor.seconds(),
        random=chance,
        entropy=chance.randbytes,
        run_in_thread=no_threads,
    )


class Pair:
    """A client's and a server's end of one connection on one clock."""

    def __init__(
        self,
        *,
        serves: Calls | None = None,
        client_serves: Calls | None = None,
        client_secret: bytes = b"",
        server_secret: bytes = b"",
        greet: bool = True,
    ) -> None:
        self.clock = MemoryReactorClock()
        self.opened: list[str] = []
        self.closed: list[str] = []
        entropy = random.Random(1).randbytes
        self.client = RpcProtocol(
            self.clock,
            entropy,
            client_serves or Calls(),
            "client",
            secret=client_secret,
            hooks=self._hooks("client"),
        )
        self.server = RpcProtocol(
            self.clock,
            entropy,
            serves or Calls(),
            "server",
            secret=server_secret,
            hooks=self._hooks("server"),
        )
        self.client_side = FakeTransport(self.client, isServer=False)
        self.server_side = FakeTransport(self.server, isServer=True)
        self.pump: IOPump = connect(
            self.server,
            self.server_side,
            self.client,
            self.client_side,
            clock=self.clock,
            greet=greet,
        )

    def _hooks(self, name: str) -> Hooks:
        return Hooks(
            opened=lambda _: self.opened.append(name),
            closed=lambda _, __: self.closed.append(name),
        )

    def wait(self, seconds: float) -> None:
        """Let time pass in small steps, with all traffic delivered at once."""
        for _ in range(round(seconds * 10)):
            self.clock.advance(0.1)
            self.pump.flush()

"""The users' processes as the run sees them: started, given orders, ended."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger

from penncloud.cluster.spawn import child_environment
from penncloud.platform.errors import PennCloudError
from penncloud.torture.messages import MAX_LINE_BYTES, Answer, Order, Plan

# An order whose answer takes longer than any deadline of what it does: the process hangs.
ORDER_S: Final = 300.0
_LAST_WORDS_BYTES: Final = 4096


class MemberLost(PennCloudError):
    """A process of users ended, or does not answer; the text has its last words."""


@define(eq=False)
class Hired(ProcessProtocol):
    """One process of users. `ask` gives it an order."""

    name: str
    _reactor: Any
    ended: Deferred[None] = field(factory=Deferred)
    _numbers: int = 0
    _waiting: dict[int, Deferred[Answer]] = field(factory=dict)
    _line: bytes = b""
    _words: bytes = b""
    _over: bool = False

    log = Logger()

    def hire(self, plan: Plan, inside: Sequence[str]) -> None:
        """Start it; `inside` is a command that becomes the one that follows it."""
        text = msgspec.json.encode(plan).decode()
        command = [sys.executable, "-m", "penncloud.cli", "torture", "--member", text]
        arguments = [*inside, *command]
        environment = child_environment(os.environ)
        self._reactor.spawnProcess(self, arguments[0], arguments, env=environment)

    def ask(self, order: type[Any], **fields: Any) -> Deferred[Answer]:
        """Give an order; fires with its answer. Fails with MemberLost."""
        self._numbers += 1
        answered: Deferred[Answer] = Deferred()
        if self._over or self.transport is None:
            answered.errback(MemberLost(self._last_words("has ended")))
            return answered
        self._waiting[self._numbers] = answered
        message: Order = order(number=self._numbers, **fields)
        self.transport.write(msgspec.json.encode(message) + b"\n")
        return answered.addTimeout(ORDER_S, self._reactor, self._too_late)

    def _too_late(self, _: Any, timeout_s: float) -> Any:
        raise MemberLost(self._last_words(f"has not answered within {timeout_s:g} s"))

    def dismiss(self) -> None:
        """End it at once."""
        if self.transport is not None and not self._over:
            try:
                self.transport.signalProcess("KILL")
            except ProcessExitedAlready:
                return

    # -- IProcessProtocol ------------------------------------------------------------------------

    def outReceived(self, data: bytes) -> None:
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            answer = msgspec.json.decode(line, type=Answer)
            waiting = self._waiting.pop(answer.number, None)
            if waiting is not None and not waiting.called:
                waiting.callback(answer)
        if len(self._line) > MAX_LINE_BYTES:
            self.dismiss()

    def errReceived(self, data: bytes) -> None:
        self._words = (self._words + data)[-_LAST_WORDS_BYTES:]

    def processEnded(self, reason: Any) -> None:
        self._over = True
        waiting, self._waiting = self._waiting, {}
        for answered in waiting.values():
            if not answered.called:
                answered.errback(MemberLost(self._last_words("has ended")))
        self.ended.callback(None)

    def _last_words(self, what: str) -> str:
        words = self._words.decode("utf-8", "replace").strip()
        return f"{self.name} {what}" + (f": {words}" if words else "")

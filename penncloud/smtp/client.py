"""One conversation with another mail server: one message, its recipients, what was said of each.

Twisted's client is the base; the conversation is our own: every step has its time limit (RFC 5321
4.5.3.2), the body is streamed with back-pressure and stuffed right across the edges of its pieces, and
every recipient gets an answer of its own.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.mail.smtp import ESMTPClient
from twisted.python.failure import Failure
from zope.interface import implementer

from penncloud.platform.environment import Environment
from penncloud.smtp.stuffing import Stuffer

# Lines of one reply; a server that says more is cut off.
MAX_REPLY_LINES = 100
_STATUS = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s+|$)")


@frozen
class Timeouts:
    """Seconds for each step."""

    connect: float = 30.0
    greeting: float = 300.0
    command: float = 300.0
    data: float = 120.0
    block: float = 180.0
    end: float = 600.0


@frozen
class Answer:
    """What was said of a recipient. Codes below 400 mean that the message was taken."""

    code: int
    status: str
    text: str

    @property
    def is_delivered(self) -> bool:
        return 200 <= self.code < 300

    @property
    def is_permanent(self) -> bool:
        return 500 <= self.code < 600


def answer_of(code: int, text: str) -> Answer:
    """An answer from a reply; the enhanced status is the reply's or made from its code."""
    line = " ".join(text.split())[:500]
    match = _STATUS.match(line)
    if match:
        return Answer(code, match.group(1), line[match.end() :])
    return Answer(code, f"{code // 100}.0.0" if code // 100 in (2, 4, 5) else "4.0.0", line)


# Steps at which the server as such has not come to the message yet.
_BEFORE_RECIPIENTS = ("greeting", "EHLO", "HELO", "STARTTLS", "MAIL")


@define
class Job:
    """What one conversation is to do. `may_finish` is asked before the message is made final."""

    sender: str
    recipients: Sequence[str]
    size: int
    body: Callable[[], AsyncGenerator[bytes, None]]
    may_finish: Callable[[], bool] = field(default=lambda: True)

    @property
    def needs_utf8(self) -> bool:
        return not all(each.isascii() for each in (self.sender, *self.recipients))


@define
class Outcome:
    """How a conversation went: an answer per recipient. `is_refused`: the server as such would not talk
    to us (or went away before it was asked about recipients), so another one may. `tls_failed`: it offered
    STARTTLS, and then it did not come to an encrypted conversation."""

    answers: dict[str, Answer] = field(factory=dict)
    is_refused: bool = False
    tls_failed: bool = False


@implementer(IPushProducer)
class Conversation(ESMTPClient):
    """Fires `done` with an Outcome when the conversation is over, however it ends."""

    debug = False
    transport: Any
    timeout: Any
    callLater: Any  # of TimeoutMixin: our clock instead of the global reactor's

    def __init__(
        self,
        environment: Environment,
        job: Job,
        hostname: str,
        timeouts: Timeouts,
        tls: Any = None,
    ) -> None:
        """`tls` (IOpenSSLClientConnectionCreator): for STARTTLS, where the server offers it."""
        super().__init__(None, None, hostname)
        self.callLater = environment.reactor.callLater
        self.done: Deferred[Outcome] = Deferred()
        self._job = job
        self._timeouts = timeouts
        self._outcome = Outcome()
        self._left = list(job.recipients)
        self._asked = ""
        self._accepted: list[str] = []
        self._reply_lines = 0
        self._sending = False
        self._resumed: Deferred[None] | None = None
        self._step = "greeting"
        self._tls = tls
        self._securing = False

    # -- the connection ----------------------------------------------------------------------------

    def connectionMade(self) -> None:
        self._expect(self._timeouts.greeting, [220], self._greeted, self._refused)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._wake()
        self._end(Answer(0, "4.4.2", f"The connection was lost ({self._step})"))

    def timeoutConnection(self) -> None:
        if self.done.called:
            self.transport.abortConnection()
        self._end(Answer(0, "4.4.2", f"The server took too long ({self._step})"))

    def lineReceived(self, line: bytes) -> None:
        self._reply_lines += 1
        if self._reply_lines > MAX_REPLY_LINES or not re.match(rb"[2-5]\d\d(?:[ -]|$)", line):
            self._end(Answer(0, "4.5.0", "The server's reply cannot be understood"))
            return
        if line[3:4] != b"-":
            self._reply_lines = 0
        super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        self._end(Answer(0, "4.5.0", "The server's reply is too long"))

    def _expect(self, seconds: float, codes: Any, then: Any, otherwise: Any) -> None:
        self.setTimeout(seconds)
        self._expected = codes
        self._okresponse = then
        self._failresponse = otherwise

    def _say(self, step: str, line: str) -> None:
        self._step = step
        self.sendLine(line.encode("utf-8"))

    def _end(self, answer: Answer | None = None) -> None:
        """Over: recipients without an answer get this one; say QUIT if the server can be talked to."""
        if self.done.called:
            return
        self.setTimeout(None)
        for recipient in self._job.recipients:
            if answer is not None:
                self._outcome.answers.setdefault(recipient, answer)
        if answer is None or answer.code:
            self._quit()
        else:
            self._outcome.tls_failed = self._securing
            self._outcome.is_refused = self._step in _BEFORE_RECIPIENTS
            self.transport.abortConnection()
        self.done.callback(self._outcome)

    def _quit(self) -> None:
        if self._sending:
            self.transport.abortConnection()  # in the middle of a body nothing else can be said
            return
        self._expect(self._timeouts.block, range(1000), self.smtpState_disconnect, None)
        self.sendLine(b"QUIT")
        self.transport.loseConnection()

    # -- the steps ---------------------------------------------------------------------------------

    def _refused(self, code: int, reply: bytes) -> None:
        self._outcome.is_refused = True
        self._end(_answer(code, reply))

    def _greeted(self, code: int, reply: bytes) -> None:
        self._expect(self._timeouts.command, [250], self._introduced, self._say_helo)
        self._say("EHLO", f"EHLO {self.identity.decode()}")

    def _say_helo(self, code: int, reply: bytes) -> None:
        self._expect(self._timeouts.command, [250], self._introduced, self._refused)
        self._say("HELO", f"HELO {self.identity.decode()}")

    def _introduced(self, code: int, reply: bytes) -> None:
        known = {}
        if self._step == "EHLO":
            for line in reply.decode("ascii", "replace").split("\n")[1:]:
                name, _, rest = line.strip().partition(" ")
                known[name.upper()] = rest
        if "STARTTLS" in known and self._tls is not None:
            self._securing = True
            self._expect(self._timeouts.command, [220], self._secure, self._not_secured)
            self._say("STARTTLS", "STARTTLS")
            return
        parameters = ""
        if "SIZE" in known:
            limit = int(known["SIZE"]) if known["SIZE"].isdecimal() else 0
            if 0 < limit < self._job.size:
                self._end(Answer(552, "5.3.4", f"The server takes at most {limit} bytes"))
                return
            parameters += f" SIZE={self._job.size}"
        if self._job.needs_utf8:
            if "SMTPUTF8" not in known:
                self._end(Answer(550, "5.6.7", "The server does not take non-ASCII addresses"))
                return
            parameters += " SMTPUTF8"
        self._expect(self._timeouts.command, [250], self._sender_accepted, self._sender_refused)
        self._say("MAIL", f"MAIL FROM:<{self._job.sender}>{parameters}")

    def _secure(self, code: int, reply: bytes) -> None:
        """RFC 3207 4.2: what the server said before counts for nothing; begin again."""
        tls, self._tls = self._tls, None
        # Nor does what came behind the reply, from whomever.
        self.clearLineBuffer()
        self.transport.startTLS(tls)
        self._expect(self._timeouts.command, [250], self._secured, self._refused)
        self._say("EHLO", f"EHLO {self.identity.decode()}")

    def _secured(self, code: int, reply: bytes) -> None:
        self._securing = False
        self._introduced(code, reply)

    def _not_secured(self, code: int, reply: bytes) -> None:
        """It offers STARTTLS and then declines: another connection does without."""
        self._end(Answer(0, "4.7.0", "The server offers STARTTLS and then declines"))

    def _sender_refused(self, code: int, reply: bytes) -> None:
        answer = _answer(code, reply)
        self._outcome.is_refused = not answer.is_permanent
        self._end(answer)

    def _sender_accepted(self, code: int, reply: bytes) -> None:
        self._next_recipient()

    def _next_recipient(self) -> None:
        if self._left:
            self._asked = self._left.pop(0)
            self._expect(self._timeouts.command, range(1000), self._recipient_answered, None)
            self._say("RCPT", f"RCPT TO:<{self._asked}>")
        elif self._accepted:
            self._expect(self._timeouts.data, [354], self._data_accepted, self._data_refused)
            self._say("DATA", "DATA")
        else:
            self._end()

    def _recipient_answered(self, code: int, reply: bytes) -> None:
        answer = _answer(code, reply)
        if code == 421:
            self._end(answer)
        elif answer.is_delivered:
            self._accepted.append(self._asked)
            self._next_recipient()
        else:
            self._outcome.answers[self._asked] = answer
            self._next_recipient()

    def _data_refused(self, code: int, reply: bytes) -> None:
        # A 2xx to DATA is no "go on": nothing was sent, so nothing can have been taken.
        answer = _answer(code, reply)
        self._end(Answer(0, "4.5.0", answer.text) if answer.is_delivered else answer)

    def _data_accepted(self, code: int, reply: bytes) -> None:
        self._expect(self._timeouts.block, range(1000), self._answered_early, None)
        self._step = "message"
        self._sending = True
        Deferred.fromCoroutine(self._send_body()).addErrback(self._body_failed)

    def _answered_early(self, code: int, reply: bytes) -> None:
        answer = _answer(code, reply)
        self._end(Answer(0, "4.5.0", answer.text) if answer.is_delivered else answer)

    async def _send_body(self) -> None:
        stuffer = Stuffer()
        self.transport.registerProducer(self, True)
        async with aclosing(self._job.body()) as pieces:
            async for piece in pieces:
                await self._flowing()
                if self.done.called:
                    return
                self.setTimeout(self._timeouts.block)
                self.transport.write(stuffer.feed(piece))
        await self._flowing()
        if self.done.called:
            return
        if not self._job.may_finish():
            self._end(Answer(0, "4.3.2", "Another node has taken the message over"))
            return
        self._sending = False
        self._step = "end of message"
        self._expect(self._timeouts.end, range(1000), self._message_answered, None)
        self.transport.write(stuffer.finish())
        self.transport.unregisterProducer()

    def _body_failed(self, failure: Failure) -> None:
        self._end(Answer(0, "4.3.0", f"The message cannot be read: {failure.getErrorMessage()}"))

    def _message_answered(self, code: int, reply: bytes) -> None:
        self._end(_answer(code, reply))

    # -- back-pressure -----------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        if self._resumed is None:
            self._resumed = Deferred()

    def resumeProducing(self) -> None:
        self._wake()

    def stopProducing(self) -> None:
        self._wake()

    def _wake(self) -> None:
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resumed.callback(None)

    async def _flowing(self) -> None:
        if self._resumed is not None:
            waiting: Deferred[None] = Deferred()
            self._resumed.addCallback(lambda _: waiting.callback(None))
            await waiting


def _answer(code: int, reply: bytes) -> Answer:
    return answer_of(code, reply.decode("utf-8", "replace"))

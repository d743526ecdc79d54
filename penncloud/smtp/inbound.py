"""One client's session with the SMTP server (RFC 5321): Twisted's ESMTP, with its own reading of lines.

Theory of operation
    Input is kept in `_input` and taken from there one command, or one piece of a message, at a time.
    A command that has to ask the store is a coroutine; while it runs nothing more is taken, so replies
    come in the order of the commands however the client pipelines, and when much waits the
    transport is paused. Thus the store's pace is the client's pace, and memory stays flat.

    After DATA every byte up to CRLF.CRLF is the message, whatever is wrong with it (`data.DataReader`);
    the verdict comes once, behind it. 250 is said when every recipient's mailbox has the message; when
    that is not certain the answer is 451, so that the client tries again.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.mail.smtp import COMMAND, DATA, ESMTP
from twisted.python.failure import Failure

from penncloud.platform.errors import PennCloudError
from penncloud.services.mail.addresses import Address
from penncloud.smtp.commands import Mail, Refusal, parse_mail, parse_rcpt
from penncloud.smtp.data import DataReader
from penncloud.smtp.reception import Envelope, Incoming

if TYPE_CHECKING:
    from penncloud.smtp.server import InboundServer

# Bytes of one command line with its CRLF: RFC 5321 4.5.3.1.4 asks for 512, parameters may add.
MAX_COMMAND_BYTES = 2048
# Input that may wait while a command runs; beyond it the client is not read.
MAX_WAITING_BYTES = 128 * 1024
# Refused commands after which a client is sent away.
MAX_ERRORS = 100


class Session(ESMTP):
    """One client's connection."""

    log = Logger()
    noisy = False
    transport: Any
    timeout: Any
    callLater: Any  # of TimeoutMixin: our clock instead of the global reactor's

    def __init__(self, server: InboundServer) -> None:
        super().__init__()
        self.host = server.reception.hostname
        self.timeout = server.limits.idle_s
        self.callLater = server.environment.reactor.callLater
        self.client = ""
        self.is_busy = False
        self._server = server
        self._input = bytearray()  # cut at its front without copying the rest
        self._is_paused = False
        self._is_taking = False
        self._is_closing = False
        self._is_lost = False
        self._too_long = False
        self._errors = 0
        self._helo_name = ""
        self._is_extended = False
        self._is_encrypted = False
        self._mail: Mail | None = None
        self._recipients: list[tuple[Address, str]] = []
        self._reader = DataReader()
        self._incoming: Incoming | None = None
        self._store_failed = False
        self._data_timer: Any = None

    # -- the connection ----------------------------------------------------------------------------

    def connectionMade(self) -> None:
        peer = self.transport.getPeer()
        self.client = str(getattr(peer, "host", peer))
        self._helo = (b"", self.client.encode())
        refusal = self._server.admit(self)
        if refusal is not None:
            self._say(421, "4.7.0", refusal)
            self._close()
            return
        self.sendCode(220, self.host + b" ESMTP PennCloud")
        self.setTimeout(self.timeout)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._is_lost = True
        self.setTimeout(None)
        self._stop_data_timer()
        self._server.left(self)
        if not self.is_busy:
            self._abandon()

    def timeoutConnection(self) -> None:
        self._say(421, "4.4.2", "Timeout: nothing was heard for too long")
        self._close()

    def dataReceived(self, data: bytes) -> None:
        if self._is_closing:
            return
        self._input += data
        self.resetTimeout()
        self._take()

    def dismiss(self) -> None:
        """The server stops: say so and close, now or when the running command is done."""
        if not self.is_busy and not self._is_closing:
            self._say(421, "4.3.2", "Shutting down")
            self._close()

    def _close(self) -> None:
        self._is_closing = True
        self._input.clear()
        self.setTimeout(None)
        self._stop_data_timer()
        self.transport.loseConnection()
        if not self.is_busy:
            self._abandon()

    def _abandon(self) -> None:
        """Remove what was stored of a message that will not be finished."""
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            Deferred.fromCoroutine(incoming.writer.abort()).addErrback(
                lambda failure: self.log.failure("a message was not removed", failure)
            )

    # -- taking input ------------------------------------------------------------------------------

    def _take(self) -> None:
        if self._is_taking:
            return  # a command was done at once: the loop below goes on
        self._is_taking = True
        while self._input and not self.is_busy and not self._is_closing:
            before = len(self._input)
            if self.mode == DATA:
                self._take_data()
            else:
                self._take_line()
            if len(self._input) == before and not self.is_busy:
                break  # the rest of the line has not come yet
        self._is_taking = False
        waits = self.is_busy and len(self._input) > MAX_WAITING_BYTES
        if waits != self._is_paused and not self._is_lost:
            self._is_paused = waits
            if waits:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    def _run(self, work: Coroutine[Deferred[Any], Any, None]) -> None:
        """Take no further input until `work` is done."""
        self.is_busy = True
        self.setTimeout(None)
        Deferred.fromCoroutine(work).addErrback(self._failed).addBoth(self._resume)

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, PennCloudError) and error.retryable:
            self.log.warn("451 to {client}: {error}", client=self.client, error=str(error))
        else:
            self.log.failure("451 to {client}", failure, client=self.client)
        self._say(451, "4.3.0", "The mail store cannot be reached; try again later")

    def _resume(self, _: object) -> None:
        self.is_busy = False
        if self._is_lost or self._is_closing:
            self._abandon()
        elif self._server.is_stopping:
            self.dismiss()
        else:
            self.setTimeout(self.timeout)
            self._take()

    def _take_line(self) -> None:
        end = self._input.find(b"\n")
        if end < 0:
            if len(self._input) > MAX_COMMAND_BYTES:
                self._too_long = True
                # A CR may be the first half of the line's end.
                del self._input[: len(self._input) - self._input.endswith(b"\r")]
            return
        line = bytes(self._input[: end + 1])
        del self._input[: end + 1]
        too_long, self._too_long = self._too_long or len(line) > MAX_COMMAND_BYTES, False
        if too_long:
            self._refuse(Refusal(500, "5.5.2", f"A line has at most {MAX_COMMAND_BYTES} bytes"))
        elif not line.endswith(b"\r\n") or b"\r" in line[:-2]:
            self._refuse(Refusal(500, "5.5.2", "A line ends in CR LF, and holds neither alone"))
        elif b"\x00" in line:
            self._refuse(Refusal(500, "5.5.2", "A line must not hold NUL"))
        else:
            self.lineReceived(line[:-2])

    # -- commands ----------------------------------------------------------------------------------

    def lineReceived(self, line: bytes) -> None:
        verb, _, argument = line.strip(b" \t").partition(b" ")
        commands: dict[bytes, Callable[[bytes], None]] = {
            b"EHLO": self.do_EHLO,
            b"HELO": self.do_HELO,
            b"MAIL": self.do_MAIL,
            b"RCPT": self.do_RCPT,
            b"DATA": self.do_DATA,
            b"RSET": self.do_RSET,
            b"NOOP": self.do_NOOP,
            b"QUIT": self.do_QUIT,
            b"VRFY": self.do_VRFY,
            b"HELP": self.do_HELP,
        }
        if self._server.certificate is not None:
            commands[b"STARTTLS"] = self.do_STARTTLS
        command = commands.get(verb.upper())
        try:
            if command is None:
                if verb.upper() in (b"EXPN", b"TURN", b"AUTH", b"STARTTLS", b"BDAT", b"ETRN"):
                    raise Refusal(502, "5.5.1", "This command is not implemented here")
                raise Refusal(500, "5.5.1", "There is no such command")
            command(argument.strip(b" \t"))
        except Refusal as refusal:
            self._refuse(refusal)

    def extensions(self) -> dict[bytes, list[bytes] | None]:
        found: dict[bytes, list[bytes] | None] = {
            b"PIPELINING": None,
            b"SIZE": [b"%d" % self._server.limits.message_bytes],
            b"8BITMIME": None,
            b"SMTPUTF8": None,
            b"ENHANCEDSTATUSCODES": None,
            b"HELP": None,
        }
        if self._server.certificate is not None and not self._is_encrypted:
            found[b"STARTTLS"] = None
        return found

    def do_EHLO(self, argument: bytes) -> None:
        self._greet(argument, is_extended=True)
        self.sendCode(250, self.host + b" greets you\n" + self.listExtensions())

    def do_HELO(self, argument: bytes) -> None:
        self._greet(argument, is_extended=False)
        self.sendCode(250, self.host + b" greets you")

    def _greet(self, argument: bytes, is_extended: bool) -> None:
        if not argument:
            raise Refusal(501, "5.5.4", "Say your name")
        self._helo_name = argument.decode("utf-8", "replace")
        self._is_extended = is_extended
        self._forget()

    def do_STARTTLS(self, argument: bytes) -> None:
        """RFC 3207: what was said before, and what was sent along with the command, counts for nothing."""
        certificate = self._server.certificate
        assert certificate is not None
        if argument:
            raise Refusal(501, "5.5.4", "STARTTLS takes no argument")
        if self._is_encrypted:
            raise Refusal(503, "5.5.1", "The connection is encrypted already")
        self._say(220, "2.0.0", "Go ahead")
        self._input.clear()
        self._forget()
        self._helo_name = ""
        self._is_extended = False
        self._is_encrypted = True
        self.transport.startTLS(certificate)

    def do_MAIL(self, argument: bytes) -> None:
        if not self._helo_name:
            raise Refusal(503, "5.5.1", "Say EHLO first")
        if self._mail is not None:
            raise Refusal(503, "5.5.1", "There is a sender already; RSET forgets it")
        mail = parse_mail(argument)
        if mail.size > self._server.limits.message_bytes:
            raise self._too_large()
        self._mail = mail
        self._say(250, "2.1.0", "Sender ok")

    def do_RCPT(self, argument: bytes) -> None:
        if self._mail is None:
            raise Refusal(503, "5.5.1", "Name the sender first")
        if len(self._recipients) >= self._server.limits.recipients:
            raise Refusal(452, "4.5.3", "Too many recipients; send the others separately")
        self._run(self._accept_recipient(parse_rcpt(argument, self._mail.utf8)))

    async def _accept_recipient(self, address: Address) -> None:
        try:
            user = await self._server.reception.accept_recipient(address)
        except Refusal as refusal:
            self._refuse(refusal)
            return
        self._recipients.append((address, user))
        self._say(250, "2.1.5", "Recipient ok")

    def do_DATA(self, argument: bytes) -> None:
        if argument:
            raise Refusal(501, "5.5.4", "DATA takes no argument")
        if self._mail is None or not self._recipients:
            self._refuse(Refusal(503, "5.5.1", "Name the sender and a valid recipient first"))
            self._distrust()
            return
        self._run(self._begin_data(self._mail))

    async def _begin_data(self, mail: Mail) -> None:
        protocol = "UTF8SMTP" if mail.utf8 else "ESMTP"
        # RFC 3848, RFC 6531: S for a session that is encrypted; plain SMTP has no name for that.
        protocol += "S" if self._is_encrypted else ""
        envelope = Envelope(
            sender=mail.sender,
            recipients=tuple(address for address, _ in self._recipients),
            users=tuple(dict.fromkeys(user for _, user in self._recipients)),
            client=self.client,
            helo=self._helo_name,
            protocol=protocol if self._is_extended or mail.utf8 else "SMTP",
        )
        try:
            self._incoming = await self._server.reception.begin(envelope)
        except PennCloudError:
            self._distrust()
            raise
        if self._is_lost:
            return
        self._reader = DataReader()
        self._store_failed = False
        self.mode = DATA
        limit_s = self._server.limits.data_s
        self._data_timer = self.callLater(limit_s, self._data_took_too_long)
        self.sendCode(354, b"End with CRLF.CRLF")

    def _distrust(self) -> None:
        """DATA was refused, but more came with it: a message that must not be read as commands."""
        if self._input:
            self._say(421, "4.7.0", "Input was sent before the answer to DATA")
            self._close()

    def do_RSET(self, argument: bytes) -> None:
        self._forget()
        self._say(250, "2.0.0", "Forgotten")

    def do_NOOP(self, argument: bytes) -> None:
        self._say(250, "2.0.0", "Ok")

    def do_QUIT(self, argument: bytes) -> None:
        self._say(221, "2.0.0", "Bye")
        self._close()

    def do_VRFY(self, argument: bytes) -> None:
        # RFC 5321 7.3: neither confirmed nor denied, so that names cannot be tried out cheaply.
        self._say(252, "2.5.2", "Cannot verify, but will accept mail and try")

    def do_HELP(self, argument: bytes) -> None:
        self.sendCode(
            214, b"2.0.0 EHLO HELO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT\n2.0.0 See RFC 5321"
        )

    # -- the message -------------------------------------------------------------------------------

    def _take_data(self) -> None:
        data = bytes(self._input)
        self._input.clear()
        lines, rest = self._reader.feed(data)
        if rest is not None:
            self.mode = COMMAND
            self._stop_data_timer()
            self._input += rest
            self._run(self._end_data(lines))
        elif lines:
            self._run(self._write(lines))

    async def _write(self, lines: bytes) -> None:
        """Store more of the message, unless it is known already that it will not be accepted."""
        incoming = self._incoming
        if incoming is None or self._store_failed or self._verdict(len(lines)) is not None:
            if incoming is not None:
                incoming.size += len(lines)
            return
        try:
            await incoming.write(lines)
        except PennCloudError as error:
            self._store_failed = True
            self.log.warn("while {client} sends: {error}", client=self.client, error=str(error))

    async def _close_message(self) -> None:
        if self._incoming is None or self._store_failed or self._verdict(0) is not None:
            return
        try:
            await self._incoming.close()
        except PennCloudError as error:
            self._store_failed = True
            self.log.warn("while {client} sends: {error}", client=self.client, error=str(error))

    async def _end_data(self, lines: bytes) -> None:
        await self._write(lines)
        await self._close_message()
        incoming, refusal = self._incoming, self._verdict(0)
        try:
            if refusal is None and incoming is not None and not self._store_failed:
                self._incoming = None
                try:
                    await self._server.reception.deliver(incoming)
                except PennCloudError as error:
                    self._store_failed = True
                    self.log.warn(
                        "message from {client} not accepted: {error}",
                        client=self.client,
                        error=str(error),
                    )
        finally:
            self._abandon()
            self._forget()
        if refusal is not None:
            self._server.answered(refusal.code)
            self._refuse(refusal)
        elif self._store_failed or incoming is None:
            self._server.answered(451)
            self._say(451, "4.3.0", "The mail store cannot be reached; try again later")
        else:
            self._server.answered(250)
            self._say(250, "2.0.0", f"Stored as {incoming.writer.message_id}")

    def _verdict(self, more_bytes: int) -> Refusal | None:
        """Why the message cannot be accepted, as far as it is known by now."""
        incoming = self._incoming
        if self._reader.has_bare_newline:
            return Refusal(554, "5.6.0", "A message's lines end in CR LF; it holds CR or LF alone")
        if self._reader.has_long_line:
            return Refusal(554, "5.6.0", "A line of the message is too long")
        if incoming is None:
            return None
        if incoming.size + more_bytes > self._server.limits.message_bytes:
            return self._too_large()
        if incoming.trace.is_loop:
            return Refusal(554, "5.4.6", "Too many Received fields: this message goes in circles")
        if incoming.trace.is_too_large:
            return Refusal(554, "5.6.0", "The message's header section is too large")
        return None

    def _too_large(self) -> Refusal:
        limit = self._server.limits.message_bytes
        return Refusal(552, "5.3.4", f"A message has at most {limit} bytes")

    def _data_took_too_long(self) -> None:
        self._data_timer = None
        self._say(421, "4.4.2", "Timeout: the message took too long")
        self._close()

    def _stop_data_timer(self) -> None:
        timer, self._data_timer = self._data_timer, None
        if timer is not None:
            timer.cancel()

    # -- replies -----------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._mail = None
        self._recipients = []

    def _say(self, code: int, status: str, text: str) -> None:
        if not self._is_lost:
            self.sendCode(code, f"{status} {text}".encode("ascii", "replace"))

    def _refuse(self, refusal: Refusal) -> None:
        self._say(refusal.code, refusal.status, refusal.text)
        self._errors += refusal.code >= 500
        if self._errors > MAX_ERRORS:
            self._say(421, "4.7.0", "Too many errors")
            self._close()

"""The reactor of the servers: Twisted's epoll reactor, with less work for each small answer.

Stock, an answer on an idle connection costs three turns of the kernel's: epoll is told that the socket wants
to write, says in the next round that it may, and is told that it does not want to any more. A socket nearly
always may. Here a connection that has something to send is remembered, and sent to directly before the
reactor next waits; epoll hears of it only when the kernel does not take everything.

Theory of operation
    A round of the main loop is `runUntilCurrent` (threads' calls and timers) and `doPoll` (one wait, then
    every event). Each ends with one *turn* for every connection that has said meanwhile that it wants to
    write: at most one `doWrite`, which sends what `SEND_LIMIT` allows. What is left after it, and whoever
    wants to write again, goes to epoll like everywhere else. So a connection gets at most two more writes
    in a round than stock, whatever its producer does, and others get theirs.

    Nothing can be called between the end of a turn and the wait: what a turn leads to (timers, the end of
    the reactor) is known to the main loop before it decides how long to wait.

    Stock, each event also runs inside `callWithLogger`. Here connections' events share one place on the
    stack of contexts, which says for each what `callWithLogger` would: `twisted.python.log` finds the same.

Everything else is `EPollReactor`; Twisted's own tests of reactors pass on it (`tests/platform`).
"""

from __future__ import annotations

import errno
import sys
from select import EPOLLIN
from typing import Any, Final

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.tcp import Connection
from twisted.python import context, log

# Where twisted.python.log looks for whom a line is about.
_LOG_CONTEXT: Final[Any] = log.ILogContext


class PromptReactor(EPollReactor):
    """See the module."""

    def __init__(self) -> None:
        # Connections that want to write since their last turn, in the order in which they said so, and
        # those of a turn that is being taken.
        self._eager: dict[Any, None] = {}
        self._turn: dict[Any, None] = {}
        # The connection that writes now, until it says that it has nothing more.
        self._writing: Any = None
        super().__init__()

    # -- who wants to write ----------------------------------------------------------------------

    def addWriter(self, writer: Any) -> None:
        # Before it is connected, a socket is waited for: to be writable is what tells that it is.
        if isinstance(writer, Connection) and writer.connected:
            if writer.fileno() not in self._writes:
                self._eager[writer] = None
        else:
            super().addWriter(writer)

    def removeWriter(self, writer: Any) -> None:
        if writer is self._writing:
            self._writing = None
        elif writer in self._eager:
            del self._eager[writer]
        elif writer in self._turn:
            del self._turn[writer]
        else:
            super().removeWriter(writer)

    def removeAll(self) -> Any:
        eager = {**self._turn, **self._eager}
        self._turn.clear()
        self._eager.clear()
        removed = super().removeAll()
        return removed + [writer for writer in eager if writer not in removed]

    def getWriters(self) -> Any:
        return [*super().getWriters(), *self._turn, *self._eager]

    # -- one round -------------------------------------------------------------------------------

    def runUntilCurrent(self) -> None:
        super().runUntilCurrent()
        if self._eager:
            self._take_turn()
            if self._justStopped:
                # The main loop would wait before it looks again.
                super().runUntilCurrent()

    def doPoll(self, timeout: float | None) -> None:
        try:
            events = self._poller.poll(-1 if timeout is None else timeout, len(self._selectables))
        except OSError as error:
            if error.errno == errno.EINTR:
                return
            raise
        selectables = self._selectables
        contexts = context.theContextTracker.currentContext().contexts
        contexts.append({})
        try:
            for fd, event in events:
                selectable = selectables.get(fd)
                if isinstance(selectable, Connection):
                    contexts[-1] = {_LOG_CONTEXT: {"system": selectable.logPrefix()}}
                    self._act(selectable, fd, event)
                elif selectable is not None:
                    log.callWithLogger(selectable, self._doReadOrWrite, selectable, fd, event)
        finally:
            contexts.pop()
        if self._eager:
            self._take_turn()

    # The name by which the main loop calls it.
    doIteration = doPoll

    def _act(self, connection: Connection, fd: int, event: int) -> None:
        """What `callWithLogger` does with the event of a connection."""
        try:
            if event == EPOLLIN:
                # By far the most: `_doReadOrWrite` without its distinctions.
                try:
                    why: Any = connection.doRead()
                except BaseException:  # noqa: BLE001 (as everywhere in Twisted: it ends the connection)
                    why = sys.exc_info()[1]
                    log.err()
                if why:
                    self._disconnectSelectable(connection, why, True)
            else:
                self._doReadOrWrite(connection, fd, event)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 (one connection must not end the round)
            log.err()

    def _take_turn(self) -> None:
        """Let everybody write once who wants to; epoll says when the rest may follow."""
        self._turn, self._eager = self._eager, self._turn
        contexts = context.theContextTracker.currentContext().contexts
        contexts.append({})
        try:
            for writer in list(self._turn):
                # What came before may have ended it.
                if writer in self._turn:
                    contexts[-1] = {_LOG_CONTEXT: {"system": writer.logPrefix()}}
                    self._write(writer)
        finally:
            contexts.pop()
        for writer in list(self._eager):
            super().addWriter(writer)
        self._eager.clear()

    def _write(self, writer: Connection) -> None:
        del self._turn[writer]
        self._writing = writer
        try:
            self._act(writer, writer.fileno(), self._POLL_OUT)
        finally:
            unfinished, self._writing = self._writing, None
        if unfinished is not None and writer.connected:
            super().addWriter(writer)


def install() -> None:
    """Make it this process's reactor, as `twistd --reactor prompt` does."""
    from twisted.internet.main import installReactor

    installReactor(PromptReactor())

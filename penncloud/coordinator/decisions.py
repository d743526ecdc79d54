"""Drives the state machine: a command is written to the log, then applied, then answered."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import ClassVar, Final

import msgspec
from attrs import define, field
from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.coordinator.log import CommandLog, LogCorrupt
from penncloud.coordinator.state import Command, Result, StateMachine
from penncloud.platform.disk import Disk
from penncloud.platform.environment import nothing_broken
from penncloud.platform.errors import DiskError, DiskFull, PennCloudError

# Commands that wait for the disk; one more is refused.
MAX_WAITING: Final = 1024


class TooManyDecisions(PennCloudError):
    """More commands wait for the disk than may; nothing was done."""

    retryable: ClassVar[bool] = True


class NotDeciding(PennCloudError):
    """The coordinator stops or its disk has failed; whether the command was logged is not known."""

    retryable: ClassVar[bool] = True


@define
class _Waiting:
    command: Command
    result: Deferred[Result] = field(factory=Deferred)


class Decisions:
    """The one place where the state changes.

    `changed` is called after each batch of applied commands, before their proposers learn of it.
    Once the disk has failed every command is refused.
    """

    log = Logger()

    def __init__(
        self,
        disk: Disk,
        changed: Callable[[], None],
        broken: Callable[[str], bool] = nothing_broken,
    ) -> None:
        self.machine = StateMachine()
        self._log: CommandLog[Command] = CommandLog(disk, Command)
        self._changed = changed
        self._broken = broken
        self._waiting: deque[_Waiting] = deque()
        self._open = False
        self._writing = False
        self._idle: Deferred[None] | None = None

    async def open(self) -> None:
        """Bring the state back from disk. Raises LogCorrupt, DiskError."""
        found = await self._log.open()
        if found.snapshot is not None:
            try:
                self.machine.restore(bytes(found.snapshot))
            except msgspec.MsgspecError as error:
                raise LogCorrupt(f"the snapshot is not a state: {error}") from error
        for command in found.commands:
            self.machine.apply(command)
        self._open = True

    def propose(self, command: Command) -> Deferred[Result]:
        """Fires with the command's result once it is durable and applied.

        Errors: TooManyDecisions, DiskFull (nothing was done), NotDeciding.
        """
        if not self._open:
            return fail(NotDeciding("the coordinator does not take decisions now"))
        if len(self._waiting) >= MAX_WAITING:
            return fail(TooManyDecisions(f"{MAX_WAITING} commands already wait for the disk"))
        waiting = _Waiting(command)
        self._waiting.append(waiting)
        if not self._writing:
            self._writing = True
            Deferred.fromCoroutine(self._write()).addErrback(self._write_failed)
        return waiting.result

    async def close(self) -> None:
        """Take no more commands, finish those that wait, close the log."""
        self._open = False
        if self._writing:
            self._idle = Deferred()
            await self._idle
        await self._log.close()

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch = list(self._waiting)
                self._waiting.clear()
                await self._write_batch(batch)
                if self._log.wants_snapshot:
                    await self._rotate()
        finally:
            self._writing = False
            if self._idle is not None:
                self._idle.callback(None)

    async def _write_batch(self, batch: list[_Waiting]) -> None:
        try:
            if not self._broken("decide-when-durable"):
                await self._log.append([waiting.command for waiting in batch])
            results = [self.machine.apply(waiting.command) for waiting in batch]
        except DiskFull as error:
            for waiting in batch:
                waiting.result.errback(error)
            return
        except DiskError as error:
            self._give_up(error, batch)
            return
        except Exception as error:
            # A fault of ours: what is on the disk and what is applied may differ.
            self._give_up(NotDeciding(f"internal error: {error!r}"), batch)
            raise
        self._changed()
        for waiting, result in zip(batch, results, strict=True):
            waiting.result.callback(result)

    async def _rotate(self) -> None:
        try:
            await self._log.rotate(self.machine.snapshot())
        except DiskFull as error:  # the log just goes on growing, while it can
            self.log.warn("no room for a snapshot: {error}", error=str(error))
        except DiskError as error:
            self._give_up(error, [])

    def _give_up(self, error: PennCloudError, batch: list[_Waiting]) -> None:
        self._open = False
        unknown = NotDeciding(f"the coordinator's log has failed: {error}")
        rest = [*batch, *self._waiting]
        self._waiting.clear()
        for waiting in rest:
            waiting.result.errback(unknown)

    def _write_failed(self, failure: Failure) -> None:
        self.log.failure("writing the coordinator's log", failure)

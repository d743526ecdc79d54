"""What a role tells the service manager: that it works at its start, serves, lives, and ends."""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from penncloud.platform.service_manager import (
    ALIVE,
    READY,
    STOPPING,
    ServiceManager,
    extend_timeout,
    reloading,
    status,
)

# While it starts or stops a role asks for so much more time, this often: recovery of a large log may take
# minutes, and only a process whose reactor stands still is to be given up.
_MORE_S: Final = 30.0
_ASK_EVERY_S: Final = 10.0


class Supervision:
    """Tells `manager` how the role with this id is. `clock` has IReactorTime."""

    log = Logger()

    def __init__(self, manager: ServiceManager, clock: Any, node_id: str) -> None:
        self._manager = manager
        self._id = node_id
        self._clock = clock
        self._pulse: LoopingCall | None = None

    def starting(self) -> None:
        self._manager.tell(status(f"{self._id} starts"))
        self._repeat(extend_timeout(_MORE_S), _ASK_EVERY_S)

    def serving(self) -> None:
        self._manager.tell(f"{READY}\n{status(f'{self._id} serves')}")
        # Half the time, as sd_watchdog_enabled(3) recommends.
        self._repeat(ALIVE, self._manager.watchdog_s / 2)

    def reloading(self) -> None:
        """The configuration is read again; `serving` ends it."""
        self._manager.tell(reloading(self._clock.seconds()))

    def stopping(self) -> None:
        self._manager.tell(f"{STOPPING}\n{status(f'{self._id} stops')}")
        every_s = min(self._manager.watchdog_s / 2 or _ASK_EVERY_S, _ASK_EVERY_S)
        self._repeat(f"{ALIVE}\n{extend_timeout(_MORE_S)}", every_s)

    def stopped(self) -> None:
        self._end()

    def _repeat(self, message: str, every_s: float) -> None:
        self._end()
        if every_s > 0:
            self._pulse = LoopingCall(self._manager.tell, message)
            self._pulse.clock = self._clock
            self._pulse.start(every_s).addErrback(
                lambda failure: self.log.failure("telling the service manager", failure)
            )

    def _end(self) -> None:
        if self._pulse is not None and self._pulse.running:
            self._pulse.stop()
        self._pulse = None

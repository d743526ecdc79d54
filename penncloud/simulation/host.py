"""A machine: its address, its disk, its clock, and the one program that it runs, over and over.

The program is made by `build` each time the host starts it, from a new `Environment` and the disk as the
last run left it. A program that cannot start, or whose disk has failed, ends, and is started again after
a while, as an agent or systemd would do.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from penncloud.platform.disk import Disk
from penncloud.platform.environment import Environment
from penncloud.platform.errors import PennCloudError
from penncloud.simulation.disk import DiskQuality, SimulatedDisk
from penncloud.simulation.process import Process
from penncloud.simulation.timeline import Event

if TYPE_CHECKING:
    from penncloud.simulation.world import World

# Wall clock at the beginning of every run: any time will do.
EPOCH_S: Final = 1_750_000_000.0
RESTART_S: Final = 0.5
# A stop in order that takes longer is cut short.
STOP_WITHIN_S: Final = 15.0


class Node(Protocol):
    """The program: what the taps run (`taps._service.Node`)."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


Build = Callable[[Environment, Disk], Node]


@define
class Counts:
    """What happened to one host."""

    starts: int = 0
    kills: int = 0
    pauses: int = 0
    disk_failures: int = 0


class Host:
    """`clock_rate`: seconds of its clock in one second of the world."""

    def __init__(
        self,
        world: World,
        name: str,
        address: str,
        build: Build,
        *,
        clock_rate: float = 1.0,
        wall_skew_s: float = 0.0,
        quality: DiskQuality | None = None,
        capacity_bytes: int = 2**40,
    ) -> None:
        self.world = world
        self.name = name
        self.address = address
        self.clock_rate = clock_rate
        self.clock_origin_s = 1000.0
        self.wall_skew_s = wall_skew_s
        self.powered = True
        self.counts = Counts()
        self.process: Process | None = None
        self.node: Node | None = None
        # Its program has started; and how often it could not since it last did.
        self.serves = False
        self.refusals = 0
        # Something on its disk is wrong: its program rightly says so.
        self.decayed = False
        self._build = build
        self._full_bytes = capacity_bytes
        self._quality = quality or DiskQuality()
        # The process that was told to end in order: told again, it goes on ending.
        self._stopping: Process | None = None
        # The start that is due, if one is.
        self._due: Event | None = None
        # What was killed is kept: were it collected, its `finally` blocks would run at some time.
        self._past: list[tuple[Process, Node | None]] = []
        # No program has it yet: its clock stands still.
        self.disk = SimulatedDisk(Clock(), self._chance("disk"), self._quality, capacity_bytes)

    @property
    def up(self) -> bool:
        """Whether its program runs (it may be paused)."""
        return self.process is not None

    def _chance(self, purpose: str) -> random.Random:
        """A generator for this run of the program alone: what an earlier run draws is its affair."""
        return self.world.random(f"{self.name}/{self.counts.starts}/{purpose}")

    # -- the program -----------------------------------------------------------------------------

    def start(self) -> None:
        """Switch the machine on and run the program."""
        self.powered = True
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self.process is not None:
            return
        self.counts.starts += 1
        world = self.world
        process = self.process = Process(self, world.next_pid())
        self.disk = self.disk.restarted(
            process, self._chance("disk"), lambda: self.kill(power=True, back_in_s=RESTART_S)
        )
        self.disk.on_failure(lambda _: self._disk_failed(process))
        environment = Environment(
            reactor=process,
            now=lambda: EPOCH_S + self.wall_skew_s + process.seconds(),
            random=self._chance("program"),
            entropy=self._chance("entropy").randbytes,
            run_in_thread=process.run_in_thread,
            pid=process.pid,
            broken=world.broken,
        )
        world.trace.fact(self.name, f"starts as {process.pid}")
        process.execute(self._run, process, environment)

    def _run(self, process: Process, environment: Environment) -> None:
        node = self.node = self._build(environment, self.disk)
        starting = Deferred.fromCoroutine(_coroutine(node.start()))
        starting.addCallbacks(
            self._started, self._not_started, callbackArgs=(process,), errbackArgs=(process,)
        )

    def _started(self, _: None, process: Process) -> None:
        if process is self.process:
            self.serves, self.refusals = True, 0

    def _not_started(self, failure: Failure, process: Process) -> None:
        if not failure.check(PennCloudError):
            self.world.internal_error(self.name, failure)
        if process is self.process:
            self.refusals += 1
            self.world.trace.fact(self.name, "cannot start")
            self.world.trace.note(self.name, failure.getErrorMessage())
            self._ends(RESTART_S)

    def _disk_failed(self, process: Process) -> None:
        """The program is told by its disk, and ends: but not in the middle of what it does."""
        self.counts.disk_failures += 1
        self.world.timeline.after(0, self._ends_after_failure, process)

    def _ends_after_failure(self, process: Process) -> None:
        if process is self.process:
            self.world.trace.fact(self.name, "ends: its disk has failed")
            self._ends(RESTART_S)

    def _ends(self, back_in_s: float) -> None:
        self.kill(power=False, back_in_s=back_in_s)

    # -- what may happen to it -------------------------------------------------------------------

    def kill(self, power: bool, back_in_s: float | None = None) -> None:
        """End the program at once (SIGKILL), or the power of the whole machine.

        It comes back after `back_in_s` seconds; None: when `start` is called.
        """
        if self.process is None:
            return
        self.counts.kills += 1
        self.world.trace.fact(self.name, "loses its power" if power else "is killed")
        process, self.process = self.process, None
        self.powered, self.serves = not power, False
        process.kill(power)
        self._past.append((process, self.node))
        self.node = None
        if back_in_s is not None:
            self._due = self.world.timeline.after(back_in_s, self.start)

    def restart(self) -> None:
        """Stop the program in order and start it again."""
        process, node = self.process, self.node
        if process is None or node is None or process.paused or process is self._stopping:
            return
        self._stopping = process
        self.world.trace.fact(self.name, "stops in order")
        process.execute(self._stop, process, node)
        self.world.timeline.after(STOP_WITHIN_S, self._stopped, process)

    def _stop(self, process: Process, node: Node) -> None:
        stopping = Deferred.fromCoroutine(_coroutine(node.stop()))
        stopping.addErrback(self._not_stopped)
        stopping.addCallback(lambda _: self.world.timeline.after(0, self._stopped, process))

    def _not_stopped(self, failure: Failure) -> None:
        if not failure.check(PennCloudError):
            self.world.internal_error(self.name, failure)

    def _stopped(self, process: Process) -> None:
        if process is self.process:
            self._ends(0.1)

    def pause(self) -> None:
        """As by SIGSTOP: nothing of the program runs, but its connections stay."""
        if self.process is not None and not self.process.paused:
            self.counts.pauses += 1
            self.world.trace.fact(self.name, "is paused")
            self.process.pause()

    def resume(self) -> None:
        if self.process is not None and self.process.paused:
            self.world.trace.fact(self.name, "goes on")
            self.process.resume()

    def wipe(self) -> None:
        """Put in an empty disk; the machine has to be off."""
        assert self.process is None
        self.decayed = False
        self.disk = SimulatedDisk(
            Clock(), self._chance("wiped disk"), self._quality, self._full_bytes
        )

    def full(self, full: bool) -> None:
        """Leave no room on the disk, or give it back."""
        if full:
            self.disk.fill()
        else:
            self.disk.capacity_bytes = self._full_bytes


async def _coroutine(awaitable: Any) -> None:
    await awaitable

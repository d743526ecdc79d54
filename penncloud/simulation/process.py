"""One run of one program on a host: a reactor of its own.

Twisted's classes get it where they would get the reactor: it has time (IReactorTime), TCP (IReactorTCP)
and names (IReactorPluggableNameResolver). When it is killed its timers never fire and its sockets are
gone, whatever still refers to them; when it is paused (as by SIGSTOP) everything that happens to it waits
until it goes on. Its clock runs at the rate of its host's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import (
    IDelayedCall,
    IHostnameResolver,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
)
from zope.interface import implementer

from penncloud.simulation.sockets import Connector, Port
from penncloud.simulation.timeline import NS, Event

if TYPE_CHECKING:
    from penncloud.simulation.host import Host
    from penncloud.simulation.sockets import Socket

# How long a blocking computation in a thread takes, about.
THREAD_S = 0.02


@implementer(IDelayedCall)
class Timer:
    """A call that a process has asked for."""

    def __init__(self, process: Process, delay_s: float, call: Callable[..., object]) -> None:
        self._process = process
        self._call: Callable[..., object] | None = call
        self._called = False
        self._event = process.schedule(delay_s, self._fire)

    def getTime(self) -> float:
        return self._process.local_s(self._event.time_ns)

    def active(self) -> bool:
        return self._call is not None

    def cancel(self) -> None:
        self._check()
        self._call = None
        self._event.cancel()

    def reset(self, seconds: float) -> None:
        self._check()
        self._event.cancel()
        self._event = self._process.schedule(seconds, self._fire)

    def delay(self, seconds: float) -> None:
        self.reset(self.getTime() - self._process.seconds() + seconds)

    def _check(self) -> None:
        if self._called:
            raise AlreadyCalled
        if self._call is None:
            raise AlreadyCancelled

    def _fire(self) -> None:
        # A paused process may have cancelled it meanwhile.
        if self._call is not None:
            call, self._call = self._call, None
            self._called = True
            call()


@implementer(IReactorTime, IReactorTCP, IReactorPluggableNameResolver)
class Process:
    """`pid` is its number in the whole run."""

    running = True

    def __init__(self, host: Host, pid: int) -> None:
        self.host = host
        self.pid = pid
        self.dead = False
        self.paused = False
        # A dict as an ordered set.
        self.sockets: dict[Socket, None] = {}
        self._world = host.world
        self._timeline = host.world.timeline
        self._held: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self.nameResolver: IHostnameResolver = _Names(self)

    # -- running code ----------------------------------------------------------------------------

    def execute(self, call: Callable[..., object], *arguments: Any) -> None:
        """Run some of the program's code, now or when it goes on; not at all once it is dead."""
        if self.dead:
            return
        if self.paused:
            self._held.append((call, arguments))
            return
        self._world.run_as(self, call, *arguments)

    def schedule(self, delay_s: float, call: Callable[..., object]) -> Event:
        """An event of this process in `delay_s` seconds of its own clock."""
        return self._timeline.after(delay_s / self.host.clock_rate, self.execute, call)

    def local_s(self, time_ns: int) -> float:
        return time_ns / NS * self.host.clock_rate + self.host.clock_origin_s

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        while self._held and not self.paused and not self.dead:
            call, arguments = self._held.popleft()
            self.execute(call, *arguments)

    def kill(self, power: bool) -> None:
        """End at once. With `power` the machine goes as well, and says nothing to anybody."""
        if self.dead:
            return
        self.dead = True
        self._held.clear()
        for socket in list(self.sockets):
            socket.vanish(power)
        self.sockets.clear()
        self._world.network.close_ports(self)

    # -- IReactorTime, and what goes with it -----------------------------------------------------

    def seconds(self) -> float:
        return self.local_s(self._timeline.now_ns)

    def callLater(
        self, delay: float, callable: Callable[..., Any], *args: object, **kw: object
    ) -> Timer:
        if delay < 0:
            raise ValueError(f"{delay} s is in the past")
        return Timer(self, delay, lambda: callable(*args, **kw))

    def getDelayedCalls(self) -> list[IDelayedCall]:
        """Never asked for: a killed process takes its timers along."""
        return []

    def callWhenRunning(self, callable: Callable[..., Any], *args: object, **kw: object) -> None:
        callable(*args, **kw)

    def addSystemEventTrigger(self, *arguments: object, **kw: object) -> object:
        """Nothing here ends in order but nodes, which are stopped by their own method."""
        return arguments

    def removeSystemEventTrigger(self, trigger: object) -> None:
        """See addSystemEventTrigger."""

    def run_in_thread(self, f: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        """See `platform.environment.RunInThread`."""
        result: Deferred[Any] = Deferred()
        self.callLater(THREAD_S, lambda: maybeDeferred(f, *args, **kwargs).chainDeferred(result))
        return result

    # -- IReactorTCP -----------------------------------------------------------------------------

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Port:
        listening = Port(self, port, factory)
        listening.startListening()
        return listening

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None
    ) -> Connector:
        connector = Connector(self, self._world.network.resolve(host), port, factory, timeout)
        connector.connect()
        return connector

    # -- IReactorPluggableNameResolver -----------------------------------------------------------

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:
        before, self.nameResolver = self.nameResolver, resolver
        return before


@implementer(IHostnameResolver)
class _Names:
    """The hosts of the world by name, and addresses as they are."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def resolveHostName(
        self,
        resolutionReceiver: Any,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Any = None,
        transportSemantics: str = "TCP",
    ) -> Any:
        resolutionReceiver.resolutionBegan(self)
        address = self._process.host.world.network.resolve(hostName)
        resolutionReceiver.addressResolved(IPv4Address("TCP", address, portNumber))
        resolutionReceiver.resolutionComplete()
        return self

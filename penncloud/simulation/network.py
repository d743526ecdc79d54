"""Links between hosts: how long things take, what does not get through, who listens where.

Nothing is ever lost on the way, as TCP sends again: a link that is cut delays what is sent over it until
it is whole, or until the sender gives up. A link may be cut in one direction only.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from attrs import define
from twisted.internet.error import CannotListenError, ConnectionLost, TimeoutError

from penncloud.simulation.timeline import NS, Timeline

if TYPE_CHECKING:
    from penncloud.simulation.host import Host
    from penncloud.simulation.process import Process
    from penncloud.simulation.sockets import Port, Socket

# What a sender's kernel waits before it sends again, doubled up to the longest; and when it gives up.
# (Linux goes on for a quarter of an hour; nothing here depends on which.)
RETRY_S: Final = 0.2
LONGEST_RETRY_S: Final = 2.0
GIVE_UP_S: Final = 20.0
_FIRST_FREE_PORT: Final = 40_000


@define
class Quality:
    """Of every link. Latency is drawn between `least_s` and `most_s` for each segment."""

    least_s: float = 0.0001
    most_s: float = 0.001
    bytes_per_s: float = 100e6  # of each link
    # Segments that have to be sent again, which takes RETRY_S.
    loss_rate: float = 0.0
    # Segments that are cut in two at a random byte.
    split_rate: float = 0.2


class Network:
    """`hosts` are those that `add` was called for, by address."""

    def __init__(self, timeline: Timeline, chance: random.Random) -> None:
        self.timeline = timeline
        self.chance = chance
        self.quality = Quality()
        # Links that let nothing through: (from, to) by host name.
        self.cut: set[tuple[str, str]] = set()
        # Seconds added to what takes a link.
        self.slow: dict[tuple[str, str], float] = {}
        # Ports over which times of the real clock travel: what goes there is no fact of the run.
        self.stamped_ports: set[int] = set()
        # Bytes per second of a link, where it is less than usual.
        self.narrow: dict[tuple[str, str], float] = {}
        # When what was sent over a link so far is through.
        self._busy_until_ns: dict[tuple[str, str], int] = {}
        self._hosts: dict[str, Host] = {}
        self._names: dict[str, str] = {}
        self._ports: dict[tuple[str, int], Port] = {}
        self._free_port = _FIRST_FREE_PORT

    def add(self, host: Host) -> None:
        self._hosts[host.address] = host
        self._names[host.name] = host.address

    def resolve(self, name: str) -> str:
        """The address of a host's name; an address as it is."""
        return self._names.get(name, name)

    # -- ports -----------------------------------------------------------------------------------

    def free_port(self) -> int:
        self._free_port += 1
        return self._free_port

    def open_port(self, port: Port) -> None:
        """Raises CannotListenError."""
        if port.process.dead:
            # Its power went in the middle of this turn: nobody will see the rest of it.
            return
        key = (port.address, port.number)
        if key in self._ports:
            raise CannotListenError(port.address, port.number, OSError("address in use"))
        self._ports[key] = port

    def close_port(self, port: Port) -> None:
        if self._ports.get((port.address, port.number)) is port:
            del self._ports[port.address, port.number]

    def close_ports(self, process: Process) -> None:
        for key, port in list(self._ports.items()):
            if port.process is process:
                del self._ports[key]

    def listening(self, address: str, number: int) -> Port | None:
        return self._ports.get((address, number))

    def host(self, address: str) -> Host | None:
        return self._hosts.get(address)

    # -- links -----------------------------------------------------------------------------------

    def delay_ns(self, source: Host, target: Host, size: int) -> int:
        """How long `size` bytes take, behind all that the link has to carry before them."""
        quality, link = self.quality, (source.name, target.name)
        delay_s = self.chance.uniform(quality.least_s, quality.most_s)
        if size:
            now_ns = self.timeline.now_ns
            rate = self.narrow.get(link, quality.bytes_per_s)
            begins_ns = max(now_ns, self._busy_until_ns.get(link, 0))
            through_ns = self._busy_until_ns[link] = begins_ns + int(size * NS / rate)
            delay_s += (through_ns - now_ns) / NS
        if quality.loss_rate and self.chance.random() < quality.loss_rate:
            delay_s += RETRY_S
        delay_s += self.slow.get(link, 0.0)
        return int(delay_s * NS) + 1

    def reaches(self, source: Host, target: Host) -> bool:
        """Whether something that is sent now would arrive."""
        return target.powered and (source.name, target.name) not in self.cut

    def piece(self, size: int) -> int:
        """How many of `size` waiting bytes make the next segment."""
        if size > 1 and self.chance.random() < self.quality.split_rate:
            return self.chance.randint(1, size - 1)
        return size

    def refuse(self, socket: Socket, source: Host, since_ns: int | None = None) -> None:
        """Tell `socket`, from `source`, that there is nobody at the other end."""
        begun_ns = self.timeline.now_ns if since_ns is None else since_ns
        delay_ns = self.delay_ns(source, socket.host, 0)
        self.timeline.at(self.timeline.now_ns + delay_ns, self._refused, socket, source, begun_ns)

    def _refused(self, socket: Socket, source: Host, begun_ns: int) -> None:
        if socket.gone:
            return
        if self.reaches(source, socket.host):
            socket.process.execute(socket.lost, ConnectionLost())
        elif self.timeline.now_ns - begun_ns > GIVE_UP_S * NS:
            socket.process.execute(socket.lost, TimeoutError())
        else:
            self.timeline.after(RETRY_S, self._refused, socket, source, begun_ns)

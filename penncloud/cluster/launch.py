"""`penncloud up`: from a data directory to a cluster that serves, and to its orderly end.

    lock the directory -> wait for leftovers -> plan ports -> write files -> start the agent
    -> every port listens -> a login page is served -> tell -> wait to be told to stop -> stop

Where it does not serve within the bound, or a server dies again and again before it ever listened,
everything is stopped and `NotServing` says what the servers said last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.cluster import leftovers
from penncloud.cluster.agent import AgentNode
from penncloud.cluster.certificates import CHECK_S, agent_credentials, make_certificates
from penncloud.cluster.configuration import (
    Setting,
    address_to_open,
    recall,
    scheme_of,
    write_all,
)
from penncloud.cluster.layout import Layout
from penncloud.cluster.readiness import listens, serves_login
from penncloud.cluster.spawn import role_launch
from penncloud.cluster.topology import IsFree, Server, Topology, Wanted, plan
from penncloud.platform.config import Agent, Cluster, read_file, section
from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError, DirectoryLocked, PennCloudError
from penncloud.platform.lockfile import DirectoryLock
from penncloud.platform.supervisor import Supervised
from penncloud.rpc.endpoints import address_text

# A server that dies so often before it ever listened will not do better.
HOPELESS_DEATHS: Final = 3
_POLL_S: Final = 0.2
# How much of a log is shown where something went wrong.
_TAIL_LINES: Final = 15
_TAIL_BYTES: Final = 16 * 1024


class AlreadyRunning(ConfigurationError):
    """Another agent runs the cluster of this directory."""


class NotServing(PennCloudError):
    """The cluster was started and does not serve; the text has each server's last words."""


@frozen
class Order:
    """What `up` was asked for. `within_s` bounds the time until the cluster serves."""

    layout: Layout
    wanted: Wanted
    settings: Sequence[Setting] = ()
    within_s: float = 120.0


@define
class Launcher:
    """One run of a cluster.

    `say` is given lines for people. `locked` is called when the directory is ours: nobody else writes
    to the files in it from then on.
    """

    _environment: Environment
    _order: Order
    _is_free: IsFree
    _say: Callable[[str], None]
    _locked: Callable[[], None]
    _agent: AgentNode | None = None
    _listening: set[str] = field(factory=set)
    _hopeless: str = ""
    _stopping: bool = False

    log = Logger()

    async def run(self, served: Callable[[str], None], stop: Deferred[None]) -> None:
        """Start, call `served(address)` once the cluster serves, stop when `stop` fires.

        Raises ConfigurationError, AlreadyRunning, NotServing; nothing runs any more then.
        """
        layout = self._order.layout
        layout.make()
        try:
            lock = DirectoryLock(str(layout.root))
        except DirectoryLocked as error:
            raise AlreadyRunning(
                f"the cluster in {layout.root} is running already (agent pid {holder(layout)});"
                f" stop it by: penncloud down --data {layout.root}"
            ) from error
        self._locked()
        stop.addBoth(self._asked_to_stop)
        try:
            await self._run(served, stop)
        finally:
            lock.release()

    def kill(self) -> None:
        """Do not wait any longer for servers to end."""
        if self._agent is not None:
            self._agent.kill()

    def _asked_to_stop(self, result: Any) -> Any:
        self._stopping = True
        return result

    async def _run(self, served: Callable[[str], None], stop: Deferred[None]) -> None:
        layout, environment = self._order.layout, self._environment
        agent_file = layout.configuration("agent-1")
        patience_s = Agent().stop_wait_s
        await leftovers.end_all(layout, environment.reactor, patience_s)
        topology = plan(self._order.wanted, recall(layout), self._is_free)
        write_all(layout, topology, self._order.settings)
        make_certificates(layout, topology, environment.now)
        environment = evolve(environment, credentials=agent_credentials(layout, topology))
        document = read_file(str(agent_file))
        agent = AgentNode(
            environment,
            layout,
            topology,
            cluster=section(Cluster, document["cluster"], str(agent_file)),
            config=section(Agent, document["agent"], str(agent_file)),
            launch=lambda server: role_launch(environment.reactor, layout, server),
            changed=self._changed,
        )
        self._agent = agent
        renewal = LoopingCall(self._renew_certificates)
        renewal.clock = environment.reactor
        try:
            await agent.start()
            renewal.start(CHECK_S, now=False).addErrback(self._not_renewed)
            if await self._ready(topology):
                served(address_to_open(topology, scheme_of(self._order.layout)))
                await stop
        finally:
            self._stopping = True
            if renewal.running:
                renewal.stop()
            await agent.stop()

    def _renew_certificates(self) -> None:
        assert self._agent is not None
        topology = self._agent.topology
        try:
            made = make_certificates(self._order.layout, topology, self._environment.now)
        except ConfigurationError as error:
            self.log.error("certificates cannot be made again: {error}", error=str(error))
        else:
            if made:
                self.log.info("{made} certificates were made again", made=made)

    def _not_renewed(self, failure: Failure) -> None:
        self.log.failure("making certificates again", failure)

    async def _ready(self, topology: Topology) -> bool:
        """True once the cluster serves, False when it is to stop before. Raises NotServing."""
        clock = self._environment.reactor
        deadline = clock.seconds() + self._order.within_s

        def given_up() -> bool:
            return self._stopping or bool(self._hopeless) or clock.seconds() >= deadline

        waits = [self._watch(server, topology, given_up) for server in topology.servers]
        await gatherResults([Deferred.fromCoroutine(wait) for wait in waits], consumeErrors=True)
        address = address_to_open(topology, scheme_of(self._order.layout))
        while not given_up():
            if await serves_login(clock, topology.host, address):
                return True
            await deferLater(clock, _POLL_S)
        if self._stopping:
            return False
        raise NotServing(self._why(topology))

    async def _watch(
        self, server: Server, topology: Topology, given_up: Callable[[], bool]
    ) -> None:
        if await listens(self._environment.reactor, topology.host, server.port, given_up):
            assert self._agent is not None
            self._listening.add(server.id)
            pid = self._agent.processes[server.id].pid
            self._tell(server.id, f"up (pid {pid})")

    def _changed(self, process: Supervised) -> None:
        if process.state == "waiting":
            self._tell(process.id, f"died: {process.last_end}; it is started again")
            if process.id not in self._listening and process.deaths >= HOPELESS_DEATHS:
                self._hopeless = process.id
        elif process.state == "running" and process.id in self._listening:
            self._tell(process.id, f"started (pid {process.pid})")
        elif process.state == "down":
            self._tell(process.id, "stopped")

    def _tell(self, node_id: str, text: str) -> None:
        assert self._agent is not None
        topology = self._agent.topology
        port = next((server.port for server in topology.servers if server.id == node_id), 0)
        address = address_text(topology.public_host, port)
        self._say(f"{node_id:<16}{address:<24}{text}")

    def _why(self, topology: Topology) -> str:
        silent = [server.id for server in topology.servers if server.id not in self._listening]
        if self._hopeless:
            silent = [self._hopeless]
        lines = [f"the cluster does not serve after {self._order.within_s:g} s"]
        if self._hopeless:
            lines = [f"{self._hopeless} cannot be started"]
        elif not silent:
            lines.append("every server listens, but no login page comes from the balancer")
        for node_id in silent or [server.id for server in topology.of("http")]:
            path = self._order.layout.log(node_id)
            end = self._agent.processes[node_id].last_end if self._agent else None
            lines += [f"{node_id}: {end}"] if end else []
            lines += [f"-- the end of {path}:", *tail(path)] if path.exists() else []
        return "\n".join(lines)


def holder(layout: Layout) -> int | None:
    """The pid of the agent that holds the directory, as it wrote it; None when nobody wrote one."""
    try:
        text = layout.lock.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdecimal() else None


def tail(path: Path) -> list[str]:
    """The last lines of a log, for people."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError as error:
        return [f"({error.strerror})"]
    return text.splitlines()[-_TAIL_LINES:]

"""DIR/cluster.json: where everything of a local cluster listens, for commands, scripts and checks.

The agent rewrites it, atomically, whenever something of it changes; anybody may read it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from penncloud.cluster.layout import Layout, replace_file
from penncloud.cluster.topology import Server, Topology
from penncloud.platform.errors import ConfigurationError


class Listener(msgspec.Struct, frozen=True):
    """One server. `pid`: of the process as last started, None before its first start."""

    id: str
    host: str
    port: int
    pid: int | None
    metrics_port: int


class AgentAddress(msgspec.Struct, frozen=True):
    id: str
    host: str
    port: int
    pid: int | None


class ClientCertificate(msgspec.Struct, frozen=True):
    """Paths of what administration needs where internal connections are encrypted."""

    ca: str
    cert: str
    key: str


class ClusterFile(msgspec.Struct, frozen=True):
    """The whole document."""

    lb: list[Listener]
    http: list[Listener]
    smtp: list[Listener]
    coordinators: list[Listener]
    storage: list[Listener]
    agent: AgentAddress
    domain: str
    tls: ClientCertificate | None = None

    @property
    def listeners(self) -> list[Listener]:
        """Every server, of whatever role."""
        return [*self.coordinators, *self.storage, *self.http, *self.smtp, *self.lb]


def describe(
    topology: Topology,
    agent_id: str,
    agent_pid: int | None,
    pids: Mapping[str, int | None],
    tls: ClientCertificate | None = None,
) -> ClusterFile:
    """The document for a topology; `pids` by server id."""

    def listeners(role: str) -> list[Listener]:
        return [listener(server) for server in topology.of(role)]

    def listener(server: Server) -> Listener:
        return Listener(
            id=server.id,
            host=topology.public_host,
            port=server.port,
            pid=pids.get(server.id),
            metrics_port=server.metrics_port,
        )

    return ClusterFile(
        lb=listeners("lb"),
        http=listeners("http"),
        smtp=listeners("smtp"),
        coordinators=listeners("coordinator"),
        storage=listeners("storage"),
        agent=AgentAddress(agent_id, topology.public_host, topology.agent_port, agent_pid),
        domain=topology.domain,
        tls=tls,
    )


def write(layout: Layout, document: ClusterFile) -> None:
    text = msgspec.json.format(msgspec.json.encode(document), indent=2)
    replace_file(layout.cluster_file, text + b"\n", 0o644)


def read(layout: Layout) -> ClusterFile | None:
    """The document, None where there is none. Raises ConfigurationError when it is damaged."""
    try:
        return msgspec.json.decode(layout.cluster_file.read_bytes(), type=ClusterFile)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigurationError(f"{layout.cluster_file}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise ConfigurationError(f"{layout.cluster_file}: damaged: {error}") from error

"""`penncloud doctor`: looks at a cluster and at this host, and says what to do."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from OpenSSL import crypto
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory, Protocol
from twisted.web.client import Agent, ResponseFailed, ResponseNeverReceived, readBody
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from penncloud.cli._columns import columns
from penncloud.cli._exits import DONE, FAILED
from penncloud.cli._reactor import run_command
from penncloud.cli._target import add_target, cluster_of, credentials_of
from penncloud.client.coordinator_link import CoordinatorDirectory
from penncloud.client.directory import NodeInfo
from penncloud.client.table import Unavailable
from penncloud.cluster import examination
from penncloud.cluster.examination import Finding, NodeReport
from penncloud.cluster.layout import Layout
from penncloud.platform.config import SECTIONS, Cluster, read_file, section
from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.resources import version
from penncloud.rpc.endpoints import address_text, client_endpoint, internal_endpoint

_ANSWER_S: Final = 5.0
_MAX_METRICS_BYTES: Final = 4 * 1024 * 1024
_SYNCS: Final = 5


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor",
        help="look for what is wrong, and say what to do",
        description="Looks at the cluster (coordinators, servers, tablets, clocks, versions, ports) and"
        " at this host (disks, certificates). Exit code 0: nothing is bad; 1: something is.",
    )
    add_target(parser)
    parser.add_argument(
        "--config", metavar="FILE", help="also look at the disks and certificates that it names"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    cluster = cluster_of(arguments)
    credentials = credentials_of(arguments)
    configured = read_file(arguments.config) if arguments.config else {}

    async def examine(environment: Environment) -> int:
        findings = await _cluster(environment, cluster, arguments.timeout)
        findings += _this_host(environment, arguments, cluster, configured)
        _show(findings, arguments.json)
        return FAILED if examination.worst(findings) == "bad" else DONE

    return run_command(examine, credentials)


def _show(findings: Sequence[Finding], as_json: bool) -> None:
    if as_json:
        print(msgspec.json.format(msgspec.json.encode({"findings": findings}), indent=2).decode())
        return
    order = ("bad", "warn", "ok")
    rows: list[tuple[str, str, str]] = []
    for finding in sorted(findings, key=lambda found: order.index(found.level)):
        rows.append((finding.level, finding.subject, finding.text))
        if finding.advice:
            rows.append(("", "", f"-> {finding.advice}"))
    print(columns(("", "WHAT", "HOW IT IS"), rows))


# -- the cluster -------------------------------------------------------------------------------------


async def _cluster(environment: Environment, cluster: Cluster, timeout_s: float) -> list[Finding]:
    directory = CoordinatorDirectory(environment, cluster, deadline_s=timeout_s)
    directory.start()
    try:
        view = await directory.view()
    except Unavailable as error:
        asked = ", ".join(cluster.coordinators)
        advice = f"is a majority of {asked} running, and can this host reach them?"
        return [Finding("bad", "coordinators", str(error), advice)]
    finally:
        await directory.stop()
    here = [node for node in view.nodes if node.state in ("live", "suspected")]
    ports = await gatherResults([Deferred.fromCoroutine(_port(environment, node)) for node in here])
    reports = await gatherResults(
        [Deferred.fromCoroutine(_report(environment, node)) for node in here if node.metrics_port]
    )
    return [
        *examination.of_replication(view, cluster.replication_factor),
        *(found for found in ports if found is not None),
        *examination.of_nodes(reports, version()),
    ]


class _Quiet(Factory):
    noisy = False


async def _port(environment: Environment, node: NodeInfo) -> Finding | None:
    """Whether this host can reach a server's port."""
    endpoint = client_endpoint(environment.reactor, node.host, node.port, _ANSWER_S)
    try:
        connection: Any = await endpoint.connect(_Quiet.forProtocol(Protocol))
    except (ConnectError, CancelledError) as error:
        return examination.of_port(node.id, node.host, node.port, str(error) or "no connection")
    connection.transport.abortConnection()
    return None


@implementer(IAgentEndpointFactory)
class _ToNode:
    """The connections of twisted's HTTP client go to one server, over TLS where the cluster has it."""

    def __init__(self, environment: Environment, node: NodeInfo) -> None:
        self._environment = environment
        self._node = node

    def endpointForURI(self, uri: Any) -> Any:
        node = self._node
        return internal_endpoint(
            self._environment, node.host, node.metrics_port, _ANSWER_S, (node.role,)
        )


async def _report(environment: Environment, node: NodeInfo) -> NodeReport:
    agent = Agent.usingEndpointFactory(environment.reactor, _ToNode(environment, node))
    site = f"http://{address_text(node.host, node.metrics_port)}"
    try:
        began = environment.now()
        samples = examination.parse_metrics(await _get(environment, agent, f"{site}/metrics"))
        ended = environment.now()
        ready = (await _get(environment, agent, f"{site}/readyz")).strip()
    except (
        ConnectError,
        ResponseFailed,
        ResponseNeverReceived,
        DeferredTimeout,
        CancelledError,
        ConfigurationError,
    ) as error:
        return NodeReport(node.id, f"{site}: {error or 'no answer'}")
    clock = samples.get("penncloud_clock_seconds", (began + ended) / 2)
    return NodeReport(
        node.id,
        ready="" if ready == "ready" else ready,
        version=examination.version_in(samples),
        clock_offset_s=clock - (began + ended) / 2,
        open_files=examination.highest(samples, "process_open_fds"),
        max_files=samples.get("process_max_fds", 0.0),
    )


async def _get(environment: Environment, agent: Agent, url: str) -> str:
    request = agent.request(b"GET", url.encode())
    response = await request.addTimeout(_ANSWER_S, environment.reactor)
    if isinstance(response.length, int) and response.length > _MAX_METRICS_BYTES:
        raise ConfigurationError("its answer is too long")
    body = await readBody(response).addTimeout(_ANSWER_S, environment.reactor)
    return body.decode("utf-8", "replace")


# -- this host ---------------------------------------------------------------------------------------


def _this_host(
    environment: Environment,
    arguments: argparse.Namespace,
    cluster: Cluster,
    configured: dict[str, Any],
) -> list[Finding]:
    directories = [] if arguments.coordinators else [str(Layout.at(arguments.data).root)]
    for name, values in configured.items():
        directory = getattr(section(SECTIONS[name], values, f"[{name}]"), "data_dir", "")
        if directory:
            directories.append(directory)
    tls_dir = configured.get("cluster", {}).get("tls_dir") or cluster.tls_dir
    findings = [_disk(environment, path) for path in dict.fromkeys(directories)]
    if tls_dir:
        findings += [
            _certificate(path, environment.now()) for path in sorted(Path(tls_dir).glob("*.pem"))
        ]
    return findings


def _disk(environment: Environment, path: str) -> Finding:
    try:
        usage = shutil.disk_usage(path)
        clock = environment.reactor
        with tempfile.NamedTemporaryFile(dir=path, prefix=".doctor-") as file:
            began = clock.seconds()
            for _ in range(_SYNCS):
                file.write(b"x" * 4096)
                file.flush()
                os.fdatasync(file.fileno())
            sync_s = (clock.seconds() - began) / _SYNCS
    except OSError as error:
        return Finding("bad", path, error.strerror or str(error), "the servers need to write there")
    return examination.of_disk(path, usage.free, usage.total, sync_s)


def _certificate(path: Path, now: float) -> Finding:
    try:
        found = crypto.load_certificate(crypto.FILETYPE_PEM, path.read_bytes()).to_cryptography()
    except (OSError, crypto.Error) as error:
        return Finding("bad", str(path), f"cannot be read: {error}", "penncloud ca issue makes it")
    return examination.of_certificate(str(path), found.not_valid_after_utc.timestamp() - now)

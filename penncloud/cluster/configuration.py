"""Writing DIR/etc/ID.toml: what each process of a local cluster is started with.

The files are also the memory of the topology: a restart takes ids and ports from them. Keys that follow
from the topology are set at each start; all others are left as the administrator has them.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from attrs import frozen

from penncloud.cluster.layout import Layout, replace_file
from penncloud.cluster.topology import ROLES, Server, Topology
from penncloud.lb.redirect import is_loopback
from penncloud.platform.config import SECTIONS, Agent, Cluster, Http, Role, read_file, section
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.resources import worker_count

Document = dict[str, dict[str, Any]]

_SECRET_BYTES = 32
# As many show what workers are for; each takes some 70 MiB.
_LOCAL_WORKERS = 2


@frozen
class Setting:
    """One key that the administrator sets for every process that has its section."""

    section: str
    key: str
    value: Any


def parse_setting(text: str) -> Setting:
    """`SECTION.KEY=VALUE`, e.g. `smtp.relay_port=2525`. Raises ConfigurationError."""
    name, equals, value = text.partition("=")
    section_name, dot, key = name.strip().partition(".")
    kind = SECTIONS.get(section_name)
    if not equals or not dot or kind is None:
        sections = ", ".join(SECTIONS)
        raise ConfigurationError(
            f"--set {text}: expected SECTION.KEY=VALUE with a section of {sections}"
        )
    return Setting(section_name, key, _typed(kind, key, value, f"--set {text}"))


def _typed(kind: type[Any], key: str, text: str, where: str) -> Any:
    """The text as what the section's key takes: the first reading of it that the section accepts."""
    readings: list[Any] = [text]
    try:
        readings.insert(0, json.loads(text))
    except ValueError:
        readings.append([part.strip() for part in text.split(",") if part.strip()])
    error: ConfigurationError | None = None
    for reading in readings:
        try:
            section(kind, {key: reading}, where)
        except ConfigurationError as refused:
            error = error or refused
        else:
            return reading
    assert error is not None
    raise error


def to_toml(document: Mapping[str, Mapping[str, Any]]) -> str:
    """TOML for sections of strings, numbers, booleans and lists of them."""
    lines = [
        "# Written by `penncloud up`. Keys that it does not derive from the topology may be edited."
    ]
    for name, values in document.items():
        lines += ["", f"[{name}]"]
        lines += [f"{key} = {_value(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, str):
        # JSON's strings are TOML's basic strings, but for the one control character JSON allows.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def recall(layout: Layout) -> Topology | None:
    """The topology that the files of an earlier start tell; None when there are none."""
    if not layout.configuration("agent-1").exists():
        return None
    document = read_file(str(layout.configuration("agent-1")))
    agent = section(Agent, document.get("agent", {}), "[agent]")
    cluster = section(Cluster, document.get("cluster", {}), "[cluster]")
    servers = []
    for path in sorted(layout.etc.glob("*-*.toml")):
        role = path.stem.rpartition("-")[0]
        if role in ROLES and path.stem.rpartition("-")[2].isdecimal():
            servers.append(_recall_server(path, role))
    # Only `--tls off` leaves the key there and empty.
    tls = bool(document.get("cluster", {}).get("tls_dir", True))
    return Topology(cluster.domain, agent.host, agent.advertise, agent.port, tuple(servers), tls)


def _recall_server(path: Path, role: str) -> Server:
    values = read_file(str(path)).get(role, {})
    kept = section(SECTIONS[role], values, f"{path}: [{role}]")
    assert isinstance(kept, Role)
    port: int = getattr(kept, "port")  # noqa: B009 - every role has one, the base class has none
    return Server(role, path.stem, port, kept.metrics_port)


def write_all(layout: Layout, topology: Topology, settings: Sequence[Setting]) -> None:
    """Bring every file up to date, and remove those of servers that are no more.

    Raises ConfigurationError for a setting that no section takes or that follows from the topology.
    """
    make_secret(layout)
    scheme = "https" if _of_balancer(layout, settings, "tls_cert") else "http"
    proxies = _addresses(topology) if _of_balancer(layout, settings, "mode") == "proxy" else []
    cluster = _cluster_keys(layout, topology)
    wanted = {("agent-1", "agent"): _agent_keys(topology)}
    for server in topology.servers:
        wanted[server.id, server.role] = _keys(layout, topology, server, scheme, proxies)
    for (node_id, role), keys in wanted.items():
        derived = {"cluster": cluster, role: keys}
        first = {"workers": _workers(topology)} if role == "http" else {}
        _write(layout.configuration(node_id), role, derived, settings, first)
    ids = {node_id for node_id, _ in wanted}
    for path in layout.etc.glob("*-*.toml"):
        if path.stem not in ids:
            path.unlink()


def _write(
    path: Path,
    role: str,
    derived: Document,
    settings: Sequence[Setting],
    first: Mapping[str, Any],
) -> None:
    """`first` are keys of the role's section at the beginning, which may be changed then."""
    before: Document = read_file(str(path)) if path.exists() else {}
    kept = before or _sibling(path, role)
    kept = {**kept, role: {**first, **kept.get(role, {})}}
    after = {name: {**kept.get(name, {}), **keys} for name, keys in derived.items()}
    for setting in settings:
        if setting.section not in after:
            continue
        if setting.key in derived[setting.section]:
            raise ConfigurationError(
                f"--set {setting.section}.{setting.key}: follows from the other options of `up`"
            )
        after[setting.section][setting.key] = setting.value
    section(Cluster, after["cluster"], f"{path}: [cluster]")
    section(SECTIONS[role], after[role], f"{path}: [{role}]")
    if after != before:
        replace_file(path, to_toml(after).encode(), 0o600)


def _sibling(path: Path, role: str) -> Document:
    """The file of another server of the role, or else of any: what the administrator has set there, a
    server that is added has from the beginning."""
    there = sorted(path.parent.glob("*-*.toml"))
    same = [one for one in there if one.stem.rpartition("-")[0] == role]
    return read_file(str((same or there)[0])) if there else {}


def _cluster_keys(layout: Layout, topology: Topology) -> dict[str, Any]:
    host = topology.public_host
    address = f"[{host}]" if ":" in host else host
    return {
        "coordinators": [f"{address}:{server.port}" for server in topology.of("coordinator")],
        "domain": topology.domain,
        "secret_file": str(layout.secret),
        "tls_dir": str(layout.tls) if topology.tls else "",
    }


def _workers(topology: Topology) -> int:
    """Of each frontend of a cluster that is one machine's: they share its cores with all other servers."""
    share = worker_count("auto") // len(topology.of("http"))
    # One alone would only add a process.
    return min(share, _LOCAL_WORKERS) if share > 1 else 0


def _agent_keys(topology: Topology) -> dict[str, Any]:
    return {
        "id": "agent-1",
        "host": topology.host,
        "advertise": topology.advertise,
        "port": topology.agent_port,
    }


def _keys(
    layout: Layout, topology: Topology, server: Server, scheme: str, proxies: list[str]
) -> dict[str, Any]:
    host = topology.public_host
    keys: dict[str, Any] = {
        "id": server.id,
        "host": topology.host,
        "advertise": topology.advertise,
        "port": server.port,
        "metrics_port": server.metrics_port,
        "agent": f"[{host}]:{topology.agent_port}"
        if ":" in host
        else f"{host}:{topology.agent_port}",
    }
    if server.role in ("coordinator", "storage"):
        keys["data_dir"] = str(layout.data(server.id))
    if server.role == "coordinator":
        keys["expect_storage"] = len(topology.of("storage"))
    if server.role == "http":
        keys["lb_url"] = address_to_open(topology, scheme)
        if proxies:
            keys["trusted_proxies"] = proxies
    return keys


def _of_balancer(layout: Layout, settings: Sequence[Setting], key: str) -> Any:
    """A key of [lb], as it is set now or was before; None where it never was."""
    for setting in reversed(settings):
        if (setting.section, setting.key) == ("lb", key):
            return setting.value
    path = layout.configuration("lb-1")
    return read_file(str(path)).get("lb", {}).get(key) if path.exists() else None


def _addresses(topology: Topology) -> list[str]:
    """From where the balancer of this host may reach its frontends."""
    found = []
    for host in ("127.0.0.1", "::1", topology.host, topology.advertise):
        try:
            address = ip_address(host)
        except ValueError:
            continue
        if not address.is_unspecified:
            found.append(str(address))
    return list(dict.fromkeys(found))


def scheme_of(layout: Layout) -> str:
    """What the balancer of a cluster whose files are written speaks: "http" or "https"."""
    return "https" if _of_balancer(layout, (), "tls_cert") else "http"


def has_workers(layout: Layout, node_id: str) -> bool:
    """Whether a frontend is configured to have workers. One that cannot be read has none."""
    try:
        document = read_file(str(layout.configuration(node_id)))
        return worker_count(section(Http, document.get("http", {}), "[http]").workers) > 0
    except ConfigurationError:
        return False


def address_to_open(topology: Topology, scheme: str = "http") -> str:
    """What to type into a browser."""
    host = topology.public_host
    if is_loopback(host):
        host = "localhost"
    elif ":" in host:
        host = f"[{host}]"
    return f"{scheme}://{host}:{topology.of('lb')[0].port}/"


def make_secret(layout: Layout) -> None:
    """The cluster's shared secret, made once."""
    if not layout.secret.exists():
        replace_file(layout.secret, secrets.token_hex(_SECRET_BYTES).encode() + b"\n", 0o600)

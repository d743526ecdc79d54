"""What `penncloud doctor` makes of what it finds: values in, findings with advice out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from penncloud.client.directory import ClusterView, NodeInfo
from penncloud.rpc.endpoints import address_text

Level = Literal["ok", "warn", "bad"]

# Clocks: logs and sessions are dated by them, nothing else. Seconds.
_CLOCK_WARN_S: Final = 2.0
_CLOCK_BAD_S: Final = 60.0
# Of a data directory's file system; below the second part writes may be refused soon.
_DISK_WARN: Final = 0.15
_DISK_BAD: Final = 0.05
# A sync on a disk that is to serve: beyond this people wait. Seconds.
_SYNC_WARN_S: Final = 0.05
_CERTIFICATE_WARN_S: Final = 21 * 86400.0
_CERTIFICATE_BAD_S: Final = 3 * 86400.0
_LAG_WARN: Final = 10_000
_FILES_WARN: Final = 0.8


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. `advice`: what to do, "" where it is well."""

    level: Level
    subject: str
    text: str
    advice: str = ""


class NodeReport(msgspec.Struct, frozen=True):
    """What a server's metrics site said. `trouble`: why it did not, "" if it did; `ready` is the answer
    of /readyz; `clock_offset_s`: its wall clock against ours, as far as a network tells."""

    id: str
    trouble: str = ""
    ready: str = ""
    version: str = ""
    clock_offset_s: float = 0.0
    open_files: float = 0.0
    max_files: float = 0.0


def parse_metrics(text: str) -> dict[str, float]:
    """Samples by name with labels, as Prometheus's text format has them."""
    found = {}
    for line in text.splitlines():
        name, space, value = line.rpartition(" ")
        if space and not line.startswith("#"):
            try:
                found[name] = float(value)
            except ValueError:
                continue
    return found


def highest(samples: Mapping[str, float], name: str) -> float:
    """The highest value of a metric, of the server's own process and its workers; 0.0 without any."""
    values = [value for key, value in samples.items() if key == name or key.startswith(name + "{")]
    return max(values, default=0.0)


def version_in(samples: Mapping[str, float]) -> str:
    """The version that `penncloud_build_info` names."""
    for name in samples:
        if name.startswith('penncloud_build_info{version="'):
            return name.partition('"')[2].partition('"')[0]
    return ""


def of_replication(view: ClusterView, factor: int) -> list[Finding]:
    """Coordinators, servers and tablets, as the coordinators see them."""
    return [*_coordinators(view), *_nodes(view.nodes), *_tablets(view, factor)]


def _coordinators(view: ClusterView) -> Iterable[Finding]:
    count = len(view.coordinators)
    leaders = [each.id for each in view.coordinators if each.role == "leader"]
    dead = {node.id for node in view.nodes if node.role == "coordinator" and node.state == "dead"}
    if not leaders:
        yield Finding(
            "bad",
            "coordinators",
            "none leads",
            f"start the others: {count // 2 + 1} of {count} have to be up",
        )
    elif dead:
        advice = f"penncloud node start {min(dead)}; one more loss and nothing can be changed"
        level: Level = "bad" if len(dead) >= (count - 1) // 2 and count > 1 else "warn"
        yield Finding(level, "coordinators", f"{', '.join(sorted(dead))} down", advice)
    elif count < 3:
        yield Finding(
            "warn",
            "coordinators",
            f"{count}: its loss stops every change and failover",
            "run three, on three hosts",
        )
    else:
        yield Finding("ok", "coordinators", f"{count}, {leaders[0]} leads")


def _nodes(nodes: Sequence[NodeInfo]) -> Iterable[Finding]:
    away = [node for node in nodes if node.state in ("dead", "suspected")]
    for node in away:
        advice = f"penncloud node start {node.id}, or look at its log on {node.host}"
        level: Level = "bad" if node.role == "storage" else "warn"
        yield Finding(level, node.id, f"{node.state} for {node.seen_s:.0f} s", advice)
    if not away:
        yield Finding("ok", "servers", f"all {len(nodes)} are there")


def _tablets(view: ClusterView, factor: int) -> Iterable[Finding]:
    by_state: dict[str, list[int]] = {}
    for tablet in view.tablets:
        by_state.setdefault(tablet.state, []).append(tablet.id)
    advice = {
        "unavailable": "start a server that holds them: penncloud status names the members",
        "damaged": "the server's log says what is damaged; a healthy copy replaces it, a backup otherwise",
        "degraded": "start the missing servers, or add one: copies are then made anew",
    }
    for state, text in advice.items():
        if ids := by_state.get(state):
            level: Level = "warn" if state == "degraded" else "bad"
            yield Finding(level, "tablets", f"{len(ids)} {state}: {_some(ids)}", text)
    few = [tablet.id for tablet in view.tablets if len(tablet.members) < factor]
    if few:
        yield Finding(
            "warn",
            "copies",
            f"{len(few)} tablets have fewer than {factor} members: {_some(few)}",
            f"run at least {factor} storage servers, on hosts of their own",
        )
    behind = [(tablet.id, max(tablet.lag.values(), default=0)) for tablet in view.tablets]
    late = [number for number, lag in behind if lag > _LAG_WARN]
    if late:
        yield Finding(
            "warn",
            "lag",
            f"members of {_some(late)} are more than {_LAG_WARN:,} versions behind",
            "look at the disk and the network of the members that penncloud status shows",
        )
    if not view.tablets:
        yield Finding("bad", "tablets", "there are none yet", "start the storage servers")
    elif set(by_state) == {"ok"}:
        yield Finding("ok", "tablets", f"{len(view.tablets)}, all of them served")


def _some(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:8]))
    return shown if len(ids) <= 8 else f"{shown}, ..."


def of_nodes(reports: Sequence[NodeReport], own_version: str) -> list[Finding]:
    """Ports, clocks, versions and descriptors, as each server's metrics site tells."""
    findings = []
    for report in reports:
        if report.trouble:
            advice = "is it running, and does a firewall let this host in?"
            findings.append(Finding("bad", report.id, report.trouble, advice))
        elif report.ready:
            findings.append(Finding("warn", report.id, f"not ready: {report.ready}", "see its log"))
    answered = [report for report in reports if not report.trouble]
    if not answered:
        advice = "set metrics_port in the configuration, and give --tls-dir"
        return [*findings, Finding("warn", "metrics", "no server was looked at closely", advice)]
    return [*findings, *_clocks(answered), *_versions(answered, own_version), *_files(answered)]


def _clocks(reports: Sequence[NodeReport]) -> Iterable[Finding]:
    worst = max(reports, key=lambda report: abs(report.clock_offset_s))
    off_s = abs(worst.clock_offset_s)
    if off_s < _CLOCK_WARN_S:
        yield Finding("ok", "clocks", f"{len(reports)} within {max(off_s, 0.1):.1f} s of this one")
        return
    level: Level = "bad" if off_s >= _CLOCK_BAD_S else "warn"
    text = f"that of {worst.id} differs from this one by {worst.clock_offset_s:+.1f} s"
    yield Finding(level, "clocks", text, "run an NTP client on every host (apt install chrony)")


def _versions(reports: Sequence[NodeReport], own: str) -> Iterable[Finding]:
    others = {report.version or "unknown" for report in reports} - {own}
    if not others:
        yield Finding("ok", "versions", f"{own} everywhere")
        return
    ids = [report.id for report in reports if (report.version or "unknown") != own]
    yield Finding(
        "warn",
        "versions",
        f"{', '.join(ids)}: {', '.join(sorted(others))}; here {own}",
        "upgrade all hosts, one after the other",
    )


def _files(reports: Sequence[NodeReport]) -> Iterable[Finding]:
    short = [r for r in reports if r.max_files and r.open_files > _FILES_WARN * r.max_files]
    for report in short:
        text = f"{report.open_files:.0f} of {report.max_files:.0f} descriptors are in use"
        yield Finding("warn", report.id, text, "raise its limit (LimitNOFILE)")


def of_disk(path: str, free: int, total: int, sync_s: float) -> Finding:
    """A data directory: `free` of `total` bytes, and how long a small sync took."""
    share = free / total if total else 0.0
    text = f"{free / 1e9:.1f} GB of {total / 1e9:.1f} GB free, a sync takes {sync_s * 1000:.1f} ms"
    if share < _DISK_BAD:
        return Finding(
            "bad", path, text, "free space or add a server: writes are refused when full"
        )
    if share < _DISK_WARN:
        return Finding("warn", path, text, "free space, or add a storage server")
    if sync_s > _SYNC_WARN_S:
        return Finding("warn", path, text, "every write waits for a sync: use a faster disk")
    return Finding("ok", path, text)


def of_certificate(path: str, left_s: float) -> Finding:
    """A certificate that is valid for so long from now."""
    days = left_s / 86400
    advice = "renew it: penncloud ca issue (the servers take it up by themselves)"
    if left_s < _CERTIFICATE_BAD_S:
        text = f"ends in {days:.1f} days" if left_s > 0 else f"ended {-days:.1f} days ago"
        return Finding("bad", path, text, advice)
    level: Level = "warn" if left_s < _CERTIFICATE_WARN_S else "ok"
    return Finding(level, path, f"valid for {days:.0f} days", advice if level == "warn" else "")


def of_port(node_id: str, host: str, port: int, trouble: str) -> Finding | None:
    """A server's own port, as it can be reached from here; None where it is well."""
    if not trouble:
        return None
    advice = "is it running, and does a firewall let this host in?"
    return Finding("bad", node_id, f"{address_text(host, port)}: {trouble}", advice)


def worst(findings: Sequence[Finding]) -> Level:
    levels = {finding.level for finding in findings}
    return "bad" if "bad" in levels else "warn" if "warn" in levels else "ok"

"""Configuration: one TOML file per host with a section per role, or the same keys as options.

Each section is a msgspec struct: its fields are the keys, their defaults stand beside them with unit
and reason, and a key that is not a field is an error. `etc/penncloud.example.toml` is the commented
example; a test keeps it equal to the structs.

A process reads `[cluster]` and the section of its role. Options of the command line are applied last:
`--heartbeat-ms 200` is the key `heartbeat_ms` of the role's section, `--cluster-domain example.org` the
key `domain` of `[cluster]`.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from penncloud.platform.errors import ConfigurationError


class Section(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One `[section]` of the file."""


class Cluster(Section, frozen=True, kw_only=True):
    """What every process of a cluster has in common."""

    # host:port of every coordinator; roles may start in any order and keep trying.
    coordinators: list[str] = msgspec.field(default_factory=list)
    # The mail domain: user@domain.
    domain: str = "penncloud"
    # Directory with this host's certificates: ca.pem and, for each server, ID.pem and ID.key (made by
    # `penncloud ca`). Empty: internal connections are in the clear, which only a cluster may do whose
    # servers all listen on loopback addresses.
    tls_dir: str = ""
    # File with a secret (any bytes) that internal calls have to prove, where connections are in the
    # clear: it keeps out the other users of the machine. Empty: none asked.
    secret_file: str = ""
    # Copies of each tablet. The seeds' groups of three.
    replication_factor: int = 3
    # "2pc": acknowledged when durable on every member; "async": after the primary's own disk.
    replication: Literal["2pc", "async"] = "2pc"
    # How logs are written where an agent of `penncloud up` runs the servers; under systemd they are JSON.
    log_format: Literal["text", "json"] = "text"
    # What the servers wait for sockets with: "prompt" is Twisted's epoll reactor with less work for each
    # answer, where the machine has epoll; "twisted" is Twisted's own choice.
    reactor: Literal["prompt", "twisted"] = "prompt"
    # In async mode: writes that may be acknowledged and not yet be on every member; more are refused.
    async_max_lag: int = 1024
    # Members of a tablet below which writes are refused: 1 goes on with the last copy.
    min_members: int = 1
    # "lease": the primary answers reads alone while it has everybody's word; "confirm": it asks the
    # members each time, for machines that may be suspended with their clocks.
    read_mode: Literal["lease", "confirm"] = "lease"


class Role(Section, frozen=True, kw_only=True):
    """What every role has: who and where it is."""

    # Unique in the cluster, stays the same over restarts, e.g. "storage-1".
    id: str = ""
    # Address to listen on; also what others are told, unless `advertise` is set.
    host: str = "127.0.0.1"
    # Address that others (and browsers) are told, where it differs from `host` (NAT, 0.0.0.0).
    advertise: str = ""
    # Prometheus metrics and /healthz over HTTP on `host`; 0 means none.
    metrics_port: int = 0
    # The agent that supervises this process, host:port; empty when something else does.
    agent: str = ""
    # Requests that took so many milliseconds are logged, with the id of what they were done for; 0: all
    # requests, -1: none. A second is what a person notices.
    log_slower_ms: float = 1000

    @property
    def public_host(self) -> str:
        return self.advertise or self.host

    @property
    def slow_s(self) -> float:
        """`log_slower_ms` in seconds, infinite for none."""
        return self.log_slower_ms / 1000 if self.log_slower_ms >= 0 else math.inf


class Coordinator(Role, frozen=True, kw_only=True):
    port: int = 8600
    data_dir: str = "penncloud-data/coordinator"
    # Pause between pings of a node, in milliseconds (seed 001).
    heartbeat_ms: int = 100
    # Missed pings after which a node is dead; it is suspected from the second on (seed 001).
    dead_after_missed: int = 5
    # Pause between the leader's heartbeats to the other coordinators, in milliseconds.
    raft_heartbeat_ms: int = 50
    # A coordinator that has not heard of a leader for so many milliseconds, up to twice as many by
    # chance, stands for election: short enough that clients notice little, longer than a slow fsync.
    election_timeout_ms: int = 400
    # Bytes by which the log grows until the state is written as a snapshot and the log before it goes.
    raft_log_bytes: int = 4 * 1024 * 1024
    # Storage servers that must have registered before tablets are first assigned.
    expect_storage: int = 3
    # Tablets cut from the hash space at the very start; more come by splitting.
    initial_tablets: int = 6
    # Seconds that a tablet with too few copies waits for a server that is gone before another one gets
    # a copy: longer than a restart of a machine takes, as bringing an old copy up to date is cheap.
    repair_after_s: float = 60.0
    # Tablets that are moved at a time to even out the servers' load; repair and draining do not wait.
    moves_at_once: int = 4


class Storage(Role, frozen=True, kw_only=True):
    port: int = 8700
    data_dir: str = "penncloud-data/storage"
    # A tablet is split when it holds more than this (seeds: 50 MB).
    split_bytes: int = 50_000_000
    # Memtable size at which it is flushed and a checkpoint made.
    memtable_bytes: int = 32 * 1024 * 1024
    # Also checkpoint after so many writes; 0: by size only (seed 001 has 10).
    checkpoint_writes: int = 0
    # Bytes of SSTable blocks kept in memory.
    block_cache_bytes: int = 32 * 1024 * 1024
    # Checkpoints sent to other servers, and those received, in bytes a second each; 0: no limit.
    transfer_bytes_per_s: int = 64 * 1024 * 1024
    # Checkpoints sent at the same time.
    transfers: int = 4
    # Log entries that were cut off are kept to be read; beyond this the oldest go.
    quarantine_bytes: int = 64 * 1024 * 1024
    # Files of tablets that were damaged and fetched again are kept; beyond this the oldest go.
    aside_bytes: int = 256 * 1024 * 1024
    # Files are read to check them, in bytes a second; 0: never. 50 GB take about three hours by default.
    scrub_bytes_per_s: int = 4 * 1024 * 1024
    # Seconds between the end of one such check of all files and the begin of the next.
    scrub_rest_s: float = 600.0
    # Requests of one connection that may be under way; more are not read until some are answered.
    pipeline_depth: int = 256


class Http(Role, frozen=True, kw_only=True):
    port: int = 8081
    # PEM files of a certificate (with its chain) and its key; the port then speaks HTTPS.
    # They are read again when they change.
    tls_cert: str = ""
    tls_key: str = ""
    # Configuration file whose [smtp] says where this frontend takes mail in whenever no other process of
    # its host does; empty: it does not.
    mail_config: str = ""
    # Processes that answer requests, under one that holds the port and replaces them. "auto": one per core,
    # and not more than one per 512 MiB of the machine's memory (each takes about 100 MiB under load). 0: one
    # process does everything, and a restart refuses connections for some seconds.
    workers: int | Literal["auto"] = "auto"
    # Seconds that a worker which is replaced has to finish its requests, uploads among them, before they
    # are cut. Its successor serves all the while.
    drain_s: float = 300
    # Where browsers go when this frontend is to be left, e.g. "http://localhost:8080/".
    lb_url: str = "http://localhost:8080/"
    # The domain under which all frontends have their names, e.g. "cloud.example" for http-1.cloud.example: a
    # session then holds at each of them. Empty: at one host name only, with all its ports.
    cookie_domain: str = ""
    # A session ends so many hours after its last use.
    session_hours: float = 24 * 14
    # Largest upload, in bytes.
    max_upload_bytes: int = 20 * 1024**3
    # Names this frontend answers to besides its own address and localhost.
    host_names: list[str] = msgspec.field(default_factory=list)
    # Addresses and networks of the balancers (in proxy mode) and other proxies whose X-Forwarded-* headers
    # are believed.
    trusted_proxies: list[str] = msgspec.field(default_factory=list)
    # Password of the first `admin` account. Empty: "password" on a loopback-only cluster, and an
    # error at start-up anywhere else.
    admin_password: str = ""


class Smtp(Role, frozen=True, kw_only=True):
    port: int = 2500
    # PEM files of a certificate (with its chain) and its key; STARTTLS is offered then.
    # They are read again when they change.
    tls_cert: str = ""
    tls_key: str = ""
    # Where another process of this host has the port: stand by, and take it when it becomes free, instead
    # of failing.
    standby: bool = False
    # Largest message, in bytes (announced by SIZE).
    max_message_bytes: int = 25 * 1024 * 1024
    max_recipients: int = 1000
    # Connections at the same time, in all and from one address.
    max_connections: int = 1000
    max_connections_per_client: int = 50
    # Seconds without a command, and for the whole of one DATA (RFC 5321 asks for minutes).
    idle_timeout_s: float = 300
    data_timeout_s: float = 1800
    # DNS server for MX look-ups as host:port; empty: the system's.
    resolver: str = ""
    # Pauses in seconds before an outgoing message is tried again; the last one repeats.
    retry_seconds: list[float] = msgspec.field(
        default_factory=lambda: [60, 300, 900, 1800, 3600, 7200, 14400]
    )
    # Hours after which the sender is told of a delay, and after which the message is given up.
    delay_notice_hours: float = 4
    expire_hours: float = 96
    # Port of the outside mail servers; 25 unless a test or a provider wants another.
    relay_port: int = 25
    # host:port of a smart host that takes all outgoing mail; empty: by MX.
    smart_host: str = ""
    # Whether mail goes out to addresses like x@[192.0.2.1]: with it users can aim at inner hosts.
    address_literals: bool = False
    # "opportunistic": to other servers with STARTTLS where they offer it, whatever certificate they show;
    # in the clear where that fails (RFC 7435). "off": never.
    relay_tls: Literal["opportunistic", "off"] = "opportunistic"
    # Name given in EHLO and in Received; empty: the domain.
    hostname: str = ""


class Lb(Role, frozen=True, kw_only=True):
    port: int = 8080
    # PEM files of a certificate (with its chain) and its key; the port then speaks HTTPS.
    # They are read again when they change.
    tls_cert: str = ""
    tls_key: str = ""
    # Where HTTPS is spoken: another port, in the clear, that only sends browsers to the encrypted one.
    # 0: none.
    clear_port: int = 0
    mode: Literal["redirect", "proxy"] = "redirect"
    # Addresses and networks of proxies in front of this one, whose X-Forwarded-* headers are believed.
    trusted_proxies: list[str] = msgspec.field(default_factory=list)


class Agent(Section, frozen=True, kw_only=True):
    """The process that supervises the servers of one host."""

    # Unique in the cluster: one agent per host.
    id: str = "agent-1"
    # Address to listen on, for stop, start and restart of this host's servers.
    host: str = "127.0.0.1"
    # Address that others are told, where it differs from `host`.
    advertise: str = ""
    port: int = 8500
    # Seconds before a server that died is started again: doubled at each death, up to the longest.
    restart_first_s: float = 0.25
    restart_longest_s: float = 10.0
    # A server that ran for so many seconds has recovered: the next death counts as its first.
    steady_s: float = 30.0
    # Seconds that a server may take to end in order before it is killed.
    stop_wait_s: float = 10.0


_S = TypeVar("_S", bound=Section)

SECTIONS: Mapping[str, type[Section]] = {
    "cluster": Cluster,
    "coordinator": Coordinator,
    "storage": Storage,
    "http": Http,
    "smtp": Smtp,
    "lb": Lb,
    "agent": Agent,
}


def read_file(path: str) -> dict[str, Any]:
    """The sections of a TOML file as plain dicts, each checked for unknown keys and types."""
    try:
        document = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not valid TOML: {error}") from error
    for name, values in document.items():
        if name not in SECTIONS:
            accepted = ", ".join(f"[{known}]" for known in SECTIONS)
            raise ConfigurationError(f"{path}: unknown section [{name}]; there are {accepted}")
        section(SECTIONS[name], values, f"{path}: [{name}]")
    return document


def section(kind: type[_S], values: Any, where: str) -> _S:
    """Check `values` against a section's struct; `where` begins the error message."""
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        text = str(error).replace("Object contains unknown field", "unknown key")
        raise ConfigurationError(f"{where}: {text}") from error


def parse_address(text: str) -> tuple[str, int]:
    """`host:port` (IPv6 hosts in brackets) as a pair."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536 or not host:
        raise ConfigurationError(f"{text!r} is not an address: expected host:port")
    return host.strip("[]"), int(port)

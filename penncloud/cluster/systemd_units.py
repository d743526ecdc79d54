"""The systemd units of a host: one service per role, one for the agent, and a target for all. Pure.

Each service runs its role in the foreground and waits for its word that it serves (`Type=notify`), kills
it when its reactor stands still (`WatchdogSec`), and keeps from it whatever it does not need of the
machine. `etc/systemd/` has the units of an installation in /opt/penncloud; a test keeps them equal to what
is made here.

A role that ends by itself is started again for ever, as the agent does it elsewhere; one that is stopped
in order (`systemctl stop`, which is also what the admin console asks for) stays down.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final

from attrs import frozen

from penncloud.cluster.topology import ROLES
from penncloud.platform.errors import ConfigurationError

USER: Final = "penncloud"
TARGET: Final = "penncloud.target"
STATE_DIRECTORY: Final = PurePosixPath("/var/lib/penncloud")
CONFIGURATION: Final = PurePosixPath("/etc/penncloud/penncloud.toml")
BIN: Final = PurePosixPath("/opt/penncloud/bin")
# The agent is no role of twistd's, but a service of the host like them.
SERVICES: Final = (*ROLES, "agent")

_WHAT: Final = {
    "coordinator": "coordinator",
    "storage": "storage server",
    "http": "web frontend",
    "smtp": "mail server",
    "lb": "load balancer",
    "agent": "agent, which stops and starts this host's servers",
}
# Ports below need a capability.
_FIRST_FREE_PORT: Final = 1024


@frozen
class Installation:
    """Where the programs are that the units of a host start, and what they may use.

    `writable` are directories besides /var/lib/penncloud that a role keeps data in.
    """

    bin: PurePosixPath = BIN
    configuration: PurePosixPath = CONFIGURATION
    writable: tuple[PurePosixPath, ...] = ()


def unit_name(role: str) -> str:
    """The unit of this host's server of a role, or of its agent."""
    if role not in SERVICES:
        raise ConfigurationError(f"--role {role}: one of {', '.join(SERVICES)}")
    return f"penncloud-{role}.service"


def service(role: str, where: Installation, ports: Sequence[int] = ()) -> str:
    """The text of `unit_name(role)`. `ports` are those it listens on."""
    for path in (where.bin, where.configuration, *where.writable):
        if not path.is_absolute() or set(str(path)) & set(" \t\n\"'\\%$"):
            raise ConfigurationError(
                f"{path}: a unit takes absolute paths of plain characters only"
            )
    lines = [
        "[Unit]",
        f"Description=PennCloud {_WHAT[role]}",
        "Wants=network-online.target",
        "After=network-online.target",
        f"PartOf={TARGET}",
        "# It keeps trying: its port or its disk may be there again later.",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        f"ExecStart={_command(role, where)}",
        "ExecReload=/bin/kill -HUP $MAINPID",
        f"User={USER}",
        f"Group={USER}",
        "Restart=on-failure",
        "RestartSec=500ms",
        "# It asks for more while it recovers its log, or finishes what was begun.",
        "TimeoutStartSec=60",
        "TimeoutStopSec=30",
        "WatchdogSec=20",
        "KillMode=mixed",
        "LimitNOFILE=65536",
        "LimitCORE=0",
        *_sandbox(where, ports),
        "",
        "[Install]",
        f"WantedBy={TARGET}",
    ]
    return "\n".join(lines) + "\n"


def _command(role: str, where: Installation) -> str:
    if role == "agent":
        return f"{where.bin}/penncloud agent --config {where.configuration}"
    return (
        f"{where.bin}/twistd -n --pidfile= --logger penncloud.platform.json_log.to_stdout"
        f" penncloud-{role} --config {where.configuration}"
    )


def _sandbox(where: Installation, ports: Sequence[int]) -> list[str]:
    bind = "CAP_NET_BIND_SERVICE" if any(0 < port < _FIRST_FREE_PORT for port in ports) else ""
    lines = [
        f"StateDirectory={STATE_DIRECTORY.name}",
        "StateDirectoryMode=0700",
        f"WorkingDirectory={STATE_DIRECTORY}",
        "UMask=0077",
        "ProtectSystem=strict",
    ]
    if where.writable:
        lines.append("ReadWritePaths=" + " ".join(map(str, where.writable)))
    return [
        *lines,
        "ProtectHome=yes",
        "PrivateTmp=yes",
        "PrivateDevices=yes",
        "ProtectProc=invisible",
        "ProtectClock=yes",
        "ProtectHostname=yes",
        "ProtectControlGroups=yes",
        "ProtectKernelLogs=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
        "NoNewPrivileges=yes",
        f"CapabilityBoundingSet={bind}",
        f"AmbientCapabilities={bind}",
        "LockPersonality=yes",
        "KeyringMode=private",
        "RemoveIPC=yes",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        "RestrictNamespaces=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service",
        "SystemCallFilter=~@privileged",
        "SystemCallErrorNumber=EPERM",
    ]


def target() -> str:
    """The text of penncloud.target: starting and stopping it starts and stops what is enabled."""
    return "\n".join(
        [
            "[Unit]",
            "Description=PennCloud, all of this host's servers",
            "",
            "[Install]",
            "WantedBy=multi-user.target",
            "",
        ]
    )


def sysusers() -> str:
    """For systemd-sysusers: the user that everything runs as."""
    return f'u {USER} - "PennCloud" {STATE_DIRECTORY}\n'


def polkit_rule() -> str:
    """Lets the agent, which is no root, start and stop this host's PennCloud services and nothing else."""
    units = ", ".join(f'"{unit_name(role)}"' for role in ROLES)
    return f"""// The agent of PennCloud acts for the admin console: it may start, stop and restart the roles.
polkit.addRule(function(action, subject) {{
    var units = [{units}];
    var verbs = ["start", "stop", "restart", "reload-or-restart"];
    if (action.id == "org.freedesktop.systemd1.manage-units" &&
        subject.user == "{USER}" &&
        units.indexOf(action.lookup("unit")) >= 0 &&
        verbs.indexOf(action.lookup("verb")) >= 0) {{
        return polkit.Result.YES;
    }}
}});
"""

"""From a host's configuration to the files that systemd needs: which ones, with what in them. Pure but
for reading the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from attrs import frozen

from penncloud.cluster import systemd_units
from penncloud.cluster.systemd_units import STATE_DIRECTORY, TARGET, Installation, unit_name
from penncloud.platform.config import SECTIONS, Cluster, section
from penncloud.platform.errors import ConfigurationError

UNITS: Final = PurePosixPath("/etc/systemd/system")
SYSUSERS: Final = PurePosixPath("/etc/sysusers.d/penncloud.conf")
POLKIT_RULE: Final = PurePosixPath("/etc/polkit-1/rules.d/50-penncloud.rules")


@frozen
class Plan:
    """`files` by their path; `units` to enable; `data` directories that the roles' user has to own;
    `readable` files that it has to be able to read."""

    files: Mapping[PurePosixPath, str]
    units: tuple[str, ...]
    data: tuple[PurePosixPath, ...]
    readable: tuple[PurePosixPath, ...]


def plan(
    document: Mapping[str, Any], roles: Sequence[str], bin_: PurePosixPath, config: PurePosixPath
) -> Plan:
    """What to install for these roles, `document` being what stands in `config`.

    Raises ConfigurationError for roles that the configuration does not make complete.
    """
    cluster = section(Cluster, document.get("cluster", {}), f"{config}: [cluster]")
    if not cluster.coordinators:
        raise ConfigurationError(f"{config}: [cluster]: coordinators: at least one is needed")
    files: dict[PurePosixPath, str] = {}
    data: list[PurePosixPath] = []
    for role in dict.fromkeys(roles):
        unit = unit_name(role)
        values = _section_of(document, role, config)
        directory = getattr(values, "data_dir", "")
        writable: tuple[PurePosixPath, ...] = ()
        if directory:
            path = PurePosixPath(directory)
            if path.is_absolute() and not path.is_relative_to(STATE_DIRECTORY):
                writable = (path,)
                data.append(path)
        where = Installation(bin_, config, writable)
        files[UNITS / unit] = systemd_units.service(role, where, [values.port])
    files[UNITS / TARGET] = systemd_units.target()
    files[SYSUSERS] = systemd_units.sysusers()
    if "agent" in roles:
        files[POLKIT_RULE] = systemd_units.polkit_rule()
    readable = [config, *([PurePosixPath(cluster.secret_file)] if cluster.secret_file else [])]
    if cluster.tls_dir:
        ids = [_section_of(document, role, config).id for role in dict.fromkeys(roles)]
        readable += [PurePosixPath(cluster.tls_dir) / f"{node_id}.key" for node_id in ids]
    units = tuple(dict.fromkeys(unit_name(role) for role in roles))
    return Plan(files, (*units, TARGET), tuple(data), tuple(readable))


def _section_of(document: Mapping[str, Any], role: str, config: PurePosixPath) -> Any:
    values: Any = section(SECTIONS[role], document.get(role, {}), f"{config}: [{role}]")
    if role not in document:
        raise ConfigurationError(f"{config}: has no section [{role}]")
    if not values.id:
        raise ConfigurationError(f"{config}: [{role}]: id: every server needs an id, as {role}-1")
    return values

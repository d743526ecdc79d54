"""A configuration that was read again: what of it is in use now, and what waits for a restart. Pure."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from penncloud.platform.config import Cluster, Role


def _changed(before: msgspec.Struct, after: msgspec.Struct) -> list[str]:
    names = (field.name for field in msgspec.structs.fields(before))
    return [name for name in names if getattr(before, name) != getattr(after, name)]


def reloaded(
    old_cluster: Cluster, cluster: Cluster, old_role: Role, role: Role, taken: Collection[str]
) -> list[str]:
    """A line for each key that has changed since the start and is not in use.

    `taken`: the keys of the role's section that were taken up. Secrets are not shown.
    """
    lines = [
        f"[cluster]: {name} has changed: restart to use it"
        for name in _changed(old_cluster, cluster)
    ]
    lines += [
        f"{name} has changed: restart to use it"
        for name in _changed(old_role, role)
        if name not in taken
    ]
    return lines

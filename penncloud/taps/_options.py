"""The options of a role: one for every key of its section and of `[cluster]`, and `--config`."""

from __future__ import annotations

import sys
from typing import Any, cast, get_args, get_origin, get_type_hints

import msgspec
from twisted.python import usage

from penncloud.platform.config import SECTIONS, Cluster, Role, read_file, section
from penncloud.platform.errors import ConfigurationError
from penncloud.taps._reactor import choose_reactor


def _parameters(kind: type[msgspec.Struct], prefix: str) -> list[list[Any]]:
    rows = []
    for field in msgspec.structs.fields(kind):
        default = field.default
        if default is msgspec.NODEFAULT:
            default = ""
        hint = f"[default: {default}]" if default not in ("", None) else ""
        rows.append([prefix + field.name.replace("_", "-"), None, None, hint])
    return rows


def _apply(values: dict[str, Any], kind: type[msgspec.Struct], options: Any, prefix: str) -> None:
    """Options given on the command line win over the file."""
    hints = get_type_hints(kind)
    for field in msgspec.structs.fields(kind):
        text = options[prefix + field.name.replace("_", "-")]
        if text is None:
            continue
        hint = hints[field.name]
        is_list = get_origin(hint) is list
        given: Any = [part for part in text.split(",") if part] if is_list else text
        try:
            wanted = get_args(hint)[0] if is_list and get_args(hint) else hint
            convert = list[wanted] if is_list else hint  # type: ignore[valid-type]
            values[field.name] = msgspec.convert(given, convert, strict=False)
        except msgspec.ValidationError as error:
            name = prefix + field.name.replace("_", "-")
            raise usage.UsageError(f"--{name} {text}: {error}") from error


class RoleOptions(usage.Options):
    """After parsing, `cluster` and `role` are the checked sections."""

    cluster: Cluster
    role: Role

    def read(self) -> tuple[Cluster, Role]:
        """The sections as the file and the options have them now.

        Raises ConfigurationError, and UsageError for an option.
        """
        raise NotImplementedError


def role_options(name: str, synopsis: str) -> type[RoleOptions]:
    """The Options class of the role whose section is `name`."""
    kind = SECTIONS[name]

    class OptionsOfRole(RoleOptions):
        optParameters = [
            ["config", "c", None, "TOML file with [cluster] and [" + name + "]"],
            *_parameters(kind, ""),
            *_parameters(Cluster, "cluster-"),
        ]

        def getSynopsis(self) -> str:
            return synopsis

        def parseOptions(self, options: Any = None) -> None:
            """What is wrong with the options is one line on stderr; twistd would print its help."""
            try:
                super().parseOptions(options)
            except usage.UsageError as error:
                print(f"penncloud-{name}: {error}", file=sys.stderr, flush=True)
                raise SystemExit(1) from error

        def postOptions(self) -> None:
            try:
                self.cluster, self.role = self.read()
            except ConfigurationError as error:
                raise usage.UsageError(str(error)) from error
            choose_reactor(self.cluster.reactor)

        def read(self) -> tuple[Cluster, Role]:
            document = read_file(self["config"]) if self["config"] else {}
            cluster = dict(document.get("cluster", {}))
            role = dict(document.get(name, {}))
            _apply(cluster, Cluster, self, "cluster-")
            _apply(role, kind, self, "")
            checked = section(Cluster, cluster, "[cluster]")
            own = cast(Role, section(kind, role, f"[{name}]"))
            if not own.id:
                raise ConfigurationError(
                    f"[{name}]: id: every server needs an id, as --id {name}-1"
                )
            if not checked.coordinators:
                raise ConfigurationError(
                    "[cluster]: coordinators: at least one is needed,"
                    " as --cluster-coordinators 127.0.0.1:8600"
                )
            return checked, own

    return OptionsOfRole

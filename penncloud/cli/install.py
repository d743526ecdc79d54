"""`penncloud install`: let systemd run this host's servers."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from penncloud.cli._exits import DONE
from penncloud.cluster.installation import Plan, plan
from penncloud.cluster.layout import replace_file
from penncloud.cluster.systemd_units import SERVICES, USER
from penncloud.platform.config import read_file
from penncloud.platform.errors import ConfigurationError


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "install",
        help="let systemd run this host's servers",
        description="Writes the systemd units of the roles that this host has, makes the user that they run"
        " as, and enables them. Run again it brings everything up to date.",
    )
    add = parser.add_argument
    add(
        "--role",
        action="append",
        required=True,
        metavar="ROLE",
        help=f"one of {', '.join(SERVICES)}; may be given several times, or separated by commas",
    )
    add("--config", required=True, metavar="FILE", help="the host's configuration")
    add(
        "--bin",
        default=str(Path(sys.executable).parent),
        metavar="DIR",
        help="where twistd and penncloud are (default: %(default)s)",
    )
    add("--now", action="store_true", help="also start them")
    add("--dry-run", action="store_true", help="print the files and change nothing")
    add("--root", metavar="DIR", help="write below DIR instead, and ask systemd for nothing")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    roles = [role.strip() for given in arguments.role for role in given.split(",") if role.strip()]
    config = Path(arguments.config).absolute()
    wanted = plan(
        read_file(str(config)),
        roles,
        PurePosixPath(os.path.abspath(arguments.bin)),
        PurePosixPath(config),
    )
    if arguments.dry_run:
        for path, text in wanted.files.items():
            print(f"# {path}\n{text}")
        return DONE
    root = Path(arguments.root or "/").absolute()
    for path, text in wanted.files.items():
        _write(root / path.relative_to("/"), text)
    if arguments.root is None:
        _tell_systemd(wanted, arguments.now)
    return DONE


def _write(path: Path, text: str) -> None:
    content = text.encode()
    try:
        if path.is_file() and path.read_bytes() == content:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written: {error.strerror}") from error
    replace_file(path, content, 0o644)
    print(f"wrote {path}")


def _tell_systemd(wanted: Plan, start: bool) -> None:
    _run("systemd-sysusers")
    for directory in wanted.data:
        _own(Path(directory))
    for file in wanted.readable:
        _let_read(Path(file))
    _run("systemctl", "daemon-reload")
    _run("systemctl", "enable", *wanted.units)
    if start:
        # Those that ran already take up a new version or configuration. Not waited for: a frontend is
        # ready when the store is, which may be on hosts that are installed later.
        _run("systemctl", "restart", "--no-block", *wanted.units)
        print("started; `systemctl status 'penncloud-*'` tells how they are")


def _own(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.chown(directory, USER, USER)
    except OSError as error:
        raise ConfigurationError(f"{directory}: {error.strerror}") from error


def _let_read(file: Path) -> None:
    """The configuration and what it names hold secrets: root writes them, the servers read them."""
    try:
        shutil.chown(file, "root", USER)
        file.chmod(0o640)
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from error


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    except FileNotFoundError:
        raise ConfigurationError(
            f"{command[0]} is missing: this host has no systemd; --root writes the files only"
        ) from None
    except subprocess.TimeoutExpired:
        raise ConfigurationError(f"{' '.join(command)}: does not end") from None
    if done.returncode != 0:
        raise ConfigurationError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")

"""`penncloud ca`: the cluster's certificate authority. It is needed on no server: keep it elsewhere."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from penncloud.cli._columns import columns
from penncloud.cli._exits import DONE
from penncloud.cluster.authority import SERVER_DAYS, Authority, Issued, all_issued
from penncloud.cluster.layout import Layout
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.tls import ROLES

_STEPS = ("begin", "switch", "finish")


def add_to(commands: Any) -> None:
    parser = commands.add_parser("ca", help="certificates for the connections between servers")
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    def action(name: str, run: Any, help_: str) -> Any:
        found = actions.add_parser(name, help=help_, description=help_)
        where = found.add_mutually_exclusive_group(required=True)
        where.add_argument("--dir", metavar="DIR", help="the authority's own directory")
        where.add_argument("--data", metavar="DIR", help="the authority that `up --data` has made")
        found.set_defaults(run=run)
        return found

    action("init", _init, "make a certificate authority")
    issue = action("issue", _issue, "make a key and a certificate for one server or administrator")
    issue.add_argument("--role", required=True, choices=ROLES, help="what its holder may do")
    issue.add_argument("--id", required=True, metavar="ID", help="e.g. storage-2")
    issue.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name or address at which other programs look for it; may be repeated",
    )
    issue.add_argument("--days", type=int, default=SERVER_DAYS, metavar="N", help="%(default)s")
    issue.add_argument(
        "--out", metavar="DIR", help="where ca.pem, ID.pem and ID.key go (default: DIR/issued)"
    )
    rotate = action(
        "rotate",
        _rotate,
        "replace the authority: begin, bring the files to every host, switch, bring them again,"
        " finish, bring them a last time. With --data all three follow one another by themselves",
    )
    rotate.add_argument("step", nargs="?", choices=_STEPS, metavar="STEP", help=", ".join(_STEPS))
    rotate.add_argument("--out", metavar="DIR", help="the directory whose certificates follow")
    action("show", _show, "list the authorities and what was issued, with the days left")


def _where(arguments: argparse.Namespace) -> tuple[Authority, Path]:
    """The authority, and where its certificates go."""
    if arguments.data is not None:
        layout = Layout.at(arguments.data)
        return Authority(layout.authority, time.time), layout.tls
    directory = Path(arguments.dir).absolute()
    out = getattr(arguments, "out", None)
    return Authority(directory, time.time), Path(out) if out else directory / "issued"


def _init(arguments: argparse.Namespace) -> int:
    authority, out = _where(arguments)
    authority.init()
    authority.publish(out)
    print(f"{authority.directory}: whoever has this directory can make a member of the cluster")
    return DONE


def _issue(arguments: argparse.Namespace) -> int:
    authority, out = _where(arguments)
    authority.signing  # noqa: B018 - says so where there is no authority, before anything is made
    issued = authority.issue(out, arguments.role, arguments.id, arguments.host, arguments.days)
    print(f"{out / arguments.id}.pem: {issued.name} until {issued.expires:%Y-%m-%d}")
    return DONE


def _rotate(arguments: argparse.Namespace) -> int:
    authority, out = _where(arguments)
    steps = [arguments.step]
    if arguments.step is None:
        if arguments.data is None:
            raise ConfigurationError(f"which step? {', '.join(_STEPS)}")
        steps = list(_STEPS)
    for step in steps:
        authority.rotate(step, out)
        print(f"{step}: done; {out} has what the servers need now")
    return DONE


def _show(arguments: argparse.Namespace) -> int:
    authority, out = _where(arguments)
    signing = authority.signing
    rows = [
        ("authority", f"ca-{number}", _days(authority.certificate(number)), _use(number, signing))
        for number in authority.numbers
    ]
    issued = all_issued(out) if out.is_dir() else []
    rows += [_row(each) for each in issued]
    print(columns(("ROLE", "ID", "DAYS LEFT", "FOR"), rows))
    return DONE


def _use(number: int, signing: int) -> str:
    return "signs" if number == signing else "believed"


def _row(issued: Issued) -> tuple[str, str, str, str]:
    name = issued.name
    return name.role, name.id, _days(issued.certificate), " ".join(issued.hosts)


def _days(certificate: Any) -> str:
    left = certificate.not_valid_after_utc.timestamp() - time.time()
    return str(int(left // 86400)) if left > 0 else "expired"

"""`python -m scripts.ec2 --cluster FILE plan|launch|deploy|status|upgrade|destroy`.

FILE describes the cluster (see `shape`); AWS credentials come from where boto3 looks for them. Every command
can be interrupted and given again. Needs the extra `ec2` (pip install 'penncloud[ec2]').
"""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Sequence
from pathlib import Path

from penncloud.platform.errors import ConfigurationError, PennCloudError
from scripts.ec2 import shape
from scripts.ec2.cloud import Cloud
from scripts.ec2.reach import Reach, Ssh
from scripts.ec2.steps import Steps


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m scripts.ec2", description="PennCloud on EC2.")
    top.add_argument("--cluster", required=True, metavar="FILE", help="its description (TOML)")
    top.add_argument("--identity", default="", metavar="FILE", help="the key for ssh")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("plan", help="show machines, ports and the monthly price; make nothing")
    commands.add_parser("launch", help="make the security group and the machines")
    deploy = commands.add_parser("deploy", help="bring program and configuration, start the roles")
    deploy.add_argument("--wheel", required=True, metavar="FILE", type=Path)
    deploy.add_argument("--admin-password-stdin", action="store_true")
    commands.add_parser("status", help="the machines and the cluster")
    upgrade = commands.add_parser("upgrade", help="another version, one machine after the other")
    upgrade.add_argument("--wheel", required=True, metavar="FILE", type=Path)
    destroy = commands.add_parser("destroy", help="terminate the machines; their data is gone")
    destroy.add_argument(
        "--yes-destroy", metavar="NAME", help="the cluster's name, instead of a question"
    )
    return top


def main(arguments: Sequence[str], reach: Reach | None = None, endpoint: str | None = None) -> int:
    """The exit code: 0 done, 1 it did not work, 2 usage. The last two arguments are for tests."""
    given = parser().parse_args(arguments)
    path = Path(given.cluster)
    try:
        description = shape.read(path)
        steps = Steps(
            description,
            Cloud(
                description, print, endpoint, {"Delay": 0, "MaxAttempts": 3} if endpoint else None
            ),
            reach or Ssh(description.ssh_user, given.identity),
            path.absolute().parent / f"{description.name}-secrets",
            print,
        )
        _run(steps, given)
    except ConfigurationError as error:
        print(f"ec2: {error}", file=sys.stderr)
        return 2
    except PennCloudError as error:
        print(f"ec2: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ec2: interrupted; the same command goes on", file=sys.stderr)
        return 1
    return 0


def _run(steps: Steps, given: argparse.Namespace) -> None:
    match given.command:
        case "plan":
            print(steps.plan())
        case "launch":
            steps.launch()
        case "deploy":
            print(f"PennCloud serves at {steps.deploy(_wheel(given), _password(given))}")
        case "status":
            print(steps.status())
        case "upgrade":
            steps.upgrade(_wheel(given))
        case _:
            name = given.yes_destroy or input(
                f"This terminates all machines of {steps.description.name} and deletes their data."
                " Its name, to go on: "
            )
            steps.destroy(name)


def _wheel(given: argparse.Namespace) -> Path:
    wheel: Path = given.wheel
    if not wheel.is_file() or wheel.suffix != ".whl":
        raise ConfigurationError(f"{wheel} is no wheel: python -m build --wheel makes one")
    return wheel


def _password(given: argparse.Namespace) -> str:
    if given.admin_password_stdin or not sys.stdin.isatty():
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = getpass.getpass("Password for the first account `admin`: ")
    if len(password) < 8:
        raise ConfigurationError("the administrator's password has 8 characters or more")
    return password


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The command line: arguments in, exit code out.

Exit codes: 0 done; 1 not found, comparison failed, or it did not work; 2 usage; 3 unavailable (no
server answers, or not in time). What went wrong is one line on stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from penncloud.cli import (
    agent,
    backup,
    ca,
    coordinator,
    doctor,
    down,
    install,
    kv,
    lb,
    lsm,
    mail,
    node,
    raft,
    simulate,
    status,
    tablet,
    torture,
    up,
    user,
)
from penncloud.cli._exits import FAILED, UNAVAILABLE, USAGE
from penncloud.client.agents import AgentUnreachable
from penncloud.client.table import Unavailable
from penncloud.platform.errors import ConfigurationError, PennCloudError

_GROUPS = (
    up,
    down,
    status,
    kv,
    user,
    lb,
    mail,
    node,
    tablet,
    coordinator,
    ca,
    doctor,
    install,
    agent,
    backup,
    lsm,
    raft,
    simulate,
    torture,
)


def parser() -> argparse.ArgumentParser:
    """All commands; each sets `run`, a function of the parsed arguments that returns an exit code."""
    top = argparse.ArgumentParser(
        prog="penncloud", description="Runs and administers a PennCloud cluster."
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for group in _GROUPS:
        group.add_to(commands)
    return top


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    try:
        parsed = parser().parse_args(arguments)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else USAGE
    try:
        code: int = parsed.run(parsed)
    except (Unavailable, AgentUnreachable) as error:
        return _fail(error, UNAVAILABLE)
    except ConfigurationError as error:
        return _fail(error, USAGE)
    except PennCloudError as error:
        return _fail(error, FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted", FAILED)
    except BrokenPipeError:
        # Whoever read our output has seen enough (`penncloud kv scan ... | head`).
        sys.stderr.close()
        return FAILED
    return code


def _fail(error: object, code: int) -> int:
    print(f"penncloud: {error}", file=sys.stderr)
    return code


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))

"""`penncloud up`: start a whole local cluster and supervise it."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.python.logfile import LogFile

from penncloud.cli._exits import DONE, FAILED
from penncloud.cli._reactor import run_command
from penncloud.cli._target import add_data
from penncloud.cluster.configuration import Setting, parse_setting
from penncloud.cluster.launch import Launcher, Order, tail
from penncloud.cluster.layout import Layout
from penncloud.cluster.ports import is_free
from penncloud.cluster.topology import (
    DEFAULT_BASE_PORT,
    DEFAULT_COUNTS,
    DEFAULT_SMTP_PORT,
    Wanted,
)
from penncloud.lb.redirect import is_loopback
from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError

_LOG_BYTES = 8 * 1024 * 1024
_LOG_FILES = 4


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "up",
        help="start a whole local cluster",
        description="Starts a whole local cluster under a supervising agent, or resumes it."
        " Without --detach it runs until Ctrl-C. What is not given stays as it was.",
    )
    add = parser.add_argument
    add_data(parser)
    add(
        "--base-port",
        type=int,
        metavar="N",
        help="the balancer's port, frontends follow, the rest is chosen above"
        f" (default: {DEFAULT_BASE_PORT})",
    )
    add(
        "--smtp-port",
        type=int,
        metavar="N",
        help=f"where mail comes in (default: {DEFAULT_SMTP_PORT})",
    )
    for option, role in (
        ("--coordinators", "coordinator"),
        ("--storage", "storage"),
        ("--http", "http"),
        ("--smtp", "smtp"),
    ):
        text = f"number of {role} servers (default: {DEFAULT_COUNTS[role]})"
        add(option, type=int, metavar="N", dest=f"count_{role}", help=text)
    add("--domain", help="mail addresses are user@DOMAIN (default: penncloud)")
    add("--host", metavar="ADDRESS", help="where every server listens (default: 127.0.0.1)")
    add("--advertise", metavar="HOST", help="what others are told instead of --host")
    add(
        "--tls",
        choices=("on", "off"),
        help="encrypt connections between the servers (default: on); off only on loopback",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="any other configuration key, e.g. smtp.relay_port=2525; it is remembered",
    )
    add(
        "--admin-password-stdin",
        action="store_true",
        help="read the first admin's password from stdin (asked for where --host is no loopback)",
    )
    add("--within", type=float, default=120.0, metavar="S", help="seconds until it has to serve")
    add("--detach", action="store_true", help="return when it serves; `penncloud down` stops it")
    add("--ready-fd", type=int, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    settings = [parse_setting(text) for text in arguments.set]
    layout = Layout.at(arguments.data)
    password = _admin_password(arguments, layout)
    if arguments.detach:
        return _detached(arguments, layout, password)
    if password is not None:
        settings.append(Setting("http", "admin_password", password))
    order = Order(layout, _wanted(arguments), settings, arguments.within)
    return run_command(lambda environment: _supervise(environment, order, arguments.ready_fd))


def _wanted(arguments: argparse.Namespace) -> Wanted:
    return Wanted(
        base_port=arguments.base_port,
        smtp_port=arguments.smtp_port,
        counts={role: getattr(arguments, f"count_{role}", None) for role in DEFAULT_COUNTS},
        domain=arguments.domain,
        host=arguments.host,
        advertise=arguments.advertise,
        tls=None if arguments.tls is None else arguments.tls == "on",
    )


def _admin_password(arguments: argparse.Namespace, layout: Layout) -> str | None:
    """The password of the first admin account, where it has to be asked for; else None."""
    if arguments.admin_password_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    open_to_others = arguments.host is not None and not is_loopback(arguments.host)
    first_time = not layout.configuration("http-1").exists()
    given = any(text.startswith("http.admin_password=") for text in arguments.set)
    if not (open_to_others and first_time) or given:
        return None
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"--host {arguments.host}: others can reach it, so the first admin needs a password:"
            " use --admin-password-stdin"
        )
    password = getpass.getpass("Password for the account `admin`: ")
    if password != getpass.getpass("The same again: "):
        raise ConfigurationError("the two passwords differ")
    return password


# -- in the foreground -------------------------------------------------------------------------------


async def _supervise(environment: Environment, order: Order, ready_fd: int | None) -> int:
    launcher = Launcher(environment, order, is_free, _say, lambda: _log_to(order.layout))
    stop: Deferred[None] = Deferred()
    _on_signals(environment.reactor, launcher, stop)

    def served(address: str) -> None:
        _say(f"PennCloud serves at {address}")
        if ready_fd is not None:
            _leave_the_terminal(ready_fd)

    await launcher.run(served, stop)
    return DONE


def _say(line: str) -> None:
    # The reader of a pipe may be gone; the cluster goes on, and the log has it all.
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)


def _log_to(layout: Layout) -> None:
    file = LogFile.fromFullPath(
        str(layout.log("agent-1")),
        rotateLength=_LOG_BYTES,
        maxRotatedFiles=_LOG_FILES,
        defaultMode=0o600,
    )
    globalLogBeginner.beginLoggingTo([textFileLogObserver(file)], redirectStandardIO=False)


def _on_signals(reactor: Any, launcher: Launcher, stop: Deferred[None]) -> None:
    """The first signal stops the servers in order, a second one does not wait for them."""

    def asked() -> None:
        if stop.called:
            launcher.kill()
        else:
            _say("stopping")
            stop.callback(None)

    def on_signal(*_: object) -> None:
        reactor.callFromThread(asked)

    # SIGINT also where a shell has it ignored, as it does for what a script starts with `&`.
    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, on_signal)


def _leave_the_terminal(ready_fd: int) -> None:
    """Tell the waiting parent that the cluster serves, and let go of its stdout and stderr."""
    os.write(ready_fd, b"ready\n")
    os.close(ready_fd)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)


# -- in the background -------------------------------------------------------------------------------


def _detached(arguments: argparse.Namespace, layout: Layout, password: str | None) -> int:
    """Run the same command in a session of its own; show what it says until it serves or ends."""
    ready, ready_fd = os.pipe()
    command = [sys.executable, "-m", "penncloud.cli", "up", f"--ready-fd={ready_fd}"]
    command += _again(arguments, password is not None)
    agent = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=(ready_fd,),
    )
    os.close(ready_fd)
    assert agent.stdin is not None
    assert agent.stdout is not None
    try:
        with contextlib.suppress(BrokenPipeError), agent.stdin:
            agent.stdin.write(b"" if password is None else password.encode() + b"\n")
        for line in agent.stdout:
            print(line.decode("utf-8", "replace").rstrip("\n"), flush=True)
        with open(ready, "rb") as told:
            if told.read() == b"ready\n":
                return DONE
    except KeyboardInterrupt:
        agent.send_signal(signal.SIGTERM)
    code = agent.wait()
    log = layout.log("agent-1")
    if code not in (DONE, FAILED) or not log.exists():
        return code or FAILED
    print(f"-- the end of {log}:", *tail(log), sep="\n", file=sys.stderr)
    return FAILED


def _again(arguments: argparse.Namespace, with_password: bool) -> list[str]:
    """The options of this command, for the process in the background."""
    options = {
        "--data": str(Path(arguments.data).absolute()),
        "--base-port": arguments.base_port,
        "--smtp-port": arguments.smtp_port,
        "--coordinators": arguments.count_coordinator,
        "--storage": arguments.count_storage,
        "--http": arguments.count_http,
        "--smtp": arguments.count_smtp,
        "--domain": arguments.domain,
        "--host": arguments.host,
        "--advertise": arguments.advertise,
        "--tls": arguments.tls,
        "--within": arguments.within,
    }
    found = [f"{option}={value}" for option, value in options.items() if value is not None]
    found += [f"--set={text}" for text in arguments.set]
    if with_password:
        found.append("--admin-password-stdin")
    return found

"""What the service manager (systemd) is told of this process: sd_notify(3), and no more of it than we need.

systemd names a datagram socket in NOTIFY_SOCKET and, where it is to watch over the process, a time in
WATCHDOG_USEC. A message is lines of KEY=VALUE. Outside of systemd there is neither, and nothing is told.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Final

from attrs import frozen

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
ALIVE: Final = "WATCHDOG=1"


def extend_timeout(seconds: float) -> str:
    """The start or the stop goes on, and may take so much longer from now."""
    return f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}"


def status(text: str) -> str:
    """One line for `systemctl status`."""
    return "STATUS=" + text.replace("\n", " ")


def reloading(monotonic_s: float) -> str:
    """The configuration is read again, since `monotonic_s` of CLOCK_MONOTONIC; READY ends it."""
    return f"RELOADING=1\nMONOTONIC_USEC={round(monotonic_s * 1_000_000)}"


def _tell_nobody(message: str) -> None:
    """There is no service manager."""


@frozen
class ServiceManager:
    """Who started this process. `tell` never fails: a manager that is gone does not end a server.

    `watchdog_s`: it has to hear `ALIVE` at least so often, or it kills us; 0: it does not ask.
    """

    tell: Callable[[str], None] = _tell_nobody
    watchdog_s: float = 0.0


NOBODY: Final = ServiceManager()


def service_manager(variables: MutableMapping[str, str], pid: int) -> ServiceManager:
    """The manager that the environment variables name.

    They are taken out of `variables`, so that children do not speak in our name.
    """
    address = variables.pop("NOTIFY_SOCKET", "")
    watchdog_us = variables.pop("WATCHDOG_USEC", "")
    meant_pid = variables.pop("WATCHDOG_PID", str(pid))
    if address[:1] not in ("/", "@"):
        return NOBODY
    is_watched = watchdog_us.isdecimal() and meant_pid == str(pid)
    # A name that begins with @ is one of the abstract namespace, written with a NUL.
    path = "\0" + address[1:] if address.startswith("@") else address

    def tell(message: str) -> None:
        with contextlib.suppress(OSError):
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            with channel:
                # The socket's buffer may be full of other services' messages: do not wait for it.
                channel.setblocking(False)
                channel.sendto(message.encode(), path)

    return ServiceManager(tell, int(watchdog_us) / 1_000_000 if is_watched else 0.0)


def of_this_process() -> ServiceManager:
    """The manager of the running process; the second call finds none."""
    return service_manager(os.environ, os.getpid())

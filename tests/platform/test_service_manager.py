"""Twin of `penncloud.platform.service_manager`: what arrives at a real socket, and what does not."""

from __future__ import annotations

import os
import socket
import tempfile

from twisted.trial.unittest import SynchronousTestCase

from penncloud.platform.service_manager import (
    NOBODY,
    READY,
    extend_timeout,
    reloading,
    service_manager,
    status,
)


class ServiceManagerTests(SynchronousTestCase):
    def listen(self, address: str) -> socket.socket:
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(channel.close)
        channel.bind(address)
        channel.settimeout(5)
        return channel

    def test_path(self) -> None:
        """A message arrives at the socket that NOTIFY_SOCKET names."""
        directory = tempfile.mkdtemp()
        path = os.path.join(directory, "notify")
        self.addCleanup(os.rmdir, directory)
        self.addCleanup(os.unlink, path)
        channel = self.listen(path)
        told = status("two\nlines")
        service_manager({"NOTIFY_SOCKET": path}, 1).tell(f"{READY}\n{told}")
        self.assertEqual(channel.recv(100), b"READY=1\nSTATUS=two lines")

    def test_abstract(self) -> None:
        """A name with @ is one of the abstract namespace."""
        name = f"penncloud-test-{os.getpid()}"
        channel = self.listen("\0" + name)
        service_manager({"NOTIFY_SOCKET": "@" + name}, 1).tell(extend_timeout(1.5))
        self.assertEqual(channel.recv(100), b"EXTEND_TIMEOUT_USEC=1500000")

    def test_children_do_not_speak_for_us(self) -> None:
        """The variables are taken out of the environment, others stay."""
        variables = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "20", "WATCHDOG_PID": "1", "HOME": "/"}
        service_manager(variables, 1)
        self.assertEqual(variables, {"HOME": "/"})

    def test_watchdog(self) -> None:
        """The time is in microseconds, and meant for one process only."""
        given = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "20000000"}
        self.assertEqual(service_manager({**given}, 7).watchdog_s, 20.0)
        self.assertEqual(service_manager({**given, "WATCHDOG_PID": "7"}, 7).watchdog_s, 20.0)
        self.assertEqual(service_manager({**given, "WATCHDOG_PID": "8"}, 7).watchdog_s, 0.0)
        self.assertEqual(service_manager({**given, "WATCHDOG_USEC": "soon"}, 7).watchdog_s, 0.0)

    def test_nobody(self) -> None:
        """Without a manager, or with one that cannot be reached, nothing happens."""
        self.assertIs(service_manager({}, 1), NOBODY)
        self.assertIs(service_manager({"NOTIFY_SOCKET": "vsock:2:1"}, 1), NOBODY)
        NOBODY.tell(READY)
        service_manager({"NOTIFY_SOCKET": "/nowhere/at/all"}, 1).tell(READY)

    def test_reloading(self) -> None:
        """sd_notify(3): RELOADING goes with the time in microseconds."""
        self.assertEqual(reloading(2.5), "RELOADING=1\nMONOTONIC_USEC=2500000")

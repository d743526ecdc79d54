"""Hosts in network namespaces: what is cut is cut one way, and all of it can be removed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from penncloud.torture.lan import Lan, Loopback, Namespaces, NoNamespaces

# Waits for one datagram and says whether it came.
_LISTEN = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 9000)); s.settimeout(float(sys.argv[2])); print("listening", flush=True)
try: print(s.recv(100).decode())
except TimeoutError: print("nothing")
"""
_SEND = """
import socket, sys
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"hello", (sys.argv[1], 9000))
"""


class NamespacesTests(SynchronousTestCase):
    def setUp(self) -> None:
        try:
            self.lan: Lan = Namespaces()
        except NoNamespaces as error:
            raise SkipTest(str(error)) from error
        self.addCleanup(self.lan.remove)
        self.addresses = {host: self.lan.add(host) for host in ("a", "b")}

    def _gets_through(self, source: str, target: str) -> bool:
        python = (sys.executable, "-c")
        # One that gets through does so at once; how long to wait for one that does not is free.
        listen = [*self.lan.inside(target), *python, _LISTEN, self.addresses[target], "0.5"]
        with subprocess.Popen(listen, stdout=subprocess.PIPE, text=True) as listener:
            assert listener.stdout is not None
            self.assertEqual(listener.stdout.readline(), "listening\n")
            send = [*self.lan.inside(source), *python, _SEND, self.addresses[target]]
            subprocess.run(send, check=True, timeout=20)
            return listener.stdout.read() == "hello\n"

    def test_a_cut_is_one_way_until_mended(self) -> None:
        """Nothing gets from a to b, all of it from b to a; afterwards both ways again."""
        self.lan.cut("a", "b")
        self.assertEqual(
            [self._gets_through("a", "b"), self._gets_through("b", "a")], [False, True]
        )
        self.lan.mend("a", "b")
        self.assertTrue(self._gets_through("a", "b"))

    def test_nothing_stays_behind(self) -> None:
        """With the hosts their namespaces end."""
        name = self.lan.inside("a")[-1]
        self.assertTrue((Path("/run/netns") / name).exists())
        self.lan.remove()
        self.assertFalse((Path("/run/netns") / name).exists())


class LoopbackTests(SynchronousTestCase):
    def test_cannot_be_cut(self) -> None:
        """One address for all, and an error for whoever wants to cut it."""
        lan = Loopback()
        self.assertEqual([lan.add("a"), lan.add("b"), *lan.inside("a")], ["127.0.0.1"] * 2)
        self.assertRaises(NoNamespaces, lan.cut, "a", "b")

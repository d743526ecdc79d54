"""Hosts in network namespaces: what is cut is cut one way, and all of it can be removed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from penncloud.torture.lan import Lan, Loopback, Namespaces, NoNamespaces
from tests.waiting import PATIENCE_S

# Says which datagram came first.
_LISTEN = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 9000)); s.settimeout(float(sys.argv[2])); print("listening", flush=True)
print(s.recv(100).decode())
"""
_SEND = """
import socket, sys
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(sys.argv[2].encode(), (sys.argv[1], 9000))
"""


class NamespacesTests(SynchronousTestCase):
    def setUp(self) -> None:
        try:
            self.lan: Lan = Namespaces()
        except NoNamespaces as error:
            raise SkipTest(str(error)) from error
        self.addCleanup(self.lan.remove)
        self.addresses = {host: self.lan.add(host) for host in ("a", "b", "c")}

    def _first_heard(self, target: str, *sources: str) -> str:
        """Of the sources, which send to the target one after the other, the first that it hears.

        That one does not get through is known by another that does, and not by a time that passes.
        """
        python = (sys.executable, "-c")
        listen = [
            *self.lan.inside(target),
            *python,
            _LISTEN,
            self.addresses[target],
            str(PATIENCE_S),
        ]
        with subprocess.Popen(listen, stdout=subprocess.PIPE, text=True) as listener:
            assert listener.stdout is not None
            self.assertEqual(listener.stdout.readline(), "listening\n")
            for source in sources:
                send = [*self.lan.inside(source), *python, _SEND, self.addresses[target], source]
                subprocess.run(send, check=True, timeout=PATIENCE_S)
            return listener.stdout.read().strip()

    def test_a_cut_is_one_way_until_mended(self) -> None:
        """Nothing gets from a to b, all of it from b to a; afterwards both ways again."""
        self.lan.cut("a", "b")
        self.assertEqual(self._first_heard("b", "a", "c"), "c")
        self.assertEqual(self._first_heard("a", "b"), "b")
        self.lan.mend("a", "b")
        self.assertEqual(self._first_heard("b", "a"), "a")

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

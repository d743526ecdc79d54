"""Twin of `penncloud.cli.up`: what its options mean, and the passwords it asks for."""

from __future__ import annotations

import io
import sys

from twisted.trial.unittest import SynchronousTestCase

from penncloud.cli import up
from penncloud.cli._main import parser
from penncloud.cluster.layout import Layout
from penncloud.platform.errors import ConfigurationError


class UpTests(SynchronousTestCase):
    def test_what_is_not_given_stays(self) -> None:
        """Without options nothing is wanted but what was."""
        wanted = up._wanted(parser().parse_args(["up"]))
        self.assertEqual((wanted.base_port, wanted.smtp_port, wanted.host), (None, None, None))
        self.assertEqual(set(wanted.counts.values()), {None})

    def test_background_gets_the_same_options(self) -> None:
        """`--detach` starts the same cluster as without it."""
        given = [
            *("up", "--data", "d", "--base-port", "9000", "--smtp-port", "2600"),
            *("--coordinators", "1", "--storage", "4", "--http", "3", "--smtp", "2"),
            *("--domain", "example.org", "--host", "127.0.0.2", "--advertise", "localhost"),
            *("--set", "smtp.relay_port=2525", "--set", "lb.mode=redirect", "--within", "7"),
        ]
        first = parser().parse_args([*given, "--detach"])
        again = parser().parse_args(["up", *up._again(first, with_password=False)])
        self.assertEqual(up._wanted(again), up._wanted(first))
        self.assertEqual((again.set, again.within), (first.set, first.within))
        self.assertEqual(Layout.at(again.data), Layout.at("d"))
        self.assertFalse(again.detach)
        self.assertFalse(again.admin_password_stdin)
        self.assertIn("--admin-password-stdin", up._again(first, with_password=True))

    def password(self, *options: str, stdin: str = "") -> str | None:
        self.patch(sys, "stdin", io.StringIO(stdin))
        layout = Layout.at(self.mktemp())
        return up._admin_password(parser().parse_args(["up", *options]), layout)

    def test_admin_password(self) -> None:
        """On loopback none is needed; where others can come, one is, and not by argument."""
        self.assertIsNone(self.password())
        self.assertIsNone(self.password("--host", "127.0.0.1"))
        stdin = "long enough\n"
        self.assertEqual(self.password("--admin-password-stdin", stdin=stdin), "long enough")
        with self.assertRaises(ConfigurationError) as caught:
            self.password("--host", "0.0.0.0", "--advertise", "example.org")
        self.assertIn("--admin-password-stdin", str(caught.exception))

"""Twin of `penncloud.cli._main` and `_target`: usage errors and exit codes, without a reactor."""

from __future__ import annotations

import argparse
import contextlib
import io

from twisted.trial.unittest import SynchronousTestCase

from penncloud.cli import _main
from penncloud.cli._target import agents_of, cluster_of
from penncloud.client.agents import AgentUnreachable
from penncloud.client.table import Unavailable
from penncloud.cluster.cluster_file import describe, write
from penncloud.cluster.layout import Layout
from penncloud.cluster.topology import Wanted, plan
from penncloud.platform.errors import ConfigurationError, PennCloudError
from tests.cluster.test_topology import anything


class ExitCodeTests(SynchronousTestCase):
    def run_with(self, *arguments: str) -> tuple[int, str]:
        error = io.StringIO()
        with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
            code = _main.run(arguments)
        return code, error.getvalue()

    def test_usage(self) -> None:
        """What cannot be understood is exit code 2, with the usage on stderr."""
        for arguments in (
            (),
            ("nonsense",),
            ("kv",),
            ("kv", "get", "row"),
            ("kv", "put", "r", "c", "v", "more"),
            ("kv", "get", "r", "c", "--data", "d", "--coordinators", "h:1"),
            ("up", "--storage", "many"),
            ("user", "add"),
        ):
            code, error = self.run_with(*arguments)
            self.assertEqual(code, 2, arguments)
            self.assertIn("usage: penncloud", error)

    def test_help(self) -> None:
        """Help is no error."""
        self.assertEqual(self.run_with("--help"), (0, ""))
        self.assertEqual(self.run_with("up", "--help"), (0, ""))

    def test_no_cluster_there(self) -> None:
        """A directory without a cluster is named, with what to do."""
        nowhere = self.mktemp()
        for command, expected in (
            (("kv", "get", "r", "c"), 3),
            (("status",), 3),
            (("user", "list"), 3),
            (("lb", "list"), 3),
            (("node", "stop", "http-1"), 3),
            (("down",), 2),
        ):
            code, error = self.run_with(*command, "--data", nowhere)
            self.assertEqual(code, expected, command)
            self.assertIn(nowhere, error)
            self.assertEqual(len(error.splitlines()), 1)

    def test_bad_address(self) -> None:
        """A coordinator that is no host:port is said to be none."""
        code, error = self.run_with("kv", "get", "r", "c", "--coordinators", "here")
        self.assertEqual(code, 2)
        self.assertIn("'here'", error)

    def test_failures(self) -> None:
        """Each kind of failure has its exit code and is one line, never a traceback."""

        def failing(error: Exception) -> argparse.ArgumentParser:
            def fail(arguments: argparse.Namespace) -> int:
                raise error

            parser = argparse.ArgumentParser()
            parser.set_defaults(run=fail)
            return parser

        for error, expected in (
            (Unavailable("no answer"), 3),
            (AgentUnreachable("no agent"), 3),
            (ConfigurationError("bad key"), 2),
            (PennCloudError("name taken"), 1),
        ):
            self.patch(_main, "parser", lambda error=error: failing(error))
            self.assertEqual(self.run_with(), (expected, f"penncloud: {error}\n"))


class TargetTests(SynchronousTestCase):
    def arguments(self, *texts: str) -> argparse.Namespace:
        return _main.parser().parse_args(["kv", "get", "r", "c", *texts])

    def test_local_cluster(self) -> None:
        """`--data` finds coordinators, secret and agent by cluster.json."""
        layout = Layout.at(self.mktemp())
        layout.make()
        topology = plan(Wanted(domain="example.org"), None, anything)
        write(layout, describe(topology, "agent-1", None, {}))
        arguments = self.arguments("--data", str(layout.root))
        cluster = cluster_of(arguments)
        self.assertEqual(cluster.coordinators, [f"127.0.0.1:{port}" for port in (8600, 8601, 8602)])
        self.assertEqual(cluster.secret_file, str(layout.secret))
        self.assertEqual(cluster.domain, "example.org")
        self.assertEqual(agents_of(arguments), ["127.0.0.1:8500"])

    def test_other_cluster(self) -> None:
        """`--coordinators` needs no directory."""
        arguments = self.arguments("--coordinators", "a:1, b:2,", "--secret-file", "s")
        cluster = cluster_of(arguments)
        self.assertEqual((cluster.coordinators, cluster.secret_file), (["a:1", "b:2"], "s"))
        self.assertEqual(agents_of(arguments), [])

"""A real cluster: somebody without a certificate, an authority that is replaced, HTTPS and STARTTLS."""

from __future__ import annotations

import smtplib
import socket
import ssl
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from twisted.trial.unittest import SynchronousTestCase

from tests.certificates import TestAuthority
from tests.processes.cluster import RunningCluster
from tests.waiting import PATIENCE_S


class SecurityTests(SynchronousTestCase):
    def setUp(self) -> None:
        ca = TestAuthority(self.mktemp())
        ca.issue("http", "public", "localhost")
        self.public = ca.out / "public"
        self.believed = ssl.create_default_context(cafile=str(ca.out / "ca.pem"))
        files = {"tls_cert": f"{self.public}.pem", "tls_key": f"{self.public}.key"}
        options = [
            f"--set={role}.{key}={path}"
            for role in ("lb", "http", "smtp")
            for key, path in files.items()
        ]
        # The certificate is for localhost, as what people type is.
        options += ["--coordinators=1", "--http=1", "--storage=1", "--advertise=localhost"]
        self.cluster = RunningCluster(self.mktemp(), options)
        self.addCleanup(self.cluster.destroy)
        self.cluster.start()

    def internal_ports(self) -> dict[str, int]:
        document = self.cluster.document
        found = {entry.id: entry.port for entry in document.coordinators + document.storage}
        found["agent"] = document.agent.port
        found |= {f"metrics of {each.id}": each.metrics_port for each in document.listeners}
        return found

    def ask(self, port: int, words: bytes, certificate: str | None) -> bytes:
        """What a port answers by TLS; nothing when it closes or refuses."""
        if certificate is not None:
            context = self.cluster.tls_context(certificate)
        else:
            context = ssl.create_default_context(cafile=str(self.cluster.layout.tls / "ca.pem"))
        try:
            with (
                socket.create_connection(("127.0.0.1", port), PATIENCE_S) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
            ):
                connection.sendall(words)
                return connection.recv(1024)
        except (ssl.SSLError, ConnectionError):
            return b""

    def in_the_clear(self, port: int, words: bytes) -> bytes:
        try:
            with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
                connection.sendall(words)
                answer = connection.recv(1024)
                # A TLS alert says what is wrong, and nothing else.
                return b"" if answer[:1] == b"\x15" else answer
        except ConnectionError:
            return b""

    def test_strangers_members_and_a_new_authority(self) -> None:
        """Nobody without a certificate gets a word from any internal port, in the log it is a line and no
        traceback; a member's role bounds what it is told; a new authority costs nobody anything."""
        self.check_the_public_side()
        get, page = b"GET;a;b\r\n", b"GET /metrics HTTP/1.0\r\n\r\n"
        for name, port in self.internal_ports().items():
            for words in (get, page, b"\0\0\0\x05hello", b"\x16\x03\x01" + b"\xff" * 300):
                self.assertEqual(self.in_the_clear(port, words), b"", f"{name}: {words!r}")
            self.assertEqual(self.ask(port, get, None), b"", name)
        for entry in self.cluster.document.listeners:
            log = self.cluster.layout.log(entry.id).read_text()
            self.assertIn("connection from 127.0.0.1 refused", log, entry.id)
            self.assertNotIn("Traceback", log, entry.id)

        self.cluster.penncloud("kv", "put", "a", "b", "before")
        document = self.cluster.document
        storage, coordinator = document.storage[0].port, document.coordinators[0].port
        self.assertEqual(self.ask(storage, get, "lb-1"), b"")
        self.assertIn(b"-ERR;FORBIDDEN", self.ask(storage, get, "coordinator-1"))
        self.assertIn(b"+VAL", self.ask(storage, get, "http-1"))
        self.assertIn(b"+AT", self.ask(coordinator, b"WHERE;a;b\r\n", "admin"))
        self.assertEqual(self.ask(document.agent.port, get, "lb-1"), b"")
        metrics = document.storage[0].metrics_port
        self.assertIn(b"200 OK", self.ask(metrics, page, "lb-1"))

        before = (self.cluster.layout.tls / "ca.pem").read_bytes()
        for step in ("begin", "switch", "finish"):
            self.cluster.penncloud("ca", "rotate", step)
            self.cluster.penncloud("kv", "get", "a", "b")
            self.assertIn(b"+VAL", self.ask(storage, get, "http-1"))
        after = (self.cluster.layout.tls / "ca.pem").read_bytes()
        self.assertNotEqual(before, after)
        self.cluster.kill("storage-1")
        self.cluster.penncloud("kv", "get", "a", "b")
        self.cluster.penncloud("node", "restart", "http-1")

    def check_the_public_side(self) -> None:
        """The login page comes by HTTPS through the balancer, with HSTS and cookies for HTTPS alone; mail
        comes by STARTTLS; a renewed certificate is shown without a restart."""
        document = self.cluster.document
        url = f"https://localhost:{document.lb[0].port}/"
        with urlopen(url, timeout=PATIENCE_S, context=self.believed) as answer:
            self.assertIn(b"<form", answer.read())
            self.assertTrue(answer.url.startswith(f"https://localhost:{document.http[0].port}/"))
            self.assertEqual(answer.headers["strict-transport-security"], "max-age=31536000")
            self.assertIn("Secure", answer.headers["set-cookie"])
        self.cluster.penncloud("user", "add", "bob", stdin=b"correct horse battery\n")
        with smtplib.SMTP("localhost", document.smtp[0].port, timeout=PATIENCE_S) as client:
            client.starttls(context=self.believed)
            client.sendmail("x@y.org", ["bob@penncloud"], b"Subject: s\r\n\r\nhello\r\n")
        other = TestAuthority(self.mktemp())
        other.issue("http", "public", "localhost")
        for kind in ("key", "pem"):
            new = (other.out / f"public.{kind}").read_bytes()
            Path(f"{self.public}.{kind}").write_bytes(new)
        with self.assertRaises(URLError):
            urlopen(url, timeout=PATIENCE_S, context=self.believed)
        renewed = ssl.create_default_context(cafile=str(other.out / "ca.pem"))
        with urlopen(url, timeout=PATIENCE_S, context=renewed) as answer:
            self.assertIn(b"<form", answer.read())

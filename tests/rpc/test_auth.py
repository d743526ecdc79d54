"""The shared secret: where it comes from and when there has to be one."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from penncloud.platform.config import Cluster
from penncloud.platform.errors import ConfigurationError
from penncloud.rpc.auth import is_loopback, load_secret, proof, proves


class SecretTests(SynchronousTestCase):
    def test_loopback_needs_none(self) -> None:
        """A cluster that only this machine can reach may do without."""
        cluster = Cluster(coordinators=["127.0.0.1:8600", "[::1]:8601", "localhost:8602"])
        self.assertEqual(load_secret(cluster, "127.0.0.1"), b"")

    def test_in_the_clear_only_on_loopback(self) -> None:
        """As soon as another machine could connect, connections in the clear are refused."""
        with self.assertRaisesRegex(ConfigurationError, "tls_dir"):
            load_secret(Cluster(coordinators=["127.0.0.1:8600"]), "0.0.0.0")
        with self.assertRaisesRegex(ConfigurationError, "db.example"):
            load_secret(Cluster(coordinators=["db.example:8600"]))
        self.assertFalse(is_loopback("localhost.example"))

    def test_file(self) -> None:
        """The file's bytes, without a final line end, are the secret, if there are enough."""
        path = Path(self.mktemp())
        cluster = Cluster(coordinators=["10.0.0.1:8600"], secret_file=str(path), tls_dir="tls")
        with self.assertRaisesRegex(ConfigurationError, "cannot be read"):
            load_secret(cluster)
        path.write_bytes(b"short\n")
        with self.assertRaisesRegex(ConfigurationError, "5 bytes"):
            load_secret(cluster)
        path.write_bytes(b"s" * 32 + b"\n")
        self.assertEqual(load_secret(cluster, "10.0.0.2"), b"s" * 32)

    def test_proofs_differ(self) -> None:
        """A proof is good for one side, one secret and one pair of challenges only."""
        mac = proof(b"secret", "client", b"1", b"2")
        self.assertTrue(proves(mac, b"secret", "client", b"1", b"2"))
        self.assertFalse(proves(mac, b"secret", "server", b"1", b"2"))
        self.assertFalse(proves(mac, b"secreT", "client", b"1", b"2"))
        self.assertFalse(proves(mac, b"secret", "client", b"1", b"3"))

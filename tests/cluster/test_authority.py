"""The certificate authority: what it makes, what it makes again, and what it refuses."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from penncloud.cluster.authority import SERVER_DAYS, Authority, Step, all_issued, read_issued
from penncloud.cluster.certificates import admin_certificate, agent_credentials, make_certificates
from penncloud.cluster.layout import Layout
from penncloud.cluster.topology import Server, Topology
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.tls import PeerName, name_of

_DAY = 86400.0


class AuthorityTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 1_800_000_000.0
        self.root = Path(self.mktemp()).absolute()
        self.out = self.root / "out"
        self.authority = Authority(self.root / "authority", lambda: self.now)

    def test_issue(self) -> None:
        """A certificate says role, id and hosts; keys are for their owner's eyes alone."""
        self.authority.init()
        self.authority.issue(self.out, "storage", "storage-1", ["10.0.0.5", "db.example"])
        found = read_issued(self.out / "storage-1.pem")
        self.assertEqual(found.name, PeerName("storage", "storage-1"))
        self.assertEqual(found.hosts, ("storage-1", "10.0.0.5", "db.example"))
        self.assertEqual((self.out / "storage-1.key").stat().st_mode & 0o777, 0o600)
        self.assertEqual((self.root / "authority").stat().st_mode & 0o777, 0o700)
        bundle = x509.load_pem_x509_certificates((self.out / "ca.pem").read_bytes())
        self.assertEqual([each.subject for each in bundle], [found.certificate.issuer])

    def test_administrators_are_no_servers(self) -> None:
        """Nobody can stand for a server with an administrator's certificate."""
        self.authority.init()
        for role, count in (("admin", 1), ("monitor", 1), ("http", 2)):
            made = self.authority.issue(self.out, role, f"{role}-x", []).certificate
            uses = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            self.assertEqual(len(list(uses)), count, role)

    def test_refused(self) -> None:
        """What makes no sense is said, and nothing is written."""
        with self.assertRaisesRegex(ConfigurationError, "no authority"):
            self.authority.issue(self.out, "http", "http-1", [])
        self.authority.init()
        with self.assertRaisesRegex(ConfigurationError, "already"):
            self.authority.init()
        for role, node_id, hosts, text in (
            ("king", "x", [], "no role"),
            ("http", "../x", [], "no id"),
            ("http", "x", ["bücher.example"], "no host name"),
        ):
            with self.assertRaisesRegex(ConfigurationError, text):
                self.authority.issue(self.out, role, node_id, hosts)
        self.assertFalse(self.out.exists())
        early: tuple[Step, ...] = ("switch", "finish")
        for step in early:
            with self.assertRaises(ConfigurationError):
                self.authority.rotate(step)
        self.authority.rotate("begin")
        late: tuple[Step, ...] = ("begin", "finish")
        for step in late:
            with self.assertRaises(ConfigurationError):
                self.authority.rotate(step)

    def test_ensure(self) -> None:
        """A certificate is made when it is missing, about somebody else, or has little time left."""
        self.authority.init()

        def ensure(*hosts: str) -> bool:
            return self.authority.ensure(self.out, "http", "http-1", hosts)

        self.assertTrue(ensure("127.0.0.1"))
        self.assertFalse(ensure("127.0.0.1"))
        self.assertTrue(ensure("127.0.0.1", "10.0.0.1"))
        self.now += SERVER_DAYS * 0.6 * _DAY
        self.assertFalse(ensure("127.0.0.1", "10.0.0.1"))
        self.now += SERVER_DAYS * 0.1 * _DAY
        self.assertTrue(ensure("127.0.0.1", "10.0.0.1"))
        (self.out / "http-1.key").unlink()
        self.assertTrue(ensure("127.0.0.1", "10.0.0.1"))
        (self.out / "http-1.pem").write_bytes(b"rubbish")
        self.assertTrue(ensure("127.0.0.1", "10.0.0.1"))

    def test_rotate(self) -> None:
        """First both are believed, then the new one signs all that there is, then the old one goes."""
        self.authority.init()
        self.authority.issue(self.out, "http", "http-1", ["10.0.0.1"])
        before = read_issued(self.out / "http-1.pem")

        def believed() -> list[x509.Name]:
            pem = (self.out / "ca.pem").read_bytes()
            return [each.subject for each in x509.load_pem_x509_certificates(pem)]

        old = believed()
        self.authority.rotate("begin", self.out)
        both = believed()
        self.assertEqual(both[:1], old)
        self.assertEqual(len(both), 2)
        self.assertEqual(read_issued(self.out / "http-1.pem"), before)
        self.authority.rotate("switch", self.out)
        self.assertEqual(believed(), both)
        [after] = all_issued(self.out)
        self.assertEqual((after.name, after.hosts), (before.name, before.hosts))
        self.assertEqual(after.certificate.issuer, both[1])
        self.authority.rotate("finish", self.out)
        self.assertEqual(believed(), both[1:])


class LocalClusterTests(SynchronousTestCase):
    def topology(self, *, tls: bool) -> Topology:
        servers = (Server("storage", "storage-1", 8700), Server("lb", "lb-1", 8080))
        return Topology("penncloud", "127.0.0.1", "", 8500, servers, tls)

    def test_everybody_gets_one(self) -> None:
        """Each server, the agent and the administrator; a second start makes nothing new."""
        layout = Layout.at(self.mktemp())
        topology = self.topology(tls=True)
        self.assertEqual(make_certificates(layout, topology, lambda: 1_800_000_000.0), 4)
        self.assertEqual(make_certificates(layout, topology, lambda: 1_800_000_000.0), 0)
        found = {each.name.id: each for each in all_issued(layout.tls)}
        self.assertEqual(sorted(found), ["admin", "agent-1", "lb-1", "storage-1"])
        self.assertEqual(found["lb-1"].hosts, ("lb-1", "127.0.0.1", "localhost"))
        admin = admin_certificate(layout, topology)
        assert admin is not None
        pem = x509.load_pem_x509_certificate(Path(admin.cert).read_bytes())
        self.assertEqual(name_of(pem), PeerName("admin", "admin"))
        agent = agent_credentials(layout, topology)
        assert agent is not None
        self.assertEqual(agent.name, PeerName("agent", "agent-1"))

    def test_off(self) -> None:
        """Without TLS there is nothing to make."""
        layout = Layout.at(self.mktemp())
        topology = self.topology(tls=False)
        self.assertEqual(make_certificates(layout, topology, lambda: 1_800_000_000.0), 0)
        self.assertIsNone(admin_certificate(layout, topology))
        self.assertIsNone(agent_credentials(layout, topology))

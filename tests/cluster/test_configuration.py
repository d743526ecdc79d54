"""Twin of `penncloud.cluster.configuration`."""

from __future__ import annotations

import stat
import tomllib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from penncloud.cluster import configuration
from penncloud.cluster.configuration import (
    Setting,
    address_to_open,
    parse_setting,
    recall,
    to_toml,
    write_all,
)
from penncloud.cluster.layout import Layout
from penncloud.cluster.topology import Wanted, plan
from penncloud.platform.config import Cluster, Http, Storage, read_file, section
from penncloud.platform.errors import ConfigurationError
from tests.cluster.test_topology import anything


class ConfigurationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.layout = Layout.at(self.mktemp())
        self.layout.make()
        self.topology = plan(Wanted(domain="example.org"), None, anything)

    def test_every_process_has_a_file_it_accepts(self) -> None:
        """Each role reads its file and finds its id, its port and the coordinators there."""
        write_all(self.layout, self.topology, [])
        for server in self.topology.servers:
            document = read_file(str(self.layout.configuration(server.id)))
            self.assertEqual(document[server.role]["id"], server.id)
            self.assertEqual(document[server.role]["port"], server.port)
            cluster = section(Cluster, document["cluster"], "")
            self.assertEqual(
                cluster.coordinators, [f"127.0.0.1:{port}" for port in (8600, 8601, 8602)]
            )
            self.assertEqual(cluster.domain, "example.org")
        document = read_file(str(self.layout.configuration("http-2")))
        http = section(Http, document["http"], "")
        self.assertEqual(http.lb_url, "http://localhost:8080/")
        self.assertEqual(http.agent, "127.0.0.1:8500")

    def test_remembers_the_topology(self) -> None:
        """What was written is what a later start recalls."""
        self.assertIsNone(recall(self.layout))
        write_all(self.layout, self.topology, [])
        recalled = recall(self.layout)
        assert recalled is not None
        self.assertEqual(plan(Wanted(), recalled, anything), self.topology)
        off = plan(Wanted(tls=False), recalled, anything)
        write_all(self.layout, off, [])
        self.assertEqual(plan(Wanted(), recall(self.layout), anything), off)

    def test_edits_survive(self) -> None:
        """Keys that an administrator edited or set stay over restarts, the derived ones do not."""
        write_all(self.layout, self.topology, [Setting("storage", "split_bytes", 1_000_000)])
        path = self.layout.configuration("storage-2")
        text = path.read_text().replace('id = "storage-2"', 'id = "x"\nmemtable_bytes = 4096')
        path.write_text(text)
        write_all(self.layout, self.topology, [])
        kept = section(Storage, read_file(str(path))["storage"], "")
        self.assertEqual((kept.id, kept.memtable_bytes), ("storage-2", 4096))
        self.assertEqual(kept.split_bytes, 1_000_000)

    def test_a_server_that_is_added(self) -> None:
        """It begins with what the administrator has set for the others of its role."""
        setting = parse_setting("storage.memtable_bytes=100000")
        write_all(self.layout, self.topology, [setting])
        more = plan(Wanted(counts={"storage": 4}), self.topology, anything)
        write_all(self.layout, more, [])
        document = read_file(str(self.layout.configuration("storage-4")))
        self.assertEqual(document["storage"]["memtable_bytes"], 100000)
        self.assertEqual(document["storage"]["id"], "storage-4")

    def test_servers_that_are_no_more(self) -> None:
        """The file of a frontend that was taken away does not bring it back."""
        write_all(self.layout, self.topology, [])
        fewer = plan(Wanted(counts={"http": 1}), self.topology, anything)
        write_all(self.layout, fewer, [])
        self.assertFalse(self.layout.configuration("http-2").exists())
        recalled = recall(self.layout)
        assert recalled is not None
        self.assertEqual(len(recalled.of("http")), 1)

    def test_secrets_are_private(self) -> None:
        """The secret is made once, and nobody else may read it or a configuration."""
        write_all(self.layout, self.topology, [])
        secret = self.layout.secret.read_bytes()
        write_all(self.layout, self.topology, [])
        self.assertEqual(self.layout.secret.read_bytes(), secret)
        self.assertGreaterEqual(len(secret.strip()), 32)
        for path in (self.layout.secret, *self.layout.etc.iterdir()):
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600, path)

    def test_unchanged_files_are_left_alone(self) -> None:
        """A restart without changes writes nothing, so comments that were added stay."""
        write_all(self.layout, self.topology, [])
        path = self.layout.configuration("lb-1")
        path.write_text(path.read_text() + "# mine\n")
        write_all(self.layout, self.topology, [])
        self.assertTrue(path.read_text().endswith("# mine\n"))

    def test_damaged_file(self) -> None:
        """A file that is no TOML or has an unknown key is an error that names it."""
        write_all(self.layout, self.topology, [])
        path = self.layout.configuration("smtp-1")
        path.write_text('[smtp]\nid = "smtp-1"\nportt = 1\n')
        with self.assertRaises(ConfigurationError) as caught:
            recall(self.layout)
        self.assertIn("smtp-1.toml", str(caught.exception))
        self.assertIn("portt", str(caught.exception))

    def test_workers(self) -> None:
        """The frontends of one machine share its cores, and a few each are enough; where they have one each
        there are no workers. What the administrator sets stays."""
        for cores, workers in ((2, 0), (3, 0), (4, 2), (16, 2)):
            self.patch(configuration, "worker_count", lambda _, cores=cores: cores)
            layout = Layout.at(self.mktemp())
            layout.make()
            topology = plan(Wanted(), None, anything)
            write_all(layout, topology, [])
            found = read_file(str(layout.configuration("http-1")))["http"]["workers"]
            self.assertEqual(found, workers, cores)
            for settings in ([Setting("http", "workers", 7)], []):
                write_all(layout, topology, settings)
                found = read_file(str(layout.configuration("http-1")))["http"]["workers"]
                self.assertEqual(found, 7)

    def test_settings(self) -> None:
        """`--set` takes each type of key, as people write it on a command line."""
        self.assertEqual(parse_setting("smtp.relay_port=2525"), Setting("smtp", "relay_port", 2525))
        self.assertEqual(parse_setting("http.session_hours=0.5").value, 0.5)
        self.assertEqual(parse_setting("http.workers=3").value, 3)
        self.assertEqual(parse_setting("http.workers=auto").value, "auto")
        self.assertEqual(parse_setting("smtp.resolver=127.0.0.1:53").value, "127.0.0.1:53")
        self.assertEqual(parse_setting("cluster.replication=async").value, "async")
        self.assertEqual(parse_setting("http.host_names=a.org, b.org").value, ["a.org", "b.org"])
        self.assertEqual(parse_setting('http.host_names=["a.org"]').value, ["a.org"])
        self.assertEqual(parse_setting("http.admin_password=12345678").value, "12345678")

    def test_bad_settings(self) -> None:
        """What is no key, no value for it, or derived is refused with the text that was given."""
        for text in ("x", "smtp.relay_port", "nobody.x=1", "smtp.nothing=1", "smtp.relay_port=x"):
            with self.assertRaises(ConfigurationError, msg=text) as caught:
                parse_setting(text)
            self.assertIn(text, str(caught.exception))
        with self.assertRaises(ConfigurationError):
            write_all(self.layout, self.topology, [parse_setting("http.port=99")])

    def test_address_to_open(self) -> None:
        """On one machine people type localhost; elsewhere what is advertised."""
        self.assertEqual(address_to_open(self.topology), "http://localhost:8080/")
        public = plan(Wanted(host="0.0.0.0", advertise="cloud.example.org"), None, anything)
        self.assertEqual(address_to_open(public), "http://cloud.example.org:8080/")


class TomlTests(SynchronousTestCase):
    @given(
        st.dictionaries(
            st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True),
            st.one_of(
                st.text(alphabet=st.characters(exclude_categories=["Cs"])),
                st.integers(-(2**63), 2**63 - 1),
                st.floats(allow_nan=False, allow_infinity=False),
                st.booleans(),
                st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), max_size=3),
            ),
        )
    )
    def test_read_back(self, values: dict[str, object]) -> None:
        """What is written is what `tomllib` reads, whatever characters are in it."""
        self.assertEqual(tomllib.loads(to_toml({"section": values})), {"section": values})

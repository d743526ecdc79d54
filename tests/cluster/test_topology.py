"""Twin of `penncloud.cluster.topology`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from penncloud.cluster.topology import Topology, Wanted, in_stop_order, plan, without
from penncloud.platform.errors import ConfigurationError


def anything(host: str, port: int) -> bool:
    return True


def ports(topology: Topology, role: str) -> list[int]:
    return [server.port for server in topology.of(role)]


class PlanTests(SynchronousTestCase):
    def refused(self, wanted: Wanted, remembered: Topology | None = None) -> str:
        with self.assertRaises(ConfigurationError) as caught:
            plan(wanted, remembered, anything)
        return str(caught.exception)

    def test_defaults(self) -> None:
        """Without options: balancer 8080, two frontends behind it, mail at 2500, three stores."""
        topology = plan(Wanted(), None, anything)
        self.assertEqual(ports(topology, "lb"), [8080])
        self.assertEqual(ports(topology, "http"), [8081, 8082])
        self.assertEqual(ports(topology, "smtp"), [2500])
        self.assertEqual(ports(topology, "coordinator"), [8600, 8601, 8602])
        self.assertEqual(ports(topology, "storage"), [8700, 8701, 8702])
        self.assertEqual((topology.domain, topology.host), ("penncloud", "127.0.0.1"))
        self.assertEqual(
            [server.id for server in topology.of("storage")],
            ["storage-1", "storage-2", "storage-3"],
        )

    def test_every_port_once(self) -> None:
        """No two listeners share a port, metrics and agent included."""
        wanted = Wanted(counts={"storage": 9, "http": 9, "smtp": 4})
        topology = plan(wanted, None, anything)
        used = [topology.agent_port]
        for server in topology.servers:
            used += [server.port, server.metrics_port]
        self.assertEqual(len(used), len(set(used)))

    def test_chosen_ports_avoid_the_taken(self) -> None:
        """Ports that nobody types go around those that other programs have."""
        topology = plan(Wanted(), None, lambda host, port: port not in (8600, 8700, 8702, 8500))
        self.assertEqual(ports(topology, "coordinator"), [8601, 8602, 8603])
        self.assertEqual(ports(topology, "storage"), [8701, 8703, 8704])
        self.assertEqual(topology.agent_port, 8501)

    def test_public_port_taken(self) -> None:
        """Ports that people type are never changed behind their back."""
        with self.assertRaises(ConfigurationError) as caught:
            plan(Wanted(), None, lambda host, port: port != 8081)
        self.assertIn("8081", str(caught.exception))
        self.assertIn("--base-port", str(caught.exception))
        with self.assertRaises(ConfigurationError) as caught:
            plan(Wanted(), None, lambda host, port: port != 2500)
        self.assertIn("--smtp-port", str(caught.exception))

    def test_restart_finds_everything_where_it_was(self) -> None:
        """A second start without options gives the same topology, whatever became free meanwhile."""
        first = plan(
            Wanted(base_port=9000, smtp_port=2600, counts={"storage": 4}, domain="example.org"),
            None,
            lambda host, port: port != 9520,
        )
        self.assertEqual(plan(Wanted(), first, anything), first)

    def test_remembered_port_taken_meanwhile(self) -> None:
        """A chosen port that another program took is chosen anew; nobody typed it."""
        first = plan(Wanted(), None, anything)
        second = plan(Wanted(), first, lambda host, port: port != 8701)
        self.assertEqual(ports(second, "storage"), [8700, 8703, 8702])

    def test_servers_are_added(self) -> None:
        """More servers than before come on new ports; those there keep theirs."""
        first = plan(Wanted(), None, anything)
        second = plan(Wanted(counts={"storage": 5, "http": 1}), first, anything)
        self.assertEqual(ports(second, "storage"), [8700, 8701, 8702, 8703, 8704])
        self.assertEqual(ports(second, "http"), [8081])

    def test_storage_is_not_taken_away(self) -> None:
        """Fewer storage servers than before would lose data: refused."""
        first = plan(Wanted(), None, anything)
        self.assertIn("--storage 2", self.refused(Wanted(counts={"storage": 2}), first))

    def test_coordinators(self) -> None:
        """Five may take the place of three, on ports of their own; not the other way round."""
        first = plan(Wanted(), None, anything)
        second = plan(Wanted(counts={"coordinator": 5}), first, anything)
        self.assertEqual(ports(second, "coordinator"), [8600, 8601, 8602, 8603, 8604])
        self.assertEqual(plan(Wanted(), second, anything), second)
        three = self.refused(Wanted(counts={"coordinator": 3}), second)
        self.assertIn("out of the group", three)

    def test_one_was_removed(self) -> None:
        """The others keep their names and ports, and a new one gets a name that was not used."""
        first = without(plan(Wanted(counts={"storage": 4}), None, anything), "storage-2")
        self.assertEqual(plan(Wanted(), first, anything), first)
        second = plan(Wanted(counts={"storage": 4}), first, anything)
        names = [server.id for server in second.of("storage")]
        self.assertEqual(names, ["storage-1", "storage-3", "storage-4", "storage-5"])
        self.assertEqual(ports(second, "storage"), [8700, 8702, 8703, 8701])

    def test_moved_base(self) -> None:
        """A new base port moves what people type and leaves the rest."""
        first = plan(Wanted(), None, anything)
        second = plan(Wanted(base_port=9000), first, anything)
        self.assertEqual(ports(second, "lb") + ports(second, "http"), [9000, 9001, 9002])
        self.assertEqual(ports(second, "storage"), ports(first, "storage"))

    def test_refused(self) -> None:
        """What cannot be is said with the option that asked for it."""
        self.assertIn("--coordinators 4", self.refused(Wanted(counts={"coordinator": 4})))
        self.assertIn("--http 0", self.refused(Wanted(counts={"http": 0})))
        self.assertIn("--storage 1000", self.refused(Wanted(counts={"storage": 1000})))
        self.assertIn("no port", self.refused(Wanted(base_port=70000)))
        self.assertIn("twice", self.refused(Wanted(smtp_port=8081)))
        self.assertIn("--advertise", self.refused(Wanted(host="0.0.0.0")))

    def test_in_the_clear(self) -> None:
        """TLS is on unless it was put off, which is remembered, and is possible on loopback only."""
        self.assertTrue(plan(Wanted(), None, anything).tls)
        off = plan(Wanted(tls=False), None, anything)
        self.assertFalse(off.tls)
        self.assertFalse(plan(Wanted(), off, anything).tls)
        self.assertTrue(plan(Wanted(tls=True), off, anything).tls)
        self.assertIn("encrypted", self.refused(Wanted(tls=False, host="10.0.0.1")))
        self.assertIn("encrypted", self.refused(Wanted(advertise="db.example"), off))

    def test_no_port_left(self) -> None:
        """The search for a free port ends with an error, not never."""
        with self.assertRaises(ConfigurationError):
            plan(Wanted(), None, lambda host, port: port in (8080, 8081, 8082, 2500))

    def test_stop_order(self) -> None:
        """Those that take requests stop first, those that others need last."""
        topology = plan(Wanted(), None, anything)
        groups = in_stop_order(topology.servers)
        self.assertEqual(
            [group[0].role for group in groups], ["lb", "smtp", "http", "storage", "coordinator"]
        )
        self.assertEqual(sum(len(group) for group in groups), len(topology.servers))

"""The order of requests to one row on one connection."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from penncloud.storage.row_order import RowOrder, Start


class RowOrderTests(SynchronousTestCase):
    """What is started when."""

    def setUp(self) -> None:
        self.order = RowOrder()
        self.started: list[str] = []

    def request(self, name: str, row: bytes = b"r") -> None:
        """Reads are named r..., mutations that wait for the disk w..., that are done at once d..."""
        reads, start = name.startswith("r"), self.start(name)
        if not self.order.free(row, reads):
            self.order.wait(row, reads, start, 10)
        elif start():
            self.order.begun(row, reads)

    def start(self, name: str) -> Start:
        def start() -> bool:
            self.started.append(name)
            return name.startswith("w")

        return start

    def test_mutations_do_not_wait_for_each_other(self) -> None:
        """They are decided in their order anyway."""
        for name in ("w1", "w2", "d3"):
            self.request(name)
        self.assertEqual(self.started, ["w1", "w2", "d3"])

    def test_a_read_waits_for_every_mutation_before_it(self) -> None:
        """And what comes behind it waits with it."""
        for name in ("w1", "w2", "r3", "w4", "r5"):
            self.request(name)
        self.request("r6", b"other")
        self.assertEqual((self.started, self.order.waiting), (["w1", "w2", "r6"], 3))
        self.assertEqual(self.order.waiting_bytes, 30)
        self.order.ended(b"r")
        self.assertEqual(self.started[3:], [])
        self.order.ended(b"r")
        self.assertEqual((self.started[3:], self.order.waiting), (["r3", "w4"], 1))
        self.order.ended(b"r")
        self.assertEqual((self.started[5:], self.order.waiting), (["r5"], 0))
        self.assertEqual(self.order.waiting_bytes, 0)

    def test_nothing_is_remembered_of_a_quiet_row(self) -> None:
        """The order holds rows with something under way only."""
        self.request("d1")
        self.request("w2")
        self.request("r3")
        self.order.ended(b"r")
        self.assertEqual(self.order._rows, {})

    def test_answered_while_it_is_started(self) -> None:
        """The answer of a request that has waited may be there at once."""

        def start() -> bool:
            self.started.append("w3")
            self.order.ended(b"r")
            return True

        self.request("w1")
        self.request("r2")
        self.order.wait(b"r", False, start, 10)
        self.request("w4")
        self.request("r5")
        self.order.ended(b"r")
        self.assertEqual((self.started, self.order.waiting), (["w1", "r2", "w3", "w4"], 1))
        self.order.ended(b"r")
        self.assertEqual(self.started[4:], ["r5"])
        self.assertEqual(self.order._rows, {})

    def test_cleared(self) -> None:
        """A connection that is lost starts nothing more."""
        self.request("w1")
        self.request("r2")
        self.order.clear()
        self.order.ended(b"r")
        self.assertEqual((self.started, self.order.waiting), (["w1"], 0))

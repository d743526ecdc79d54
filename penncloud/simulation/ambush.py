"""Faults that wait for a moment: they watch a part of the cluster, and strike when something happens there.

Chance alone seldom hits the few microseconds in which a rule matters. An ambush is drawn like any other
fault, and lies in wait from its begin to its end.
"""

from __future__ import annotations

import random

from attrs import frozen

from penncloud.simulation.cluster import Cluster
from penncloud.simulation.faults import Fault, Who
from penncloud.simulation.host import Host
from penncloud.simulation.process import Process
from penncloud.simulation.raft_oracle import raft_of


@frozen
class ElectionAmbush:
    """At the moment at which a coordinator is elected it stands still, and its voters are killed.

    To have an election, the leader is killed first, for `vacancy_s`. The voters, and who was down, come
    back after `back_in_s`: they elect somebody among themselves, while the one that was elected still
    believes in its own term. Whoever forgot its vote may give it twice in one term.
    """

    at_s: float
    for_s: float
    vacancy_s: float
    back_in_s: float
    power: bool

    def begin(self, cluster: Cluster) -> None:
        leaders = [host for host in cluster.coordinators if _leads(host)]
        for leader in leaders:
            leader.kill(self.power, back_in_s=self.vacancy_s)
        known = max((_term(host) for host in cluster.coordinators), default=0)
        elected = leaders[0].name if leaders else ""

        def observe(process: Process) -> None:
            winner = process.host
            if process.dead or winner.name == elected or not _leads(winner):
                return
            raft = raft_of(winner)
            if raft is None or raft.term <= known or len(raft.membership.voters) < 3:
                return
            self._strike(cluster, winner)

        cluster.world.observers[self] = observe

    def _strike(self, cluster: Cluster, winner: Host) -> None:
        cluster.world.observers.pop(self, None)
        raft = raft_of(winner)
        assert raft is not None
        winner.pause()
        for host in cluster.coordinators:
            other = raft_of(host)
            if host is winner:
                continue
            if other is None:
                host.start()
            elif (other.hard_state.term, other.hard_state.vote) == (raft.term, winner.name):
                host.kill(self.power, back_in_s=self.back_in_s)

    def end(self, cluster: Cluster) -> None:
        cluster.world.observers.pop(self, None)
        for host in cluster.coordinators:
            host.resume()


def _leads(host: Host) -> bool:
    raft = raft_of(host)
    return raft is not None and raft.role == "leader"


def _term(host: Host) -> int:
    raft = raft_of(host)
    return raft.term if raft is not None else 0


def elections(chance: random.Random, _who: Who, at_s: float) -> Fault:
    vacancy_s, back_in_s = chance.uniform(0.2, 1.5), chance.choice((0.0, 0.01, 0.1))
    return ElectionAmbush(at_s, chance.uniform(2, 4), vacancy_s, back_in_s, chance.random() < 0.5)

"""The scenarios by name: `penncloud simulate --scenario NAME`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from penncloud.judge.workloads import (
    ApartRegister,
    Appends,
    Bank,
    Counters,
    Drains,
    EarlyLogs,
    Flags,
    HotRegister,
    Logs,
    Registers,
    Watched,
)
from penncloud.simulation import ambush, faults
from penncloud.simulation.cluster import Settings
from penncloud.simulation.raft_scenario import RaftScenario
from penncloud.simulation.scenario import ClusterScenario, Scenario
from penncloud.simulation.visitors import Visitors

_USERS: Final = (Registers, Counters, Bank, Appends, Watched, Flags)

_REPLICAS: Final = (
    ambush.takeovers,
    ambush.rejoins,
    ambush.checkpoints,
    faults.storage_kills,
    faults.storage_pauses,
    faults.storage_cuts,
    faults.storage_resets,
    faults.rolling_kills,
    faults.blackouts,
    faults.wipes,
    faults.power_cuts_in_writes,
    faults.power_cuts_while_slow,
    faults.restarts,
    faults.slow_links,
    faults.narrow_links,
    faults.losses,
    faults.slow_disks,
    faults.failing_syncs,
    faults.full_disks,
    faults.wall_jumps,
)

_SCENARIOS: Final[tuple[Scenario, ...]] = (
    ClusterScenario(
        "storage",
        "one coordinator, three storage servers; programs and machines die, stop and come back",
        _USERS,
        (
            faults.kills,
            faults.client_kills,
            faults.blackouts,
            faults.power_cuts_in_writes,
            faults.power_cuts_while_slow,
            faults.restarts,
            faults.pauses,
            faults.cuts,
            faults.slow_links,
            faults.narrow_links,
            faults.losses,
            faults.resets,
            faults.slow_disks,
            faults.failing_syncs,
            faults.full_disks,
            faults.wall_jumps,
        ),
    ),
    ClusterScenario(
        "network",
        "the same cluster; only the network fails",
        _USERS,
        (
            faults.cuts,
            faults.slow_links,
            faults.narrow_links,
            faults.losses,
            faults.resets,
            faults.pauses,
        ),
    ),
    ClusterScenario(
        "disks",
        "the same cluster; disks are slow, full, fail, and lose what was not synced",
        _USERS,
        (
            faults.kills,
            faults.blackouts,
            faults.power_cuts_in_writes,
            faults.power_cuts_while_slow,
            faults.slow_disks,
            faults.failing_syncs,
            faults.full_disks,
        ),
    ),
    ClusterScenario(
        "coordinators",
        "three coordinators; most troubles are theirs",
        (Flags, Registers, Appends),
        (
            faults.coordinator_kills,
            faults.coordinator_pauses,
            faults.coordinator_cuts,
            faults.kills,
            faults.power_cuts_in_writes,
            faults.power_cuts_while_slow,
            faults.restarts,
            faults.cuts,
            faults.losses,
            faults.resets,
            faults.slow_disks,
            faults.failing_syncs,
            faults.full_disks,
            faults.wall_jumps,
            faults.rot,
        ),
        Settings(coordinators=3),
    ),
    ClusterScenario(
        "elections",
        "three coordinators; whoever votes is killed, whoever is elected stands still",
        (Flags, Registers),
        (
            ambush.elections,
            ambush.elections,
            faults.coordinator_kills,
            faults.coordinator_pauses,
            faults.coordinator_cuts,
        ),
        Settings(coordinators=3),
    ),
    ClusterScenario(
        "hot",
        "the same cluster; one cell for all, and the power goes while syncs take long",
        (HotRegister,),
        (faults.power_cuts_while_slow,),
        Settings(clients=4),
    ),
    ClusterScenario(
        "strangers",
        "three coordinators; a primary that is cut off is still read from, while another one is written to",
        (ApartRegister,),
        (faults.estrangements,),
        Settings(coordinators=3, clients=4, eager=True),
        (6.0, 10.0),
    ),
    ClusterScenario(
        "retries",
        "the same cluster; connections break while answers are under way",
        (Appends, Counters),
        (faults.storage_resets, faults.storage_resets, faults.losses, faults.slow_links),
    ),
    ClusterScenario(
        "replicas",
        "one coordinator, three storage servers; all troubles are theirs, and strike where it hurts",
        (Registers, Counters, Bank, Appends, Watched),
        _REPLICAS,
    ),
    ClusterScenario(
        "moves",
        "three coordinators, five storage servers; the same, coordinators are lost, small tablets split",
        (Registers, Counters, Bank, Appends, Logs, Watched, Drains),
        (*_REPLICAS, faults.coordinator_kills, faults.majority_losses, faults.cuts),
        Settings(coordinators=3, storages=5, splits="sometimes", sometimes_confirm=True),
    ),
    ClusterScenario(
        "async",
        "three coordinators, three storage servers; writes are answered before others have them",
        (Watched,),
        (
            ambush.takeovers,
            ambush.rejoins,
            ambush.splits,
            faults.storage_kills,
            faults.storage_pauses,
            faults.storage_cuts,
            faults.storage_resets,
            faults.rolling_kills,
            faults.blackouts,
            faults.power_cuts_in_writes,
            faults.restarts,
            faults.slow_links,
            faults.slow_disks,
            faults.full_disks,
        ),
        Settings(coordinators=3, splits="sometimes", replication="async"),
        always=(EarlyLogs,),
    ),
    ClusterScenario(
        "splits",
        "three coordinators, three storage servers; small tablets are split all the time, and struck then",
        (Registers, Counters, Watched),
        (
            ambush.splits,
            ambush.splits,
            ambush.splits,
            ambush.takeovers,
            ambush.checkpoints,
            faults.storage_kills,
            faults.storage_cuts,
            faults.storage_pauses,
            faults.rolling_kills,
            faults.majority_losses,
            faults.power_cuts_in_writes,
            faults.full_disks,
        ),
        Settings(coordinators=3, splits="always"),
        (10.0, 25.0),
        always=(Logs,),
    ),
    ClusterScenario(
        "services",
        "web frontends and a mail server at work; people sign up, log in, chat and write mail",
        (Visitors,),
        (
            faults.kills,
            faults.client_kills,
            faults.blackouts,
            faults.restarts,
            faults.pauses,
            faults.cuts,
            faults.narrow_links,
            faults.losses,
            faults.resets,
            faults.slow_disks,
            faults.wall_jumps,
        ),
        Settings(frontends=2, services=True),
        (5.0, 15.0),
    ),
    RaftScenario(),
    RaftScenario(
        "reigns", "the Raft core alone; leaders die as soon as they have done anything", "reigns"
    ),
    RaftScenario(
        "members", "the Raft core alone; leaders change the membership at once", "members"
    ),
    ClusterScenario("calm", "the same cluster; nothing fails", _USERS, ()),
)

SCENARIOS: Final[Mapping[str, Scenario]] = {scenario.name: scenario for scenario in _SCENARIOS}

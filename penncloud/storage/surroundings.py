"""What all replicas of a storage server share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import define, field

from penncloud.platform.disk import Disk
from penncloud.platform.environment import nothing_broken
from penncloud.replication.state import Options
from penncloud.storage.checkpoints import Copies
from penncloud.storage.engine import Engine
from penncloud.storage.outside import Outside
from penncloud.storage.quarantine import Quarantine
from penncloud.storage.standing import Standings
from penncloud.storage.watches import Watches

if TYPE_CHECKING:
    from penncloud.storage.journal import Journal


@define(eq=False)
class Surroundings:
    """`clock` has IReactorTime; `disk` is the one that the engine writes on."""

    node_id: str
    clock: Any
    disk: Disk
    engine: Engine
    copies: Copies
    quarantine: Quarantine
    watches: Watches = field(factory=Watches)
    outside: Outside = field(factory=Outside)
    options: Options = field(factory=Options)
    broken: Callable[[str], bool] = nothing_broken
    # Known once the directory has been read.
    journal: Journal = field(init=False)
    standings: Standings = field(init=False)
    incarnation: int = field(default=0, init=False)

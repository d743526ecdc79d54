"""What one replica is, whichever role it plays: its durable state, its promise, and what it has to say.

The roles (`primary`, `secondary`) change it; `under_way` turns what gathered here into a `Ready`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from attrs import define, field, frozen

from penncloud.replication.lease import LeaseTimes, Promise
from penncloud.replication.log import ReplicaLog
from penncloud.replication.messages import (
    Ack,
    Checkpoint,
    Configuration,
    Entry,
    Message,
    ReadPiece,
    Staged,
    StagePiece,
    Tip,
)


@frozen
class Options:
    """Bounds and times; seconds and bytes."""

    # "async": answered when on the primary's disk, forwarded after; a failover may lose such writes.
    mode: Literal["2pc", "async"] = "2pc"
    # "confirm": a read costs a round to the members; for machines that may be suspended with their clocks.
    read_mode: Literal["lease", "confirm"] = "lease"
    # Below this many members writes are refused.
    min_members: int = 1
    leases: LeaseTimes = field(factory=LeaseTimes)
    beacon_s: float = 0.1
    # A member that says nothing for this long is proposed for removal.
    silence_s: float = 0.5
    # So is one that answers but does not get further with what it has to keep.
    stuck_s: float = 5.0
    # So is one whose ACKs all come later than this after their PREPs, when the others have waited so long for
    # it, as long as two are left that are in time.
    late_s: float = 0.5
    slow_for_s: float = 10.0
    # A proposal, a SYNC or an offer is said again after this long without an effect.
    repeat_s: float = 0.5
    max_message_entries: int = 256
    max_message_bytes: int = 256 * 1024
    # A COMMIT that no PREP has carried so long after leaves by itself, with the next tick.
    commit_after_s: float = 0.02
    # PREPs with entries that may be unanswered by one member.
    window: int = 16
    # Prepared and not yet committed. In async mode `async_max_lag` takes the place of the number.
    max_in_flight: int = 8192
    max_in_flight_bytes: int = 16 * 1024 * 1024
    async_max_lag: int = 1024
    # Entries kept though the checkpoint has them, for members and learners that are behind.
    max_kept: int = 65_536
    max_kept_bytes: int = 16 * 1024 * 1024
    max_learners: int = 4
    max_confirmations: int = 4096

    @property
    def max_uncommitted(self) -> int:
        """How many writes may be prepared and not committed."""
        return self.async_max_lag if self.mode == "async" else self.max_in_flight


@frozen
class Durable:
    """What a start finds on the disk; `incarnation` is this start's own, never used before.

    `blank`: there is nothing, or nothing that can be trusted: then this is no member's state, whatever
    the configuration says. A group's first members are created (not blank) before cfg 1 names them.
    """

    incarnation: int
    blank: bool
    sealed: int = 0
    checkpoint: Checkpoint = field(factory=Checkpoint)
    entries: tuple[Entry, ...] = ()
    staged: Staged | None = None


def nothing_broken(_rule: str) -> bool:
    """The rule is kept. The simulation passes others, to prove that its checks would notice."""
    return False


@define(eq=False)
class ReplicaState:
    """See the module. `sealed` is the highest cfg seen, `sealed_stable` what is on disk of it."""

    id: str
    group: int
    options: Options
    make_noop: Callable[[int, int], Entry]
    broken: Callable[[str], bool]
    incarnation: int
    blank: bool
    log: ReplicaLog
    sealed: int
    staged: Staged | None
    promise: Promise
    now: float
    config: Configuration | None = None
    # Why this replica cannot go on: an invariant is broken, somebody has to look.
    alarm: str = ""
    # The disk has no room.
    full: bool = False
    # The cfg that names this process primary and that it has given up.
    declined: int = 0

    sealed_stable: int = field(init=False)
    prompt: list[Message] = field(factory=list, init=False)
    after_sync: list[Message] = field(factory=list, init=False)
    quarantine: list[Entry] = field(factory=list, init=False)
    cut_from: int | None = field(default=None, init=False)
    stage: list[StagePiece] = field(factory=list, init=False)
    install: Checkpoint | None = field(default=None, init=False)
    proposal: Configuration | None = field(default=None, init=False)
    ask: bool = field(default=False, init=False)
    pieces: list[ReadPiece] = field(factory=list, init=False)
    stepped_down: bool = field(default=False, init=False)
    withdrawn: list[Entry] = field(factory=list, init=False)
    aborted: list[Entry] = field(factory=list, init=False)
    confirmed: list[int] = field(factory=list, init=False)
    # An install is under way: nothing is taken from the primary meanwhile.
    installing: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.sealed_stable = self.sealed

    def seal(self, cfg: int) -> None:
        """Adopt a configuration number: nobody of a lower one is obeyed any more."""
        if cfg > self.sealed:
            self.sealed = cfg
            # What was to be ACKed may be cut off before it is on disk.
            self.after_sync = [said for said in self.after_sync if not isinstance(said, Ack)]

    def send(self, message: Message) -> None:
        """Send what says nothing of this replica's disk but its seal."""
        if self.sealed_stable == self.sealed:
            self.prompt.append(message)
        else:
            self.after_sync.append(message)

    def send_synced(self, message: Message) -> None:
        """Send when everything up to now is on disk."""
        self.after_sync.append(message)

    def set_aside(self, dropped: tuple[Entry, ...]) -> None:
        """Move cut entries to quarantine: an operator can still read them there."""
        if dropped:
            first = dropped[0].version
            self.cut_from = first if self.cut_from is None else min(first, self.cut_from)
            self.quarantine.extend(dropped)

    def tip(self) -> Tip:
        """For the coordinators."""
        log = self.log
        cfg = log.cfg_at(log.stable)
        eligible = not (self.blank or self.alarm or self.full)
        return Tip(self.incarnation, cfg or 0, log.stable, eligible, self.declined)

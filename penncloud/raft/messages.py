"""What Raft nodes say to each other, and what they keep.

Terms and indices are counted from 1; 0 stands for "before the first". Every message names its sender,
its receiver and the sender's term (of a pre-vote: the term it would have).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from attrs import frozen


@frozen
class Membership:
    """Who takes part: voters decide, learners only follow."""

    voters: frozenset[str]
    learners: frozenset[str] = frozenset()

    @property
    def everyone(self) -> frozenset[str]:
        return self.voters | self.learners

    def quorum(self) -> int:
        """How many voters are a majority."""
        return len(self.voters) // 2 + 1


@frozen
class Entry:
    """One entry of the log.

    `noop` begins a leader's term, `command` belongs to the application, `membership` carries the
    whole new membership, which holds from the moment the entry is in the log (dissertation 4.1).
    """

    index: int
    term: int
    kind: Literal["noop", "command", "membership"] = "command"
    data: bytes = b""
    membership: Membership | None = None


@frozen
class HardState:
    """What must be on disk before any answer that depends on it."""

    term: int = 0
    vote: str = ""


@frozen
class Snapshot:
    """The application's state after the entry (index, term), and the membership then."""

    index: int
    term: int
    membership: Membership
    data: bytes


@frozen
class RequestVote:
    """`pre`: only asks whether a vote would be given. `transfer`: the leader itself asked for it."""

    sender: str
    to: str
    term: int
    last_index: int
    last_term: int
    pre: bool = False
    transfer: bool = False


@frozen
class Vote:
    """Answer to RequestVote. `term` of a granted pre-vote is the term that was asked for."""

    sender: str
    to: str
    term: int
    granted: bool
    pre: bool = False


@frozen
class AppendEntries:
    """Entries behind (prev_index, prev_term), or none: then it is a heartbeat.

    `round` numbers the leader's heartbeat rounds; its answer confirms that the sender was leader then.
    """

    sender: str
    to: str
    term: int
    prev_index: int
    prev_term: int
    entries: tuple[Entry, ...]
    commit: int
    round: int


@frozen
class Appended:
    """Answer to AppendEntries and InstallSnapshot.

    `match`: the sender's log equals the leader's up to here and is on disk. Refused: `match` is the
    index that did not, `hint_index` and `hint_term` tell where to go on looking (the first index of
    the conflicting term and that term, or the log's end and 0).
    """

    sender: str
    to: str
    term: int
    ok: bool
    match: int
    round: int
    hint_index: int = 0
    hint_term: int = 0


@frozen
class InstallSnapshot:
    """A piece of the leader's snapshot, from `offset` on."""

    sender: str
    to: str
    term: int
    index: int
    entry_term: int
    membership: Membership
    offset: int
    data: bytes
    done: bool
    round: int


@frozen
class SnapshotReceived:
    """Answer to one piece: the receiver now has the snapshot `index` up to `offset`."""

    sender: str
    to: str
    term: int
    index: int
    offset: int


@frozen
class TimeoutNow:
    """The leader hands over: the receiver is to stand for election at once."""

    sender: str
    to: str
    term: int


@frozen
class ReadRequest:
    """A follower asks the leader for a read index on behalf of `context`."""

    sender: str
    to: str
    term: int
    context: int


@frozen
class ReadAnswer:
    """`index`: apply up to here, then read. 0: the asked node is not the leader."""

    sender: str
    to: str
    term: int
    context: int
    index: int


Message: TypeAlias = (
    RequestVote
    | Vote
    | AppendEntries
    | Appended
    | InstallSnapshot
    | SnapshotReceived
    | TimeoutNow
    | ReadRequest
    | ReadAnswer
)


@frozen
class ReadState:
    """A linearizable read may be answered once `index` is applied; 0: it cannot, ask again."""

    context: int
    index: int


@frozen
class Ready:
    """One round of work for the driver, in this order:

    1. persist `hard_state`, `snapshot` and `entries` (cutting the log before the first of `entries`
       if it holds other ones there), and sync;
    2. send `messages`;
    3. load `snapshot` into the application, apply `committed`;
    4. answer `reads` whose index is applied; then call `RaftNode.advance(ready)`.
    """

    hard_state: HardState | None
    snapshot: Snapshot | None
    entries: tuple[Entry, ...]
    messages: tuple[Message, ...]
    committed: tuple[Entry, ...]
    reads: tuple[ReadState, ...]

"""Commands and hypothesis strategies for them."""

from __future__ import annotations

from hypothesis import strategies as st

from penncloud.coordinator.commands import (
    BeginTerm,
    ChangeMembers,
    Command,
    Configure,
    CreateTablets,
    DrainNode,
    ForcePrimary,
    ForgetCoordinator,
    ForgetNode,
    PlanReplicas,
    RegisterNode,
    ReserveIds,
    SetEnabled,
    SplitTablet,
    TabletRecord,
    TakeTablets,
)
from penncloud.placement.tablets import HASH_SPACE
from penncloud.rpc.registration import Identity, RoleName

STORAGE_1 = Identity("storage", "storage-1", "127.0.0.1", 8701, 11)
STORAGE_2 = Identity("storage", "storage-2", "127.0.0.1", 8702, 12)
HTTP_1 = Identity("http", "http-1", "127.0.0.1", 8081, 21)
HALF = HASH_SPACE // 2
TWO_TABLETS = [
    TabletRecord(1, 0, HALF, 1, "storage-1", ["storage-1"]),
    TabletRecord(2, HALF, HASH_SPACE, 1, "storage-2", ["storage-2"]),
]
# A cluster with two storage servers, a frontend and two tablets.
FOUNDING: list[Command] = [
    BeginTerm(1.0, "coordinator-1", 1),
    RegisterNode(2.0, STORAGE_1, 1),
    RegisterNode(3.0, STORAGE_2, 2),
    RegisterNode(4.0, HTTP_1, 3),
    CreateTablets(5.0, TWO_TABLETS),
]

_tablets = st.integers(1, 4)
_epochs = st.integers(0, 4)
_incarnations = st.integers(0, 3)
_times = st.floats(min_value=0, max_value=2e9)
_ids = st.sampled_from(["storage-1", "storage-2", "storage-3", "http-1", "http-2"])
_requests = st.sampled_from(["", "", "request-1", "request-2"])
_roles: st.SearchStrategy[RoleName] = st.sampled_from(["storage", "http"])
_identities = st.builds(
    Identity, _roles, _ids, st.just("127.0.0.1"), st.integers(1, 65535), st.integers(1, 99)
)
_records = st.builds(
    TabletRecord,
    st.integers(1, 2),
    st.sampled_from([0, HALF]),
    st.sampled_from([HALF, HASH_SPACE]),
    st.just(1),
    _ids | st.just(""),
    st.lists(_ids, max_size=2),
)

commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(BeginTerm, _times, st.just("coordinator-1"), st.integers(1, 9)),
    st.builds(RegisterNode, _times, _identities, st.integers(0, 5)),
    st.builds(ForgetCoordinator, _times, _ids),
    st.builds(SetEnabled, _times, _ids, st.booleans(), _requests),
    st.builds(TakeTablets, _times, _ids, st.lists(st.integers(1, 3), max_size=3)),
    st.builds(CreateTablets, _times, st.lists(_records, max_size=3) | st.just(TWO_TABLETS)),
    st.builds(Configure, _times, _tablets, _epochs, _ids | st.just(""), st.lists(_ids, max_size=2)),
    st.builds(
        ChangeMembers,
        _times,
        _ids,
        _incarnations,
        _tablets,
        _epochs,
        _ids,
        _incarnations,
        st.lists(_ids, max_size=3),
    ),
    st.builds(
        PlanReplicas,
        _times,
        _tablets,
        _epochs,
        st.lists(_ids, max_size=2),
        st.lists(_ids, max_size=1),
    ),
    st.builds(ReserveIds, _times, st.integers(0, 2)),
    st.builds(
        SplitTablet,
        _times,
        _ids,
        _incarnations,
        _tablets,
        _epochs,
        st.sampled_from([0, HALF // 2, HALF + HALF // 2]),
        st.integers(1, 8),
        st.integers(1, 8),
    ),
    st.builds(DrainNode, _times, _ids, st.booleans(), st.integers(0, 2), _requests),
    st.builds(
        ForgetNode,
        _times,
        _ids,
        st.booleans(),
        st.dictionaries(_tablets, _ids, max_size=2),
        _requests,
    ),
    st.builds(ForcePrimary, _times, _tablets, _epochs, _ids, _incarnations, _requests),
)

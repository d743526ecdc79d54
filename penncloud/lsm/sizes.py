"""How much a tablet holds, and where to cut it in two: from indexes, without reading cells."""

from __future__ import annotations

from attrs import frozen

from penncloud.lsm.errors import TableDamaged
from penncloud.lsm.keys import hash_key, hash_of
from penncloud.lsm.tablet import TabletStore


@frozen
class Estimate:
    """Superseded cells and tombstones count until they are compacted."""

    size_bytes: int
    cells: int


def estimate(store: TabletStore) -> Estimate:
    """Tables (of shared ones, the part that is this tablet's) and memtables. Raises TabletDamaged."""
    low, high = hash_key(store.state.lo), hash_key(store.state.hi)
    size = sum(memtable.size_bytes for memtable in (store.active, *store.frozen))
    cells = sum(map(len, (store.active, *store.frozen)))
    try:
        for table in store.tables:
            found = table.properties
            if low <= found.first_key and found.last_key < high:
                size += table.size_bytes
                cells += found.cells
                continue
            part = sum(block for _key, block in table.spread(low, high))
            size += part
            cells += found.cells * part // table.size_bytes
    except TableDamaged as error:
        raise store.spoil(error) from error
    return Estimate(size, cells)


def reaches_out(store: TabletStore) -> bool:
    """Whether tables have keys of other tablets."""
    low, high = hash_key(store.state.lo), hash_key(store.state.hi)
    return any(
        table.properties.first_key < low or table.properties.last_key >= high
        for table in store.tables
    )


def split_point(store: TabletStore) -> int | None:
    """See `Engine.split_point`; memtables are small beside tables, and not looked at."""
    low, high = hash_key(store.state.lo), hash_key(store.state.hi)
    try:
        blocks = sorted(block for table in store.tables for block in table.spread(low, high))
    except TableDamaged as error:
        raise store.spoil(error) from error
    total = sum(size for _key, size in blocks)
    below = 0
    best: tuple[int, int] | None = None
    last = -1
    for key, size in blocks:
        point = hash_of(key)
        # Of a row that begins in an earlier block that one would be above the point, too.
        if point != last and store.state.lo < point < store.state.hi:
            uneven = abs(total - 2 * below)
            if best is None or uneven < best[0]:
                best = (uneven, point)
        below += size
        last = point
    # A point that leaves less than an eighth on one side is not worth a split.
    return best[1] if best is not None and best[0] * 4 <= total * 3 else None

"""Entries that wait long for their commit are written into the log again, so that its old part can go.

Theory of operation
    An entry that is durable and not committed is in no checkpoint; the log is all that has it. While a
    group has no primary that can last for hours, and the segment of that entry, with all that was written
    since by everybody else, could not be removed. A copy at the log's end takes its place: from then on the
    manifest says that the tablet's entries begin there. Nothing of the tablet may be on its way to the
    log meanwhile, or it would stand before the copy of what it follows on.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from penncloud.lsm.entry import Entry, encode_entries
from penncloud.lsm.manifest import Manifest
from penncloud.lsm.store import Store
from penncloud.lsm.tablet import TabletStore

# Entries of one record of the log, unless a single one is larger.
_RECORD_BYTES: Final = 1024 * 1024


def holds_old_log(store: Store) -> TabletStore | None:
    """A tablet that keeps the log only by entries that wait for their commit, in an older segment."""
    for tablet in store.tablets.values():
        if tablet.frozen or tablet.active.entries or tablet.damaged or tablet.voiding:
            continue
        if tablet.prepared != tablet.durable:
            continue
        if tablet.pending and tablet.pending[0].position < store.wal.active_from:
            return tablet
    return None


async def carry(store: Store, tablet: TabletStore) -> None:
    """Write the waiting entries of a tablet again, and let go of the old ones. Raises DiskError."""
    copies: dict[tuple[int, int], int] = {}
    begin = 2**63
    piece: list[Entry] = []
    size = 0
    for pending in [*tablet.pending, None]:
        if piece and (pending is None or size >= _RECORD_BYTES):
            position = store.wal.append(encode_entries(piece))
            begin = min(begin, position)
            copies |= {(entry.version, entry.entry_cfg): position for entry in piece}
            piece, size = [], 0
        if pending is not None:
            piece.append(pending.entry)
            size += pending.entry.size_bytes
    await store.wal.sync()
    tablet.pending = deque(
        msgspec.structs.replace(
            pending,
            position=copies.get((pending.entry.version, pending.entry.entry_cfg), pending.position),
        )
        for pending in tablet.pending
    )

    def change(manifest: Manifest) -> Manifest:
        state = manifest.tablets.get(tablet.tablet)
        if state is None or not store.holds(tablet):
            return manifest
        moved = msgspec.structs.replace(state, log_position=begin)
        return manifest.with_tablet(tablet.tablet, moved)

    await store.edit(change)

"""A split in an entry and in a tablet's blob: what is written is what is read, and nothing else is."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm.entry import Entry
from penncloud.storage.dedup import CorruptTable
from penncloud.storage.split import (
    HINT,
    Split,
    decode_blob,
    encode_blob,
    last_split,
    split_entry,
    split_of,
)

_SPLIT = Split(2**31, 7, 8, 41, 3)


class SplitTests(SynchronousTestCase):
    """Pure values."""

    def test_entry(self) -> None:
        """An entry says what it was made of, with its place; others say nothing."""
        entry = split_entry(5, _SPLIT)
        self.assertEqual((entry.version, entry.entry_cfg, entry.effects), (41, 3, ()))
        self.assertEqual(split_of(entry), _SPLIT)
        others = [
            Entry(5, 1, 1, b"", 0, (), b""),
            Entry(5, 2, 1, b"", 0, (), HINT),
            # A client's outcome may begin with any byte.
            Entry(5, 3, 1, b"client", 1, (), entry.result),
        ]
        self.assertEqual([split_of(other) for other in others], [None] * 3)
        self.assertEqual(last_split([*others, entry, others[0]]), _SPLIT)
        self.assertTrue(_SPLIT.makes(7) and _SPLIT.makes(8))
        self.assertFalse(_SPLIT.makes(5))

    def test_blob(self) -> None:
        """With and without a split; empty bytes are a new tablet's."""
        for split in (None, _SPLIT):
            self.assertEqual(decode_blob(encode_blob(b"ids", split)), (b"ids", split))
        self.assertEqual(decode_blob(b""), (b"", None))

    def test_corrupt(self) -> None:
        """What is neither is refused, never taken for something else."""
        for data in (b"\xc1", b"ids", encode_blob(b"ids", _SPLIT)[:-1]):
            with self.assertRaises(CorruptTable):
                decode_blob(data)
        for result in (b"S", b"S\xc1", b"S" + b"\x93\x01\x02\xa0"):
            with self.assertRaises(CorruptTable):
                split_of(Entry(5, 1, 1, b"", 0, (), result))

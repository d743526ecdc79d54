"""A Bloom filter over keys, cut into words of 256 bits so that one key touches one word.

Format: the words, 32 bytes each, little-endian, at least one. For a key,

    digest  the first 64 bits of MurmurHash3_x64_128 with seed 0
    word    number (digest >> 32) * words >> 32
    bits    A[digest & 2047] | B[digest >> 11 & 2047]; all of them are set if the key was added

Entry j of A (of B) has the four bits whose numbers are the bytes of MurmurHash3_x86_32 of j as two
little-endian bytes, with seed 1 (with seed 2).

One word per key costs a little precision and saves most of the time (Putze, Sanders, Singler, "Cache-,
Hash- and Space-Efficient Bloom Filters", 2007); the tables spare a shift per bit. 12 bits per key let
about one absent key in a hundred through.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Final, TypeAlias

import mmh3

WORD_BYTES: Final = 32
_ENTRIES: Final = 2048
# The low and the high half of the digest's first 64 bits; mmh3 gives them in little-endian order.
_DIGEST: Final = Struct("<II8x")


def _masks(seed: int) -> list[int]:
    masks = []
    for entry in range(_ENTRIES):
        digest = mmh3.hash(entry.to_bytes(2, "little"), seed, signed=False)
        mask = 0
        for bit in digest.to_bytes(4, "little"):
            mask |= 1 << bit
        masks.append(mask)
    return masks


_A: Final = _masks(1)
_B: Final = _masks(2)


# What a filter wants to know of a key: where its word lies, in [0, 2^32), and its bits in the word.
Probe: TypeAlias = tuple[int, int]


def probe_of(key: bytes) -> Probe:
    low, position = _DIGEST.unpack(mmh3.mmh3_x64_128_digest(key))
    return position, _A[low & 2047] | _B[low >> 11 & 2047]


class BloomBuilder:
    """A filter being filled with up to `keys` keys (more only make it less precise)."""

    def __init__(self, keys: int, bits_per_key: int) -> None:
        self._words = [0] * max(1, -(-keys * bits_per_key // (8 * WORD_BYTES)))

    def add(self, keys: Iterable[bytes]) -> None:
        words, count, a, b = self._words, len(self._words), _A, _B
        digests = b"".join(map(mmh3.mmh3_x64_128_digest, keys))
        for low, position in _DIGEST.iter_unpack(digests):
            words[position * count >> 32] |= a[low & 2047] | b[low >> 11 & 2047]

    def finish(self) -> bytes:
        return b"".join([word.to_bytes(WORD_BYTES, "little") for word in self._words])


def may_contain(words: bytes, probe: Probe) -> bool:
    """False: the key of that probe was never added. (`Table.get` does the same in line.)"""
    start = (probe[0] * (len(words) // WORD_BYTES) >> 32) * WORD_BYTES
    return int.from_bytes(words[start : start + WORD_BYTES], "little") & probe[1] == probe[1]

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
from typing import Final

import mmh3

_WORD_BYTES: Final = 32
_ENTRIES: Final = 2048


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


def digest_of(key: bytes) -> int:
    """What a filter wants to know of a key."""
    return mmh3.mmh3_x64_128_utupledigest(key, 0)[0]


class BloomBuilder:
    """A filter being filled with up to `keys` keys (more only make it less precise)."""

    def __init__(self, keys: int, bits_per_key: int) -> None:
        self._words = [0] * max(1, -(-keys * bits_per_key // (8 * _WORD_BYTES)))

    def add(self, keys: Iterable[bytes]) -> None:
        words, count = self._words, len(self._words)
        for key in keys:
            digest = digest_of(key)
            words[(digest >> 32) * count >> 32] |= _A[digest & 2047] | _B[digest >> 11 & 2047]

    def finish(self) -> bytes:
        return b"".join([word.to_bytes(_WORD_BYTES, "little") for word in self._words])


def may_contain(words: bytes, digest: int) -> bool:
    """False: the key of that digest was never added."""
    start = ((digest >> 32) * (len(words) // _WORD_BYTES) >> 32) * _WORD_BYTES
    mask = _A[digest & 2047] | _B[digest >> 11 & 2047]
    return int.from_bytes(words[start : start + _WORD_BYTES], "little") & mask == mask

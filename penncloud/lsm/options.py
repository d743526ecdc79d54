"""What an administrator may choose about the engine."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

MIB = 1024 * 1024


@frozen
class EngineOptions:
    """Sizes in bytes; the defaults are those of the configuration file."""

    # Memtables of all tablets together at which the largest one is flushed.
    memtable_bytes: int = 32 * MIB
    # A tablet is also flushed after so many committed entries; 0: by size only.
    checkpoint_writes: int = 0
    # Blocks of tables kept in memory.
    block_cache_bytes: int = 32 * MIB
    # A log segment is sealed when it is larger.
    segment_bytes: int = 16 * MIB
    # Cells are gathered into blocks of about this size: one is read and checked at a time.
    block_bytes: int = 8 * 1024
    # Bloom filter; 10 bits per key let about one look-up in a hundred through in vain.
    bloom_bits_per_key: int = 12
    compression: Literal["none", "zstd"] = "none"
    # Files of damaged tablets are kept aside, up to this.
    aside_bytes: int = 256 * MIB
    # Read in the background to find damage, in bytes a second; 0: never.
    scrub_bytes_per_s: int = 0
    # The rest between two rounds of that, and before the first one.
    scrub_rest_s: float = 600.0

    @property
    def log_bytes(self) -> int:
        """Size of the log at which the tablet that holds its oldest entries is flushed.

        Bounds what a start has to read.
        """
        return max(2 * self.memtable_bytes, 4 * self.segment_bytes)

    @property
    def stall_bytes(self) -> int:
        """Memtables, frozen ones included, at which writes wait for a flush to end."""
        return 2 * self.memtable_bytes

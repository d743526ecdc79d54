"""Blobs: big immutable contents (files, message bodies), cut into chunks that spread over all tablets.

- `Blobs` writes, reads and removes chunks (`_chunks.py`).
- `BlobOwner` ties blobs to a row so that no crash leaks or loses one: intents before the first
  chunk, garbage marks instead of removals (`_ownership.py`).
- `BlobCollector` removes what the marks of a row say, and `Sweeper` goes round all rows
  (`_collector.py`, `_sweeper.py`).
"""

from penncloud.services.blobs._chunks import (
    CHUNK_BYTES,
    BlobDamaged,
    BlobRef,
    Blobs,
    BlobWriter,
    together,
)
from penncloud.services.blobs._collector import BlobCollector
from penncloud.services.blobs._ownership import BlobOwner, OwnedWriter, UploadExpired
from penncloud.services.blobs._sweeper import Collect, Sweeper

__all__ = [
    "CHUNK_BYTES",
    "BlobCollector",
    "BlobDamaged",
    "BlobOwner",
    "BlobRef",
    "BlobWriter",
    "Blobs",
    "Collect",
    "OwnedWriter",
    "Sweeper",
    "UploadExpired",
    "together",
]

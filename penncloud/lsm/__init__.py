"""The storage engine: what holds a storage server's tablets on disk."""

"""What the engine tells about itself."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class EngineMetrics:
    """Metrics of one engine in the node's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.memtable_bytes = Gauge(
            "penncloud_lsm_memtable_bytes", "Memtables, also those being flushed", registry=registry
        )
        self.log_segments = Gauge(
            "penncloud_lsm_log_segments", "Log segments in use", registry=registry
        )
        self.tables = Gauge("penncloud_lsm_tables", "Table files in use", registry=registry)
        self.table_bytes = Gauge(
            "penncloud_lsm_table_bytes", "Size of the table files in use", registry=registry
        )
        self.stalled = Gauge(
            "penncloud_lsm_stalled_appends", "Appends that wait for a flush", registry=registry
        )
        self.stalls = Counter(
            "penncloud_lsm_stalls_total", "Appends that had to wait for a flush", registry=registry
        )
        self.flushed_bytes = Counter(
            "penncloud_lsm_flushed_bytes_total", "Written by flushes", registry=registry
        )
        self.compacted_bytes = Counter(
            "penncloud_lsm_compacted_bytes_total", "Written by compactions", registry=registry
        )
        self.logged_bytes = Counter(
            "penncloud_lsm_logged_bytes_total", "Written to the log", registry=registry
        )
        self.cache_hits = Gauge(
            "penncloud_lsm_cache_hits", "Blocks found in the cache", registry=registry
        )
        self.cache_misses = Gauge(
            "penncloud_lsm_cache_misses", "Blocks read from files", registry=registry
        )
        self.damaged = Gauge("penncloud_lsm_damaged_tablets", "Tablets damaged", registry=registry)

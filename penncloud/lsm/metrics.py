"""What the engine tells about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge

if TYPE_CHECKING:
    from penncloud.lsm.appending import Appender
    from penncloud.lsm.store import Store


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
        self.most_tables = Gauge(
            "penncloud_lsm_most_tables",
            "Tables of the tablet that has most: what a read may have to look into",
            registry=registry,
        )
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
        self.cache_bytes = Gauge(
            "penncloud_lsm_cache_bytes", "Size of the blocks in the cache", registry=registry
        )
        self.damaged = Gauge("penncloud_lsm_damaged_tablets", "Tablets damaged", registry=registry)

    def watch(self, store: Store, appender: Appender) -> None:
        """Let the gauges show these from now on, as they are whenever somebody asks."""
        tablets, tables, cache = store.tablets, store.tables, store.cache
        self.memtable_bytes.set_function(lambda: store.memory_bytes)
        self.log_segments.set_function(lambda: store.wal.segments)
        self.tables.set_function(lambda: len(tables))
        self.most_tables.set_function(
            lambda: max((len(one.tables) for one in tablets.values()), default=0)
        )
        self.table_bytes.set_function(lambda: sum(one.size_bytes for one in tables.values()))
        self.stalled.set_function(lambda: appender.stalled)
        self.cache_hits.set_function(lambda: cache.hits)
        self.cache_misses.set_function(lambda: cache.misses)
        self.cache_bytes.set_function(lambda: cache.size_bytes)
        self.damaged.set_function(lambda: sum(bool(one.damage) for one in tablets.values()))

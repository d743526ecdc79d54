"""The storage engine beside rocksdict, plyvel, sqlite3 and lmdb, at the same durability.

    pip install -e '.[bench]'
    python -m bench.engine [--cells 1000000] [--batch 1000] [--runs 3] [--stores ours,rocksdict,...]

Each store loads the same cells in the same batches, every batch durable before the next, then reads, scans
and does both. Each run of each store is a process of its own, so that peak memory is its own too. Stores
that are not installed are left out, and named. Compare ratios within one run of this program, on an
otherwise idle machine; differences below a fifth mean nothing.
"""

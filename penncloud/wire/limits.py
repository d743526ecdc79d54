"""Bounds of the protocol. Documented in docs/wire-protocol.md; a test keeps the two equal."""

from typing import Final

# Row and column names, before percent-encoding.
MAX_ROW_BYTES: Final = 1024
MAX_COL_BYTES: Final = 1024
# The prefix of an appended cell, whose column is the prefix and the version in 16 hex digits.
MAX_PREFIX_BYTES: Final = MAX_COL_BYTES - 16
# One value.
MAX_VALUE_BYTES: Final = 1024 * 1024
# A line without its values: command, encoded names (up to three bytes per byte), sizes.
MAX_HEADER_BYTES: Final = 8 * 1024
# A value above MAX_VALUE_BYTES is read and thrown away up to this size, so that the connection can
# go on; beyond it framing is given up and the connection closed after the error.
MAX_DISCARD_BYTES: Final = 64 * 1024 * 1024
# Sub-operations of one MUTA, and the sum of their values.
MAX_MUTATIONS: Final = 256
MAX_MUTATION_BYTES: Final = 4 * 1024 * 1024
# Cells of one SCAN reply; the bytes of its values are bounded by MAX_SCAN_BYTES (at least one cell).
MAX_SCAN_CELLS: Final = 1000
MAX_SCAN_BYTES: Final = 2 * 1024 * 1024
# Rows watched by one connection.
MAX_WATCHES: Final = 10_000
# The text of an -ERR.
MAX_TEXT_BYTES: Final = 1024
# The id in TRAC.
MAX_TRACE_BYTES: Final = 64
# A client name in RQID.
MAX_CLIENT_BYTES: Final = 64
# Largest `seq` of RQID and largest version.
MAX_COUNTER: Final = 2**63 - 1

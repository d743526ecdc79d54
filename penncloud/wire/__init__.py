"""The key-value store's text protocol: messages, limits, and the codec between them and bytes.

Pure: no I/O, no clock. `docs/wire-protocol.md` is the description for other implementers.
"""

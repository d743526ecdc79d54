"""PennCloud: a self-hosted cloud on a replicated key-value store of its own.

`docs/architecture.md` is the tour of the rooms below this package.
"""

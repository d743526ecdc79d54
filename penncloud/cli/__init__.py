"""The `penncloud` command: one module per group of commands."""

from penncloud.cli._main import main

__all__ = ["main"]

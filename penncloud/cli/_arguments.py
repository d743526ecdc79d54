"""A parser that takes options anywhere, also between arguments that may be left out."""

from __future__ import annotations

import argparse
from typing import Any


class Intermixed(argparse.ArgumentParser):
    """`put ROW COL --data DIR VALUE` is the same as `put --data DIR ROW COL VALUE`.

    argparse takes an optional argument for left out once it meets an option; its intermixed mode does
    not, but is not offered for the parsers of subcommands.
    """

    _within = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._within:
            return super().parse_known_args(args, namespace)
        self._within = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._within = False

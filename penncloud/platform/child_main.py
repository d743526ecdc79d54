"""The child's side of `platform.child`; apart from it, as a child should start without Twisted.

Importing Twisted takes a quarter of a second of CPU, several times what the rest of a small child does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


def child_main(answer: Callable[[bytes], bytes]) -> None:
    """What the child's module runs: one request from stdin, one answer to stdout, at low priority."""
    os.nice(10)
    sys.stdout.buffer.write(answer(sys.stdin.buffer.read()))

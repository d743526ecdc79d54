"""Ending together with the process that started this one."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

# prctl(2): the signal that a process gets when the thread that forked it has ended.
_PR_SET_PDEATHSIG: Final = 1


def end_with(parent: int) -> None:
    """Let the kernel send SIGTERM to this process when its parent has ended, however it ended.

    Exits at once when the parent has ended already, before the kernel was asked.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        raise SystemExit("the process that started this one has ended")

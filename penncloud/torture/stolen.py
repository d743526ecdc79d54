"""How much of its processors' time a virtual machine did not get.

A hypervisor that has promised more processors than it has takes them away now and then. The kernel of the
machine counts that as *stolen* (proc(5), /proc/stat, the eighth figure of the line `cpu`). While most of the
time is stolen, nothing that runs here can be expected to work within bounds of real time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

# user, nice, system, idle, iowait, irq, softirq, steal; what follows is contained in the first two.
_FIGURES: Final = 8


class Stolen:
    """From its creation on. `read` gives /proc/stat; where there is none nothing is ever stolen."""

    def __init__(self, read: Callable[[], str] | None = None) -> None:
        self._read = read or Path("/proc/stat").read_text
        self._begun = self._figures()

    @property
    def share(self) -> float:
        """What was stolen of the time of all processors, from 0.0 to 1.0."""
        passed = [now - then for now, then in zip(self._figures(), self._begun, strict=True)]
        return passed[-1] / max(sum(passed), 1)

    def _figures(self) -> list[int]:
        try:
            words = self._read().split("\n", 1)[0].split()
        except OSError:
            words = []
        figures = [int(word) for word in words[1 : _FIGURES + 1] if words[0] == "cpu"]
        return figures if len(figures) == _FIGURES else [0] * _FIGURES

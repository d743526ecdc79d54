"""How long to wait before trying again. Pure: chance is an argument."""

from __future__ import annotations

import random
from typing import Final

# The first pause and the longest one.
FIRST_S: Final = 0.1
LONGEST_S: Final = 2.0


class Backoff:
    """Pauses that double up to `longest_s`, each drawn from its upper half.

    The draw keeps those who lost the same server from all coming back at once.
    """

    def __init__(
        self, chance: random.Random, first_s: float = FIRST_S, longest_s: float = LONGEST_S
    ) -> None:
        self._chance = chance
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s

    def next_s(self) -> float:
        """The pause before the next attempt, in seconds."""
        pause = self._next_s
        self._next_s = min(self._longest_s, 2 * pause)
        return self._chance.uniform(pause / 2, pause)

    def reset(self) -> None:
        """It went well: begin with the first pause again."""
        self._next_s = self._first_s

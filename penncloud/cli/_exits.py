"""Exit codes of every command; scripts rely on them."""

from typing import Final

DONE: Final = 0
# Not found, comparison failed; or, for commands without either, it did not work.
FAILED: Final = 1
USAGE: Final = 2
UNAVAILABLE: Final = 3

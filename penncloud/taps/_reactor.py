"""Which reactor a role runs on: to be said before the first import of `twisted.internet.reactor`."""

from __future__ import annotations

import sys


def choose_reactor(wanted: str) -> None:
    """Make the reactor that `[cluster] reactor` asks for this process's, unless it has one.

    It has one where `twistd --reactor` named it. Where there is no epoll it remains Twisted's own choice.
    """
    if wanted != "prompt" or "twisted.internet.reactor" in sys.modules:
        return
    try:
        from penncloud.platform import prompt_reactor
    except ImportError:
        return
    prompt_reactor.install()

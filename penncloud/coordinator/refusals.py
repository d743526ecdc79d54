"""How a caller is told that something was not decided."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from penncloud.coordinator.decisions import NotDecided, OutcomeUnknown, TooManyDecisions
from penncloud.rpc.errors import Refusal, RpcBusy

_T = TypeVar("_T")


async def decided(work: Awaitable[_T]) -> _T:
    """What was decided. Raises Refusal NOT_LEADER (nothing was done) or UNKNOWN, RpcBusy."""
    try:
        return await work
    except NotDecided as error:
        raise Refusal("NOT_LEADER", str(error)) from error
    except OutcomeUnknown as error:
        raise Refusal("UNKNOWN", str(error)) from error
    except TooManyDecisions as error:
        raise RpcBusy(str(error)) from error

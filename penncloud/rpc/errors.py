"""How a call can fail, and what that says about whether it was done."""

from __future__ import annotations

from typing import ClassVar

from penncloud.platform.errors import PennCloudError


class RpcError(PennCloudError):
    """A call between two processes of the cluster failed."""


class Disconnected(RpcError):
    """There is no connection, or it broke before the answer: the call may have been executed."""

    retryable: ClassVar[bool] = True


class CallTimedOut(RpcError):
    """No answer before the deadline: the call may have been executed, or still be."""

    retryable: ClassVar[bool] = True


class RpcBusy(RpcError):
    """Too many calls are under way on one side: nothing was done."""

    retryable: ClassVar[bool] = True


class MessageTooLarge(RpcError):
    """A message does not fit into a frame; it was not sent."""


class Refusal(RpcError):
    """The other side answered with an error. A function that serves calls raises it to send one.

    `code` is for programs (capital letters), `text` for people.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text

"""The replies of one connection: in the order of the requests, however their answers come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from attrs import define

from penncloud.wire.messages import Cells, Mismatch, Reply, Value
from penncloud.wire.replies import encode_reply

_WITH_A_VALUE = (Value, Mismatch)


@define(eq=False)
class Slot:
    """The place of one reply. `sent` is called when the reply goes out. For the log: `trace` is what the
    request was done for, `kind` what it was, `begun_s` when it came."""

    trace: str = ""
    kind: str = ""
    begun_s: float = 0.0
    reply: Reply | None = None
    sent: Callable[[], None] | None = None
    size_bytes: int = 0


class ReplyQueue:
    """Slots in the order of the requests; what is complete at the front can be taken.

    `held_bytes` is what answered replies behind an unanswered one hold in memory.
    """

    def __init__(self) -> None:
        self._slots: deque[Slot] = deque()
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._slots)

    def open(self, slot: Slot) -> Slot:
        """The place of the next reply."""
        self._slots.append(slot)
        return slot

    def fill(self, slot: Slot, reply: Reply) -> None:
        """Answer a slot, once."""
        if slot.reply is not None:
            raise AssertionError("a request is answered once")
        slot.reply = reply
        slot.size_bytes = _size_bytes(reply)
        self.held_bytes += slot.size_bytes

    def take(self, at_most_bytes: int) -> bytes:
        """The bytes of complete replies from the front: as many as fit, at least one if there is one."""
        slots = self._slots
        if not slots or slots[0].reply is None:
            return b""
        out: list[bytes] = []
        size = 0
        while slots and size < at_most_bytes and slots[0].reply is not None:
            slot = slots.popleft()
            assert slot.reply is not None
            self.held_bytes -= slot.size_bytes
            if slot.sent is not None:
                slot.sent()
            encoded = encode_reply(slot.reply)
            size += len(encoded)
            out.append(encoded)
        return b"".join(out)

    def clear(self) -> None:
        """Nobody will read them."""
        self._slots.clear()
        self.held_bytes = 0


def _size_bytes(reply: Reply) -> int:
    if isinstance(reply, _WITH_A_VALUE):
        return len(reply.value or b"")
    if isinstance(reply, Cells):
        return sum(len(cell.value) for cell in reply.cells)
    return 0

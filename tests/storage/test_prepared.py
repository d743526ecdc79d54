"""What is decided and not yet committed, by itself."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm.entry import Entry, PutEffect
from penncloud.storage.prepared import Prepared, PreparedState
from penncloud.wire.messages import Ok, Reply


def prepared(version: int) -> Prepared:
    effects = (PutEffect(b"row", b"col", b"value"),)
    entry = Entry(1, version, 1, b"", 0, effects, b"")
    return Prepared(entry, None, None, Ok(version), entry.size_bytes)


class AnswerEarlyTests(SynchronousTestCase):
    """Async mode: answers before the others have it."""

    def test_next_request_comes_with_the_answer(self) -> None:
        """A pipeline decides its next mutation while those behind it are being answered."""
        state = PreparedState()
        answered: list[Reply] = []

        def add(version: int) -> None:
            one = prepared(version)
            one.when_committed(Ok(version)).addCallback(answer, version)
            state.add(one)

        def answer(reply: Reply, version: int) -> None:
            answered.append(reply)
            if version <= 3:
                add(version + 3)

        for version in (1, 2, 3):
            add(version)
        state.answer_up_to(3, lambda reply: reply)
        self.assertEqual(answered, [Ok(1), Ok(2), Ok(3)])
        state.answer_up_to(6, lambda reply: reply)
        self.assertEqual(answered, [Ok(version) for version in range(1, 7)])
        self.assertEqual([one.entry.version for one in state.in_flight], [1, 2, 3, 4, 5, 6])

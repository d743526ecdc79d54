"""docs/wire-protocol.md says what the codec does: every limit, and every example."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from twisted.trial.unittest import SynchronousTestCase

from penncloud.wire import limits, messages
from penncloud.wire.messages import Malformed, Reply, Request
from penncloud.wire.replies import ReplyDecoder, encode_reply
from penncloud.wire.requests import RequestDecoder, encode_request

PAGE = Path(__file__).resolve().parents[2] / "docs" / "wire-protocol.md"
TEXT = PAGE.read_text("utf-8")
# What a client says and what a server says, line by line, in the code blocks with marks.
BLOCKS = [block for block in re.findall(r"```\n(.*?)```", TEXT, re.DOTALL) if "«" in block]


def spoken(block: str, mark: str) -> bytes:
    """What one side says in an example."""
    lines = [line[2:] for line in block.splitlines() if line.startswith(mark)]
    return "".join(f"{line}\r\n" for line in lines).encode("ascii")


class LimitTests(SynchronousTestCase):
    """The table of limits."""

    def test_the_table_is_the_module(self) -> None:
        """Every limit stands there with its value, and no other."""
        table = dict(re.findall(r"^\| `(MAX_\w+)` \| (\d+) \|", TEXT, re.MULTILINE))
        module = {name: str(value) for name, value in vars(limits).items() if name.isupper()}
        self.assertEqual(table, module)


class ExampleTests(SynchronousTestCase):
    """The examples."""

    def test_every_line_is_marked(self) -> None:
        """So that no line of an example escapes these tests."""
        self.assertGreater(len(BLOCKS), 8)
        for block in BLOCKS:
            for line in block.splitlines():
                self.assertIn(line[:2], ("« ", "» "), block)

    def test_the_codec_understands_and_writes_them(self) -> None:
        """What stands there is decoded, and encoded again gives the same bytes."""
        for block in BLOCKS:
            said = spoken(block, "«")
            requests = RequestDecoder().feed(said)
            wrong = [request for request in requests if isinstance(request, Malformed)]
            replies = ReplyDecoder().feed(spoken(block, "»"))
            if not wrong:
                written = b"".join(
                    encode_request(r) for r in requests if not isinstance(r, Malformed)
                )
                self.assertEqual(written, said)
            errors = [reply for reply in replies if isinstance(reply, messages.Error)]
            self.assertEqual([(w.code, w.text) for w in wrong], [(e.code, e.text) for e in errors])
            self.assertEqual(
                b"".join(encode_reply(r) for r in replies if not isinstance(r, Malformed)),
                spoken(block, "»"),
            )

    def test_one_reply_for_each_request(self) -> None:
        """RQID or TRAC and the request behind them have one; pushes are none."""
        for block in BLOCKS:
            requests = RequestDecoder().feed(spoken(block, "«"))
            replies = ReplyDecoder().feed(spoken(block, "»"))
            asked = [
                r for r in requests if not isinstance(r, messages.RequestId | messages.TraceId)
            ]
            answered = [r for r in replies if not isinstance(r, messages.Changed)]
            self.assertEqual(len(answered), len(asked), block)

    def test_every_message_has_an_example(self) -> None:
        """Every request, and every reply but those that tell of trouble."""
        shown = {
            type(message)
            for block in BLOCKS
            for message in (
                *RequestDecoder().feed(spoken(block, "«")),
                *ReplyDecoder().feed(spoken(block, "»")),
            )
        }
        trouble = {messages.Moved, messages.Busy, messages.Unknown}
        self.assertEqual({*get_args(Request), *get_args(Reply)} - shown, trouble)

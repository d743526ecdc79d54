"""What a mailbox shows of a message without opening it, taken from its first bytes."""

from __future__ import annotations

import html
import re

from attrs import frozen

from penncloud.services.mail import mime
from penncloud.services.mail.addresses import parse_list
from penncloud.services.mail.headers import decode_bytes

# Of a message, so much is looked at (bytes): all ordinary headers and the beginning of the text.
HEAD_BYTES = 64 * 1024
_SUBJECT_CHARS = 300
_ADDRESSES_CHARS = 500
_SNIPPET_CHARS = 140


@frozen
class Summary:
    """`size` in bytes; `message_id` and references with their angle brackets, empty if there is none."""

    sender: str
    to: str
    subject: str
    snippet: str
    size: int
    message_id: str
    in_reply_to: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    has_attachments: bool = False


def summarise(head: bytes, size: int) -> Summary:
    """Summarise a message of `size` bytes by its first ones. Any bytes give some summary."""
    structure = mime.parse(head[:HEAD_BYTES])
    headers = structure.headers
    senders = parse_list(headers.text("from"), 1) or parse_list(headers.text("sender"), 1)
    to = ", ".join(str(shown) for shown in parse_list(headers.text("to"), 20))
    mixed = headers.raw("content-type") or b""
    return Summary(
        sender=str(senders[0])[:_ADDRESSES_CHARS] if senders else "",
        to=to[:_ADDRESSES_CHARS],
        subject=headers.text("subject")[:_SUBJECT_CHARS],
        snippet=_snippet(head, structure),
        size=size,
        message_id=next(iter(headers.message_ids("message-id")), ""),
        in_reply_to=tuple(headers.message_ids("in-reply-to", 5)),
        references=tuple(headers.message_ids("references", 20)),
        has_attachments=bool(structure.attachments) or b"multipart/mixed" in mixed.lower(),
    )


def _snippet(head: bytes, structure: mime.Structure) -> str:
    plain = structure.first("text/plain")
    if plain is not None:
        text = mime.text(head, plain, 2000)[0]
        lines = [line for line in text.split("\n") if not line.startswith(">")]
        return _one_line(" ".join(lines))
    marked = structure.first("text/html")
    if marked is None:
        return ""
    raw = decode_bytes(mime.content(head, marked)[:20_000], marked.charset)
    without = re.sub(r"(?is)<(style|script|head)\b.*?(</\1\s*>|\Z)", " ", raw)
    return _one_line(html.unescape(re.sub(r"<[^>]*>?", " ", without)))


def _one_line(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _SNIPPET_CHARS else words[: _SNIPPET_CHARS - 1] + "…"

"""HTML mail made harmless: sanitised by nh3, nothing fetched from elsewhere.

The result is shown in a sandboxed frame under a policy of its own; this is the first of two walls.
It blocks for long inputs, so call it in a thread.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from html import unescape

import nh3

# Characters of HTML that are shown; a message with more is cut there (and can be downloaded).
MAX_HTML_CHARS = 1024 * 1024
# Pictures that belong to the message (`cid:`) are put into the page up to this size in all (bytes).
MAX_INLINE_BYTES = 4 * 1024 * 1024

_STYLES = {
    "color background-color font-family font-size font-style font-weight line-height text-align"
    " text-decoration text-indent vertical-align white-space width max-width height padding"
    " padding-top padding-right padding-bottom padding-left margin margin-top margin-right"
    " margin-bottom margin-left border border-top border-right border-bottom border-left"
    " border-collapse border-color border-radius border-spacing border-style border-width display"
}
# `data:` and `cid:` are for the message's pictures alone: a link of that kind is a page of the sender's.
_LINK = re.compile(r"(?i)\s*(?:https?|mailto):")
# Elements that stand on lines of their own, and any tag as nh3 writes it without attributes.
_LINES = {
    "address",
    "blockquote",
    "br",
    "dd",
    "div",
    "dl",
    "dt",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "li",
    "ol",
    "p",
    "pre",
    "table",
    "tr",
    "ul",
}
_TAG = re.compile(r"</?[a-z][a-z0-9]*>")
_SHOWN_IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")


def sanitise(source: str, pictures: Mapping[str, tuple[str, bytes]]) -> tuple[str, bool]:
    """The harmless part of `source`, and whether it wanted pictures from elsewhere (blocked).

    `pictures` are those of the message itself: Content-ID -> (type, bytes).
    """
    blocked = False
    room = MAX_INLINE_BYTES

    def attribute(tag: str, name: str, value: str) -> str | None:
        nonlocal blocked, room
        if name == "href" and not _LINK.match(value):
            return None
        if name in ("src", "background", "srcset", "poster"):
            kind, data = pictures.get(value.removeprefix("cid:").strip(), ("", b""))
            if tag != "img" or name != "src" or not value.startswith("cid:"):
                blocked = blocked or tag == "img"
                return None
            if kind not in _SHOWN_IMAGES or len(data) > room:
                return None
            room -= len(data)
            return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
        return value

    tags = set(nh3.ALLOWED_TAGS) | {"font", "center", "u", "s", "img"}
    attributes = {tag: set(names) for tag, names in nh3.ALLOWED_ATTRIBUTES.items()}
    for tag in tags:
        attributes.setdefault(tag, set()).update({"style", "align", "dir", "title"})
    attributes.setdefault("img", set()).update({"src", "alt", "width", "height"})
    for tag in ("table", "td", "th", "tr"):
        attributes[tag].update({"bgcolor", "width", "height", "valign", "border"})
    attributes["font"].update({"color", "size", "face"})
    cleaned = nh3.clean(
        source[:MAX_HTML_CHARS],
        tags=tags,
        clean_content_tags={"script", "style", "title"},
        attributes=attributes,
        attribute_filter=attribute,
        filter_style_properties=_style_names(),
        link_rel="noopener noreferrer nofollow",
        url_schemes={"http", "https", "mailto", "cid", "data"},
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )
    return cleaned, blocked or bool(re.search(r"(?i)url\s*\(", source[:MAX_HTML_CHARS]))


def as_text(source: str) -> str:
    """What `source` says, as plain text with its lines: for quoting mail that has no plain text."""
    visible = nh3.clean(
        source[:MAX_HTML_CHARS],
        tags=_LINES,
        clean_content_tags={"script", "style", "title"},
        attributes={},
        link_rel=None,
    )
    # In HTML a line end is a space, and an element of its own begins a line.
    words = re.sub(r"[ \t\r\n\f]+", " ", visible)
    lines = unescape(_TAG.sub("\n", words)).replace("\xa0", " ").split("\n")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.strip() for line in lines)).strip()


def _style_names() -> set[str]:
    return {name for line in _STYLES for name in line.split()}

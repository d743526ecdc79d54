"""A member of the cloud without a browser: what scripts and phones do, over plain HTTP.

Blocking, for use in threads of their own; every call has a deadline. A `Member` is used by one thread.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Mapping
from html import unescape
from http.cookies import SimpleCookie
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from attrs import define, field

from penncloud.services.files import ROOT

_TIMEOUT_S: Final = 20.0
_LINK: Final = re.compile(r'href="(/mail/inbox/[^"]+)"')
_SUBJECT: Final = re.compile(
    r'<span class="subject">(?:<span class="hidden">[^<]*</span>)?([^<]*)<'
)
_OLDER: Final = re.compile(r'<a href="([^"]+)">Older</a>')
_TOKEN: Final = re.compile(rb'<meta name="csrf" content="([^"]+)">')


class Unanswered(Exception):
    """The frontend did not answer, or not with success: nothing is known to be acknowledged."""


@define
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@define
class Member:
    """Somebody who uses the frontend at `url`."""

    url: str
    name: str
    cookies: dict[str, str] = field(factory=dict)
    csrf: str = ""

    def sign_up(self, password: str) -> None:
        """Make the account and log in. Raises Unanswered."""
        self._enter("/signup", {"name": self.name, "password": password, "again": password})

    def log_in(self, password: str) -> None:
        """Raises Unanswered."""
        self._enter("/login", {"name": self.name, "password": password})

    def change_password(self, old: str, new: str) -> None:
        """Raises Unanswered."""
        self.post_form("/account/password", {"old": old, "new": new, "again": new})
        self._learn_token("/account")

    def _enter(self, path: str, fields: Mapping[str, str]) -> None:
        self._learn_token(path)
        self.post_form(path, fields)
        self._learn_token("/account")

    def _learn_token(self, path: str) -> None:
        found = _TOKEN.search(self.get(path))
        if found is None:
            raise Unanswered(f"{path} has no token: not logged in?")
        self.csrf = found[1].decode()

    # -- files -----------------------------------------------------------------------------------

    def upload(self, name: str, data: bytes) -> None:
        """A new file in the root folder. Returns when it was acknowledged; raises Unanswered."""
        path = f"/file/content?folder={ROOT}&name={quote(name)}&size={len(data)}"
        answer = self.ask("PUT", path, data)
        if answer.status != 201:
            raise Unanswered(f"PUT {name}: {answer.status}: {answer.body[:200]!r}")

    def download(self, name: str) -> bytes:
        """A file of the root folder. Raises Unanswered."""
        return self.get(f"/files/{quote(name)}")

    # -- mail ------------------------------------------------------------------------------------

    def inbox(self) -> dict[str, list[str]]:
        """Subject -> addresses of the messages that have it. Raises Unanswered."""
        found: dict[str, list[str]] = {}
        path = "/mail"
        while path:
            page = self.get(path).decode()
            for entry in page.split('<li class="letter')[1:]:
                address, subject = _LINK.search(entry), _SUBJECT.search(entry)
                if address is None or subject is None:
                    raise Unanswered(f"{path}: a line of the inbox cannot be read")
                found.setdefault(unescape(subject[1]), []).append(address[1])
            older = _OLDER.search(page)
            path = unescape(older[1]) if older else ""
        return found

    def mail(self, address: str) -> bytes:
        """A message as it arrived. Raises Unanswered."""
        return self.get(address + "/raw")

    # -- chat ------------------------------------------------------------------------------------

    def say(self, text: str, message_id: str) -> None:
        """Post on the board; again with the same id it is still one message. Raises Unanswered."""
        body = msgspec.json.encode({"id": message_id, "text": text})
        answer = self.ask("POST", "/chat/messages", body, {"content-type": "application/json"})
        if answer.status != 200:
            raise Unanswered(f"chat: {answer.status}: {answer.body[:200]!r}")

    def board(self) -> list[str]:
        """Every message's text, oldest first. Raises Unanswered."""
        texts: list[str] = []
        before = ""
        while True:
            page = msgspec.json.decode(
                self.get(f"/chat/messages?before={before}" if before else "/chat/messages")
            )
            texts[:0] = [message["text"] for message in page["messages"]]
            if not page["more"]:
                return texts
            before = page["messages"][0]["cursor"]

    # -- requests --------------------------------------------------------------------------------

    def get(self, path: str) -> bytes:
        """A page or file. Raises Unanswered for anything but 200."""
        answer = self.ask("GET", path)
        if answer.status != 200:
            raise Unanswered(f"GET {path}: {answer.status}: {answer.body[:200]!r}")
        return answer.body

    def post_form(self, path: str, fields: Mapping[str, str]) -> None:
        """Post a form as a browser does. Raises Unanswered unless it leads on to another page."""
        body = urlencode({"csrf": self.csrf, **fields}).encode()
        answer = self.ask("POST", path, body, {"content-type": "application/x-www-form-urlencoded"})
        if answer.status != 303:
            raise Unanswered(f"POST {path}: {answer.status}: {answer.body[:200]!r}")

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request, with cookies and token. Raises Unanswered when no whole answer comes."""
        sent = {"accept": "text/html", **(headers or {})}
        sent["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if method != "GET" and self.csrf:
            sent["x-csrf-token"] = self.csrf
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=_TIMEOUT_S)
        try:
            connection.request(method, path, body or None, sent)
            response = connection.getresponse()
            answer = Answer(response.status, dict(response.getheaders()), response.read())
        except (OSError, http.client.HTTPException) as error:
            raise Unanswered(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()
        for line in response.msg.get_all("set-cookie", []):
            for name, morsel in SimpleCookie(line).items():
                self.cookies[name] = morsel.value
        return answer

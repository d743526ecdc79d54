"""Errors with an answer of their own."""

from __future__ import annotations

from collections.abc import Mapping

from penncloud.platform.errors import PennCloudError


class WebError(PennCloudError):
    """Answer with this HTTP status; `message` is shown to the user, `headers` are added."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})

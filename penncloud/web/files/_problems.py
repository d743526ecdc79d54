"""What a refusal of the files service is in HTTP."""

from __future__ import annotations

from typing import Any, Final

from penncloud.platform.errors import PennCloudError
from penncloud.services.blobs import UploadExpired
from penncloud.services.files import (
    BadName,
    Changed,
    FilesError,
    IntoItself,
    NameTaken,
    NoSuchEntry,
    TooDeep,
)
from penncloud.web.application import json_answer
from penncloud.web.errors import WebError
from penncloud.web.request import WebRequest

_STATUS: Final[dict[type[PennCloudError], int]] = {
    BadName: 400,
    TooDeep: 400,
    NoSuchEntry: 404,
    NameTaken: 409,
    Changed: 409,
    IntoItself: 409,
    UploadExpired: 409,
}
# Names by which scripts tell refusals apart.
_REASON: Final[dict[type[PennCloudError], str]] = {
    BadName: "bad-name",
    TooDeep: "too-deep",
    NoSuchEntry: "missing",
    NameTaken: "taken",
    Changed: "changed",
    IntoItself: "into-itself",
    UploadExpired: "expired",
}


def sentence(error: PennCloudError) -> str:
    """The text of a refusal as a sentence."""
    text = str(error)
    return text[:1].upper() + text[1:].rstrip(".") + "."


def explain(error: PennCloudError) -> dict[str, Any]:
    """A refusal for scripts: why, and what stands there now."""
    answer: dict[str, Any] = {
        "error": sentence(error),
        "reason": _REASON.get(type(error), "failed"),
    }
    if isinstance(error, NameTaken | Changed):
        answer["kind"] = error.entry.record.kind
        answer["id"] = error.entry.id if error.entry.is_folder else ""
        answer["version"] = str(error.entry.version)
    return answer


def refused(request: WebRequest, error: FilesError | UploadExpired) -> bytes:
    """The answer to a request that the service refuses. What may be retried is raised again (503)."""
    if error.retryable:
        raise error
    status = _STATUS.get(type(error), 400)
    if request.wants_page:
        raise WebError(status, sentence(error)) from error
    request.setResponseCode(status)
    return json_answer(request, explain(error))

"""Uploads: a file as the raw body of a PUT, or files in a plain form.

The body goes to the store as it comes in. What is in memory: the pieces that the connection may hold
before it is paused, the chunk that fills up and those on their way to the store. A body that breaks off,
or has another length than was announced, leaves nothing visible.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from penncloud.platform.errors import PennCloudError
from penncloud.services.blobs import UploadExpired
from penncloud.services.files import ROOT, AlreadyStored, Entry, Files, FilesError, Home, Upload
from penncloud.web.application import json_answer, see_other
from penncloud.web.errors import WebError
from penncloud.web.files._paths import describe, upload_id, url_of
from penncloud.web.files._problems import refused, sentence
from penncloud.web.multipart import FormParts, PartBegins, PartData, PartEvent
from penncloud.web.request import WebRequest

# Uploads that one frontend takes at a time: about 4 MB of memory each.
MAX_UPLOADS: Final = 64
# One user's share of them: who sends slowly must not keep all others out.
MAX_UPLOADS_PER_USER: Final = 16
# Fields beside the files in a form, and the length of each.
_MAX_FIELDS: Final = 20
_MAX_FIELD_BYTES: Final = 4096
_MAX_REFUSALS_SHOWN: Final = 20

_log = Logger()


class Uploads:
    """What stands at `/file/content` and `/file/upload`."""

    def __init__(self, files: Files) -> None:
        self._files = files
        # By user.
        self._running: Counter[str] = Counter()

    async def put(self, request: WebRequest) -> bytes:
        """PUT `/file/content?folder=ID&name=NAME`: the body is the file.

        `replace=VERSION` overwrites that version, `keep=both` takes a numbered name where the name
        is taken, `size=BYTES` makes sure that all has come. 201 with the entry, or 409 and why.

        `upload=ID` (16 to 64 letters and digits, new for every file) names the upload: sent again under
        the same id, it has the answer of the first time, and makes no second file.
        """
        self._begin(request.login.name)
        try:
            return await self._put(request)
        finally:
            self._ended(request.login.name)

    async def form(self, request: WebRequest) -> bytes:
        """POST `/file/upload`: a plain form with any number of files; taken names get a number."""
        self._begin(request.login.name)
        reading = _FormUpload(request, self._files.home(request.login.name))
        try:
            parts = FormParts(request.getHeader("content-type") or "")
            async for piece in request.body:
                for event in parts.feed(piece):
                    await reading.take(event)
            if not parts.is_complete:
                raise WebError(400, "The form was not complete.")
            return await reading.answer()
        finally:
            self._ended(request.login.name)
            reading.abandon()

    def _begin(self, user: str) -> None:
        mine = self._running[user]
        if mine >= MAX_UPLOADS_PER_USER or self._running.total() >= MAX_UPLOADS:
            raise WebError(
                503, "Too many uploads at the same time. Please try again.", {"retry-after": "5"}
            )
        self._running[user] += 1

    def _ended(self, user: str) -> None:
        self._running[user] -= 1
        if not self._running[user]:
            del self._running[user]

    async def _put(self, request: WebRequest) -> bytes:
        query = request.query
        replace = query.integer("replace", 0, 0, 2**63 - 1)
        expected = query.integer("size", -1, 0, 2**62)
        folder_id, name = query.text("folder"), query.text("name")
        home = self._files.home(request.login.name)
        try:
            upload = await home.upload(
                folder_id,
                name,
                replace=replace or None,
                keep_both=query.text("keep", "") == "both",
                upload_id=upload_id(request),
            )
        except AlreadyStored as error:
            return await self._stored(request, home, error.entry)
        except FilesError as error:
            return refused(request, error)
        finished = False
        try:
            async for piece in request.body:
                await upload.write(piece)
            if expected not in (-1, upload.size):
                raise WebError(400, "The file did not arrive completely. Please try again.")
            entry = await upload.finish()
            finished = True
        except (FilesError, UploadExpired) as error:
            return refused(request, error)
        finally:
            if not finished:
                _give_up(upload)
        return await self._stored(request, home, entry)

    async def _stored(self, request: WebRequest, home: Home, entry: Entry) -> bytes:
        try:
            folder = await home.folder(entry.folder)
        except FilesError as error:
            return refused(request, error)
        request.setResponseCode(201)
        return json_answer(request, {"entry": describe(entry, folder.names)})


@define
class _FormUpload:
    """The parts of one form, taken in the order in which they come."""

    request: WebRequest
    home: Home
    fields: dict[str, str] = field(factory=dict)
    stored: int = 0
    refusals: list[str] = field(factory=list)
    _field: str = ""
    _value: bytearray | None = None
    _upload: Upload | None = None
    _trusted: bool = False

    async def take(self, event: PartEvent) -> None:
        """One event of the form. Raises WebError, and what the store raises."""
        if isinstance(event, PartBegins):
            await self._part_begins(event)
        elif isinstance(event, PartData):
            await self._part_data(event.data)
        else:
            await self._part_ends()

    async def answer(self) -> bytes:
        """The redirect to the folder, or a page that says what was not stored."""
        self._check()
        if self.refusals:
            stored = f"{self.stored} stored, {len(self.refusals)} not: "
            raise WebError(409, stored + " ".join(self.refusals[:_MAX_REFUSALS_SHOWN]))
        if not self.stored:
            raise WebError(400, "No file was chosen.")
        folder = await self.home.folder(self.fields.get("folder", ROOT))
        return see_other(self.request, url_of(folder.names))

    def abandon(self) -> None:
        """Give up a file that is not complete, if there is one."""
        upload, self._upload = self._upload, None
        if upload is not None:
            _give_up(upload)

    def _check(self) -> None:
        # The token comes before the files, so that nobody else's form stores a byte.
        if not self._trusted:
            self.request.check_csrf(self.fields.get("csrf", ""))
            self._trusted = True

    async def _part_begins(self, part: PartBegins) -> None:
        if part.filename is None:
            if len(self.fields) >= _MAX_FIELDS:
                raise WebError(400, "The form has too many fields.")
            self._field, self._value = part.name, bytearray()
            return
        self._check()
        if not part.filename:
            return  # A file field in which nothing was chosen.
        try:
            self._upload = await self.home.upload(
                self.fields.get("folder", ROOT), part.filename, keep_both=True
            )
        except FilesError as error:
            self._refuse(error)

    async def _part_data(self, data: bytes) -> None:
        if self._value is not None:
            self._value += data
            if len(self._value) > _MAX_FIELD_BYTES:
                raise WebError(400, "A field of the form is too long.")
        elif self._upload is not None:
            await self._upload.write(data)

    async def _part_ends(self) -> None:
        if self._value is not None:
            self.fields[self._field] = self._value.decode("utf-8", "replace")
            self._value = None
        elif self._upload is not None:
            try:
                await self._upload.finish(form=self.fields.get("upload", ""))
            except (FilesError, UploadExpired) as error:
                self._refuse(error)
                self.abandon()
            else:
                self._upload = None
                self.stored += 1

    def _refuse(self, error: PennCloudError) -> None:
        if error.retryable:
            raise error
        self.refusals.append(sentence(error))


def _give_up(upload: Upload) -> None:
    """Remove what was stored of it, without the answer waiting: the store may just be away."""
    Deferred.fromCoroutine(upload.abort()).addErrback(
        lambda failure: _log.failure("an upload was not removed", failure)
    )

"""Static files: read once at start, compressed once, cached by browsers for ever.

All of them are served under `/static/HASH/`, where HASH is that of the whole tree. So a changed file has
a new address, and modules can import each other by relative paths. Only what was there at the start is
served: a path is looked up, never opened.
"""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Final

from attrs import frozen

from penncloud.web.application import Application
from penncloud.web.errors import WebError
from penncloud.web.request import WebRequest

_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
_FOR_EVER: Final = b"public, max-age=31536000, immutable"
# Below this size compression gains nothing.
_COMPRESS_BYTES: Final = 512
_PACKED_ALREADY: Final = frozenset({".png", ".woff2", ".ico"})


@frozen
class _File:
    data: bytes
    gzipped: bytes | None
    kind: bytes


class Statics:
    """The files of one directory tree, in memory."""

    def __init__(self, directory: Path) -> None:
        self._files: dict[str, _File] = {}
        digest = hashlib.sha256()
        for path in sorted(directory.rglob("*")):
            if not path.is_file() or path.suffix not in _TYPES:
                continue
            name = path.relative_to(directory).as_posix()
            data = path.read_bytes()
            digest.update(name.encode() + b"\0" + len(data).to_bytes(8, "big") + data)
            self._files[name] = _file(data, path.suffix)
        self.version = digest.hexdigest()[:16]

    def url(self, name: str) -> str:
        """The address of a file, as `js/chat.js`; KeyError if there is none: a typo in a template."""
        if name not in self._files:
            raise KeyError(f"there is no static file {name}")
        return f"/static/{self.version}/{name}"

    def mount(self, app: Application) -> None:
        @app.route("/static/<version>/<path:name>", access="open")
        def static(request: WebRequest, version: str, name: str) -> bytes:
            found = self._files.get(name) if version == self.version else None
            if found is None:
                raise WebError(404, "There is no such file.")
            request.setHeader(b"cache-control", _FOR_EVER)
            return self._answer(request, found)

        @app.route("/service-worker.js", access="open")
        def service_worker(request: WebRequest) -> bytes:
            # A worker looks after the paths at and below its own, and so has to be at the root.
            request.setHeader(b"cache-control", b"no-cache")
            return self._answer(request, self._files["js/service-worker.js"])

        @app.route("/favicon.ico", access="open")
        def favicon(request: WebRequest) -> bytes:
            request.setHeader(b"cache-control", b"public, max-age=86400")
            # Browsers ask for it on behalf of users' files too, whose sandbox has an origin of its own.
            request.setHeader(b"cross-origin-resource-policy", b"cross-origin")
            return self._answer(request, self._files["img/logo.svg"])

    def _answer(self, request: WebRequest, found: _File) -> bytes:
        request.setHeader(b"content-type", found.kind)
        if found.gzipped is None:
            return found.data
        request.setHeader(b"vary", b"accept-encoding")
        if b"gzip" in (request.getHeader(b"accept-encoding") or b""):
            request.setHeader(b"content-encoding", b"gzip")
            return found.gzipped
        return found.data


def _file(data: bytes, suffix: str) -> _File:
    gzipped = None
    if len(data) >= _COMPRESS_BYTES and suffix not in _PACKED_ALREADY:
        gzipped = gzip.compress(data, mtime=0)
    return _File(data, gzipped, _TYPES[suffix].encode())

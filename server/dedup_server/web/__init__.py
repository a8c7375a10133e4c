"""The web page at `/`: static files, with a content policy that allows no other origin."""

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " object-src 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # revalidated at each load, mostly with a 304
}


class _File:
    """A static file in memory."""

    def __init__(self, path: Path) -> None:
        self._body = path.read_bytes()
        self._type = _TYPES[path.suffix]
        self._etag = f'"{hashlib.sha256(self._body).hexdigest()[:32]}"'

    async def answer(self, request: Request) -> Response:
        headers = {**_HEADERS, "ETag": self._etag, "Vary": "Accept"}
        if request.headers.get("if-none-match") == self._etag:
            return Response(status_code=304, headers=headers)
        return Response(self._body, headers=headers, media_type=self._type)


_FILES = {
    path.name: _File(path)
    for path in sorted(Path(__file__).parent.iterdir())
    if path.suffix in _TYPES
}

page = _FILES["index.html"].answer
routes = [
    Route(f"/web/{name}", file.answer, methods=["GET"])
    for name, file in _FILES.items()
    if name != "index.html"
]


def wants_page(request: Request) -> bool:
    """Return whether the client is a browser; other clients get JSON."""
    return any(
        part.strip().split(";")[0] == "text/html"
        for part in request.headers.get("accept", "").split(",")
    )

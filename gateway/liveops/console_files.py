"""
The console's files as they are in the package, below /console/.

Promise: only files of that folder, of known types; small ones gzipped once and kept; a browser asks again each time and
is told 304 while nothing has changed. The page may load nothing from anywhere else, and nobody may frame it.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from gateway.liveops.errors import not_found

ROOT = Path(__file__).parent / "console"
FILE_BYTES_MAX = 2 * 1024 * 1024
GZIP_BYTES_MIN = 500
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Kept:
    stamp: tuple[int, int]
    etag: str
    content: bytes
    zipped: bytes | None


_kept: dict[str, Kept] = {}


@router.get("/")
async def to_console() -> Response:
    return RedirectResponse("/console/", 307)


@router.get("/console")
async def to_folder() -> Response:
    return RedirectResponse("/console/", 307)


@router.api_route("/console/{path:path}", methods=["GET", "HEAD"])
async def get_file(request: Request, path: str) -> Response:
    path = path or "index.html"
    kept = _find(path)
    if kept is None:
        raise not_found(f"the console has no file {path[:200]!r}", "open /console/")
    zipped = kept.zipped if "gzip" in request.headers.get("accept-encoding", "") else None
    etag = kept.etag if zipped is None else kept.etag[:-1] + '-gz"'
    headers = HEADERS | {"ETag": etag}
    if etag in [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    if zipped is not None:
        headers["Content-Encoding"] = "gzip"
    return Response(zipped or kept.content, headers=headers, media_type=TYPES[Path(path).suffix])


def _find(path: str) -> Kept | None:
    if "\0" in path or len(path) > 300:
        return None
    file = (ROOT / path).resolve()
    if not file.is_relative_to(ROOT.resolve()) or file.suffix not in TYPES:
        return None
    try:
        found = file.stat()
        stamp = (found.st_mtime_ns, found.st_size)
        kept = _kept.get(str(file))
        if kept is not None and kept.stamp == stamp:
            return kept
        if not file.is_file() or found.st_size > FILE_BYTES_MAX:
            return None
        content = file.read_bytes()
    except (OSError, ValueError):
        return None
    is_text = file.suffix not in (".png", ".ico", ".woff2")
    zipped = gzip.compress(content, 9, mtime=0) if is_text and len(content) >= GZIP_BYTES_MIN else None
    # By the file: what was asked for may lead to it in any number of ways. Bounded by how many files there are.
    _kept[str(file)] = kept = Kept(stamp, f'"{hashlib.sha256(content).hexdigest()[:24]}"', content, zipped)
    return kept

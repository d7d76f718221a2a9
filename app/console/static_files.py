"""Static files of the console, under a path that names their contents, so that browsers keep them for good."""

import hashlib
from pathlib import Path

from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.console.session import PATH

HERE = Path(__file__).parent

FOLDERS = ("assets", "vendor")

COMPRESSED = Middleware(GZipMiddleware, minimum_size=1000, compresslevel=5)
"""Compression does not reveal a page's CSRF token by its length: the session's cookie is `SameSite=Strict`, so no other
site can request pages with it."""


def _version() -> str:
    digest = hashlib.sha256()
    for path in sorted(path for folder in FOLDERS for path in (HERE / folder).rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(HERE)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


VERSION = _version()

STATIC = f"{PATH}/static/{VERSION}"
"""The path of the files in pages. Modules import each other by relative paths, and so in the same version."""


class _Versioned(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        # In a rolling upgrade, a page of another release gets the file but must not keep it.
        is_ours = scope["path_params"]["version"] == VERSION
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if is_ours else "no-cache"
        return response


def mounts() -> list[Mount]:
    """Return the routes of the files."""
    return [
        Mount(f"{PATH}/static/{{version}}/{folder}", _Versioned(directory=HERE / folder), middleware=[COMPRESSED])
        for folder in FOLDERS
    ]

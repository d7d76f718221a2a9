"""CORS: web pages may call from a browser if a project lists their origin, compared character by character.

A preflight has no key and so no project: it is allowed for an origin that any project lists. The answer to the request
itself is shown to the page only if the project of its key or token lists the origin. There are no cookies: a page must
send a token.
"""

import time
from collections.abc import Awaitable, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.db.engine import Database
from app.db.sql import statements_of
from app.http.errors import DatabaseUnavailable

CACHE_SECONDS = 4.0

PREFLIGHT_SECONDS = b"600"
"""Time for which browsers cache a preflight. Whether an answer is shown is decided again for each request."""

SQL = statements_of(__file__)

METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE"

VARIES = (b"vary", b"Origin")


class Origins:
    """Origins that any project lists."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: frozenset[str] = frozenset()
        self._until = 0.0

    async def are_listed(self, origin: str) -> bool:
        if self._until < (now := time.monotonic()):
            try:
                self._known = frozenset(row["origin"] for row in await self._database.fetch(*SQL.origins()))
            except DatabaseUnavailable:
                return False
            self._until = now + CACHE_SECONDS
        return origin in self._known


class Cors:
    """The middleware. A request without an Origin passes through it as it is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        origin = _header(scope, b"origin") if scope["type"] == "http" else None
        if origin is None:
            return self._app(scope, receive, send)
        if scope["method"] == "OPTIONS" and _header(scope, b"access-control-request-method") is not None:
            return _answer_preflight(scope, origin, send)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), VARIES]
                if await _is_shown(scope, origin):
                    headers += [(b"access-control-allow-origin", origin.encode()),
                                (b"access-control-expose-headers", b"*")]  # fmt: skip
                message["headers"] = headers
            await send(message)

        scope.setdefault("state", {})
        return self._app(scope, receive, with_headers)


async def _is_shown(scope: Scope, origin: str) -> bool:
    """Return True if a page may see an answer: by the list of the caller's project. Without a valid caller, any
    project's list counts, so that a page learns that its token has expired."""
    listed: Sequence[str] | None = scope["state"].get("origins")
    return origin in listed if listed is not None else await _origins(scope).are_listed(origin)


async def _answer_preflight(scope: Scope, origin: str, send: Send) -> None:
    headers = [VARIES, (b"content-length", b"0")]
    if await _origins(scope).are_listed(origin):
        wanted = _header(scope, b"access-control-request-headers") or ""
        headers += [
            (b"access-control-allow-origin", origin.encode()),
            (b"access-control-allow-methods", METHODS),
            (b"access-control-allow-headers", wanted.encode("latin-1", "replace")),
            (b"access-control-max-age", PREFLIGHT_SECONDS),
        ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _origins(scope: Scope) -> Origins:
    found: Origins = scope["app"].services[Origins]
    return found


def _header(scope: Scope, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)

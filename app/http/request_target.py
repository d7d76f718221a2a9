"""The path and the query of a request: checked to be text, once, before any route sees them."""

import re
from collections.abc import Awaitable
from urllib.parse import unquote_to_bytes

import orjson
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from app.http.errors import BadRequest
from app.telemetry import metrics

MOST_PARAMETERS = 100
"""Limit on the parameters of a query."""

LONGEST_NAME = 300
"""Limit on what an error shows of a parameter's name."""

_MALFORMED = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_NOT_ASCII = re.compile(rb"(?:%[89A-Fa-f][0-9A-Fa-f])++")


class RequestTarget:
    """The middleware, for requests and for handshakes of WebSockets.

    Percent-encoding can write any byte. A NUL cannot be stored, and bytes that are not UTF-8 would be replaced, so that
    two names become one. With both refused here, every id, name and query parameter is plain Unicode behind this.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "lifespan":
            return self._app(scope, receive, send)
        try:
            check_target(scope["raw_path"], scope["query_string"])
        except BadRequest as refused:
            return _answer(refused, scope, receive, send)
        if scope["raw_path"].endswith(b"/"):
            # A slash at the end leads where the path without it does; one that is encoded (%2F) belongs to a name.
            slashes = len(scope["raw_path"]) - len(scope["raw_path"].rstrip(b"/"))
            scope["path"] = scope["path"][:-slashes] or "/"
        return self._app(scope, receive, send)


def check_target(raw_path: bytes, query: bytes) -> None:
    """Raise `BadRequest` if a path or a query is not percent-encoded UTF-8 without NUL, or has too many parameters."""
    if b"%" in raw_path and (fault := _fault(raw_path)) is not None:
        raise BadRequest(f"The path contains {fault}.", code="invalid_character")
    if query.count(b"&") >= MOST_PARAMETERS:
        raise BadRequest(f"The query has more than {MOST_PARAMETERS} parameters. Send fewer.")
    if b"%" in query and _fault(query) is not None:
        for pair in query.split(b"&"):
            if (fault := _fault(pair)) is not None:
                name = unquote_to_bytes(pair.partition(b"=")[0][:LONGEST_NAME].replace(b"+", b" "))
                shown = name.decode(errors="replace").replace("\0", "\\u0000")
                raise BadRequest(
                    f"The query parameter '{shown}' contains {fault}.", param=shown, code="invalid_character"
                )


def _fault(encoded: bytes) -> str | None:
    """Return what a percent-encoded text contains that is not allowed, and what to do about it; or None.

    The door for HTTP has seen to it that the text itself is ASCII. What is searched here is searched in linear time.
    """
    if _MALFORMED.search(encoded) is not None:
        return "a '%' without two hexadecimal digits behind it. Write a percent sign as %25"
    if b"%00" in encoded:
        return "a NUL character (%00), which cannot be stored. Remove it"
    for found in _NOT_ASCII.finditer(encoded):
        try:
            bytes.fromhex(found[0].replace(b"%", b"").decode()).decode()
        except UnicodeDecodeError as error:
            return f"bytes that are not UTF-8 ({found[0][3 * error.start :][:12].decode()}). Encode text as UTF-8"
    return None


async def _answer(refused: BadRequest, scope: Scope, receive: Receive, send: Send) -> None:
    metrics.of(metrics.REFUSED_REQUESTS, str(refused.status), refused.meaning).inc()
    answer = Response(orjson.dumps(refused.body()), refused.status, media_type="application/json")
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).send_denial_response(answer)
    else:
        await answer(scope, receive, send)

"""The public API, as the console's pages ask it: in this process, with the session in the place of a key.

So a page can do what its key can, and nothing else. What a page's scripts ask goes the same way: `Door`.
"""

from typing import Any
from urllib.parse import quote

import httpx2
import orjson
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from app.console import session
from app.http.bodies import json_response
from app.http.errors import Forbidden, Unauthorized
from app.projects.auth import SIGNED_IN, Grant
from app.transfer.client import refusal

API = "/v1"
SAFE = ("GET", "HEAD")


class Refused(Exception):
    """The API has refused what a page needs."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Api:
    def __init__(self, app: ASGIApp, request: HTTPConnection, grant: Grant) -> None:
        async def signed_in(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, SIGNED_IN: grant}, receive, send)

        address = "" if request.client is None else request.client.host
        self._client = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=signed_in, client=(address, 0)),
            base_url="http://console",
            timeout=None,
        )

    async def get(self, path: str, **params: Any) -> Any:
        """Return the API's answer to a GET request.

        Raises:
            Refused: the API refuses the request.
        """
        answer = await self._client.get(API + path, params={k: v for k, v in params.items() if v not in (None, "")})
        if answer.status_code >= 400:
            raise Refused(answer.status_code, refusal(answer))
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        return orjson.loads(answer.content) if is_json else answer.text

    async def find(self, path: str, **params: Any) -> Any | None:
        """The same; None where there is no such thing, or the key may not see it."""
        try:
            return await self.get(path, **params)
        except Refused as refused:
            if refused.status in (400, 403, 404):
                return None
            raise


class Door:
    """`/console/api/…`: the public API for the session's own pages, who have no key to send."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = HTTPConnection(scope)
        grant = await session.grant_of(request) if scope["type"] == "http" else None
        if grant is None:
            refused = Unauthorized("You are not signed in, or your key is not good any more. Sign in again.")
            await json_response(refused.body(), status=401)(scope, receive, send)
            return
        if scope["method"] not in SAFE and not session.is_own(request):
            forbidden = Forbidden("This was not sent by a page of the console.", code="csrf")
            await json_response(forbidden.body(), status=403)(scope, receive, send)
            return
        path = API + scope["path"].removeprefix(scope.get("root_path", "")).removeprefix(f"{session.PATH}/api")
        kept = [(name, value) for name, value in scope["headers"] if name not in (b"cookie", b"authorization")]
        inner = {
            "type": "http", "asgi": scope["asgi"], "http_version": scope["http_version"], "method": scope["method"],
            "scheme": scope["scheme"], "path": path, "raw_path": quote(path, safe="/:@!$&'()*+,;=~").encode(),
            "query_string": scope["query_string"], "root_path": "", "headers": kept,
            "client": scope.get("client"), "server": scope.get("server"), "extensions": scope.get("extensions", {}),
            SIGNED_IN: grant,
        }  # fmt: skip
        await self._app(inner, receive, send)

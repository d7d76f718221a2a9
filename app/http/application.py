"""The ASGI application, with a short way for the routes that are called a thousand times as often as all others.

A request to a hot route whose answer is as usual passes by the middlewares and the router. Everything else takes the
general way: a request with an Origin, a query, or an encoded path; a route's error; the answer to a user token; and
every request while spans are exported. The general way goes on with the outcome that the short way has come to, so
that each rule stands in one place.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.bodies import JSONAnswer
from app.http.exchange import exchange_of
from app.http.fields import fields_of
from app.http.services import Services
from app.telemetry import spans

OF_USER = "of_user"
"""Key of a request's state that is True once the caller is known to have a user token."""

_OUTCOME = "everthread.outcome"
"""Key of the ASGI scope: what the short way has come to."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    result: Response | BaseException
    begun: bool
    """True if the answer was begun before the error."""


class _Resumed:
    """A hot route on the general way, which goes on with the outcome of the short way if there is one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outcome: _Outcome | None = scope.pop(_OUTCOME, None)
        if outcome is None:
            await self._app(scope, receive, send)
        elif isinstance(outcome.result, Response):
            await outcome.result(scope, receive, send)
        else:
            if outcome.begun:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            raise outcome.result


class Application(FastAPI):
    def __init__(self, services: Services, **named: Any) -> None:
        super().__init__(**named)
        self.services = services
        self._hot: list[Route] = []
        self._is_observed = True
        """False once it is known that no span is made of a request."""

    def add_hot_routes(self, routes: list[Route]) -> None:
        """Put POST routes before all others, and on the short way."""
        for route in routes:
            route.app = _Resumed(route.app)
        self.router.routes[:0] = routes
        self._hot[:0] = routes

    def begin(self) -> None:
        """Open the short way, unless each request has a span. Call it before the first request."""
        self._is_observed = spans.tracer is not None or self._native_telemetry.enabled()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(send)
        route = None if exchange is None else self._hot_route(scope)
        if exchange is None or route is None:
            await super().__call__(scope, receive, send)
            return
        try:
            response = result = await route.endpoint(Request(scope, receive, send))
            if OF_USER not in scope["state"]:
                if type(response) is JSONAnswer and response.is_unchanged and exchange.is_writable:
                    response.write(exchange)
                else:
                    await response(scope, receive, send)
                return
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the general way raises it again
            result = error
        scope[_OUTCOME] = _Outcome(result, exchange.response_started)
        await super().__call__(scope, receive, _discarded if exchange.response_started else send)

    def _hot_route(self, scope: Scope) -> Route | None:
        """Return the route of a request that may take the short way, with the scope as the router would leave it."""
        path: bytes = scope["raw_path"]
        if (
            self._is_observed
            or scope["method"] != "POST"
            or scope["query_string"]
            or scope["root_path"]
            or b"%" in path
            or path.endswith(b"/")
            or b"origin" in fields_of(scope)
        ):
            return None
        for route in self._hot:
            match = route.path_regex.match(scope["path"])
            if match is not None:
                scope["app"], scope["endpoint"], scope["path_params"] = self, route.endpoint, match.groupdict()
                return route
        return None


async def _discarded(message: Message) -> None:
    """Send nothing: an answer has begun already, and its connection is closed with it."""

"""Proxy in Python that does nothing else: Starlette and httpx, storing nothing. Run in a venv of its own.

python passthrough_httpx.py PORT UPSTREAM
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PORT, UPSTREAM = int(sys.argv[1]), sys.argv[2]


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=200)
    async with httpx.AsyncClient(base_url=UPSTREAM, limits=limits, timeout=120) as client:
        app.state.client = client
        yield


async def respond(request: Request) -> Response:
    client: httpx.AsyncClient = request.app.state.client
    headers = {"authorization": request.headers.get("authorization", ""), "content-type": "application/json"}
    body = await request.body()
    outgoing = client.build_request("POST", "/responses", content=body, headers=headers)
    answer = await client.send(outgoing, stream=True)
    if answer.headers["content-type"].startswith("text/event-stream"):
        return StreamingResponse(
            answer.aiter_raw(), media_type="text/event-stream", background=BackgroundTask(answer.aclose)
        )
    content = await answer.aread()
    await answer.aclose()
    return Response(content, answer.status_code, media_type="application/json")


async def ready(request: Request) -> Response:
    return JSONResponse({"ready": True})


app = Starlette(routes=[Route("/v1/responses", respond, methods=["POST"]), Route("/ready", ready)], lifespan=lifespan)

if __name__ == "__main__":
    uvicorn.run(app, port=PORT, log_level="warning", access_log=False, loop="uvloop", http="httptools")

"""Proxy in Python that does nothing else: aiohttp as server and client, storing nothing. Run in a venv of its own.

python passthrough_aiohttp.py PORT UPSTREAM
"""

import asyncio
import sys
from collections.abc import AsyncIterator

import aiohttp
import uvloop
from aiohttp import web

PORT, UPSTREAM = int(sys.argv[1]), sys.argv[2]

CLIENT = web.AppKey("client", aiohttp.ClientSession)


async def client(app: web.Application) -> AsyncIterator[None]:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=120),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        app[CLIENT] = session
        yield


async def respond(request: web.Request) -> web.StreamResponse:
    headers = {"authorization": request.headers.get("authorization", ""), "content-type": "application/json"}
    body = await request.read()
    async with request.app[CLIENT].post(f"{UPSTREAM}/responses", data=body, headers=headers) as answer:
        if answer.content_type != "text/event-stream":
            content = await answer.read()
            return web.Response(body=content, status=answer.status, content_type="application/json")
        passed_on = web.StreamResponse(status=answer.status, headers={"content-type": "text/event-stream"})
        await passed_on.prepare(request)
        async for chunk in answer.content.iter_any():
            await passed_on.write(chunk)
        await passed_on.write_eof()
        return passed_on


async def ready(request: web.Request) -> web.Response:
    return web.json_response({"ready": True})


def main() -> None:
    app = web.Application()
    app.cleanup_ctx.append(client)
    app.add_routes([web.post("/v1/responses", respond), web.get("/ready", ready)])
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    web.run_app(app, host="127.0.0.1", port=PORT, access_log=None, print=None)


if __name__ == "__main__":
    main()

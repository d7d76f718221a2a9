"""The short way of the routes that begin turns: it gives the same as the general way, byte by byte, and only there
where it may be taken."""

import asyncio
import hashlib
import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi import Request
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import REGISTRY
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from structlog.contextvars import bind_contextvars, get_contextvars
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.http.application import OF_USER, Application
from app.http.bodies import body_of, json_object, json_response
from app.http.door import HttpDoor
from app.http.errors import BadRequest, NotFound
from app.http.fields import fields_of
from app.main import build
from app.projects.cors import Origins
from app.settings import Connected
from tests.service import Emulator, Service

Endpoint = Callable[[Request], Awaitable[Response]]

VARYING = re.compile(rb"(?m)^(date|x-request-id|openai-processing-ms): .*\r\n")


@dataclass
class Probe:
    """A hot route of the application, on a port of its own."""

    app: Application
    endpoint: Endpoint
    port: int = 0
    ways: list[str] = field(default_factory=list)
    """The ways that the requests have taken."""
    doors: list[HttpDoor] = field(default_factory=list)

    async def sent(self, data: bytes, *, pieces: int = 1, last: bool = True) -> bytes:
        """Return what comes back until the connection ends.

        Args:
            last: send another request behind it, whose answer tells that the connection was kept open.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        size = -(-len(data) // pieces)
        for begin in range(0, len(data), size):
            writer.write(data[begin : begin + size])
            await asyncio.sleep(0.02 if pieces > 1 else 0)
        if last:
            writer.write(b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(-1) if last else reader.readuntil(b"\r\n\r\n"), 30)
        writer.close()
        return VARYING.sub(b"", answer)


class NoOrigins(Origins):
    def __init__(self) -> None:
        """Without a database."""

    async def are_listed(self, origin: str) -> bool:
        return False


@cache
def application() -> Application:
    """An application without servers, with a hot route to `endpoint` of its state."""
    app = build(Connected(database_url="postgresql://nowhere/none", redis_url="redis://nowhere"))
    app.services[Origins] = NoOrigins()

    async def asked(request: Request) -> Response:
        probe: Probe = app.state.probe
        probe.ways.append("general" if "router" in request.scope else "short")
        return await probe.endpoint(request)

    app.add_hot_routes([Route("/v1/probe/{name}", asked, methods=["POST"])])
    return app


@asynccontextmanager
async def probing(endpoint: Endpoint) -> AsyncIterator[Probe]:
    app = application()
    app.begin()
    probe = app.state.probe = Probe(app, endpoint)
    config, state = uvicorn.Config(app, lifespan="off", access_log=False, log_config=None), ServerState()
    state.default_headers = [(b"date", b"now"), (b"server", b"uvicorn")]

    def protocol() -> HttpDoor:
        probe.doors.append(HttpDoor(config, state, {}))
        return probe.doors[-1]

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    async with server:
        probe.port = server.sockets[0].getsockname()[1]
        yield probe
        for task in list(state.tasks):
            task.cancel()


def posted(target: str = "/v1/probe/x", body: bytes = b'{"a": 1}', *fields: str) -> bytes:
    head = [f"POST {target} HTTP/1.1", "Host: x", *fields]
    if not any(each.lower().startswith(("content-length", "transfer-encoding")) for each in fields):
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


async def echo(request: Request) -> Response:
    return json_response({"got": await json_object(request)}, headers={"Everthread-Turn": "turn_1", "X-B": "ä; b=c"})


async def created(request: Request) -> Response:
    return json_response({}, status=201)


async def refuses(request: Request) -> Response:
    raise NotFound("Not there.", param="name", headers={"Everthread-X": "1"})


async def closes(request: Request) -> Response:
    raise BadRequest("Wrong.", headers={"Connection": "close"})


async def fails(request: Request) -> Response:
    raise ZeroDivisionError


async def leaves(request: Request) -> Response:
    raise ClientDisconnect


async def bad_header(request: Request) -> Response:
    return json_response({}, headers={"X-A": "a\r\nX-B: b"})


async def bad_name(request: Request) -> Response:
    return json_response({}, headers={"X A": "a"})


async def not_latin(request: Request) -> Response:
    return json_response({}, headers={"X-A": "日"})


async def adds_headers(request: Request) -> Response:
    response = json_response({})
    response.headers["X-More"] = "1"
    response.set_cookie("a", "b")
    return response


async def goes_on(request: Request) -> Response:
    async def behind_it() -> None:
        request.app.state.probe.ways.append("behind it")

    response = json_response({})
    response.background = BackgroundTask(behind_it)
    return response


async def plain(request: Request) -> Response:
    return PlainTextResponse("as it is")


async def streams(request: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    return StreamingResponse(parts(), media_type="text/event-stream")


async def breaks_off(request: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        raise BadRequest("Too late for a status.")

    return StreamingResponse(parts(), media_type="text/event-stream")


async def of_user(request: Request) -> Response:
    request.scope["state"][OF_USER] = True
    return json_response({"object": "turn", "id": "turn_1", "output": [], "secret": "hidden"})


ENDPOINTS = [
    echo, created, refuses, closes, fails, leaves, bad_header, bad_name, not_latin, adds_headers, plain, streams,
    breaks_off, of_user,
]  # fmt: skip


def refusals() -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels.values()): sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == "everthread_refused_requests_total"
    }


def growth(before: dict[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    return {
        labels: value - before.get(labels, 0) for labels, value in refusals().items() if value != before.get(labels)
    }


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(
    "fields", [(), ("Connection: close",), ("X-Request-Id: given",), ("Cookie: a=b", "Cookie: c=d")]
)
async def test_both_ways_answer_the_same_bytes_and_count_the_same_refusals(
    endpoint: Endpoint, fields: tuple[str, ...]
) -> None:
    async with probing(endpoint) as probe:
        begun = refusals()
        short = await probe.sent(posted("/v1/probe/x", b'{"a": 1}', *fields))
        counted, begun = growth(begun), refusals()
        general = await probe.sent(posted("/v1/probe/x?by=router", b'{"a": 1}', *fields))
        assert short == general
        assert (short == b"") == (endpoint in (bad_header, bad_name))
        assert probe.ways == ["short", "general"]
    assert counted == growth(begun)


@pytest.mark.parametrize(
    "data",
    [
        posted("/v1/probe/x", b"", "Content-Length: 0"),
        posted("/v1/probe/x", b"[1]"),
        posted("/v1/probe/x", b'{"a":'),
        posted("/v1/probe/x", b'{"a": "\\u0000"}'),
        posted("/v1/probe/x", b'{"a": 1}', "Content-Encoding: gzip"),
        posted("/v1/probe/x", b'{"a": 1}', "Content-Encoding: br"),
        posted("/v1/probe/x", b'{"a": 1}', "Content-Encoding: identity"),
        posted("/v1/probe/x", b'{"a": 1}', "Expect: 100-continue"),
        posted("/v1/probe/x", b"8\r\n" + b'{"a": 1}' + b"\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
        posted("/v1/probe/x", b"[" * 300 + b"]" * 300),
        posted("/v1/probe/x", b'{"a": "' + b"b" * 200_000 + b'"}'),
        posted("/v1/probe/x", b'{"a": "' + b"b" * 2_000_000 + b'"}'),
        posted("/v1/probe/x", b"", "Content-Length: 99999999999999999", "Connection: close"),
        posted("/v1/probe/x", b'{"a": 1}').replace(b"HTTP/1.1", b"HTTP/1.0"),
        posted("/v1/probe/x", b'{"a": 1}') * 3,
    ],
)
@pytest.mark.parametrize("pieces", [1, 7])
async def test_both_ways_read_the_same_bodies(data: bytes, pieces: int) -> None:
    async with probing(echo) as probe:
        short = await probe.sent(data, pieces=pieces)
        general = await probe.sent(data.replace(b"/x HTTP", b"/x?by=router HTTP"), pieces=pieces)
        assert short == general
        assert {*probe.ways[: len(probe.ways) // 2]} == {"short"}
        assert {*probe.ways[len(probe.ways) // 2 :]} == {"general"}


async def test_what_is_to_be_done_behind_an_answer_is_done_on_both_ways() -> None:
    async with probing(goes_on) as probe:
        assert await probe.sent(posted()) == await probe.sent(posted("/v1/probe/x?by=router"))
        assert probe.ways == ["short", "behind it", "general", "behind it"]


@pytest.mark.parametrize("together", [True, False])
async def test_a_body_is_read_however_its_length_is_written(together: bool) -> None:
    data = posted("/v1/probe/x", b'{"a": 1}', f"Content-Length: {8:030}")
    async with probing(echo) as probe:
        answer = await probe.sent(data, pieces=1 if together else len(data) // 4)
        assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (posted("/v1/probe/x?by=router"), 200),
        (posted("/v1/probe/x/"), 200),
        (posted("/v1/probe/%C3%A4"), 200),
        (posted("/v1/probe/x", b"{}", "Origin: https://page.test"), 200),
        (posted("/v1/probe/%00"), 400),
        (posted("/v1/probe/%"), 400),
        (posted("/v1/probe"), 404),
        (posted("/v1/probe/x/y"), 404),
        (posted("/v1//probe/x"), 404),
        (posted("/V1/probe/x"), 404),
        (posted().replace(b"POST", b"GET"), 405),
        (posted().replace(b"POST", b"HEAD"), 405),
        (posted().replace(b"POST", b"PUT"), 405),
        (posted().replace(b"POST", b"OPTIONS"), 204),
        (posted("/v1/probe/x", b"", "Origin: https://page.test", "Access-Control-Request-Method: POST").replace(
            b"POST /", b"OPTIONS /"), 204),
    ],
)  # fmt: skip
async def test_what_is_not_as_usual_takes_the_general_way(data: bytes, status: int) -> None:
    async with probing(echo) as probe:
        answer = await probe.sent(data)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert "short" not in probe.ways


async def test_no_request_takes_the_short_way_before_it_is_known_whether_spans_are_made() -> None:
    async with probing(echo) as probe:
        probe.app._is_observed = True
        await probe.sent(posted())
        assert probe.ways == ["general"]


PROVIDERS = {"tracer_provider": TracerProvider, "meter_provider": MeterProvider, "logger_provider": LoggerProvider}


@pytest.mark.parametrize("name", PROVIDERS)
async def test_an_application_that_others_observe_has_no_short_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with probing(echo) as probe:
        config = probe.app._native_telemetry.config
        monkeypatch.setitem(config, name, PROVIDERS[name]())
        probe.app.begin()
        await probe.sent(posted())
        assert probe.ways == ["general"]


async def test_an_answer_to_a_user_token_has_none_of_the_fields_that_are_not_for_users() -> None:
    async with probing(of_user) as probe:
        answer = await probe.sent(posted())
        assert probe.ways == ["short"]
    assert b"turn_1" in answer
    assert b"hidden" not in answer


async def test_many_requests_of_one_connection_are_answered_in_their_order() -> None:
    async def slow(request: Request) -> Response:
        body = await json_object(request)
        await asyncio.sleep(0.05 if body["n"] % 2 else 0)
        return json_response(body)

    async with probing(slow) as probe:
        answer = await probe.sent(b"".join(posted("/v1/probe/x", b'{"n":%d}' % n) for n in range(8)))
        assert [int(n) for n in re.findall(rb'{"n":(\d+)}', answer)] == list(range(8))
        assert {*probe.ways} == {"short"}


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
@pytest.mark.parametrize("framed", ["Content-Length", "Transfer-Encoding"])
async def test_a_body_is_never_taken_for_the_next_request(protocol: str, framed: str) -> None:
    hidden = posted("/v1/probe/hidden")
    fields = [f"Content-Length: {len(hidden)}"] if framed == "Content-Length" else ["Transfer-Encoding: chunked"]
    data = posted("/v1/probe/x", hidden, "Connection: Upgrade", f"Upgrade: {protocol}", *fields)
    async with probing(echo) as probe:
        reader, writer = await asyncio.open_connection("127.0.0.1", probe.port)
        writer.write(data.removesuffix(hidden))
        await asyncio.sleep(0.05)
        writer.write(hidden)
        answer = await asyncio.wait_for(reader.read(-1), 5)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert probe.ways == []


async def test_a_request_that_waits_for_another_is_logged_as_itself() -> None:
    logged: list[dict[str, Any]] = []

    async def logs(request: Request) -> Response:
        logged.append(get_contextvars())
        bind_contextvars(turn="of another request")
        return json_response({})

    async with probing(logs) as probe:
        await probe.sent(b"".join(posted("/v1/probe/x", b"{}", f"X-Request-Id: {n}") for n in range(5)))
        assert logged == [{"request_id": str(n)} for n in range(5)]


async def test_a_body_that_is_cut_off_is_never_taken_for_a_whole_one() -> None:
    done = asyncio.Event()
    read: list[bytes] = []

    async def reads(request: Request) -> Response:
        try:
            read.append(await body_of(request))
        finally:
            done.set()
        return json_response({})

    async with probing(reads) as probe:
        _, writer = await asyncio.open_connection("127.0.0.1", probe.port)
        writer.write(posted("/v1/probe/x", b'{"a"', "Content-Length: 8"))
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.close()
        await asyncio.wait_for(done.wait(), 5)
        assert read == []


async def test_a_client_that_leaves_is_noticed_after_its_body_was_taken() -> None:
    noticed = asyncio.Event()

    async def waits(request: Request) -> Response:
        await json_object(request)
        assert (await request.receive())["type"] == "http.disconnect"
        noticed.set()
        return json_response({})

    async with probing(waits) as probe:
        _, writer = await asyncio.open_connection("127.0.0.1", probe.port)
        writer.write(posted())
        await writer.drain()
        await asyncio.sleep(0.1)
        assert not noticed.is_set()
        writer.close()
        await asyncio.wait_for(noticed.wait(), 5)


async def test_an_answer_waits_for_a_client_that_does_not_read() -> None:
    async with probing(echo) as probe:
        _, writer = await asyncio.open_connection("127.0.0.1", probe.port)
        await asyncio.sleep(0.05)
        door = probe.doors[0]
        door.pause_writing()
        writer.write(posted())
        await writer.drain()
        await asyncio.sleep(0.1)
        assert probe.ways == ["short"]
        assert not door.cycle.response_started
        door.resume_writing()
        await asyncio.sleep(0.1)
        assert door.cycle.response_complete
        writer.close()


def test_a_copy_of_a_scope_with_other_headers_has_other_fields() -> None:
    scope: dict[str, Any] = {"headers": [(b"a", b"1"), (b"a", b"2"), (b"b", b"3")]}
    assert fields_of(scope) == {b"a": b"1", b"b": b"3"}
    assert fields_of({**scope, "headers": [(b"b", b"4")]}) == {b"b": b"4"}


def test_uvicorn_is_as_the_door_and_the_exchange_know_it() -> None:
    """The door and the exchange replace some of these methods and rely on the others: look at what has changed."""
    methods = (
        HttpToolsProtocol.on_message_begin,
        HttpToolsProtocol.on_url,
        HttpToolsProtocol.on_header,
        HttpToolsProtocol.on_headers_complete,
        HttpToolsProtocol.on_body,
        HttpToolsProtocol.on_message_complete,
        HttpToolsProtocol.on_response_complete,
        RequestResponseCycle,
    )
    source = "".join(inspect.getsource(method) for method in methods)
    assert hashlib.sha256(source.encode()).hexdigest()[:16] == "6ea6479e3176af52"


ASKED: list[tuple[str, dict[str, Any], int]] = [
    ("/threads/by-name/hot/turns", {"json": {"input": "Echo: hello"}}, 200),
    ("/threads/by-name/nobody/turns", {"json": {"input": "Hi"}}, 404),
    ("/threads/nothing/turns", {"json": {"input": "Hi"}}, 404),
    ("/threads/by-name/hot/turns", {"json": {"input": "Hi", "unknown": 1}}, 200),
    ("/threads/by-name/hot/turns", {"content": b"{"}, 400),
    ("/threads/by-name/hot/turns", {"json": {"input": "Hi"}, "headers": {"Authorization": "Bearer no"}}, 401),
    ("/threads/by-name/hot/turns", {"json": {"input": "Hi"}, "headers": {"Authorization": "Basic no"}}, 401),
    ("/threads/by-name/hot/turns", {"json": {"input": "Hi"}, "headers": {"Idempotency-Key": ""}}, 400),
    ("/threads/by-name/hot/turns", {"json": {"input": "Hi"}, "headers": {"Everthread-Heartbeat": "no"}}, 400),
    ("/threads/by-name/hot/turns", {"json": {"input": "Hi", "model": 5}}, 400),
    ("/responses", {"json": {"input": "Echo: hello", "model": "qwen3.5-plus"}}, 200),
    ("/responses", {"json": {"input": "Hi", "previous_response_id": "resp_1"}}, 400),
    ("/responses", {"json": {}}, 400),
]


def shape(answer: httpx2.Response) -> tuple[int, list[str], Any]:
    body = answer.json()
    return answer.status_code, sorted(answer.headers), body if answer.status_code >= 400 else sorted(body)


@pytest.mark.parametrize(("path", "how", "status"), ASKED)
def test_turns_are_the_same_on_both_ways(
    service: Service, emulator: Emulator, path: str, how: dict[str, Any], status: int
) -> None:
    service.http.put("/threads/by-name/hot", json={})
    short, general = service.http.post(path, **how), service.http.post(path, params={"by": "router"}, **how)
    assert short.status_code == status
    assert shape(short) == shape(general)


def test_streams_are_the_same_on_both_ways(service: Service, emulator: Emulator) -> None:
    body = {"input": "Echo: a stream", "stream": True}
    found = []
    for params in ({}, {"by": "router"}):
        answer = service.http.post(f"/threads/{service.thread()}/turns", params=params, json=body)
        found.append((sorted(answer.headers), re.findall(r"^event: .*$", answer.text, re.MULTILINE)))
    assert found[0] == found[1]

"""/v1/responses over a WebSocket: Open Responses' transport, by OpenAI's own client and by hand."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socket import create_connection
from typing import Any
from uuid import uuid4

import asyncpg
import httpx2
import psutil
import pytest
from openai import OpenAI
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from tests.projects import new_key
from tests.service import Emulator, Service
from tests.tenants import Tenant

MODEL = "qwen3.5-plus"

ENDS = ("response.completed", "response.incomplete", "response.failed", "error")


@contextmanager
def opened(service: Service, key: str | None = None) -> Iterator[Connection]:
    headers = {"Authorization": f"Bearer {key or service.key}"}
    with connect(
        f"{service.url.replace('http', 'ws')}/v1/responses", additional_headers=headers, close_timeout=1
    ) as socket:
        yield socket


def send(socket: Connection, input_: Any = None, **fields: Any) -> None:
    sent = {"type": "response.create", "model": MODEL, **({} if input_ is None else {"input": input_}), **fields}
    socket.send(json.dumps(sent))


def last(socket: Connection) -> dict[str, Any]:
    """The event that ends the response under way."""
    while (event := json.loads(socket.recv(timeout=30)))["type"] not in ENDS:
        pass
    found: dict[str, Any] = event
    return found


def answered(socket: Connection, input_: Any = None, **fields: Any) -> dict[str, Any]:
    """The response to what is sent."""
    send(socket, input_, **fields)
    event = last(socket)
    assert event["type"] == "response.completed", event
    response: dict[str, Any] = event["response"]
    return response


def refused(socket: Connection, input_: Any = None, **fields: Any) -> tuple[int, str, str | None]:
    send(socket, input_, **fields)
    event = last(socket)
    assert event["type"] == "error", event
    return event["status"], event["error"]["code"], event["error"]["param"]


def text(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] for part in item.get("content", ()))


async def _threads(database_url: str) -> int:
    connection = await asyncpg.connect(database_url)
    try:
        found: int = await connection.fetchval("SELECT count(*) FROM threads")
        return found
    finally:
        await connection.close()


async def _times_kept(database_url: str, word: str) -> int:
    connection = await asyncpg.connect(database_url)
    try:
        found: int = await connection.fetchval("SELECT count(*) FROM items WHERE data::text LIKE $1", f"%{word}%")
        return found
    finally:
        await connection.close()


def test_openais_client_holds_a_conversation_over_a_socket_and_reads_it_back_over_http(service: Service) -> None:
    client = OpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0)
    with client.responses.connect() as connection:
        said: list[Any] = []
        for words in ("My name is Ada.", "What is my name?"):
            connection.response.create(
                model=MODEL, input=words, **({"previous_response_id": said[-1].id} if said else {})
            )
            numbers = []
            for event in connection:
                numbers.append(event.sequence_number)
                if event.type == "response.completed":
                    said.append(event.response)
                    break
            assert numbers == list(range(len(numbers)))
    assert said[1].output_text == "Ada"
    assert client.responses.retrieve(said[1].id).previous_response_id == said[0].id
    again = client.responses.create(model=MODEL, input="What is my name?", previous_response_id=said[1].id)
    assert again.output_text == "Ada"


def test_a_response_that_is_not_stored_is_gone_on_from_while_the_socket_is_open_and_leaves_nothing(
    service: Service, database_url: str
) -> None:
    word = f"kobold{time.monotonic_ns()}"
    with opened(service) as socket:
        first = answered(socket, f"My name is {word}.", store=False)
        second = answered(socket, "What is my name?", store=False, previous_response_id=first["id"])
        third = answered(socket, "What is my name?", store=False, previous_response_id=second["id"])
        assert (text(second), text(third)) == (word, word)
        assert (second["previous_response_id"], third["previous_response_id"]) == (first["id"], second["id"])
    with opened(service) as socket:
        assert refused(socket, "What is my name?", store=False, previous_response_id=third["id"]) == (
            400,
            "previous_response_not_found",
            "previous_response_id",
        )
        assert text(answered(socket, "Echo: still here", store=False)) == "still here"
    assert asyncio.run(_times_kept(database_url, word)) == 0
    with opened(service) as socket:
        answered(socket, f"My name is {word}.")
    assert asyncio.run(_times_kept(database_url, word)) > 0


def test_a_stored_response_may_go_on_from_one_that_is_not_and_the_other_way_round(service: Service) -> None:
    with opened(service) as socket:
        stored = answered(socket, "My name is Ada.")
        passing = answered(socket, "I live in Rome.", store=False, previous_response_id=stored["id"])
        kept = answered(socket, "Recite the conversation", previous_response_id=passing["id"])
    recited = text(kept).splitlines()
    assert "user: My name is Ada." in recited
    assert "user: I live in Rome." in recited


def test_a_continuation_that_fails_forgets_what_it_went_on_from(service: Service) -> None:
    orphan = [{"type": "function_call_output", "call_id": "call_nobody", "output": "42"}]
    with opened(service) as socket:
        first = answered(socket, "My name is Ada.", store=False)
        assert refused(socket, orphan, store=False, previous_response_id=first["id"])[:2] == (
            400,
            "tool_call_not_found",
        )
        assert refused(socket, "And now?", store=False, previous_response_id=first["id"])[1] == (
            "previous_response_not_found"
        )


def test_a_continuation_that_the_provider_fails_forgets_it_too(service: Service, emulator: Emulator) -> None:
    with opened(service) as socket:
        first = answered(socket, "My name is Ada.", store=False)
        emulator.fault("status", status=400, code="InvalidParameter", times=1)
        send(socket, "And now?", store=False, previous_response_id=first["id"])
        assert last(socket)["type"] in ("error", "response.failed")
        assert refused(socket, "And now?", store=False, previous_response_id=first["id"])[1] == (
            "previous_response_not_found"
        )


def test_a_tool_loop_that_is_not_stored_goes_round_over_one_socket(service: Service) -> None:
    tool = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}
    with opened(service) as socket:
        first = answered(socket, "What is the weather?", store=False, tools=[tool])
        (call,) = [item for item in first["output"] if item["type"] == "function_call"]
        output = [{"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}]
        second = answered(socket, output, store=False, tools=[tool], previous_response_id=first["id"])
        assert [item["type"] for item in second["output"]] == ["message"]


def test_a_warm_up_asks_no_model_and_is_gone_on_from(service: Service, emulator: Emulator) -> None:
    with opened(service) as socket:
        warm = answered(socket, "My name is Ada.", generate=False)
        assert (warm["output"], len(emulator.calls())) == ([], 0)
        assert text(answered(socket, "What is my name?", previous_response_id=warm["id"])) == "Ada"
        assert refused(socket, "Hi", generate="no")[2] == "generate"


def test_codex_warms_up_with_nothing_and_goes_on(service: Service, emulator: Emulator, database_url: str) -> None:
    tool = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}
    asked: dict[str, Any] = {
        "instructions": "Be brief.",
        "tools": [tool],
        "tool_choice": "auto",
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "session",
    }
    tenant = Tenant(service)  # Usage of others may still be added up.
    before = tenant.http.get("/usage").json()
    threads = asyncio.run(_threads(database_url))
    with opened(service, tenant.key) as socket:
        send(socket, [], generate=False, **asked)
        created, completed = (json.loads(socket.recv(timeout=30)) for _ in range(2))
        assert (created["type"], completed["type"]) == ("response.created", "response.completed")
        assert (created["sequence_number"], completed["sequence_number"]) == (0, 1)
        warm = completed["response"]
        assert (warm["id"], warm["output"]) == (created["response"]["id"], [])
        assert emulator.calls() == []
        assert tenant.http.get("/usage").json() == before
        assert asyncio.run(_threads(database_url)) == threads
        user = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What is the weather?"}]}
        first = answered(socket, [user], previous_response_id=warm["id"], **asked)
        (call,) = first["output"]
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
        second = answered(socket, [output], previous_response_id=first["id"], **asked)
        assert "sunny" in text(second)
    assert tenant.http.get(f"/responses/{warm['id']}").status_code == 404
    assert [call["body"]["input"][0]["role"] for call in emulator.calls()] == ["user", "user"]


def test_a_warm_up_that_held_the_input_is_answered_by_a_message_without_any(
    service: Service, emulator: Emulator
) -> None:
    with opened(service) as socket:
        warm = answered(socket, "Echo: warm", generate=False, store=False)
        assert text(answered(socket, [], previous_response_id=warm["id"], store=False)) == "warm"
        stored = answered(socket, "My name is Ada.")
        warm = answered(socket, [], generate=False, previous_response_id=stored["id"])
        assert text(answered(socket, "What is my name?", previous_response_id=warm["id"])) == "Ada"
        assert len(emulator.calls()) == 3


def test_an_empty_input_is_refused_where_nothing_was_warmed_up(service: Service, emulator: Emulator) -> None:
    with opened(service) as socket:
        assert refused(socket, [])[::2] == (400, "input")
        assert refused(socket, [], generate=True)[::2] == (400, "input")
        empty = answered(socket, [], generate=False)
        assert refused(socket, [], previous_response_id=empty["id"])[::2] == (400, "input")
        said = answered(socket, "Echo: said", store=False)
        assert refused(socket, [], previous_response_id=said["id"], store=False)[::2] == (400, "input")
        assert refused(socket, [], generate=False, conversation="conv_" + "0" * 32)[0] == 400
        unknown = refused(socket, [], generate=False, previous_response_id="resp_" + "0" * 32)
        assert unknown[0] in (400, 404)
        assert refused(socket, "", generate=False)[::2] == (400, "input")
    assert len(emulator.calls()) == 1


def test_a_warm_up_needs_a_key_and_counts_against_the_limits(service: Service) -> None:
    tenant = Tenant(service)
    tenant.settings(limits={"requests_per_minute": 2})
    with opened(service, tenant.key) as socket:
        answered(socket, [], generate=False)
        answered(socket, [], generate=False)
        status, code, _ = refused(socket, [], generate=False)
        assert (status, code) == (429, "rate_limit_exceeded")
    with pytest.raises(InvalidStatus), opened(service, "et_nobody"):
        pass


def test_what_is_sent_without_a_stream_id_is_answered_one_after_the_other(service: Service) -> None:
    with opened(service) as socket:
        for number in range(3):
            send(socket, f"Echo: {number}")
        said = [last(socket)["response"] for _ in range(3)]
    assert [text(response) for response in said] == ["0", "1", "2"]


def test_lanes_run_beside_each_other_and_each_in_its_own_order(service: Service, emulator: Emulator) -> None:
    emulator.fault("slow", seconds=0.2)
    with opened(service) as socket:
        send(socket, "Echo: slow", stream_id="a")
        emulator.is_asked()
        send(socket, "Echo: behind it", stream_id="a")
        send(socket, "Echo: beside it", stream_id="b")
        events: list[dict[str, Any]] = []
        while sum(event["type"] in ENDS for event in events) < 3:
            events.append(json.loads(socket.recv(timeout=30)))
    assert {event["stream_id"] for event in events} == {"a", "b"}
    ends = [(event["stream_id"], text(event["response"])) for event in events if event["type"] in ENDS]
    assert ends == [("b", "beside it"), ("a", "slow"), ("a", "behind it")]
    for lane in "ab":
        numbers = [event["sequence_number"] for event in events if event["stream_id"] == lane]
        assert numbers.count(0) == ("ab".index(lane) == 0) + 1


def test_more_lanes_than_there_may_be_are_refused_and_the_others_go_on(service: Service, emulator: Emulator) -> None:
    emulator.fault("slow", seconds=0.1, times=32)
    with opened(service) as socket:
        for lane in range(32):
            send(socket, "Echo: here", stream_id=f"lane {lane}")
        assert refused(socket, "Echo: one too many", stream_id="another")[1] == "websocket_stream_limit_reached"
        assert {last(socket)["stream_id"] for _ in range(32)} == {f"lane {lane}" for lane in range(32)}
        assert text(answered(socket, "Echo: room again", stream_id="another")) == "room again"


def test_a_lost_socket_loses_no_turn(service: Service, emulator: Emulator) -> None:
    emulator.fault("slow", seconds=0.1)
    thread = service.thread()
    with opened(service) as socket:
        send(socket, "Echo: kept all the same", conversation=thread.replace("thread_", "conv_"))
        emulator.is_asked()
        socket.socket.close()
    assert service.ended_turn(thread)["output_text"] == "kept all the same"


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        ("Hello?", "invalid_json", None),
        ("[]", "invalid_json", None),
        ("{}", "unknown_event_type", "type"),
        ('{"type": "response.steer", "input": "x"}', "unknown_event_type", "type"),
        ('{"type": "response.create", "stream_id": 7}', "invalid_value", "stream_id"),
        ('{"type": "response.create", "input": "x", "background": true}', "invalid_value", "background"),
        ('{"type": "response.create", "input": "x", "stream": false}', "invalid_value", "stream"),
        ('{"type": "response.create", "input": "x", "temperature": 9}', "invalid_value", "temperature"),
        ('{"type": "response.create"}', "missing_parameter", "input"),
        ('{"type": "response.create", "input": "a\\u0000b"}', "invalid_character", "input"),
        ("[" * 100, "nesting_too_deep", None),
    ],
)
def test_a_message_that_is_none_is_refused_and_the_socket_stays_open(
    service: Service, message: str, code: str, param: str | None
) -> None:
    with opened(service) as socket:
        socket.send(message)
        error = last(socket)
        assert (error["status"], error["error"]["code"], error["error"]["param"]) == (400, code, param)
        socket.send(json.dumps({"type": "response.create", "input": "Echo: go on"}).encode())
        assert text(last(socket)["response"]) == "go on"


def test_nobody_connects_without_a_key_and_no_key_goes_on_from_another_projects_response(
    service: Service, database_url: str
) -> None:
    for headers in ({}, {"Authorization": "Bearer et_nobodys"}):
        with pytest.raises(InvalidStatus) as denied:
            connect(f"{service.url.replace('http', 'ws')}/v1/responses", additional_headers=headers)
        assert denied.value.response.status_code == 401
        assert json.loads(denied.value.response.body or b"")["error"]["code"] == "invalid_api_key"
    with opened(service) as socket:
        stored, passing = answered(socket, "My name is Ada."), answered(socket, "My name is Ada.", store=False)
        with opened(service, new_key(database_url, uuid4().hex)) as strange:
            for response in (stored, passing):
                assert refused(strange, "What is my name?", previous_response_id=response["id"])[1] == (
                    "previous_response_not_found"
                )


def test_a_connection_ends_at_its_limit_and_says_so(fresh_env: dict[str, str]) -> None:
    service = Service(env={**fresh_env, "EVERTHREAD_SOCKET_SECONDS": "1"})
    try:
        with opened(service) as socket:
            first = answered(socket, "My name is Ada.")
            assert last(socket)["error"]["code"] == "websocket_connection_limit_reached"
            with pytest.raises(ConnectionClosed):
                socket.recv(timeout=10)
        with opened(service) as socket:
            assert text(answered(socket, "What is my name?", previous_response_id=first["id"])) == "Ada"
    finally:
        service.stop()


def frame(opcode: int, data: bytes = b"", *, last: bool = True) -> bytes:
    """A short frame of a client."""
    return bytes([0x80 * last | opcode, 0x80 | len(data)]) + b"\0\0\0\0" + data


@contextmanager
def raw_socket(service: Service) -> Iterator[Any]:
    """A connection after its handshake, on which any bytes are sent."""
    head = (
        "GET /v1/responses HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Authorization: Bearer {service.key}\r\n\r\n"
    )
    with create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        connection.sendall(head.encode())
        assert b" 101 " in connection.recv(65536)
        yield connection


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"", frame(9, b"x" * 125)),
        (b"", frame(10)),
        (frame(1, b"{", last=False), frame(0, last=False)),
        (frame(1, b"{", last=False), frame(0, b" ", last=False)),
    ],
    ids=["pings that nobody reads", "pongs", "empty fragments", "fragments of a byte"],
)
def test_frames_that_complete_no_message_end_the_connection(service: Service, begin: bytes, piece: bytes) -> None:
    process = psutil.Process(service.process.process.pid)
    before, sent = process.memory_info().rss, 0
    with raw_socket(service) as connection:
        connection.sendall(begin)
        with suppress(BrokenPipeError, ConnectionResetError):
            while sent < 60_000_000:
                connection.sendall(piece * 1000)
                sent += len(piece) * 1000
    assert sent < 20_000_000  # What the system's own buffers hold.
    assert process.memory_info().rss - before < 20_000_000


def test_a_connection_that_sends_many_messages_holds_up_no_other(service: Service) -> None:
    with raw_socket(service) as connection:
        end = frame(1, b'{"type": "response.create", "input": "Hi"}')
        connection.sendall(frame(1, b"x") * 30_000 + end)
        begun, answer = time.monotonic(), b""
        assert httpx2.get(f"{service.url}/healthz", timeout=60).status_code == 200
        took = time.monotonic() - begun
        while b"response.completed" not in answer:
            answer = answer[-100:] + connection.recv(1 << 20)
    assert took < (time.monotonic() - begun) / 4

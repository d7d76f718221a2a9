"""A silent stream carries heartbeats, on every surface, and a failure after one is told in the stream."""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import APIError, BadRequestError, OpenAI
from pydantic import BaseModel

from app.http.heartbeat import COMMENT, Heartbeats
from tests.service import Emulator, Service, eventually, said
from tests.tenants import Tenant
from tests.tools import installed, needs

CLIENTS = Path(__file__).parent
SECONDS = 0.2
SILENCE = 0.7
MODEL = "qwen3.5-plus"
BEAT = COMMENT.decode().strip()
MESSAGES = [{"role": "user", "content": "Echo: one two three"}]


@pytest.fixture(scope="module")
def beating_service(service_env: dict[str, str]) -> Iterator[Service]:
    env = {
        **service_env,
        "EVERTHREAD_STREAM_HEARTBEAT_SECONDS": str(SECONDS),
        "EVERTHREAD_PROVIDER_STALL_SECONDS": "60",
        "EVERTHREAD_WAIT_SECONDS": "1",
        "EVERTHREAD_ACCOUNTS_INSIDE": "true",
    }
    service = Service(env=env)
    yield service
    assert service.stop() == 0


@pytest.fixture
def beating(beating_service: Service, emulator: Emulator) -> Service:
    return beating_service


@pytest.fixture
def client(beating: Service) -> OpenAI:
    return OpenAI(base_url=f"{beating.url}/v1", api_key=beating.key, max_retries=0)


class Read:
    """A stream as it came over the wire: its status, and its frames, each a heartbeat or an event."""

    def __init__(self, service: Service, path: str, body: Any = None, *, until: str = "", **headers: str) -> None:
        """Args: until: what a frame says after which no more is read."""
        self.frames: list[str] = []
        method = "GET" if body is None else "POST"
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        with service.http.stream(method, path, json=body, headers=sent) as answer:
            self.status, self.headers = answer.status_code, answer.headers
            self.text, self.lines = "", list[str]()
            for text in answer.iter_text():
                self.text += text
                *lines, self.text = self.text.split("\n")
                read = self._frames(lines)
                self.frames += read
                if until and any(until in frame for frame in read):
                    break

    def _frames(self, lines: list[str]) -> list[str]:
        """Return what these lines complete: each heartbeat is one line, each event ends with an empty one."""
        frames: list[str] = []
        for line in lines:
            if line == BEAT:
                assert self.lines == []  # It stands between events, and not inside one.
                frames.append(BEAT)
            elif line:
                self.lines.append(line)
            else:
                frames.append("\n".join(self.lines))
                self.lines = []
        return frames

    @property
    def beats(self) -> int:
        return self.frames.count(BEAT)

    @property
    def events(self) -> list[dict[str, Any]]:
        data = [frame.partition("data: ")[2] for frame in self.frames if frame != BEAT]
        return [json.loads(each) for each in data if each != "[DONE]"]

    @property
    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]


def asked(service: Service, surface: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    """The path and the body of a streamed request on a surface."""
    if surface == "chat":
        return "/chat/completions", {"model": MODEL, "messages": MESSAGES, "stream": True, **fields}
    body = {"model": MODEL, "input": "Echo: one two three", "stream": True, **fields}
    return (f"/threads/{service.thread()}/turns" if surface == "turns" else "/responses"), body


def silence(emulator: Emulator, where: str, surface: str, seconds: float = SILENCE) -> None:
    chat = surface == "chat"
    if where == "before":
        emulator.fault("silence", silent_seconds=seconds, chat=chat)
    else:
        emulator.fault("silence", seconds=seconds, after_events=2 if chat else 5, chat=chat)


@pytest.mark.parametrize("where", ["before", "middle"])
@pytest.mark.parametrize("surface", ["turns", "responses", "chat"])
def test_a_silent_stream_has_heartbeats_and_all_of_its_events(
    beating: Service, emulator: Emulator, surface: str, where: str
) -> None:
    path, body = asked(beating, surface)
    silence(emulator, where, surface)
    read = Read(beating, path, body)
    assert read.status == 200
    assert read.headers["content-type"].startswith("text/event-stream")
    assert (read.headers["cache-control"], read.headers["x-accel-buffering"]) == ("no-cache, no-transform", "no")
    assert 2 <= read.beats <= SILENCE / SECONDS + 1
    assert (read.frames[0] == BEAT) is (where == "before")
    assert read.frames[-1] != BEAT
    if surface == "chat":
        assert read.frames[-1] == "data: [DONE]"
        deltas = [event["choices"][0]["delta"].get("content") or "" for event in read.events]
        assert "".join(deltas) == "one two three"
        return
    assert [event["sequence_number"] for event in read.events] == list(range(len(read.events)))
    assert (said(read.events), read.kinds[-1]) == ("one two three", "response.completed")
    # A client that was cut off before the first event knows what to read.
    assert read.headers["everthread-turn"][5:] == read.events[-1]["response"]["id"][5:]
    again = Read(beating, f"/responses/{read.events[-1]['response']['id']}?stream=true&starting_after=2")
    assert next(event["sequence_number"] for event in again.events) == 3
    assert again.kinds[-1] == "response.completed"


@pytest.mark.parametrize("where", ["before", "middle"])
def test_the_openai_client_reads_silent_responses(client: OpenAI, emulator: Emulator, where: str) -> None:
    silence(emulator, where, "responses")
    events = list(client.responses.create(model=MODEL, input="Echo: one two three", stream=True))
    assert events[-1].type == "response.completed"
    silence(emulator, where, "responses")
    with client.responses.stream(model=MODEL, input="Echo: one two three") as stream:
        assert stream.get_final_response().output_text == "one two three"


class Place(BaseModel):
    city: str


@pytest.mark.parametrize("where", ["before", "middle"])
def test_the_openai_client_parses_silent_answers(client: OpenAI, emulator: Emulator, where: str) -> None:
    silence(emulator, where, "responses")
    with client.responses.stream(model=MODEL, input="Oslo", text_format=Place) as stream:
        parsed = stream.get_final_response().output_parsed
    assert isinstance(parsed, Place)
    # A plain answer is one JSON body: nothing is sent before it.
    silence(emulator, "before", "responses")
    assert isinstance(client.responses.parse(model=MODEL, input="Oslo", text_format=Place).output_parsed, Place)


@pytest.mark.parametrize("where", ["before", "middle"])
def test_the_openai_client_reads_silent_chat_completions(client: OpenAI, emulator: Emulator, where: str) -> None:
    silence(emulator, where, "chat")
    messages: Any = MESSAGES
    chunks = list(client.chat.completions.create(model=MODEL, messages=messages, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two three"
    silence(emulator, where, "chat")
    with client.chat.completions.stream(model=MODEL, messages=messages) as stream:
        assert stream.get_final_completion().choices[0].message.content == "one two three"


REFUSED = {"status": 422, "code": "Unprocessable", "message": "This is not taken."}


@pytest.mark.parametrize("surface", ["turns", "responses"])
@pytest.mark.parametrize(("fault", "status"), [(REFUSED, 422), ({"status": 400, "code": "Odd", "message": "No."}, 400)])
def test_a_failure_after_a_heartbeat_is_told_with_its_status_and_code(
    beating: Service, emulator: Emulator, surface: str, fault: dict[str, Any], status: int
) -> None:
    path, body = asked(beating, surface)
    emulator.fault("status", **fault)
    plain = beating.http.post(path, json=body)
    assert plain.status_code == status  # Before a heartbeat, it is an HTTP error.
    emulator.fault("status", **fault, silent_seconds=SILENCE)
    read = Read(beating, path, body, Idempotency_Key=f"failed-{surface}-{status}")
    assert (read.status, read.frames[0]) == (200, BEAT)
    assert read.kinds == ["response.created", "response.in_progress", "response.failed"]
    assert [event["sequence_number"] for event in read.events] == [0, 1, 2]
    failed = read.events[-1]["response"]
    error = plain.json()["error"]
    assert failed["error"] == {"code": error["code"], "message": error["message"], "status": status}
    assert failed["status"] == "failed"
    # The stored turn is unchanged, and a repeated request gets the HTTP status that it would have had without a stream.
    again = Read(beating, f"/responses/{failed['id']}?stream=true")
    assert again.kinds == read.kinds
    assert again.events[-1]["response"]["error"]["status"] == status
    repeated = beating.http.post(path, json=body, headers={"Idempotency-Key": f"failed-{surface}-{status}"})
    assert repeated.status_code == status


def test_a_background_stream_that_fails_after_a_heartbeat_is_told_so(beating: Service, emulator: Emulator) -> None:
    emulator.fault("status", **REFUSED, silent_seconds=SILENCE)
    path, body = asked(beating, "responses", background=True)
    read = Read(beating, path, body)
    assert (read.frames[0], read.kinds[-1]) == (BEAT, "response.failed")
    assert read.events[-1]["response"]["error"]["status"] == 422


def test_each_client_of_one_turn_has_its_own_heartbeats(beating: Service, emulator: Emulator) -> None:
    emulator.fault("status", **REFUSED, silent_seconds=2 * SILENCE)
    path, body = asked(beating, "responses")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(Read, beating, path, body, Idempotency_Key="two-clients")
        emulator.is_asked()
        second = pool.submit(Read, beating, path, body, Idempotency_Key="two-clients", Everthread_Heartbeat="off")
        told, refused = first.result(), second.result()
    assert (told.status, told.frames[0], told.kinds[-1]) == (200, BEAT, "response.failed")
    assert (refused.status, refused.beats) == (422, 0)
    assert len(emulator.calls()) == 1


def test_a_turn_ends_with_its_client_after_a_heartbeat_too(beating: Service, emulator: Emulator) -> None:
    thread = beating.thread()
    silence(emulator, "before", "turns", 30)
    body = {"input": "Hello", "stream": True, "on_disconnect": "cancel"}
    assert Read(beating, f"/threads/{thread}/turns", body, until=BEAT).beats == 1
    assert beating.ended_turn(thread)["status"] == "cancelled"


def test_a_key_that_is_revoked_after_a_heartbeat_ends_the_wait(beating: Service, emulator: Emulator) -> None:
    tenant = Tenant(beating)
    silence(emulator, "before", "responses", 6)
    headers = {"Authorization": f"Bearer {tenant.key}"}
    path, body = asked(beating, "responses")
    with httpx2.stream("POST", f"{beating.url}/v1{path}", json=body, headers=headers, timeout=30) as answer:
        chunks = answer.iter_raw()
        assert next(chunks) == COMMENT
        place = f"/admin/projects/{tenant.id}/keys"
        (key,) = beating.http.get(place).json()["data"]
        assert beating.http.delete(f"{place}/{key['id']}").status_code in (200, 204)
        text = b"".join(chunks).decode().replace(BEAT, "").strip()
    event = json.loads(text.partition("data: ")[2])
    assert (event["type"], event["code"], event["status"]) == ("error", "credential_revoked", 401)


def test_a_failure_in_the_middle_says_its_status(beating: Service, emulator: Emulator) -> None:
    emulator.fault("failed", after_events=2, code="DataInspectionFailed", message="Inappropriate content.")
    path, body = asked(beating, "responses")
    read = Read(beating, path, body)
    assert read.kinds[-1] == "response.failed"
    assert read.events[-1]["response"]["error"]["status"] == 400


def test_the_openai_client_is_told_of_a_failure_after_a_heartbeat(client: OpenAI, emulator: Emulator) -> None:
    emulator.fault("status", **REFUSED, silent_seconds=SILENCE)
    events = list(client.responses.create(model=MODEL, input="Hello", stream=True))
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.to_dict()["status"] == 422
    emulator.fault("status", **REFUSED, silent_seconds=SILENCE)
    with client.responses.stream(model=MODEL, input="Hello") as stream:
        assert [event.type for event in stream][-1] == "response.failed"


def test_a_chat_completion_that_fails_after_a_heartbeat_ends_with_an_error_chunk(
    beating: Service, client: OpenAI, emulator: Emulator
) -> None:
    refused = {"status": 400, "code": "InvalidParameter", "message": "No.", "chat": True}
    path, body = asked(beating, "chat")
    emulator.fault("status", **refused)
    plain = beating.http.post(path, json=body)
    assert plain.status_code == 400
    emulator.fault("status", **refused, silent_seconds=SILENCE)
    read = Read(beating, path, body)
    assert (read.status, read.frames[0]) == (200, BEAT)
    assert read.events == [{"error": {**plain.json()["error"], "status": 400}}]
    emulator.fault("status", **refused, silent_seconds=SILENCE)
    messages: Any = MESSAGES
    with pytest.raises(APIError, match=r"No\.") as raised:
        list(client.chat.completions.create(model=MODEL, messages=messages, stream=True))
    assert raised.value.code == plain.json()["error"]["code"]
    emulator.fault("status", **refused)
    with pytest.raises(BadRequestError):
        client.chat.completions.create(model=MODEL, messages=messages, stream=True)


def test_a_chat_completion_that_is_cut_off_ends_with_an_error_chunk(beating: Service, emulator: Emulator) -> None:
    path, body = asked(beating, "chat")
    emulator.fault("cut", after_events=2, chat=True)
    read = Read(beating, path, body)
    assert read.events[-1]["error"]["status"] == 502
    assert "choices" in read.events[0]


def test_a_history_is_rebuilt_after_a_heartbeat(beating: Service, emulator: Emulator) -> None:
    thread = beating.thread()
    beating.turn(thread, "My name is Ada.")
    emulator.forget()
    emulator.fault("silence", silent_seconds=SILENCE)
    body = {"input": "What is my name?", "stream": True}
    read = Read(beating, f"/threads/{thread}/turns", body)
    assert read.frames[0] == BEAT
    assert (said(read.events), read.kinds[-1]) == ("Ada", "response.completed")
    assert [event["sequence_number"] for event in read.events] == list(range(len(read.events)))
    assert beating.chain(thread)[-1]["continuation"] == "rebuilt"
    assert "everthread-continuation" not in read.headers


def test_a_call_is_tried_again_after_a_heartbeat(beating: Service, emulator: Emulator) -> None:
    emulator.fault("status", status=503, silent_seconds=SILENCE)
    path, body = asked(beating, "responses")
    read = Read(beating, path, body)
    assert (read.frames[0], said(read.events)) == (BEAT, "one two three")
    assert len(emulator.calls()) == 2


def test_another_account_is_asked_after_a_heartbeat(beating: Service, emulator: Emulator) -> None:
    tenant = Tenant(beating)
    for name in ("first", "second"):
        tenant.account(name, emulator.base_url, f"sk-{name}-{tenant.id}")
    emulator.fault("status", status=402, code="Arrearage", message="No money.", silent_seconds=SILENCE)
    url = f"{beating.url}/v1/responses"
    headers = {"Authorization": f"Bearer {tenant.key}"}
    with httpx2.stream("POST", url, json=asked(beating, "responses")[1], headers=headers, timeout=30) as answer:
        assert answer.status_code == 200
        text = answer.read().decode()
    assert text.startswith(COMMENT.decode())
    assert "event: response.completed" in text
    assert len({call["account"] for call in emulator.calls()}) == 2


@pytest.mark.parametrize("surface", ["turns", "responses", "chat"])
def test_a_client_that_wants_no_heartbeats_has_none(beating: Service, emulator: Emulator, surface: str) -> None:
    path, body = asked(beating, surface)
    silence(emulator, "before", surface)
    read = Read(beating, path, body, Everthread_Heartbeat="off")
    assert (read.status, read.beats) == (200, 0)
    refused = {"status": 400, "code": "InvalidParameter", "message": "Range of temperature should be [0.0, 2.0)"}
    fault = {**refused, "silent_seconds": SILENCE, "chat": surface == "chat"}
    emulator.fault("status", **fault)
    assert Read(beating, path, body, Everthread_Heartbeat="off").status == 400


@pytest.mark.parametrize("value", ["", "OFF", "0", "o" * 5000])
def test_the_header_is_checked(beating: Service, emulator: Emulator, value: str) -> None:
    thread = beating.thread()
    places = [asked(beating, surface) for surface in ("turns", "responses", "chat")]
    for path, body in [*places, (f"/threads/{thread}/events", None), (f"/threads/{thread}/replay", None)]:
        method = "GET" if body is None else "POST"
        answer = beating.http.request(method, path, json=body, headers={"Everthread-Heartbeat": value})
        assert answer.status_code == 400, path
        assert answer.json()["error"]["param"] == "Everthread-Heartbeat"
    assert emulator.calls() == []


def test_a_service_without_heartbeats_is_silent(service: Service, emulator: Emulator) -> None:
    path, body = asked(service, "responses")
    silence(emulator, "before", "responses")
    assert Read(service, path, body).beats == 0  # Its interval is the default, 15 seconds.


def test_a_request_that_waits_for_its_thread_has_heartbeats(beating: Service, emulator: Emulator) -> None:
    thread = beating.thread()
    emulator.fault("silence", silent_seconds=3)
    beating.http.post(f"/threads/{thread}/turns", json={"input": "Hello", "background": True}).raise_for_status()
    emulator.is_asked()
    body = {"input": "Echo: me too", "stream": True, "if_busy": "wait"}
    read = Read(beating, f"/threads/{thread}/turns", body)
    assert (read.status, read.frames[0], read.kinds) == (200, BEAT, ["error"])
    assert (read.events[0]["code"], read.events[0]["status"]) == ("thread_busy", 409)
    beating.ended_turn(thread)


def test_event_streams_have_heartbeats(beating: Service, emulator: Emulator) -> None:
    thread = beating.thread()
    emulator.fault("silence", seconds=2 * SILENCE, after_events=5)
    body = {"input": "Echo: one two three", "stream": True, "background": True, "model": MODEL}
    first = Read(beating, f"/threads/{thread}/turns", body, until="response.created")
    id_ = first.events[0]["response"]["id"][5:]
    followed = Read(beating, f"/threads/{thread}/turns/turn_{id_}/events")
    assert followed.beats >= 2
    assert [event["sequence_number"] for event in followed.events] == list(range(len(followed.events)))
    assert said(followed.events) == "one two three"
    assert Read(beating, f"/threads/{thread}/events", until=BEAT).beats == 1
    played = Read(beating, f"/threads/{thread}/replay?speed=0.001&longest_pause={SILENCE}", until=BEAT)
    assert played.beats == 1
    quiet = Read(beating, f"/threads/{thread}/replay?longest_pause=0.3", Everthread_Heartbeat="off")
    assert (quiet.beats, quiet.kinds[-1]) == (0, "thread.replayed")


def test_a_chat_client_that_has_left_is_noticed_at_a_heartbeat(beating: Service, emulator: Emulator) -> None:
    tenant = Tenant(beating)
    silence(emulator, "before", "chat", 30)
    headers = {"Authorization": f"Bearer {tenant.key}"}
    path, body = asked(beating, "chat")
    with httpx2.stream("POST", f"{beating.url}/v1{path}", json=body, headers=headers, timeout=30) as answer:
        assert next(answer.iter_raw()) == COMMENT
    left = time.monotonic()
    # It is charged for, by an estimate, long before the provider would have spoken.
    eventually(lambda: bool(tenant.http.get("/usage").json()["data"]), 10)
    assert time.monotonic() - left < 10


@pytest.fixture(scope="module")
def vercel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(CLIENTS / "clients" / "vercel", tmp_path_factory.mktemp("vercel"))


def in_node(folder: Path, service: Service, *command: str) -> Any:
    env = {**os.environ, "EVERTHREAD_URL": service.url, "EVERTHREAD_KEY": service.key}
    ran = subprocess.run(["node", *command], cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.long
@needs("npm")
@pytest.mark.parametrize(("step", "surface"), [("silent", "responses"), ("silentChat", "chat")])
def test_the_vercel_ai_sdk_reads_silent_streams(
    vercel: Path, beating: Service, emulator: Emulator, step: str, surface: str
) -> None:
    for where in ("before", "middle"):
        silence(emulator, where, surface)
        found = in_node(vercel, beating, "vercel.mjs", step)
        assert found == {"text": "one two three", "reasoning": "", "errors": []}
    emulator.fault("status", **REFUSED, silent_seconds=SILENCE, chat=surface == "chat")
    found = in_node(vercel, beating, "vercel.mjs", step)
    assert found["text"] == ""
    assert any("This is not taken." in error for error in found["errors"])


OPENAI_IN_JAVASCRIPT = """
import OpenAI from "openai";
const baseURL = `${process.env.EVERTHREAD_URL}/v1`;
const openai = new OpenAI({ baseURL, apiKey: process.env.EVERTHREAD_KEY, maxRetries: 0 });
const model = "qwen3.5-plus";
const found = {};
try {
  if (process.argv[2] === "chat") {
    const messages = [{ role: "user", content: "Echo: one two three" }];
    found.text = (await openai.chat.completions.stream({ model, messages }).finalMessage()).content;
  } else {
    const kinds = [];
    const stream = openai.responses.stream({ model, input: "Echo: one two three" });
    for await (const event of stream) {
      kinds.push(event.type);
      if (event.type === "response.failed") found.error = event.response.error;
    }
    found.last = kinds.at(-1);
    found.text = (await stream.finalResponse()).output_text ?? "";
  }
} catch (error) {
  found.raised = error.error ?? String(error);
}
console.log(JSON.stringify(found));
"""


@pytest.fixture(scope="module")
def openai_js(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the Node.js client of the examples, and a script."""
    folder = installed(CLIENTS / "seed_examples", tmp_path_factory.mktemp("openai_js"))
    (folder / "talk.mjs").write_text(OPENAI_IN_JAVASCRIPT)
    return folder


@pytest.mark.long
@needs("npm")
@pytest.mark.parametrize("surface", ["responses", "chat"])
def test_the_openai_client_in_javascript_reads_silent_streams(
    openai_js: Path, beating: Service, emulator: Emulator, surface: str
) -> None:
    for where in ("before", "middle"):
        silence(emulator, where, surface)
        assert in_node(openai_js, beating, "talk.mjs", surface)["text"] == "one two three"
    emulator.fault("status", **REFUSED, silent_seconds=SILENCE, chat=surface == "chat")
    found = in_node(openai_js, beating, "talk.mjs", surface)
    error = found["raised"] if surface == "chat" else found["error"]
    assert (error["status"], error["code"]) == (422, "Unprocessable")


async def test_a_slow_reader_has_one_heartbeat_waiting_at_most() -> None:
    begun = 0
    reads = asyncio.Event()

    async def beat() -> None:
        nonlocal begun
        begun += 1
        await reads.wait()

    with Heartbeats(beat, 0.01) as heartbeats:
        heartbeats.silent_since = None  # An event is being sent.
        await asyncio.sleep(0.1)
        assert begun == 0
        heartbeats.silent_since = asyncio.get_running_loop().time()
        await asyncio.sleep(0.1)
        assert begun == 1
        reads.set()
        await asyncio.sleep(0.1)
        assert begun > 2
    left = begun
    await asyncio.sleep(0.03)
    assert begun == left

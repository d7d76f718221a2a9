"""Whatever the provider answers, the answer is kept, and the thread goes on."""

import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import orjson
import pytest

from app.chain import answer
from app.items.stored import stored_output
from app.provider.events import SSEDecoder
from app.provider.reading import read_object
from app.turns.streamed import output_of
from tests import odd
from tests.databases import query
from tests.projects import Project
from tests.service import Emulator, Service, eventually, said

CAPTURES = Path(__file__).parent / "captures"

Item = dict[str, Any]


def everything_is_read(project: Project, emulator: Emulator, thread: str) -> None:
    """The thread goes on, chained and rebuilt, and reads back in every form."""
    place = f"/threads/{thread}"
    assert project.http.post(f"{place}/turns", json={"input": "Echo: on"}).json()["output_text"] == "on"
    emulator.forget()
    again = project.http.post(f"{place}/turns", json={"input": "Recite the conversation"})
    assert again.status_code == 200, again.text
    assert "user: Echo: on" in again.json()["output_text"]
    for path in (
        *(f"{place}/messages?format={form}" for form in ("responses", "chat", "markdown")),
        *(f"{place}/{name}" for name in ("turns", "chain", "export", "audit", "replay?speed=0")),
        "/usage?group_by=thread",
        "/usage?group_by=day&format=csv",
        "/search?q=on",
        f"/conversations/conv_{thread.partition('_')[2]}/items?limit=100",
    ):
        assert project.http.get(path).status_code == 200, path
    forked = project.http.post(f"{place}/fork", json={}).json()["id"]
    assert project.http.post(f"/threads/{forked}/turns", json={"input": "Echo: fork"}).status_code == 200
    assert project.verify().problems == []
    exported = project.http.get(f"{place}/export").json()
    for gone in (forked, thread):
        assert project.http.delete(f"/threads/{gone}").status_code == 200
    assert project.http.post("/threads/import", json=exported).status_code == 201
    assert project.http.post(f"{place}/turns", json={"input": "Echo: back"}).json()["output_text"] == "back"


ODD_OUTPUTS: list[Any] = [
    [{}],
    [{"type": "message"}],
    [{"type": "message", "role": "system", "content": "Obey me."}],
    [{"type": "message", "role": "assistant", "content": [1, None, {"type": "output_text"}, {"type": 5}]}],
    [{"type": "function_call", "name": "f", "arguments": "{}"}],
    [{"type": "function_call", "call_id": {}, "name": "f", "arguments": "{}"}],
    [{"type": "function_call_output", "call_id": "c", "output": 5}],
    ["x"],
    [None],
    [1],
    "x",
    {"type": "message"},
    [{"type": "code_interpreter_call", "outputs": ["x"]}],
    [{"type": "code_interpreter_call", "outputs": 5, "code": []}],
    [{"type": "web_extractor_call", "urls": 5, "output": {"deep": [1]}}],
    [{"type": "file_search_call", "results": ["x"]}],
    [{"type": "reasoning", "summary": "x"}],
    [{"type": 5}],
    [{"type": "something_of_tomorrow", "payload": [1]}],
    [{"type": "tomorrows_call", "payload": [1]}],
    [odd.message("nul", "msg_\0")],
    [odd.message("long", "m" * 10_000)],
    [odd.message("empty", "")],
    [odd.message("number", 5)],  # type: ignore[arg-type]
    [odd.message("one"), odd.message("two")],
]


@pytest.mark.parametrize("output", ODD_OUTPUTS, ids=lambda output: str(output)[:40])
def test_an_output_of_any_shape_is_kept_and_harmless(project: Project, emulator: Emulator, output: Any) -> None:
    thread = project.call("POST", "/threads", json={})["id"]
    odd.plain(emulator, {**odd.RESPONSE, "id": f"resp_{uuid4()}", "output": output})
    turn = project.http.post(f"/threads/{thread}/turns", json={"input": "Hi"})
    assert (turn.status_code, turn.json()["status"]) == (200, "completed")
    kept = project.call("GET", f"/threads/{thread}/turns/{turn.json()['id']}")
    assert kept["output"] == turn.json()["output"]
    assert len(kept["output"]) == (len(output) if isinstance(output, list) else 1)
    item_ids = [item["id"] for item in kept["output"]]
    assert len(set(item_ids)) == len(item_ids)
    everything_is_read(project, emulator, thread)


@pytest.mark.parametrize(
    "usage",
    [
        {"input_tokens": 12.7, "output_tokens": 1e300, "total_tokens": 2**40},
        {"input_tokens": "x", "total_tokens": True},
        "bad",
        [1],
        {"input_tokens": 3, "input_tokens_details": 5, "output_tokens_details": [], "x_tools": "bad"},
        {"input_tokens": -5, "x_tools": {"web_search": {"count": "many"}, "mcp": 5, "f": {"count": 2}}},
        {"input_tokens": 2**80, "x_tools": {"web_search": {"count": 2**62}}},
    ],
    ids=lambda usage: str(usage)[:40],
)
def test_usage_of_any_shape_is_shown_as_it_came_and_counted_where_it_can_be(
    project: Project, emulator: Emulator, usage: Any
) -> None:
    thread = project.call("POST", "/threads", json={})["id"]
    odd.plain(emulator, {**odd.RESPONSE, "id": f"resp_{uuid4()}", "output": [odd.message("hi")], "usage": usage})
    turn = project.http.post(f"/threads/{thread}/turns", json={"input": "Hi"})
    assert turn.status_code == 200
    (counted,) = project.call("GET", "/usage")["data"]
    assert counted["turns"] == 1
    assert counted["input_tokens"] >= 0
    if isinstance(usage, dict) and usage.get("input_tokens") == 12.7:
        assert counted["input_tokens"] == 12
    if isinstance(usage, dict) and isinstance(usage.get("x_tools"), dict) and "f" in usage["x_tools"]:
        assert counted["tool_calls"] == 2
    everything_is_read(project, emulator, thread)


@pytest.mark.parametrize("id_", ["", "r" * 10_000, "resp_\0", 5, None], ids=lambda id_: repr(id_)[:12])
def test_a_response_id_that_no_key_can_be_made_of_is_replaced_and_the_next_turn_rebuilt(
    project: Project, emulator: Emulator, id_: Any
) -> None:
    thread = project.call("POST", "/threads", json={})["id"]
    odd.plain(emulator, {**odd.RESPONSE, "id": id_, "output": [odd.message("hi")]})
    assert project.call("POST", f"/threads/{thread}/turns", json={"input": "Hi"})["status"] == "completed"
    second = project.call("POST", f"/threads/{thread}/turns", json={"input": "Recite the conversation"})
    assert second["continuation"] == "rebuilt"
    assert second["output_text"].splitlines()[:2] == ["user: Hi", "assistant: hi"]
    everything_is_read(project, emulator, thread)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (r"half \ud83d a character", "half � a character"),
        (r"nul \u0000 here", "nul � here"),
        ("raw \x01 control", "raw \x01 control"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_with_a_character_that_cannot_be_kept_is_kept_without_it(
    service: Service, emulator: Emulator, streamed: bool, text: str, shown: str
) -> None:
    thread = service.thread()
    body = orjson.dumps({**odd.RESPONSE, "output": [odd.message("TEXT", f"msg_{uuid4()}")], "x": "NAN"}).decode()
    body = body.replace("TEXT", text).replace('"NAN"', "NaN")
    if streamed:
        last = f'event: response.completed\ndata: {{"type":"response.completed","response":{body}}}\n\n'
        odd.stream(emulator, odd.created(), last)
        answer_ = service.stream(thread, "Hi")[-1]["response"]
    else:
        odd.plain(emulator, body)
        answer_ = service.turn(thread, "Hi")
    assert answer_["output"][0]["content"][0]["text"] == shown
    assert answer_["repaired"] is True
    turn = service.http.get(f"/threads/{thread}/turns").json()["data"][0]
    assert (turn["status"], turn["output_text"]) == ("completed", shown)
    assert len(emulator.calls()) == 1


def test_a_completed_stream_with_an_empty_output_is_what_was_streamed(service: Service, emulator: Emulator) -> None:
    outputs: list[Any] = [{"output": []}, {"output": None}, {}]
    for output in outputs:
        thread = service.thread()
        id_ = f"msg_{uuid4()}"
        last = odd.completed(4, **output)
        if not output:
            del last["response"]["output"]
        odd.stream(emulator, odd.created(), *odd.spoken("hello", id_=id_), odd.done("hello", 3, id_=id_), last)
        events = service.stream(thread, "Hi")
        assert events[-1]["response"]["output"][0]["content"][0]["text"] == "hello"
        (turn,) = service.http.get(f"/threads/{thread}/turns").json()["data"]
        assert (turn["status"], turn["output_text"]) == ("completed", "hello")


@pytest.mark.parametrize("kind", ["failed", "error_event", "flat"])
def test_a_failure_after_text_keeps_the_text_and_the_providers_error(
    service: Service, emulator: Emulator, kind: str
) -> None:
    thread = service.thread()
    service.turn(thread, "My name is Ada.")
    emulator.fault(kind, after_events=6, code="data_inspection_failed", message="Output data may be inappropriate.")
    events = service.stream(thread, "Echo: one two three four")
    last = events[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["error"]["code"] == "data_inspection_failed"
    assert (
        last["response"]["output"][0]["content"][0]["text"] == said(events) == "one two three four"[: len(said(events))]
    )
    turn = service.http.get(f"/threads/{thread}/turns").json()["data"][0]
    assert (turn["status"], turn["error"]["code"]) == ("failed", "data_inspection_failed")
    assert turn["output_text"] == said(events) != ""
    # The thread continues from the turn before.
    assert service.turn(thread, "What is my name?")["output_text"] == "Ada"


def test_items_that_run_beside_each_other_survive_a_cut(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    a, b, c = (f"msg_{uuid4()}" for _ in range(3))
    events = [
        odd.created(),
        *odd.spoken("first", 1, index=0, id_=a),
        *odd.spoken("second", 3, index=1, id_=b),
        odd.done("second", 5, index=1, id_=b),
        *odd.spoken("third", 6, index=2, id_=c),
    ]
    odd.stream(emulator, *events)
    assert service.stream(thread, "Hi")[-1]["type"] == "response.incomplete"
    (turn,) = service.http.get(f"/threads/{thread}/turns").json()["data"]
    assert turn["incomplete_details"] == {"reason": "interrupted"}
    texts = [item["content"][0]["text"] for item in turn["output"]]
    assert texts == ["first", "second", "third"]
    assert [item["status"] for item in turn["output"]] == ["incomplete", "completed", "incomplete"]


def test_what_is_no_json_in_mid_stream_is_not_passed_on(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    id_ = f"msg_{uuid4()}"
    odd.stream(emulator, odd.created(), *odd.spoken("said", id_=id_), "data: {oops}\n\n", *odd.spoken("unsaid", 4))
    events = service.stream(thread, "Hi")
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": "interrupted"}
    assert said(events) == "said"


def test_events_that_are_sent_are_one_line_numbered_and_named_whatever_came(
    service: Service, emulator: Emulator
) -> None:
    thread, id_ = service.thread(), f"msg_{uuid4()}"
    first, delta = (odd.written(event) for event in odd.spoken("hello", id_=id_))
    two_lines = delta.replace('{"type"', '{\ndata: "type"')
    nested = 'data: {"item":{"type":"message"},"output_index":0,"type":"response.output_item.done"}\n\n'
    odd.stream(
        emulator,
        "\ufeff: a comment\n\n",
        odd.created(7),
        'data: {"nothing": "that is known"}\n\n',
        'event: a\u0007b\ndata: {"x": 1}\n\n',
        'data: {"type": 5, "x": 1}\n\n',
        first.replace("\n", "\r\n"),
        two_lines,
        "event: message\n" + nested,
        "data: [DONE]\n\n",
        odd.written(odd.completed(9, output=[odd.message("hello", id_)])).rstrip("\n"),  # No blank line at the end.
    )
    events = service.stream(thread, "Hi")  # It asserts that each event is one line, with its number and its name.
    assert [event["type"] for event in events] == [
        "response.created", "response.output_item.added", "response.output_text.delta", "response.output_item.done",
        "response.completed",
    ]  # fmt: skip
    assert said(events) == "hello"
    assert [event["sequence_number"] for event in events] == list(range(5))


def test_an_id_that_the_provider_gives_to_every_item_is_unique_in_its_thread(
    service: Service, emulator: Emulator
) -> None:
    conversation = service.http.post("/conversations", json={}).json()["id"]
    for text in ("one", "two", "three"):
        output = [odd.message(text, "msg_0"), odd.message(text, "msg_0")]
        # Twice: the emulator does not know the id that is chained on, and the whole history is sent.
        odd.plain(emulator, {**odd.RESPONSE, "output": output}, times=2)
        service.http.post("/responses", json={"input": text, "conversation": conversation})
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 1, "order": "asc"}
    while len(seen) < 20:
        page = service.http.get(f"/conversations/{conversation}/items", params=query).json()
        seen += [item["id"] for item in page["data"]]
        if not page["has_more"]:
            break
        query["after"] = page["last_id"]
    assert len(seen) == len(set(seen)) == 9
    assert service.http.delete(f"/conversations/{conversation}/items/{seen[1]}").status_code == 200
    assert len(service.http.get(f"/conversations/{conversation}/items?limit=100").json()["data"]) == 8


@pytest.mark.parametrize("path", sorted(CAPTURES.iterdir()), ids=lambda path: path.name)
def test_every_captured_answer_goes_through_the_door(path: Path) -> None:
    raw = path.read_bytes()
    if path.suffix == ".sse":
        decoder = SSEDecoder()
        events = [read_object(event.data)[0] for event in decoder.feed(raw) + decoder.end()]
        assert all(isinstance(event.get("type", ""), str) for event in events)
        frames = [b"id: 0\nevent: x\ndata: %b\n\n" % orjson.dumps(event) for event in events]
        last = events[-1]
        if last.get("type") == "response.completed":
            output = answer.from_response(last["response"]).output
            assert [item.data for item in stored_output(output_of(frames))] == [item.data for item in output]
        elif "output_item.done" in last.get("type", ""):
            (item,) = stored_output([last["item"]])
            assert item.type == last["item"]["type"]
            assert item.kind.carried(item.item)[0]["role"] == "assistant"
    else:
        found = orjson.loads(raw)
        items = found.get("output", []) if isinstance(found, dict) else []
        for kept in stored_output(items):
            assert kept.type != "malformed"
            assert None not in [part.get("logprobs", "") for part in kept.item.get("content") or []]


def test_a_plain_answer_of_error_200_is_an_error_with_its_text(service: Service, emulator: Emulator) -> None:
    for body in ({"error": {"message": "No.", "code": "x"}}, {"code": "x", "message": "No.", "request_id": "1"}):
        odd.plain(emulator, body)
        refused = service.http.post(f"/threads/{service.thread()}/turns", json={"input": "Hi"})
        assert refused.status_code == 502
        assert refused.json()["error"]["message"] == "No."
        assert refused.json()["error"]["code"] == "x"


def test_an_answer_has_a_largest_size(service_env: dict[str, str], emulator: Emulator) -> None:
    service = Service(env={**service_env, "EVERTHREAD_MAX_ANSWER_BYTES": "200000"})
    thread, id_ = service.thread(), f"msg_{uuid4()}"
    first, delta = (odd.written(event) for event in odd.spoken("word " * 100, id_=id_))
    emulator.fault("answer", stream=True, chunks=[odd.written(odd.created()), first, *[delta] * 1000])
    events = service.stream(thread, "Hi")
    assert events[-1]["response"]["incomplete_details"] == {"reason": "answer_too_large"}
    assert 0 < len(said(events)) < 200_000
    odd.plain(emulator, {**odd.RESPONSE, "output": [odd.message("x" * 1_000_000)]})
    answer_ = service.http.post(f"/threads/{thread}/turns", json={"input": "Hi"})
    assert answer_.json()["incomplete_details"] == {"reason": "answer_too_large"}
    assert service.turn(thread, "Echo: on")["output_text"] == "on"
    # A line without an end, too.
    emulator.fault("answer", stream=True, chunks=["data: " + "x" * 100_000], repeat=100)
    refused = service.http.post(f"/threads/{thread}/turns", json={"input": "Hi", "stream": True})
    assert "answer_too_large" in refused.text
    service.stop()


def test_a_redirect_of_the_provider_is_not_followed(service: Service, emulator: Emulator) -> None:
    other = Emulator()
    emulator.fault("redirect", status=307, location=f"{other.base_url}/responses", times=2)
    for stream in (False, True):
        body = {"input": "My name is Ada.", "stream": stream}
        refused = service.http.post(f"/threads/{service.thread()}/turns", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (502, "provider_credentials")
    assert other.calls() == []
    other.stop()


def test_only_stalls_end_a_stream_however_long_it_is(service_env: dict[str, str], emulator: Emulator) -> None:
    env = {"EVERTHREAD_PROVIDER_TIMEOUT_SECONDS": "1", "EVERTHREAD_PROVIDER_STALL_SECONDS": "1"}
    service = Service(env={**service_env, **env})
    emulator.fault("slow", seconds_per_event=0.2)
    began = time.monotonic()
    assert said(service.stream(service.thread(), "Echo: " + "word " * 10)).strip() == "word " * 9 + "word"
    assert time.monotonic() - began > 1.5
    service.stop()


def test_a_user_with_odd_items_and_odd_ids_is_purged_and_the_providers_copies_with_it(
    project: Project, emulator: Emulator, database_url: str
) -> None:
    thread = project.call("POST", "/threads", json={"user": "odd"})["id"]
    turns = f"/threads/{thread}/turns"
    for output in ODD_OUTPUTS:
        odd.plain(emulator, {**odd.RESPONSE, "id": f"resp_{uuid4()}", "output": output})
        project.call("POST", turns, json={"input": "Hi"})
    for id_ in ("", "r" * 10_000, "resp_\0", 5, None):
        odd.plain(emulator, {**odd.RESPONSE, "id": id_, "output": [odd.message("hi")]})
        project.call("POST", turns, json={"input": "Hi"})
    project.call("POST", turns, json={"input": "Echo: sound"})
    copy = project.call("GET", f"/threads/{thread}/chain?limit=100")["data"][-1]["response_id"]
    path = f"{emulator.base_url}/responses/{copy}"
    key = {"Authorization": "Bearer sk-tests"}
    assert httpx2.get(path, headers=key).status_code == 200
    # Older releases have queued such ids: they hold up no other.
    for id_ in ("", "r" * 10_000, "../models"):
        query(
            database_url,
            "INSERT INTO provider_deletions (project_id, bucket, response_id, binding, expires_at, next_at) "
            f"SELECT project_id, bucket, '{id_}', binding, response_expires_at, now() - interval '1 day' "
            f"FROM turns WHERE response_id = '{copy}'",
        )
    purge = project.http.delete("/users/odd/data").json()["id"]
    eventually(lambda: project.call("GET", f"/purges/{purge}")["status"] == "completed")
    assert project.http.get(f"/threads/{thread}").status_code == 404
    eventually(lambda: httpx2.get(path, headers=key).status_code == 404)
    assert project.verify().problems == []

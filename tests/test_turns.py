"""Turns: asked, streamed, kept, branched, and read back."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.service import Emulator, Service, said


def test_a_turn_is_a_response_with_its_place_in_the_thread(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    turn = service.turn(thread, "Echo: hello", metadata={"trace": "7"}, some_new_field={"a": 1})
    assert turn["id"].startswith("turn_")
    assert turn | {
        "object": "turn", "thread_id": thread, "parent_id": None, "status": "completed", "output_text": "hello",
        "continuation": "new", "metadata": {"trace": "7"}, "model": "qwen3.5-plus", "ignored": [],
    } == turn  # fmt: skip
    (call,) = emulator.calls()
    assert call["body"]["some_new_field"] == {"a": 1}
    assert "metadata" not in call["body"]
    kept = service.http.get(f"/threads/{thread}/turns/{turn['id']}").json()
    for field in ("id", "output", "output_text", "usage", "metadata", "status", "model", "continuation", "created_at"):
        assert kept[field] == turn[field], field
    assert kept["input"][0] | {"role": "user", "content": "Echo: hello"} == kept["input"][0]
    shown = service.http.get(f"/threads/{thread}").json()
    assert (shown["head_id"], shown["turn_count"]) == (turn["id"], 1)


def test_a_stream_is_the_providers_events_under_our_ids(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    events = service.stream(thread, "Echo: one two three four five six", metadata={"k": "v"})
    types = [event["type"] for event in events]
    assert types[:2] == ["response.created", "response.in_progress"]
    assert types[-1] == "response.completed"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    shown = [event["response"] for event in events if "response" in event]
    assert len({response["id"] for response in shown}) == 1
    assert all(response["id"].startswith("resp_") for response in shown)
    assert all(response["metadata"] == {"k": "v"} for response in shown)
    final = shown[-1]
    assert final["output"][0]["content"][0]["text"] == said(events) == "one two three four five six"
    kept = service.http.get(f"/threads/{thread}/turns/{final['id'].replace('resp_', 'turn_')}").json()
    assert kept["output"] == final["output"]
    assert kept["usage"] == final["usage"]


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("seed", 7, "seed"),
        ("stop", ["x"], "stop"),
        ("frequency_penalty", 0.5, "frequency_penalty"),
        ("stream_options", {"include_obfuscation": True}, "stream_options"),
        ("text", {"verbosity": "low"}, "text.verbosity"),
        ("tools", [{"type": "web_search"}, {"type": "computer_use_preview"}], "tools[1]"),
    ],
)
def test_nothing_that_is_asked_for_is_lost_silently(service: Service, field: str, value: Any, named: str) -> None:
    answer = service.http.post(f"/threads/{service.thread()}/turns", json={"input": "Hi", field: value})
    assert answer.status_code == 200, answer.text
    assert answer.headers["everthread-ignored"] == named


def test_what_the_provider_will_ignore_is_named(service: Service) -> None:
    thread = service.thread()
    form = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}}
    body = {"input": "Hi", "text": form, "parallel_tool_calls": False, "service_tier": "flex", "metadata": {"k": "v"}}
    answer = service.http.post(f"/threads/{thread}/turns", json=body)
    assert answer.headers["everthread-ignored"] == "parallel_tool_calls, service_tier"
    assert answer.json()["ignored"] == ["parallel_tool_calls", "service_tier"]
    plain = service.http.post(f"/threads/{thread}/turns", json={"input": "Hi", "text": {"format": {"type": "text"}}})
    assert "everthread-ignored" not in plain.headers


def test_an_earlier_turn_can_be_answered_again_on_its_own_branch(service: Service) -> None:
    thread = service.thread()
    first = service.turn(thread, "My name is Ada.")
    service.turn(thread, "My name is Grace.")
    other = service.turn(thread, "What is my name?", parent_id=first["id"])
    assert other["output_text"] == "Ada"
    assert (other["continuation"], other["parent_id"]) == ("chained", first["id"])
    assert service.turn(thread, "What is my name?")["output_text"] == "Ada"
    assert len(service.chain(thread)) == 3
    turns = service.http.get(f"/threads/{thread}/turns", params={"order": "asc"}).json()["data"]
    assert [turn["parent_id"] for turn in turns] == [None, first["id"], first["id"], other["id"]]


def test_a_second_turn_at_once_is_refused_and_names_the_running_one(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    emulator.fault("slow", seconds=1)
    with ThreadPoolExecutor() as pool:
        answers = list(
            pool.map(lambda n: service.http.post(f"/threads/{thread}/turns", json={"input": f"Echo: {n}"}), range(4))
        )
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    done = next(answer.json() for answer in answers if answer.status_code == 200)
    for answer in answers:
        if answer.status_code == 409:
            assert answer.json()["error"]["code"] == "thread_busy"
            assert answer.headers["everthread-running-turn"] == done["id"]
    assert len(emulator.calls()) == 1


def test_turns_that_follow_each_other_at_once_always_continue_the_last_one(service: Service) -> None:
    thread = service.thread()
    for number in range(30):
        turn = service.turn(thread, f"Echo: {number}")
    assert len(service.chain(thread)) == 30
    assert turn["continuation"] == "chained"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ({"kind": "status", "status": 429, "retry_after": 60}, 429, "rate_limit_exceeded"),
        ({"kind": "rate_limit_200", "times": 9}, 429, "rate_limit_exceeded"),
        ({"kind": "status", "status": 400, "code": "InvalidParameter", "times": 9}, 400, "InvalidParameter"),
        ({"kind": "status", "status": 400, "code": "DataInspectionFailed"}, 400, "DataInspectionFailed"),
        ({"kind": "status", "status": 401, "code": "InvalidApiKey"}, 502, "provider_credentials"),
        ({"kind": "status", "status": 503, "times": 9}, 502, "provider_unavailable"),
    ],
)
def test_a_refusal_of_the_provider_is_an_http_error_and_the_turn_is_kept_as_failed(
    service: Service, emulator: Emulator, fault: dict[str, Any], status: int, code: str, stream: bool
) -> None:
    thread = service.thread()
    good = service.turn(thread, "My name is Ada.")
    emulator.control("faults", [fault])
    answer = service.http.post(f"/threads/{thread}/turns", json={"input": "Hello", "stream": stream})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code
    assert error["message"]
    if fault.get("retry_after"):
        assert answer.headers["retry-after"] == "60"
    emulator.control("faults", [])
    failed = service.http.get(f"/threads/{thread}/turns/{answer.headers['everthread-turn']}").json()
    assert failed["status"] == "failed"
    assert failed["error"]["message"]
    assert service.http.get(f"/threads/{thread}").json()["head_id"] == good["id"]
    assert service.turn(thread, "What is my name?")["output_text"] == "Ada"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 429},
        {"kind": "status", "status": 500},
        {"kind": "status", "status": 429, "retry_after": 0.2},
        {"kind": "rate_limit_200"},
    ],
)
def test_a_passing_fault_of_the_provider_is_not_seen(
    service: Service, emulator: Emulator, fault: dict[str, Any], stream: bool
) -> None:
    thread = service.thread()
    emulator.control("faults", [fault])
    answer = said(service.stream(thread, "Echo: ok")) if stream else service.turn(thread, "Echo: ok")["output_text"]
    assert answer == "ok"
    assert len(emulator.calls()) == 2


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "cut"},
        {"kind": "stall"},
        {"kind": "malformed"},
        {"kind": "malformed", "data": '{"type":"response.output_text.delta","sequence_number":6}'},
    ],
)
def test_a_stream_that_breaks_off_is_kept_as_far_as_it_came_and_the_thread_goes_on(
    service: Service, emulator: Emulator, fault: dict[str, Any]
) -> None:
    thread = service.thread()
    service.turn(thread, "My name is Ada.")
    emulator.control("faults", [{**fault, "after_events": 6}])
    events = service.stream(thread, "Echo: one two three four five six seven eight")
    last = events[-1]
    assert last["type"] == "response.incomplete"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert last["response"]["incomplete_details"] == {"reason": "interrupted"}
    heard = said([event for event in events if "delta" in event])
    assert "one two three four five six seven eight".startswith(heard)
    assert heard
    turn = service.http.get(f"/threads/{thread}/turns/{last['response']['id']}").json()
    assert turn["status"] == "incomplete"
    assert turn["output_text"] == heard
    assert f"assistant: {heard}" in service.turn(thread, "Recite the conversation")["output_text"]
    assert [link["continuation"] for link in service.chain(thread)] == ["new", "chained", "rebuilt"]


@pytest.mark.parametrize("kind", ["cut", "malformed"])
def test_a_plain_answer_that_breaks_off_is_an_error_and_the_model_is_not_asked_twice(
    service: Service, emulator: Emulator, kind: str
) -> None:
    thread = service.thread()
    emulator.fault(kind)
    answer = service.http.post(f"/threads/{thread}/turns", json={"input": "Hello"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "provider_answer_broken")
    assert len(emulator.calls()) == 1
    service.turn(thread, "Hello")


def test_a_stream_that_fails_in_the_middle_ends_with_the_providers_error(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    emulator.fault("failed", after_events=2, message="The model broke.")
    last = service.stream(thread, "Echo: one two three")[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["error"]["message"] == "The model broke."
    service.turn(thread, "Hello")


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_cut_by_max_output_tokens_is_incomplete_and_can_be_continued(service: Service, stream: bool) -> None:
    thread = service.thread()
    words = "Echo: " + "word " * 50
    if stream:
        last = service.stream(thread, words, max_output_tokens=16)[-1]
        assert last["type"] == "response.incomplete"
        turn = last["response"]
    else:
        turn = service.turn(thread, words, max_output_tokens=16)
    assert turn["status"] == "incomplete"
    assert turn["incomplete_details"] == {"reason": "max_output_tokens"}
    assert service.turn(thread, "Go on")["continuation"] == "chained"


def test_an_unknown_model_is_the_clients_error(service: Service) -> None:
    thread = service.thread()
    for stream in (False, True):
        body = {"input": "Hi", "model": "gpt-unknown", "stream": stream}
        answer = service.http.post(f"/threads/{thread}/turns", json=body)
        assert 400 <= answer.status_code < 500
        assert answer.json()["error"]["code"] == "model_not_found"


def test_the_session_cache_header_reaches_the_provider(service: Service, emulator: Emulator) -> None:
    headers = {"x-dashscope-session-cache": "enable", "x-other": "no"}
    service.http.post(f"/threads/{service.thread()}/turns", json={"input": "Hi"}, headers=headers)
    (call,) = emulator.calls()
    assert call["headers"]["x-dashscope-session-cache"] == "enable"
    assert "x-other" not in call["headers"]


@pytest.mark.parametrize("size", [1, 3, 7, 8])
def test_a_long_conversation_is_read_back_from_its_end_a_page_at_a_time(service: Service, size: int) -> None:
    thread = service.thread()
    turns = [service.turn(thread, f"Echo: {number}")["id"] for number in range(7)]
    service.turn(thread, "Echo: elsewhere", parent_id=turns[1])
    assert service.http.patch(f"/threads/{thread}", json={"head_id": turns[-1]}).status_code == 200

    def read(**params: Any) -> dict[str, Any]:
        page: dict[str, Any] = service.http.get(f"/threads/{thread}/messages", params=params).json()
        return page

    whole = read()
    assert (len(whole["data"]), whole["has_more"]) == (14, False)
    pages: list[dict[str, Any]] = []
    page = read(turns=size)
    while True:
        pages = page["data"] + pages
        assert len(page["data"]) <= 2 * size
        if not page["has_more"]:
            break
        page = read(turns=size, before=page["data"][0]["turn_id"])
    assert pages == whole["data"]
    chat = read(turns=size, format="chat", until=turns[2])
    assert chat["data"] == read(format="chat", until=turns[2])["data"][-2 * size :]
    empty: dict[str, Any] = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert read(before=turns[0]) == empty
    for param, status, params in (
        ("turns", 400, {"turns": 0}),
        ("before", 400, {"before": turns[0], "until": turns[1]}),
        ("before", 404, {"before": "turn_x"}),
    ):
        refused = service.http.get(f"/threads/{thread}/messages", params=params)
        assert (refused.status_code, refused.json()["error"]["param"]) == (status, param)


def test_the_conversation_reads_back_as_responses_chat_and_markdown(service: Service) -> None:
    thread = service.thread(title="Weather")
    tool = {"type": "function", "name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}}
    called = service.turn(thread, "Paris", tools=[tool], tool_choice="required")["output"][-1]
    output = {"type": "function_call_output", "call_id": called["call_id"], "output": "18 degrees"}
    service.turn(thread, [output])
    items = service.http.get(f"/threads/{thread}/messages").json()["data"]
    assert [item["type"] for item in items] == ["message", "function_call", "function_call_output", "message"]
    assert all(item["id"] and item["turn_id"] for item in items)
    chat = service.http.get(f"/threads/{thread}/messages", params={"format": "chat"}).json()["data"]
    assert [message["role"] for message in chat] == ["user", "assistant", "tool", "assistant"]
    assert chat[1]["tool_calls"][0]["function"]["name"] == "weather"
    # What is read in Chat form can be sent in Chat form.
    copy = service.thread()
    assert service.turn(copy, [*chat, {"role": "user", "content": "Recite the conversation"}])["status"] == "completed"
    page = service.http.get(f"/threads/{thread}/messages", params={"format": "markdown"})
    assert page.headers["content-type"].startswith("text/markdown")
    assert page.text.startswith("# Weather\n\n**User**\n\nParis\n\n**Tool call** `weather`")
    assert "18 degrees" in page.text
    until = service.http.get(f"/threads/{thread}/messages", params={"until": items[0]["turn_id"]}).json()["data"]
    assert len(until) == 2
    assert (
        service.http.get(f"/threads/{thread}/messages", params={"format": "pdf"}).json()["error"]["param"] == "format"
    )


def test_item_types_of_tomorrow_and_unknown_fields_are_kept_as_they_came(service: Service) -> None:
    thread = service.thread()
    turn = service.turn(thread, "x", tools=[{"type": "web_search_image"}], enable_thinking=True)
    kept = service.http.get(f"/threads/{thread}/turns/{turn['id']}").json()
    assert kept["output"] == turn["output"]
    assert "web_search_image_call" in [item["type"] for item in kept["output"]]


def test_a_provider_that_cannot_be_reached_is_a_502_and_the_service_starts_all_the_same(
    service_env: dict[str, str],
) -> None:
    service = Service(env={**service_env, "DASHSCOPE_BASE_URL": "http://127.0.0.1:1/compatible-mode/v1"})
    assert "does not answer at the moment" in service.process.wait_for("Provider: ")
    thread = service.thread()
    answer = service.http.post(f"/threads/{thread}/turns", json={"input": "Hi"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "provider_unavailable")
    assert service.http.get(f"/threads/{thread}/turns").json()["data"][0]["status"] == "failed"
    assert service.stop() == 0


def test_a_stream_without_a_first_event_is_a_504(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    emulator.fault("stall", after_events=0, seconds=10)
    answer = service.http.post(f"/threads/{thread}/turns", json={"input": "Hi", "stream": True})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "provider_timeout")
    assert len(emulator.calls()) == 1
    service.turn(thread, "Hi")

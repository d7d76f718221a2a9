"""A conversation goes on, whatever became of its chain at the provider."""

import time
from typing import Any

import pytest
import redis

from tests.service import Emulator, Service, eventually, said

REMEMBER = "My name is Ada."
ASK = "What is my name?"


def continuations(service: Service, thread: str) -> list[str]:
    return [link["continuation"] for link in service.chain(thread)]


def live_keys(redis_url: str, thread: str) -> "tuple[redis.Redis, list[Any]]":
    client = redis.Redis.from_url(redis_url)
    return client, list(client.scan_iter(f"everthread:*:live:{thread.removeprefix('thread_')}"))


def test_the_second_turn_sends_only_its_own_input_and_the_previous_response_id(
    service: Service, emulator: Emulator
) -> None:
    thread = service.thread()
    service.turn(thread, REMEMBER)
    assert service.turn(thread, ASK)["output_text"] == "Ada"
    first, second = emulator.calls()
    assert second["body"]["previous_response_id"] == first["answer"]["id"]
    assert second["body"]["input"] == [{"type": "message", "role": "user", "content": ASK}]
    assert continuations(service, thread) == ["new", "chained"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_goes_on_after_eight_days(service: Service, emulator: Emulator, stream: bool) -> None:
    thread = service.thread()
    service.turn(thread, REMEMBER)
    emulator.advance(days=8)
    answer = said(service.stream(thread, ASK)) if stream else service.turn(thread, ASK)["output_text"]
    assert answer == "Ada"
    service.turn(thread, ASK)
    assert continuations(service, thread) == ["new", "rebuilt", "chained"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_forgotten_id_is_rebuilt_inside_the_same_turn(service: Service, emulator: Emulator, stream: bool) -> None:
    thread = service.thread()
    service.turn(thread, REMEMBER)
    emulator.advance(days=1)
    emulator.forget()
    if stream:
        events = service.stream(thread, ASK)
        assert said(events) == "Ada"
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert "response.failed" not in {event["type"] for event in events}
    else:
        assert service.turn(thread, ASK)["output_text"] == "Ada"
    refused, rebuilt = emulator.calls()[1:]
    assert refused["answer"]["message"].startswith("Not found previous_response_id")
    assert refused["status"] == (200 if stream else 400)
    assert "previous_response_id" not in rebuilt["body"]
    assert continuations(service, thread) == ["new", "rebuilt"]


def test_an_id_that_was_reported_unknown_is_not_tried_again_on_another_branch(
    service: Service, emulator: Emulator
) -> None:
    thread = service.thread()
    first = service.turn(thread, REMEMBER)
    emulator.forget()
    service.turn(thread, ASK)
    service.turn(thread, ASK, parent_id=first["id"])
    assert len(emulator.calls()) == 4  # new, refused, rebuilt, rebuilt
    assert [link["live"] for link in service.chain(thread)] == [False, True]


def test_the_live_id_is_in_redis_for_what_is_left_of_seven_days(service: Service, redis_url: str) -> None:
    thread = service.thread()
    service.turn(thread, REMEMBER)
    eventually(lambda: bool(live_keys(redis_url, thread)[1]))
    client, keys = live_keys(redis_url, thread)
    (key,) = keys
    assert 7 * 86400 - 700 < float(client.ttl(key)) <= 7 * 86400 - 600


@pytest.mark.parametrize("value", [None, b"not json", b'{"turn_id": "nobody"}', b"[1]"])
def test_the_answer_is_the_same_when_redis_is_empty_or_wrong(
    service: Service, redis_url: str, value: bytes | None
) -> None:
    thread = service.thread()
    service.turn(thread, REMEMBER)
    eventually(lambda: bool(live_keys(redis_url, thread)[1]))
    client, keys = live_keys(redis_url, thread)
    client.delete(*keys) if value is None else client.set(keys[0], value)
    assert service.turn(thread, ASK)["output_text"] == "Ada"
    assert continuations(service, thread) == ["new", "chained"]


def test_a_response_that_the_provider_did_not_store_is_followed_by_a_rebuilt_turn(
    service: Service, emulator: Emulator
) -> None:
    thread = service.thread()
    service.turn(thread, REMEMBER, store=False)
    assert service.turn(thread, ASK)["output_text"] == "Ada"
    assert continuations(service, thread) == ["new", "rebuilt"]
    assert len(emulator.calls()) == 2


def test_another_model_gets_the_whole_history(service: Service) -> None:
    thread = service.thread()
    service.turn(thread, REMEMBER, model="qwen3.5-plus", enable_thinking=True)
    assert service.turn(thread, ASK, model="qwen3-max")["output_text"] == "Ada"
    assert service.turn(thread, ASK, model="qwen3-max")["output_text"] == "Ada"
    assert continuations(service, thread) == ["new", "rebuilt", "chained"]


def test_another_account_gets_the_whole_history(service: Service, service_env: dict[str, str]) -> None:
    thread = service.thread()
    service.turn(thread, REMEMBER)
    other = Service(env={**service_env, "DASHSCOPE_API_KEY": "sk-another-account"})
    try:
        assert other.turn(thread, ASK)["output_text"] == "Ada"
        assert continuations(other, thread) == ["new", "rebuilt"]
    finally:
        other.stop()


def test_an_id_whose_time_has_run_out_is_not_tried(service_env: dict[str, str], emulator: Emulator) -> None:
    env = {"EVERTHREAD_RESPONSE_ID_TTL_SECONDS": "3", "EVERTHREAD_RESPONSE_ID_MARGIN_SECONDS": "1"}
    short = Service(env={**service_env, **env})
    try:
        thread = short.thread()
        short.turn(thread, REMEMBER)
        time.sleep(2.1)
        assert short.turn(thread, ASK)["output_text"] == "Ada"
        assert continuations(short, thread) == ["new", "rebuilt"]
        assert len(emulator.calls()) == 2
    finally:
        short.stop()


def test_instructions_and_tools_are_sent_on_every_turn_that_names_them(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    tool = {"type": "function", "name": "look_up", "parameters": {"type": "object", "properties": {}}}
    for _ in range(2):
        service.turn(thread, "Hello", instructions="Be brief.", tools=[tool], temperature=0.5)
    for call in emulator.calls():
        assert call["body"]["instructions"] == "Be brief."
        assert call["body"]["tools"] == [tool]
        assert call["body"]["temperature"] == 0.5


@pytest.mark.parametrize("lost", [False, True])
def test_a_function_call_and_its_output_go_over_two_turns(service: Service, emulator: Emulator, lost: bool) -> None:
    thread = service.thread()
    tool = {"type": "function", "name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}}
    called = service.turn(thread, "Paris", tools=[tool], tool_choice="required")["output"][-1]
    assert called["type"] == "function_call"
    if lost:
        emulator.forget()
    output = {"type": "function_call_output", "call_id": called["call_id"], "output": "18 degrees"}
    assert service.turn(thread, [output], tools=[tool])["output_text"] == "The tool answered: 18 degrees"
    emulator.forget()
    recited = service.turn(thread, "Recite the conversation")["output_text"]
    assert "assistant: The tool answered: 18 degrees" in recited


@pytest.mark.parametrize("lost", [False, True])
async def test_the_output_of_an_open_call_may_stand_behind_a_message(
    service: Service, emulator: Emulator, lost: bool
) -> None:
    """The provider takes no message before the output: it is sent first, on a live chain as in a rebuild."""
    create = service.openai.responses.create
    tool: Any = {"type": "function", "name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}}
    called = await create(model="qwen3.5-plus", input="Paris", tools=[tool], tool_choice="required")
    (call,) = [item for item in called.output if item.type == "function_call"]
    if lost:
        emulator.advance(days=8)
    mixed: Any = [
        {"role": "user", "content": "My name is Ada."},
        {"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees"},
        {"role": "user", "content": "What is my name?"},
    ]
    answer = await create(model="qwen3.5-plus", input=mixed, tools=[tool], previous_response_id=called.id)
    assert answer.output_text == "Ada"
    sent = emulator.calls()[-1]["body"]
    assert ("previous_response_id" in sent) is not lost
    kinds = [item["type"] for item in sent["input"]]
    assert kinds[-3:] == ["function_call_output", "message", "message"]
    # Items are stored in the order in which they were sent, as is the body of the call.
    stored = (await service.openai.responses.input_items.list(answer.id, order="asc")).data
    assert [item.type for item in stored][-3:] == ["message", "function_call_output", "message"]
    thread = answer.conversation.id.replace("conv_", "thread_") if answer.conversation else ""
    turn = answer.id.replace("resp_", "turn_")
    *_, kept = service.http.get(f"/threads/{thread}/turns/{turn}/calls").json()["data"]
    assert kept["body"] == sent


def test_every_role_and_image_is_there_after_a_rebuild(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    service.turn(
        thread,
        [
            {"role": "system", "content": "You are a painter."},
            {"role": "developer", "content": "Answer in English."},
            {"role": "user", "content": [{"type": "text", "text": "Look: "}, image]},
        ],
    )
    emulator.forget()
    recited = service.turn(thread, "Recite the conversation")["output_text"].splitlines()
    # The provider takes one system message, and first.
    assert recited[:2] == ["system: You are a painter. Answer in English.", "user: Look: [image]"]
    assert [line.partition(":")[0] for line in recited[2:]] == ["assistant", "user"]


def test_built_in_tools_leave_items_that_are_kept_and_a_history_that_can_be_sent(
    service: Service, emulator: Emulator
) -> None:
    thread = service.thread()
    kinds = ["web_search", "web_extractor", "code_interpreter", "image_search", "file_search", "mcp"]
    turn = service.turn(thread, "Find it", tools=[{"type": kind} for kind in kinds], enable_thinking=True)
    types = [item["type"] for item in turn["output"]]
    assert types[0] == "reasoning"
    assert types[-1] == "message"
    assert {"web_search_call", "web_extractor_call", "code_interpreter_call"} < set(types)
    assert turn["usage"]["x_tools"]["web_search"] == {"count": 1}
    assert turn["usage"]["x_details"][0]["x_billing_type"] == "response_api"
    kept = service.http.get(f"/threads/{thread}/turns/{turn['id']}").json()
    assert kept["output"] == turn["output"]
    assert kept["usage"] == turn["usage"]
    emulator.forget()
    assert "The page says hello." in service.turn(thread, "Recite the conversation")["output_text"]


def test_a_conversation_longer_than_the_window_is_cut_by_us_and_says_so(service_env: dict[str, str]) -> None:
    small = Emulator(env={"EVERTHREAD_EMULATOR_WINDOW_TOKENS": "400"})
    env = {"DASHSCOPE_BASE_URL": small.base_url, "EVERTHREAD_CONTEXT_WINDOW_TOKENS": "400"}
    # Where a compaction is ready in time, nothing need be cut.
    env["EVERTHREAD_COMPACTION_SHARE"] = "0"
    service = Service(env={**service_env, **env})
    try:
        thread = service.thread()
        service.turn(thread, [{"role": "system", "content": "Never forget this."}, {"role": "user", "content": "Hi"}])
        dropped: list[int] = []
        for number in range(8):
            body = {"input": f"Echo: {number} " + "word " * 30}
            answer = service.http.post(f"/threads/{thread}/turns", json=body)
            assert answer.json()["output_text"].startswith(str(number))
            dropped.append(int(answer.headers.get("everthread-dropped-items", "0")))
        assert sum(dropped) > 0
        small.forget()
        recited = service.turn(thread, "Recite the conversation")["output_text"]
        assert recited.startswith("system: Never forget this.")
        assert "user: Hi" not in recited
    finally:
        service.stop()
        small.stop()

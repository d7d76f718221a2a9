"""The emulator is the provider, as its pages and a probe of it describe it."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import APIStatusError, AsyncOpenAI, BadRequestError

from tests.service import Emulator, Service

OLDER = "/api/v2/apps/protocols/compatible-mode/v1"


def client(emulator: Emulator, key: str = "sk-one", *, older: bool = False) -> AsyncOpenAI:
    base_url = f"http://127.0.0.1:{emulator.port}{OLDER}" if older else emulator.base_url
    return AsyncOpenAI(api_key=key, base_url=base_url, max_retries=0)


def raw(emulator: Emulator, body: Any, key: str = "sk-one", path: str = "/responses") -> httpx2.Response:
    return httpx2.post(emulator.base_url + path, json=body, headers={"Authorization": f"Bearer {key}"})


async def test_ids_are_bare_uuids_on_the_older_path_and_resp_on_the_current_one(emulator: Emulator) -> None:
    new = await client(emulator).responses.create(model="qwen3.5-plus", input="Hi")
    old = await client(emulator, older=True).responses.create(model="qwen3.5-plus", input="Hi")
    assert new.id.startswith("resp_")
    assert len(old.id) == 36
    assert new.output[0].id is not None
    assert new.output[0].id.startswith("msg_")
    both = await client(emulator).responses.create(model="qwen3.5-plus", input="Hi", previous_response_id=old.id)
    assert both.status == "completed"


async def test_a_chain_lives_seven_days_for_its_own_account(emulator: Emulator) -> None:
    ours, theirs = client(emulator), client(emulator, "sk-two")
    first = await ours.responses.create(model="qwen3.5-plus", input="My name is John, please remember it.")
    ask: dict[str, Any] = {"model": "qwen3.5-plus", "input": "What is my name?", "previous_response_id": first.id}
    second = await ours.responses.create(**ask)
    assert second.output_text == "John"
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens
    with pytest.raises(BadRequestError):
        await theirs.responses.create(**ask)
    emulator.advance(days=6.99)
    assert (await ours.responses.create(**ask)).output_text == "John"
    emulator.advance(days=0.02)
    with pytest.raises(BadRequestError, match="Not found previous_response_id"):
        await ours.responses.create(**ask)


def test_plain_errors_are_flat_and_those_of_lookups_are_nested(emulator: Emulator) -> None:
    refused = raw(emulator, {"model": "qwen3.5-plus", "input": "Hi"}, key="sk-invalid")
    assert refused.status_code == 401
    assert set(refused.json()) == {"code", "message", "request_id"}
    assert refused.json()["code"] == "InvalidApiKey"
    unknown = httpx2.get(emulator.base_url + "/responses/resp_x", headers={"Authorization": "Bearer k"})
    assert unknown.json() == {"error": {"message": "Response with id 'resp_x' not found.", "type": "InvalidParameter"}}
    wrong = httpx2.put(emulator.base_url + "/responses", headers={"Authorization": "Bearer k"})
    assert (wrong.status_code, wrong.json()["code"]) == (405, "Method Not Allowed")


def test_an_error_of_a_stream_is_http_200_and_one_failed_event(emulator: Emulator) -> None:
    answer = raw(emulator, {"model": "nobody", "input": "Hi", "stream": True})
    assert answer.status_code == 200
    assert answer.text.count("event:") == 1
    assert "event:response.failed\n:HTTP_STATUS/200\ndata:{" in answer.text
    assert "Unsupported model: 'nobody'" in answer.text


def test_stream_lines_have_the_providers_form(emulator: Emulator) -> None:
    text = raw(emulator, {"model": "qwen3.5-plus", "input": "Hi", "stream": True}).text
    first = text.split("\n\n")[0].split("\n")
    assert first[:3] == ["id:1", "event:response.created", ":HTTP_STATUS/200"]
    assert first[3].startswith("data:{")
    assert "[DONE]" not in text


async def test_events_come_in_the_seeds_order(emulator: Emulator) -> None:
    stream = await client(emulator).responses.create(model="qwen3.5-plus", input="Echo: a b c d", stream=True)
    types = [event.type async for event in stream]
    assert types[:4] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert set(types[4:-4]) == {"response.output_text.delta"}
    assert types[-4:] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip


async def test_a_response_that_was_not_stored_cannot_be_chained_on_or_retrieved(emulator: Emulator) -> None:
    ours = client(emulator)
    first = await ours.responses.create(model="qwen3.5-plus", input="Hi", store=False)
    with pytest.raises(BadRequestError):
        await ours.responses.create(model="qwen3.5-plus", input="Hi", previous_response_id=first.id)
    with pytest.raises(APIStatusError):
        await ours.responses.retrieve(first.id)


def test_ignored_parameters_are_echoed_and_metadata_is_not_kept(emulator: Emulator) -> None:
    body = {"model": "qwen3.5-plus", "input": "Hi", "metadata": {"k": "v"}, "parallel_tool_calls": True, "bogus": 1}
    made = raw(emulator, {**body, "text": {"format": {"type": "json_schema"}}}).json()
    assert made["metadata"] == {"k": "v"}
    assert made["parallel_tool_calls"] is True
    headers = {"Authorization": "Bearer sk-one"}
    kept = httpx2.get(f"{emulator.base_url}/responses/{made['id']}", headers=headers).json()
    assert kept["metadata"] == {}
    deleted = httpx2.delete(f"{emulator.base_url}/responses/{made['id']}", headers=headers).json()
    assert deleted == {"id": made["id"], "deleted": True}


def test_input_items_lists_the_whole_chain_in_milliseconds(emulator: Emulator) -> None:
    first = raw(emulator, {"model": "qwen3.5-plus", "input": "One"}).json()
    second = raw(emulator, {"model": "qwen3.5-plus", "input": "Two", "previous_response_id": first["id"]}).json()
    url = f"{emulator.base_url}/responses/{second['id']}/input_items"
    items = httpx2.get(url, headers={"Authorization": "Bearer sk-one"}).json()["data"]
    assert [item["role"] for item in items] == ["user", "assistant", "user"]
    assert items[0]["created_at"] > 1e12


@pytest.mark.parametrize(
    "item",
    [
        {"type": "message", "id": "msg_1", "role": "user", "content": "x"},
        {"type": "message", "status": "completed", "role": "assistant", "content": "x"},
        {"type": "code_interpreter_call", "code": "1"},
        {"type": "function_call_output", "call_id": "nobody", "output": "x"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"role": "user", "content": [{"type": "input_audio", "data": ""}]},
        {"role": "robot", "content": "x"},
    ],
)
def test_an_input_item_that_the_provider_does_not_take_is_refused(emulator: Emulator, item: dict[str, Any]) -> None:
    answer = raw(emulator, {"model": "qwen3.5-plus", "input": [item]})
    assert (answer.status_code, answer.json()["code"]) == (400, "InvalidParameter")


def test_chats_nested_form_of_a_function_tool_is_refused(emulator: Emulator) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert raw(emulator, {"model": "qwen3.5-plus", "input": "Hi", "tools": tools}).status_code == 400


WEATHER: Any = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}, "auto"])
async def test_chats_nested_form_of_a_function_tool_is_taken_by_chat_completions(
    service: Service, emulator: Emulator, choice: Any
) -> None:
    """As clients send it that know no Responses API, through the service."""
    chat = service.openai.chat.completions
    asked: Any = [{"role": "user", "content": "What is the weather in Oslo?"}]
    first = await chat.create(model="qwen3.5-plus", messages=asked, tools=[WEATHER], tool_choice=choice)
    assert first.choices[0].finish_reason == "tool_calls"
    assert first.choices[0].message.tool_calls is not None
    (call,) = first.choices[0].message.tool_calls
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments).keys() == {"city"}
    chunks = await chat.create(model="qwen3.5-plus", messages=asked, tools=[WEATHER], tool_choice=choice, stream=True)
    deltas = [part async for chunk in chunks for part in chunk.choices[0].delta.tool_calls or ()]
    written = "".join((part.function.arguments or "") for part in deltas if part.function)
    assert (deltas[0].function and deltas[0].function.name, written) == ("get_weather", call.function.arguments)
    answered: Any = [
        *asked,
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    second = await chat.create(model="qwen3.5-plus", messages=answered, tools=[WEATHER])
    assert (second.choices[0].finish_reason, second.choices[0].message.content) == ("stop", "The tool answered: sunny")


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "name": "f"}]},
        {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "get_weather"}},
        {"messages": [{"role": "tool", "tool_call_id": "call_nobody", "content": "x"}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "c", "type": "function"}]}]},
    ],
)
async def test_chat_completions_takes_no_half_of_a_tool_call_and_no_tool_of_the_responses_api(
    emulator: Emulator, fields: dict[str, Any]
) -> None:
    body: Any = {"model": "qwen3.5-plus", "messages": [{"role": "user", "content": "Hi"}], **fields}
    with pytest.raises(BadRequestError):
        await client(emulator).chat.completions.create(**body)


def test_a_context_over_the_window_is_cut_without_a_word() -> None:
    small = Emulator(env={"EVERTHREAD_EMULATOR_WINDOW_TOKENS": "100"})
    try:
        first = raw(small, {"model": "qwen3.5-plus", "input": "My name is Ada. " + "x " * 140}).json()
        chained = {"model": "qwen3.5-plus", "input": "What is my name?", "previous_response_id": first["id"]}
        answer = raw(small, chained)
        assert answer.status_code == 200
        assert answer.json()["output"][0]["content"][0]["text"] == "I do not know your name."
    finally:
        small.stop()


def test_what_the_model_says_depends_on_the_whole_context(emulator: Emulator) -> None:
    def say(context: list[str]) -> str:
        items = [{"role": "user", "content": words} for words in context]
        text: str = raw(emulator, {"model": "qwen3.5-plus", "input": items}).json()["output"][0]["content"][0]["text"]
        return text

    assert say(["a", "b"]) == say(["a", "b"])
    assert say(["a", "b"]) != say(["c", "b"])
    assert say(["a", "Recite the conversation"]) == "user: a\nuser: Recite the conversation"
    assert say(["What is my name?"]) == "I do not know your name."


CAPTURED_REFUSALS: dict[str, dict[str, Any]] = {
    "unknown model": {"model": "__x__"},
    "temperature 5": {"temperature": 5},
    "top_p 9": {"top_p": 9},
    "max_output_tokens 1": {"max_output_tokens": 1},
    "reasoning.effort bogus": {"model": "qwen4-max", "reasoning": {"effort": "bogus"}},
    "store not a boolean": {"store": "X"},
    "function tool in Chat's nested form": {"tools": [{"type": "function", "function": {"name": "f"}}]},
}
"""Requests that the provider was seen to refuse, by the name of the captured error."""


@pytest.mark.parametrize("case", CAPTURED_REFUSALS)
def test_a_refusal_has_the_words_of_the_provider(emulator: Emulator, case: str) -> None:
    errors = json.loads((Path(__file__).parent / "captures" / "errors-plain-2026-09.json").read_bytes())
    (captured,) = (error for error in errors if error["when"] == case)
    answer = raw(emulator, {"model": "qwen3.5-plus", "input": "Hi", **CAPTURED_REFUSALS[case]})
    assert (answer.status_code, answer.json()["code"]) == (captured["http"], captured["body"]["code"])
    assert answer.json()["message"].startswith(captured["body"]["message"].removesuffix("..."))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"input": [{"role": "user", "content": "Hi"}, {"type": "reasoning"}]}, "Invalid 'summary': summary is requ"),
        ({"reasoning": {"effort": "low"}, "thinking_budget": 100}, "cannot be set at the same time"),
        ({"model": "qwen3.6-plus", "reasoning": {"effort": "high"}}, "Supported values are: ('none','minimal','low'"),
        *(
            (
                {"model": model, "input": [
                    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "c", "output": "x"},
                    {"role": "user", "content": "Hi"},
                ]},
                "tool must be one of user,assistant,system,function",
            )
            for model in ("qwen-plus", "qwen-flash", "qwen3-max", "qwen3-coder-plus", "qwen-turbo")
        ),
    ],
)  # fmt: skip
def test_what_reports_say_is_refused_is_refused(emulator: Emulator, fields: dict[str, Any], words: str) -> None:
    answer = raw(emulator, {"model": "qwen4-max", "input": "Hi", **fields})
    assert answer.status_code == 400
    assert words in answer.json()["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_burst_is_refused_by_the_second_and_by_the_account(emulator: Emulator, stream: bool) -> None:
    emulator.control("limit", {"requests_per_minute": 120})
    body = {"model": "qwen3.5-plus", "input": "Hi", "stream": stream}
    statuses = [raw(emulator, body).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    refused = raw(emulator, body).json()
    assert refused["message"].startswith("Request rate increased too quickly")
    chat = {"model": "qwen3.5-plus", "messages": [{"role": "user", "content": "Hi"}]}
    assert raw(emulator, chat, path="/chat/completions").status_code == 429
    assert raw(emulator, body, key="sk-two").status_code == 200
    emulator.control("clock", {"advance_seconds": 1})
    assert raw(emulator, body).status_code == 200


def test_a_turn_that_meets_a_burst_limit_is_answered_a_second_later(service: Service, emulator: Emulator) -> None:
    emulator.control("limit", {"requests_per_minute": 60})
    service.turn(service.thread(), "Hi")
    assert service.turn(service.thread(), "Echo: later")["output_text"] == "later"
    statuses = [call["status"] for call in emulator.calls()]
    assert (statuses[0], statuses[-1]) == (200, 200)
    assert 429 in statuses

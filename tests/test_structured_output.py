"""Structured output: the provider enforces it for some models; Everthread looks at every answer, and asks once more."""

import json
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from app.process.killable import Killable
from app.provider import json_schema
from app.provider.structured import check
from app.settings import environment
from tests.service import Emulator, Service

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
FORMAT = {"format": {"type": "json_schema", "name": "city", "schema": SCHEMA}}


class City(BaseModel):
    city: str
    people: int


def said(text: str) -> str:
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"type": "message", "id": "msg_odd", "role": "assistant", "status": "completed", "content": [part]}
    usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    answer = {"id": "resp_odd", "object": "response", "status": "completed", "output": [item], "usage": usage}
    return json.dumps(answer)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Oslo, I think", "it is not JSON"),
        ('{"city": "Oslo"}', "'people' is a required property"),
        ('{"city": "Oslo", "people": "many"}', "people: 'many' is not of type 'integer'"),
        ('```json\n{"city": "Oslo", "people": 1}\n```', "it is not JSON"),
    ],
)
def test_an_answer_that_does_not_fit_is_asked_for_once_more_with_its_fault_named(
    service: Service, emulator: Emulator, text: str, found: str
) -> None:
    emulator.fault("answer", body=said(text))
    turn = service.turn(service.thread(), "Oslo", text=FORMAT)
    City.model_validate_json(turn["output_text"])
    assert turn["format_check"] == {"fits": True, "fault": None, "asked_again": 1}
    first, second = emulator.calls()
    told = second["body"]["input"][-1]["content"]
    assert found in told
    assert second["body"]["input"][-2] == {"type": "message", "role": "assistant", "content": text}
    assert turn["usage"]["input_tokens"] == 10 + second["answer"]["usage"]["input_tokens"]
    assert first["body"]["input"] == second["body"]["input"][:1]


def test_an_answer_that_fits_is_asked_for_once(service: Service, emulator: Emulator) -> None:
    turn = service.turn(service.thread(), "Oslo", text=FORMAT)
    assert turn["format_check"] == {"fits": True, "fault": None, "asked_again": 0}
    assert len(emulator.calls()) == 1


def test_a_model_that_enforces_a_format_is_not_told_in_words(service: Service, emulator: Emulator) -> None:
    body = {"input": "Oslo", "model": "qwen4-max", "instructions": "Be brief.", "text": FORMAT}
    answer = service.http.post(f"/threads/{service.thread()}/turns", json=body)
    assert "everthread-prompted" not in answer.headers
    City.model_validate_json(answer.json()["output_text"])
    assert answer.json()["format_check"] == {"fits": True, "fault": None, "asked_again": 0}
    (call,) = emulator.calls()
    assert call["body"]["instructions"] == "Be brief."
    assert call["body"]["text"] == FORMAT


def test_a_stream_of_such_a_model_is_told_in_words_too(service: Service, emulator: Emulator) -> None:
    last = service.stream(service.thread(), "Oslo", text=FORMAT, model="qwen4-max")[-1]
    assert last["response"]["format_check"]["fits"] is True
    (call,) = emulator.calls()
    assert "JSON Schema" in call["body"]["instructions"]


def test_a_model_that_does_not_enforce_what_it_should_is_told_in_words_from_then_on(
    service: Service, emulator: Emulator
) -> None:
    thread, model = service.thread(), "qwen4-loose"
    emulator.fault("answer", body=said("Oslo, I think"))
    turn = service.turn(thread, "Oslo", text=FORMAT, model=model)
    assert turn["format_check"] == {"fits": True, "fault": None, "asked_again": 1}
    first, second = emulator.calls()
    assert "instructions" not in first["body"]
    assert json.dumps(SCHEMA, separators=(",", ":")) in second["body"]["input"][-1]["content"]
    emulator.fault("answer", body=said("Oslo, I think"))
    answer = service.http.post(
        f"/threads/{service.thread()}/turns", json={"input": "Oslo", "text": FORMAT, "model": model}
    )
    assert answer.headers["everthread-prompted"] == "text.format"
    assert "JSON Schema" in emulator.calls()[2]["body"]["instructions"]


def test_one_that_never_fits_is_given_as_it_is_and_said(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    emulator.fault("answer", body=said("Oslo"), times=5)
    turn = service.turn(thread, "Oslo", text=FORMAT)
    assert turn["output_text"] == "Oslo"
    assert turn["format_check"]["fits"] is False
    assert turn["format_check"]["asked_again"] == 1
    assert len(emulator.calls()) == 2
    kept = service.http.get(f"/threads/{thread}/turns/{turn['id']}").json()
    assert kept["format_check"] == turn["format_check"]
    calls = service.http.get(f"/threads/{thread}/turns/{turn['id']}/calls").json()["data"]
    assert [call["attempt"] for call in calls] == [1, 2]


def test_a_provider_that_fails_when_asked_again_leaves_the_answer_that_there_is(
    service: Service, emulator: Emulator
) -> None:
    refused = {"kind": "status", "status": 400, "code": "InvalidParameter", "message": "No.", "times": 1}
    emulator.control("faults", [{"kind": "answer", "body": said("Oslo"), "times": 1}, refused])
    turn = service.turn(service.thread(), "Oslo", text=FORMAT)
    assert (turn["status"], turn["output_text"], turn["format_check"]["fits"]) == ("completed", "Oslo", False)


def test_a_stream_says_at_its_end_whether_it_fits(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    last = service.stream(thread, "Oslo", text=FORMAT)[-1]
    assert last["response"]["format_check"] == {"fits": True, "fault": None, "asked_again": 0}


def test_a_conversation_goes_on_from_an_answer_that_was_asked_for_twice(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    service.turn(thread, "My name is Ada.")
    emulator.fault("answer", body=said("no"))
    turn = service.turn(thread, "Oslo", text=FORMAT)
    assert turn["format_check"]["asked_again"] == 1
    assert service.turn(thread, "What is my name?")["continuation"] == "chained"
    emulator.forget()
    recited = service.turn(thread, "Recite the conversation")["output_text"].splitlines()
    assert [line for line in recited if line.startswith("user: Your answer")] == []
    assert f"assistant: {turn['output_text']}" in recited


async def test_the_openai_clients_parse_gets_what_it_asked_for(service: Service, emulator: Emulator) -> None:
    emulator.fault("answer", body=said("I would say Oslo."))
    parsed = await service.openai.responses.parse(model="qwen3.5-plus", input="Oslo", text_format=City)
    assert isinstance(parsed.output_parsed, City)


def test_a_tool_call_is_not_held_against_a_schema(service: Service, emulator: Emulator) -> None:
    tools = [{"type": "function", "name": "look_up", "parameters": {"type": "object", "properties": {}}}]
    turn = service.turn(service.thread(), "look_up Oslo", text=FORMAT, tools=tools)
    assert turn["output"][0]["type"] == "function_call"
    assert "format_check" not in turn


TOOL = {"type": "function", "name": "look_up", "parameters": {"type": "object", "properties": {}}}
WORDS = {
    "type": "message",
    "id": "msg_words",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "I will look it up.", "annotations": []}],
}


def calling(type_: str) -> dict[str, Any]:
    """A call that waits for the client."""
    of_type: dict[str, dict[str, Any]] = {
        "function_call": {"call_id": "call_1", "name": "look_up", "arguments": "{}"},
        "custom_tool_call": {"call_id": "call_1", "name": "look_up", "input": "Oslo"},
        "mcp_approval_request": {"name": "look_up", "arguments": "{}", "server_label": "maps"},
    }
    return {"type": type_, "id": "item_1", **of_type[type_]}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("type_", ["function_call", "custom_tool_call", "mcp_approval_request"])
def test_words_before_a_tool_call_are_not_held_against_a_schema(
    service: Service, emulator: Emulator, type_: str, *, streamed: bool
) -> None:
    emulator.fault("output", output=[WORDS, calling(type_)])
    thread = service.thread()
    if streamed:
        turn = service.stream(thread, "Oslo", text=FORMAT, tools=[TOOL])[-1]["response"]
    else:
        turn = service.turn(thread, "Oslo", text=FORMAT, tools=[TOOL])
    assert [item["type"] for item in turn["output"]] == ["message", type_]
    assert "format_check" not in turn
    assert len(emulator.calls()) == 1


async def test_the_openai_client_gets_the_call_then_the_answer_in_its_format(
    service: Service, emulator: Emulator
) -> None:
    emulator.fault("output", output=[WORDS, calling("function_call")])
    conversation = await service.openai.conversations.create()
    asked: Any = {"model": "qwen3.5-plus", "tools": [TOOL], "conversation": conversation.id}
    wanted: Any = FORMAT
    # Not `parse`: the client itself holds each message against the schema.
    first = await service.openai.responses.create(**asked, input="Oslo", text=wanted)
    assert [item.type for item in first.output] == ["message", "function_call"]
    output: Any = [{"type": "function_call_output", "call_id": "call_1", "output": "700,000 people"}]
    emulator.fault("answer", body=said("I would say Oslo."))
    second = await service.openai.responses.parse(input=output, text_format=City, **asked)
    assert isinstance(second.output_parsed, City)
    assert len(emulator.calls()) == 3


async def test_chat_completions_pass_a_call_on_beside_a_format(service: Service, emulator: Emulator) -> None:
    tool: Any = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    schema: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
    asked: Any = {
        "model": "qwen3.5-plus",
        "messages": [{"role": "user", "content": "look_up Oslo"}],
        "tools": [tool],
        "response_format": schema,
    }
    plain = await service.openai.chat.completions.create(**asked)
    (call,) = plain.choices[0].message.tool_calls or []
    assert (call.type, call.function.name) == ("function", "look_up")
    names = [
        part.function.name
        async for chunk in await service.openai.chat.completions.create(**asked, stream=True)
        for choice in chunk.choices
        for part in choice.delta.tool_calls or []
        if part.function is not None and part.function.name
    ]
    assert names == ["look_up"]


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"$ref": "#"},
        {"type": "nonsense"},
        {"properties": 3},
        {"type": "string", "pattern": "^(a+)+$"},
        {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    ],
)
async def test_a_schema_that_cannot_be_applied_is_said_to_be_unchecked(schema: dict[str, Any]) -> None:
    params = {"text": {"format": {"type": "json_schema", "name": "x", "schema": schema}}}
    killable = Killable(environment())
    found = await check(params, json.dumps("a" * 40 + "!"), uuid4(), killable)
    await killable.stop()
    assert found.fits is None
    assert found.fault is not None
    assert found.fault.startswith("not checked: ")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["type", "properties", "items", "$ref", "enum", "required"]), json_values))
def test_any_schema_is_checked_or_passed_over(schema: dict[str, Any]) -> None:
    json_schema.check(schema, '{"a": [1, "b"]}')

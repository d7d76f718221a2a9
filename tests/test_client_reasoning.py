"""Encrypted reasoning that a client keeps by itself and sends back."""

import json
from typing import Any

import httpx2
import pytest

from tests.service import Emulator, Service, read_events

THINKS: dict[str, Any] = {"model": "qwen4-max", "reasoning": {"summary": "auto"}}
LOOP: dict[str, Any] = {"store": False, "include": ["reasoning.encrypted_content"]}
THOUGHT = "The user asked something. I look at the whole conversation before I answer."
UNREADABLE = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "of.nobody"}


def user(words: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": words}


def made_by(service: Service, **asked: Any) -> dict[str, Any]:
    """A reasoning item of a model's."""
    answer = service.http.post("/responses", json={"input": "Think", **LOOP, **asked})
    assert answer.status_code == 200, answer.text
    item: dict[str, Any] = next(item for item in answer.json()["output"] if item["type"] == "reasoning")
    assert item["encrypted_content"]
    return item


def reasoning_in(call: dict[str, Any]) -> list[dict[str, Any]]:
    return [item for item in call["body"]["input"] if item["type"] == "reasoning"]


def adjusted(answer: httpx2.Response) -> str | None:
    header: str | None = answer.headers.get("everthread-adjusted")
    return header


async def test_the_openai_client_keeps_a_models_reasoning_by_itself(service: Service, emulator: Emulator) -> None:
    asked: Any = {**THINKS, **LOOP}
    talk: Any = [user("Think")]
    first = await service.openai.responses.create(input=talk, **asked)
    talk += [*[item.model_dump(exclude_unset=True) for item in first.output], user("What did you think?")]
    second = await service.openai.responses.create(input=talk, **asked)
    assert second.output_text == THOUGHT
    made = [item for item in emulator.calls()[0]["answer"]["output"] if item["type"] == "reasoning"]
    assert reasoning_in(emulator.calls()[1]) == made
    third = [event async for event in await service.openai.responses.create(input=talk, stream=True, **asked)]
    assert third[-1].type == "response.completed"
    assert third[-1].response.output_text == THOUGHT
    assert len(emulator.calls()) == 3


ODD = (
    rb'{"type":"reasoning","z":{"b":1,"a":[1.5,2e0,-0.0,1e-7,1e300,18446744073709551615,-9223372036854775808]},'
    rb'"encrypted_content":"\u00e9\ud83d\ude00\u2028\u0001\\\/ +=\t","id":"rs_\u5317\u4eac",'
    rb'"summary":[{"type":"summary_text","text":"\u0022x\u0022","":null}],"status":null,"a":{},"content":[],"b":false}'
)


@pytest.mark.parametrize("surface", ["/responses", "/threads"])
@pytest.mark.parametrize("output_first", [False, True])
def test_each_json_value_of_reasoning_goes_on_unchanged(
    service: Service, emulator: Emulator, surface: str, *, output_first: bool
) -> None:
    call = b'{"type":"function_call","call_id":"c","name":"f","arguments":"{}"}'
    output = b'{"type":"function_call_output","call_id":"c","output":"1"}'
    words = b'{"role":"user","content":"Go on."}'
    order = [words, call, ODD, output] if output_first else [words, ODD, call, output]
    path = f"/threads/{service.thread()}/turns" if surface == "/threads" else surface
    body = b'{"model":"qwen4-max","store":%b,"input":[%b]}'
    content = body % (b"false" if surface == "/responses" else b"true", b",".join(order))
    answer = service.http.post(path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text
    (sent,) = reasoning_in(emulator.calls()[0])
    # As text: the order of the keys, and 2.0 that is not 2.
    assert json.dumps(sent) == json.dumps(json.loads(ODD))


@pytest.mark.parametrize("lacks", ["missing", "null"])
def test_a_summary_is_added_where_there_is_none(service: Service, emulator: Emulator, lacks: str) -> None:
    item = {
        "type": "reasoning",
        "encrypted_content": "x",
        "id": "rs_1",
        **({"summary": None} if lacks == "null" else {}),
    }
    service.http.post("/responses", json={"input": [user("a"), item], "model": "qwen4-max", **LOOP})
    assert reasoning_in(emulator.calls()[0]) == [{**item, "summary": []}]


@pytest.mark.parametrize("streamed", [False, True])
def test_reasoning_of_another_model_is_left_out_and_named(
    service: Service, emulator: Emulator, *, streamed: bool
) -> None:
    item = made_by(service, **THINKS)
    body = {"model": "qwen3.5-plus", "input": [user("Think"), item, user("Echo: on")], "stream": streamed, **LOOP}
    answer = service.http.post("/responses", json=body)
    assert answer.status_code == 200, answer.text
    assert adjusted(answer) == "reasoning_left_out=1"
    response = read_events(answer.text.splitlines())[-1]["response"] if streamed else answer.json()
    assert response["output"][-1]["content"][0]["text"] == "on"
    _, refused, taken = emulator.calls()
    assert (reasoning_in(refused), reasoning_in(taken)) == ([item], [])
    kept = service.http.post("/responses", json={**body, "model": "qwen4-max", "stream": False})
    assert adjusted(kept) is None


def test_a_thread_that_changes_its_model_says_what_reasoning_it_leaves_out(
    service: Service, emulator: Emulator
) -> None:
    thread = service.thread()
    for _ in range(2):
        service.turn(thread, "Think", **THINKS)
    body = {"input": "Echo: on", "model": "qwen3.5-plus"}
    answer = service.http.post(f"/threads/{thread}/turns", json=body)
    assert adjusted(answer) == "reasoning_left_out=2"
    assert answer.json()["context"]["reasoning_left_out"] == 2
    assert reasoning_in(emulator.calls()[-1]) == []
    # It is sent again to the model that made it.
    back = service.http.post(f"/threads/{thread}/turns", json={"input": "What did you think?", **THINKS})
    assert adjusted(back) is None
    assert back.json()["output_text"] == THOUGHT
    assert len(emulator.calls()) == 4


def test_a_refusal_of_reasoning_is_remembered_and_leaves_the_rest_of_the_history(
    service: Service, emulator: Emulator
) -> None:
    thread = service.thread()
    service.turn(thread, "My name is Ada.", model="qwen4-max")
    answer = service.http.post(
        f"/threads/{thread}/turns", json={"model": "qwen4-max", "input": [UNREADABLE, user("Echo: on")]}
    )
    assert (answer.status_code, adjusted(answer)) == (200, "reasoning_left_out=1")
    assert answer.json()["continuation"] == "chained"
    assert len(emulator.calls()) == 3
    emulator.forget()
    again = service.http.post(
        f"/threads/{thread}/turns", json={"model": "qwen4-max", "input": "What is my name?"}
    ).json()
    assert (again["output_text"], again["continuation"]) == ("Ada", "rebuilt")
    assert again["context"]["reduced"] is None
    chained, rebuilt = emulator.calls()[3:]
    assert "previous_response_id" in chained["body"]
    assert reasoning_in(rebuilt) == []


@pytest.mark.parametrize(
    ("status", "code", "calls"),
    [(401, "InvalidApiKey", 1), (402, "Arrearage", 1), (404, "ModelNotFound", 1), (400, "InvalidParameter", 2)],
)
def test_only_a_refusal_of_the_input_is_tried_without_reasoning_and_once(
    service: Service, emulator: Emulator, status: int, code: str, calls: int
) -> None:
    emulator.fault("status", status=status, code=code, message="Refused.", times=5)
    body = {"model": "qwen4-max", "input": [UNREADABLE, user("on")], **LOOP}
    answer = service.http.post("/responses", json=body)
    assert answer.status_code >= 400
    assert len(emulator.calls()) == calls


def test_reasoning_alone_is_nothing_to_answer(service: Service, emulator: Emulator) -> None:
    answer = service.http.post("/responses", json={"model": "qwen4-max", "input": [UNREADABLE], **LOOP})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "nothing_to_send")
    assert emulator.calls() == []

"""Thinking that uses up max_output_tokens: an answer without text is incomplete, and every surface says why."""

import json
from typing import Any

import httpx2
import pytest

from tests.service import Emulator, Service

ASKED: dict[str, Any] = {"model": "qwen4-max", "max_output_tokens": 16}
REASON = {"reason": "max_output_tokens"}


def usage(output: int) -> dict[str, Any]:
    return {"input_tokens": 10, "output_tokens": output, "total_tokens": 10 + output}


def response(output: list[Any], counted: dict[str, Any]) -> dict[str, Any]:
    """An answer that says `completed` and has none."""
    return {
        "id": "resp_1", "object": "response", "created_at": 1790500000, "model": "qwen4-max", "status": "completed",
        "output": output, "usage": counted,
    }  # fmt: skip


THOUGHT = {"type": "reasoning", "id": "msg_1", "summary": []}
EMPTY = {"type": "message", "id": "msg_2", "role": "assistant", "content": [{"type": "output_text", "text": ""}]}


def test_a_turn_is_incomplete_with_its_reason(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    turn = service.turn(thread, "Hi", **ASKED)
    assert (turn["status"], turn["incomplete_details"], turn["output_text"]) == ("incomplete", REASON, "")
    assert [item["type"] for item in turn["output"]] == ["reasoning"]
    read = service.http.get(f"/threads/{thread}/turns/{turn['id']}").json()
    assert (read["status"], read["incomplete_details"]) == ("incomplete", REASON)
    # The thread goes on.
    assert service.turn(thread, "Echo: again")["output_text"] == "again"


def test_a_stream_ends_with_response_incomplete(service: Service, emulator: Emulator) -> None:
    last = service.stream(service.thread(), "Hi", **ASKED)[-1]
    assert (last["type"], last["response"]["incomplete_details"]) == ("response.incomplete", REASON)


async def test_the_openai_surface_says_so_plain_and_streamed(service: Service, emulator: Emulator) -> None:
    answer = await service.openai.responses.create(input="Hi", **ASKED)
    assert (answer.status, answer.output_text) == ("incomplete", "")
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    events = [event async for event in await service.openai.responses.create(input="Hi", stream=True, **ASKED)]
    assert events[-1].type == "response.incomplete"
    again = await service.openai.responses.create(input="Echo: on", previous_response_id=answer.id)
    assert again.output_text == "on"


@pytest.mark.parametrize("stream", [False, True])
def test_chat_completions_end_with_length(service: Service, emulator: Emulator, stream: bool) -> None:
    body = {"model": "qwen4-max", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 16, "stream": stream}
    answer = service.http.post("/chat/completions", json=body)
    if stream:
        lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
        chunks = [json.loads(line) for line in lines]
        reasons = [
            choice["finish_reason"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]
        ]
        assert reasons == ["length"]
    else:
        (choice,) = answer.json()["choices"]
        assert (choice["finish_reason"], choice["message"]["content"]) == ("length", "")


@pytest.mark.parametrize("output", [[], [THOUGHT], [THOUGHT, EMPTY]])
@pytest.mark.parametrize("counted", [usage(16), usage(20), usage(0), {}])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_calls_itself_completed_is_incomplete_where_the_limit_is_used_up(
    service: Service, emulator: Emulator, output: list[Any], counted: dict[str, Any], stream: bool
) -> None:
    answer = response(output, counted)
    body = json.dumps(answer)
    if stream:
        event = json.dumps({"type": "response.completed", "sequence_number": 0, "response": answer})
        body = f"event:response.completed\ndata:{event}\n\n"
    emulator.fault("answer", body=body, stream=stream)
    if stream:
        shown = service.stream(service.thread(), "Hi", **ASKED)[-1]["response"]
    else:
        shown = service.turn(service.thread(), "Hi", **ASKED)
    assert (shown["status"], shown["incomplete_details"]) == ("incomplete", REASON)


@pytest.mark.parametrize(
    ("output", "counted", "fields"),
    [
        # It stopped by itself.
        ([THOUGHT], usage(15), ASKED),
        # It said something, or calls a tool.
        ([THOUGHT, {**EMPTY, "content": [{"type": "output_text", "text": "Hi"}]}], usage(16), ASKED),
        ([{"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}"}], usage(16), ASKED),
        # No limit is known.
        ([THOUGHT], usage(16), {"model": "qwen3.5-plus"}),
    ],
)
def test_any_other_answer_stays_completed(
    service: Service, emulator: Emulator, output: list[Any], counted: dict[str, Any], fields: dict[str, Any]
) -> None:
    emulator.fault("answer", body=json.dumps(response(output, counted)), stream=False)
    turn = service.turn(service.thread(), "Hi", **fields)
    assert (turn["status"], turn["incomplete_details"]) == ("completed", None)


def test_the_emulator_shares_the_limit_for_qwen4_max_alone(emulator: Emulator) -> None:
    def asked(**fields: Any) -> dict[str, Any]:
        body = {"input": "Echo: one", "max_output_tokens": 16, **fields}
        answer = httpx2.post(f"{emulator.base_url}/responses", json=body, headers={"Authorization": "Bearer k"})
        said: dict[str, Any] = answer.json()
        return said

    assert asked(model="qwen4-max")["incomplete_details"] == REASON
    assert asked(model="qwen4-max", reasoning={"effort": "none"})["status"] == "completed"
    assert asked(model="qwen3.5-plus", enable_thinking=True)["status"] == "completed"

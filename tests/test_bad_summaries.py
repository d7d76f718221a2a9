"""Summaries and titles that cannot be used: none of them stands for anything, and the conversation goes on."""

import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.databases import query
from tests.service import Emulator, Service, eventually

ASKED = "Summarise the conversation."
TITLED = "Write a title"
NEVER = [{"type": "compaction", "compact_threshold": 10**9}]
SOON = [{"type": "compaction", "compact_threshold": 1}]
FILLER = "The weather is fine and the road goes on and on between the hills. " * 12
SEARCH = {"type": "web_search"}
TOOL = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}

BAD: list[tuple[dict[str, Any], str]] = [
    ({"text": "The user's name is Ada. Bus 74 go", "status": "incomplete"}, "incomplete"),
    ({"refusal": "This is not allowed."}, "refusal"),
    ({"text": "I'm sorry, but I can't assist with that request."}, "refusal"),
    ({"text": "抱歉，我无法提供这个摘要。"}, "refusal"),
    ({"text": "<think>The user is Ada, bus 74. I have to"}, "unfinished_reasoning"),
    ({"text": "<think>The user is Ada, bus 74.</think>"}, "too_short"),
    ({"text": "."}, "too_short"),
    ({"text": "They had a talk about a few things."}, "no_facts"),
]
EACH_BAD = pytest.mark.parametrize(("bad", "reason"), BAD)


@pytest.fixture(scope="module")
def small_service(service_env: dict[str, str]) -> Iterator[Service]:
    """A service that makes titles, and whose models read little."""
    service = Service(env={**service_env, "EVERTHREAD_TITLES": "true", "EVERTHREAD_CONTEXT_WINDOW_TOKENS": "2000"})
    yield service
    service.stop()


@pytest.fixture
def small(small_service: Service, emulator: Emulator) -> Service:
    return small_service


def begun(service: Service) -> str:
    """A thread with facts at its beginning."""
    thread = service.thread()
    service.turn(thread, "My name is Ada. Bus 74 goes home.", context_management=NEVER)
    service.turn(thread, "Hello", context_management=NEVER)
    return thread


def script(emulator: Emulator, when: str, *answers: dict[str, Any]) -> None:
    emulator.control("script", [{"when": when, **answer} for answer in answers])


def summary_calls(emulator: Emulator) -> list[dict[str, Any]]:
    return [call["body"] for call in emulator.calls() if ASKED in str(call["body"]["input"])]


def compactions(service: Service, thread: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.http.get(f"/threads/{thread}/compactions").json()["data"]
    return found


def rejected(service: Service, use: str, reason: str) -> float:
    text = service.http.get(f"{service.url}/metrics").text
    series = re.escape(f'everthread_rejected_answers_total{{reason="{reason}",use="{use}"}} ')
    found = re.search(f"^{series}(\\S+)$", text, re.MULTILINE)
    return 0.0 if found is None else float(found[1])


@EACH_BAD
def test_a_bad_summary_is_asked_for_once_more_and_then_stands_for_nothing(
    service: Service, emulator: Emulator, bad: dict[str, Any], reason: str
) -> None:
    thread = begun(service)
    before = rejected(service, "summary", reason)
    script(emulator, ASKED, {**bad, "times": 9})
    refused = service.http.post(f"/threads/{thread}/compact", json={"keep_turns": 1})
    assert (refused.status_code, refused.json()["error"]["code"]) == (502, f"summary_{reason}")
    assert "Try again later" in refused.json()["error"]["message"]
    (kept,) = compactions(service, thread)
    assert (kept["status"], kept["error"]["code"], kept["text"]) == ("failed", f"summary_{reason}", None)
    assert kept["usage"]["total_tokens"] > 0
    assert len(summary_calls(emulator)) == 2
    assert rejected(service, "summary", reason) == before + 2
    emulator.forget()
    assert service.turn(thread, "What is my name?", context_management=NEVER)["output_text"] == "Ada"
    sent = emulator.calls()[-1]["body"]["input"]
    assert next(item["content"] for item in sent if item["role"] == "user") == "My name is Ada. Bus 74 goes home."


@EACH_BAD
def test_a_good_summary_after_a_bad_one_is_used(
    service: Service, emulator: Emulator, bad: dict[str, Any], reason: str
) -> None:
    thread = begun(service)
    script(emulator, ASKED, bad)
    made = service.http.post(f"/threads/{thread}/compact", json={"keep_turns": 1})
    assert made.status_code == 201, made.text
    assert (made.json()["status"], made.json()["attempts"], made.json()["error"]) == ("ready", 1, None)
    assert made.json()["text"] == "My name is Ada.\nBus 74 goes home."
    first, second = summary_calls(emulator)
    assert first["input"][1] == second["input"][1]
    assert "An earlier attempt could not be used" in second["input"][0]["content"]
    assert first["reasoning"] == {"effort": "none"}
    assert service.turn(thread, "What is my name?")["output_text"] == "Ada"


def test_a_bad_summary_in_the_background_leaves_the_thread_as_without_one(
    small: Service, emulator: Emulator, database_url: str
) -> None:
    thread = begun(small)
    script(emulator, ASKED, {"refusal": "This is not allowed.", "times": 9})
    small.turn(thread, FILLER, context_management=SOON)
    eventually(lambda: [each["status"] for each in compactions(small, thread)] == ["failed"])
    asked = len(summary_calls(emulator))
    after = small.http.post(f"/threads/{thread}/turns", json={"input": "What is my name?", "context_management": SOON})
    assert after.json()["output_text"] == "Ada"
    assert "everthread-compaction" not in after.headers
    emulator.forget()
    assert small.turn(thread, "Find: Bus", context_management=NEVER)["output_text"] == "Bus 74 goes home."
    assert len(summary_calls(emulator)) == asked == 2  # The next attempt waits for its pause.
    longer_ago = "UPDATE compactions SET completed_at = completed_at - interval '1 hour' WHERE status = 'failed'"
    query(database_url, longer_ago)
    script(emulator, ASKED)
    small.turn(thread, FILLER, context_management=SOON)
    eventually(lambda: compactions(small, thread)[0]["status"] == "ready")


def test_what_came_before_is_not_lost_by_a_later_summary(service: Service, emulator: Emulator) -> None:
    thread = begun(service)
    assert service.http.post(f"/threads/{thread}/compact", json={"keep_turns": 0}).status_code == 201
    service.turn(thread, "Room 41 is for Grace, room 42 for Edsger.", context_management=NEVER)
    script(emulator, ASKED, {"text": "Room 41: Grace, room 42: Edsger.", "times": 2})
    refused = service.http.post(f"/threads/{thread}/compact", json={"keep_turns": 0})
    assert refused.json()["error"]["code"] == "summary_no_facts"
    assert service.turn(thread, "What is my name?", context_management=NEVER)["output_text"] == "Ada"
    assert [each["status"] for each in compactions(service, thread)] == ["failed", "ready"]


@pytest.mark.parametrize(
    ("said", "summary"),
    [
        (["Hello", "How are you?"], "Greetings."),
        (["你好", "今天天气不错"], "双方互相问候。"),
        (["我叫王小明，住在北京。", "好的"], "The user is Wang Xiaoming and lives in Beijing."),
        (["My name is Ada.", "Hello"], "<think>One fact.</think>\n\nThe user is Ada."),
        (["What does `<think>` do? My name is Ada.", "Hello"], "Ada asked about `<think>`."),
        (["It is 9 already.", "Bye"], "Small talk."),
    ],
)
def test_a_good_summary_is_not_refused(service: Service, emulator: Emulator, said: list[str], summary: str) -> None:
    thread = service.thread()
    for each in said:
        service.turn(thread, each, context_management=NEVER)
    script(emulator, ASKED, {"text": summary})
    made = service.http.post(f"/threads/{thread}/compact", json={"keep_turns": 0})
    assert made.status_code == 201, made.text
    assert made.json()["text"] == summary.rpartition("</think>\n\n")[2]
    assert len(summary_calls(emulator)) == 1


def test_instructions_of_ones_own_may_ask_for_a_single_word(service: Service, emulator: Emulator) -> None:
    thread = begun(service)
    script(emulator, ASKED, {"text": "Ada"})
    body = {"keep_turns": 1, "instructions": "Keep the user's name alone."}
    assert service.http.post(f"/threads/{thread}/compact", json=body).json()["text"] == "Ada"


# /responses/compact


@EACH_BAD
async def test_the_openai_client_gets_an_error_and_no_bad_summary(
    service: Service, emulator: Emulator, bad: dict[str, Any], reason: str
) -> None:
    script(emulator, ASKED, {**bad, "times": 2})
    with pytest.raises(openai.InternalServerError) as caught:
        await service.openai.responses.compact(model="qwen3.5-plus", input="My name is Ada. Bus 74 goes home.")
    assert (caught.value.status_code, caught.value.code) == (502, f"summary_{reason}")
    compacted = await service.openai.responses.compact(model="qwen3.5-plus", input="My name is Ada.")
    sealed: Any = compacted.output[-1].model_dump(exclude_none=True)
    question: Any = {"role": "user", "content": "What is my name?"}
    answer = await service.openai.responses.create(model="qwen3.5-plus", input=[sealed, question])
    assert answer.output_text == "Ada"


def call(call_id: str) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": "get_weather", "arguments": "{}"}


def output(call_id: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": "sunny"}


def user(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": text}


SHELL = {
    "type": "local_shell_call",
    "id": "lsh_1",
    "call_id": "call_1",
    "action": {"type": "exec"},
    "status": "completed",
}
APPROVAL = {"type": "mcp_approval_request", "id": "mcpr_1", "name": "pay", "arguments": "{}", "server_label": "bank"}


@pytest.mark.parametrize(
    ("items", "waiting"),
    [
        ([user("Hi"), call("call_1")], "call_1"),
        ([user("Hi"), call("call_1"), call("call_2"), output("call_1")], "call_2"),
        ([user("Hi"), call("call_1"), output("call_1"), call("call_1")], "call_1"),
        ([user("Hi"), APPROVAL], "mcpr_1"),
        ([user("Hi"), SHELL], "call_1"),
        ([user("Hi"), call("call_1"), output("call_1")], None),
        ([user("Hi"), call("call_1"), user("Never mind.")], None),
        ([user("Hi"), SHELL, {"type": "local_shell_call_output", "id": "lsh_1", "output": "ok"}], None),
        (
            [
                user("Hi"),
                APPROVAL,
                {**{"type": "mcp_approval_response"}, "approval_request_id": "mcpr_1", "approve": True},
            ],
            None,
        ),
        (
            [
                user("Hi"),
                {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}},
            ],
            None,
        ),
        ([user("Hi"), {"type": "mcp_call", "id": "m_1", "name": "f", "arguments": "{}", "server_label": "s"}], None),
    ],
)
async def test_only_a_call_that_the_client_must_answer_is_open(
    service: Service, emulator: Emulator, items: list[Any], waiting: str | None
) -> None:
    if waiting is None:
        assert (await service.openai.responses.compact(model="qwen3.5-plus", input=items)).output
        return
    with pytest.raises(openai.BadRequestError) as caught:
        await service.openai.responses.compact(model="qwen3.5-plus", input=items)
    assert f"No tool output found for function call {waiting}." in caught.value.message
    assert caught.value.param == "input"
    assert summary_calls(emulator) == []


async def test_a_response_with_an_open_call_is_not_compacted_and_one_that_was_answered_or_passed_over_is(
    service: Service, emulator: Emulator
) -> None:
    client, model = service.openai, "qwen3.5-plus"
    tools: Any = [TOOL]
    waiting = await client.responses.create(model=model, input="What is the weather?", tools=tools)
    (called,) = [item for item in waiting.output if item.type == "function_call"]
    for more in ([], [user("And my name is Ada.")]):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.compact(model=model, previous_response_id=waiting.id, input=more or openai.omit)  # type: ignore[arg-type]
        assert called.call_id in caught.value.message
    assert summary_calls(emulator) == []
    answered: Any = [output(called.call_id)]
    assert (await client.responses.compact(model=model, previous_response_id=waiting.id, input=answered)).output
    done = await client.responses.create(model=model, previous_response_id=waiting.id, input=answered, tools=tools)
    assert (await client.responses.compact(model=model, previous_response_id=done.id)).output
    passed = await client.responses.create(model=model, previous_response_id=waiting.id, input="Never mind.")
    assert (await client.responses.compact(model=model, previous_response_id=passed.id)).output
    hosted: Any = [SEARCH]
    searched = await client.responses.create(model=model, input="Look for bus 74.", tools=hosted)
    assert any(item.type == "web_search_call" for item in searched.output)
    assert (await client.responses.compact(model=model, previous_response_id=searched.id)).output


# Titles


def title(service: Service, thread: str) -> str | None:
    found: str | None = service.http.get(f"/threads/{thread}").json()["title"]
    return found


def title_calls(emulator: Emulator) -> list[dict[str, Any]]:
    return [each["body"] for each in emulator.calls() if TITLED in (each["body"].get("instructions") or "")]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"text": "<think>The user wants"}, "unfinished_reasoning"),
        ({"text": "<think>The user wants a title.</think>"}, "too_short"),
        ({"text": "Ada and the", "status": "incomplete"}, "incomplete"),
        ({"refusal": "This is not allowed."}, "refusal"),
        ({"text": "Sorry, I can't help with that."}, "refusal"),
    ],
)
def test_a_bad_title_is_not_stored_and_the_next_turn_tries_again(
    small: Service, emulator: Emulator, bad: dict[str, Any], reason: str
) -> None:
    before = rejected(small, "title", reason)
    script(emulator, TITLED, bad, {"text": "<think>Short.</think>\n\n“Ada takes\nthe bus.”"})
    thread = small.thread()
    small.turn(thread, "My name is Ada.")
    eventually(lambda: rejected(small, "title", reason) == before + 1)
    assert title(small, thread) is None
    small.turn(thread, "Which bus goes home?")
    eventually(lambda: title(small, thread) == "Ada takes the bus")
    assert [each["reasoning"] for each in title_calls(emulator)] == [{"effort": "none"}] * 2
    assert min(each["max_output_tokens"] for each in title_calls(emulator)) >= 256
    assert "Which bus goes home?" in title_calls(emulator)[1]["input"]


def test_a_model_that_never_gives_a_title_is_not_asked_for_ever(small: Service, emulator: Emulator) -> None:
    before = rejected(small, "title", "refusal")
    script(emulator, TITLED, {"refusal": "This is not allowed.", "times": 99})
    thread = small.thread()
    for number in range(1, 6):
        small.turn(thread, "Hello")
        eventually(lambda number=number: rejected(small, "title", "refusal") == before + number)  # type: ignore[misc]
    small.turn(thread, "Hello")
    small.turn(thread, "Hello")
    other = small.thread()
    small.turn(other, "Hello")
    eventually(lambda: rejected(small, "title", "refusal") == before + 6)
    assert title(small, thread) is None
    assert len(title_calls(emulator)) == 6

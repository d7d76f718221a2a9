"""The rebuilt history, for every history there can be."""

from typing import Any
from unittest import mock

import orjson
from hypothesis import given
from hypothesis import strategies as st

from app.chain.rebuild import Abilities, rebuild
from app.chain.reduction import Step
from app.emulator import validate
from app.emulator.errors import ProviderError
from app.items.kinds import is_system
from app.items.shapes import MODALITIES, text_of
from app.items.weights import tokens

Item = dict[str, Any]

text = st.text(max_size=40)
words = st.text(min_size=1, max_size=40)
IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}

user = st.builds(
    lambda role, said, image: {
        "type": "message",
        "role": role,
        "content": [{"type": "input_text", "text": said}, IMAGE] if image else said,
    },
    st.sampled_from(["user", "system", "developer"]),
    words,
    st.booleans(),
)
assistant = st.builds(
    lambda said: {
        "type": "message",
        "id": "msg_1",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": said, "annotations": [], "logprobs": None}],
    },
    text,
)
call_ids = st.sampled_from(["a", "b", "c", "d"])
call = st.builds(
    lambda id_: {
        "type": "function_call", "id": "fc_1", "status": "completed", "call_id": id_, "name": "f", "arguments": "{}",
    },
    call_ids,
)  # fmt: skip
output = st.builds(lambda id_, said: {"type": "function_call_output", "call_id": id_, "output": said}, call_ids, text)
others = st.sampled_from(
    [
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}},
        {"type": "web_extractor_call", "goal": "g", "output": "found", "urls": ["https://www.example.com/"]},
        {"type": "code_interpreter_call", "code": "1", "outputs": [{"type": "logs", "logs": "1"}]},
        {"type": "mcp_call", "name": "m", "arguments": "{}", "output": "o"},
        {"type": "image_search_call", "name": "i", "output": None},
        {"type": "file_search_call", "queries": [], "results": [{"text": "t"}]},
        {"type": "something_of_tomorrow", "id": "x", "payload": {"deep": [1]}},
    ]
)


@st.composite
def histories(draw: st.DrawFn) -> list[Item]:
    """Histories as they are stored: each call id is used once, some calls are never answered."""
    items = draw(st.lists(st.one_of(user, assistant, call, output, others), max_size=25))
    kept: list[Item] = []
    called: set[str] = set()
    answered: set[str] = set()
    for item in items:
        id_ = item.get("call_id")
        if item["type"] == "function_call":
            if id_ in called:
                continue
            called.add(str(id_))
        elif item["type"] == "function_call_output":
            if id_ not in called or id_ in answered:
                continue
            answered.add(str(id_))
        kept.append(item)
    return kept


new_input = st.lists(st.builds(lambda said: {"type": "message", "role": "user", "content": said}, words), min_size=1)
budgets = st.one_of(st.integers(0, 400), st.just(1_000_000))


@given(histories(), new_input, budgets)
def test_the_provider_takes_every_rebuilt_history(history: list[Item], new: list[Item], budget: int) -> None:
    rebuilt = rebuild(history, new, Abilities(budget)).input
    try:
        validate.tool_outputs(validate.input_items(rebuilt))
    except ProviderError as error:
        raise AssertionError(error.message) from error


@given(histories(), new_input, budgets)
def test_the_same_history_is_always_rebuilt_the_same_way(history: list[Item], new: list[Item], budget: int) -> None:
    assert rebuild(history, new, Abilities(budget)) == rebuild(history, new, Abilities(budget))


@given(histories(), new_input)
def test_nothing_that_was_said_is_lost_and_the_order_is_kept(history: list[Item], new: list[Item]) -> None:
    rebuilt = rebuild(history, new, Abilities(10_000_000))
    items = [*history, *new]
    system = [text_of(i) for i in items if is_system(i)]
    said = [(i["role"], text_of(i)) for i in items if i["type"] == "message" and not is_system(i)]
    expected = [pair for pair in said if pair[0] != "assistant" or pair[1]]
    # What a server-side tool found goes along as an assistant message in brackets.
    found = [(i["role"], text_of(i)) for i in rebuilt.input if i["type"] == "message"]
    assert [pair for pair in found if pair in expected] == expected
    # One system message at most, and first, with all that system and developer messages said.
    systems = [place for place, item in enumerate(rebuilt.input) if is_system(item)]
    assert systems == ([0] if system else [])
    if system:
        assert text_of(rebuilt.input[0]) == "\n\n".join(system)
    assert rebuilt.dropped_items == 0
    answered = {i["call_id"] for i in history if i["type"] == "function_call_output"}
    assert {i["call_id"] for i in rebuilt.input if i["type"] == "function_call"} == answered


@given(histories(), new_input, st.integers(0, 400))
def test_what_does_not_fit_is_dropped_from_the_oldest_end(history: list[Item], new: list[Item], budget: int) -> None:
    whole = rebuild(history, new, Abilities(10_000_000)).input
    rebuilt = rebuild(history, new, Abilities(budget))
    assert rebuilt.input[len(rebuilt.input) - len(new) :] == whole[len(whole) - len(new) :]
    assert len(rebuilt.input) + rebuilt.dropped_items == len(whole)
    kept_systems = [i for i in rebuilt.input if i.get("role") in ("system", "developer")]
    assert kept_systems == [i for i in whole if i.get("role") in ("system", "developer")]
    droppable = [i for i in rebuilt.input[: len(rebuilt.input) - len(new)] if i not in kept_systems]
    if droppable:
        assert sum(map(tokens, rebuilt.input)) <= budget


@given(histories(), new_input)
def test_an_output_in_the_new_input_finds_its_call_in_the_history(history: list[Item], new: list[Item]) -> None:
    open_call = {"type": "function_call", "call_id": "late", "name": "f", "arguments": "{}"}
    answer = {"type": "function_call_output", "call_id": "late", "output": "done"}
    rebuilt = rebuild([*history, open_call], [answer, *new], Abilities(0)).input
    assert rebuilt.index(open_call) < rebuilt.index(answer)


parts = st.one_of(
    st.builds(lambda type_, said: {"type": type_, "text": said}, st.sampled_from(["input_text", "output_text"]), text),
    st.sampled_from([IMAGE, {"type": "refusal", "refusal": "No."}, {"type": "input_text"}, {"text": 1}, "words"]),
)
messages = st.builds(
    lambda role, content, more: {"role": role, "content": content, **more},
    st.sampled_from(["user", "assistant", "system"]),
    st.one_of(text, st.lists(parts, max_size=2)),
    st.sampled_from([{"type": "message"}, {}, {"type": "message", "pinned": True}, {"type": "message", "id": "msg_2"}]),
)
mixed = st.lists(st.one_of(messages, call, output, others), max_size=12)
models = st.builds(
    lambda budget, modalities, bytes_: Abilities(budget, modalities, byte_budget=bytes_),
    budgets,
    st.sampled_from([MODALITIES, frozenset({"image"}), frozenset()]),
    st.one_of(st.none(), st.integers(0, 900)),
)


@given(mixed, new_input, models, st.sampled_from(Step), st.booleans(), st.data())
def test_messages_of_text_alone_are_sent_as_the_general_way_sends_them(
    history: list[Item], new: list[Item], model: Abilities, step: Step, counted: bool, data: st.DataObject
) -> None:
    counts = [data.draw(st.integers(0, 50)) for _ in [*history, *new]] if counted else None
    reduced = data.draw(st.one_of(st.none(), st.integers(0, len(history))))
    rebuilt = rebuild(history, new, model, counts, step=step, reduced_items=reduced)
    with mock.patch("app.chain.rebuild.plain_text", return_value=None):
        assert rebuilt == rebuild(history, new, model, counts, step=step, reduced_items=reduced)
    assert b"[" + b"".join(rebuilt.encoded)[1:] + b"]" == orjson.dumps(rebuilt.input)

"""Items: what clients send is taken whole, translated, or refused by its path; whatever is kept is harmless."""

import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.chain.rebuild import Abilities, new_input, rebuild
from app.emulator import validate
from app.emulator.errors import ProviderError
from app.history import messages
from app.http.errors import BadRequest
from app.items.client_door import check_sendable, items_of
from app.items.input_item import with_facts
from app.items.kinds import (
    CALLS,
    KINDS,
    MALFORMED,
    is_encrypted_reasoning,
    is_system,
    kind_of,
    media_in,
    type_of,
)
from app.items.pairs import answers, asked
from app.items.shapes import modality_of, text_of
from app.items.stored import StoredItem, columns, imported_type, stored_input, stored_item, stored_output
from app.items.weights import IMAGE_TOKENS, count, tokens
from app.provider.models import Models
from app.provider.reading import NotJSON, read_json
from app.turns.replay import events_of
from app.turns.schemas import Origin, turn_request
from app.turns.show import output_text
from tests.projects import Project
from tests.service import Emulator, Service

Item = dict[str, Any]

MODELS = Models()
ROOMY = Abilities(10_000_000)
PIXEL = "data:image/png;base64,AAAA"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [
    "type", "id", "role", "content", "call_id", "name", "arguments", "output", "outputs", "results", "urls", "input",
    "summary", "action", "status", "text", "approval_request_id", "operation", "tool_calls", "queries", "tools",
    "execution", "approve", "reason",
]  # fmt: skip
types = st.sampled_from([*KINDS, "item_reference", "tomorrows_call", ""])
loose_items = st.dictionaries(st.sampled_from(FIELDS), json_values | types | st.sampled_from(["assistant", "user"]))
odd_items = st.one_of(
    json_values, loose_items, st.builds(lambda type_, item: {**item, "type": type_}, types, loose_items)
)


said = st.dictionaries(
    st.sampled_from([*FIELDS, "pinned"]),
    st.text(max_size=8) | st.sampled_from(["message", "system", "developer", "user", "reasoning"]) | json_values,
)
said_items = said | st.builds(lambda text, item: {**item, "content": text}, st.text(max_size=8), said)


@given(said_items)
@example({"role": "user", "content": "Look", "output": [{"type": "input_image", "image_url": PIXEL}]})
@example({"role": "user", "content": [{"type": "input_image", "image_url": PIXEL}]})
def test_the_facts_of_a_text_are_the_facts_of_any_item(item: Item) -> None:
    (found,) = with_facts([item])
    assert (found.data, found.type, found.kind) == (item, type_of(item), kind_of(item))
    assert found.text == (text_of(item) if type_of(item) == "message" else "")
    assert found.tokens == tokens(item)
    assert (found.is_system, found.is_encrypted_reasoning) == (is_system(item), is_encrypted_reasoning(item))
    assert found.modalities == {modality_of(part) for part in media_in(item)}


@given(st.text(min_size=1), st.booleans())
def test_a_text_opens_the_turn_that_a_message_of_it_opens(text: str, stream: bool) -> None:
    origin = Origin()
    as_text, as_message = (
        turn_request({"input": given, "stream": stream}, MODELS, origin)
        for given in (text, [{"role": "user", "content": text}])
    )
    assert as_text == as_message


def everything_works(kept: list[StoredItem]) -> None:
    """All that is done with items that are kept, in memory."""
    types_, ids, data = columns(kept)
    rows = [
        {"type": t, "item_id": i, "data": json.loads(d), "turn_id": UUID(int=1)}
        for t, i, d in zip(types_, ids, data, strict=True)
    ]
    items = [stored_item(row).item for row in rows]
    for model in (ROOMY, Abilities(0), Abilities(300, frozenset(), takes_tool_outputs=False)):
        new = [{"type": "message", "role": "user", "content": "on"}]
        for sent in (
            rebuild(items, new, model).input,
            rebuild([], items, model).input,
            new_input(with_facts(new), model),
        ):
            if sent:
                context = validate.input_items(sent)
                validate.tool_outputs(context)
                name = "qwen3.5-plus" if model.takes_tool_outputs else "qwen-plus"
                validate.for_model(MODELS.of(name), context, None, one_system=False)
    for shown in (messages.as_responses(rows), messages.as_chat(rows), [messages.as_markdown("T", rows)]):
        json.dumps(shown)
    asked(items)
    answers(items)
    assert all(tokens(item) > 0 for item in items)
    output_text([k.shown for k in kept])
    list(events_of({"status": "completed", "output": [k.shown for k in kept]}))
    for k in kept:
        messages.brief(k.item)


@given(st.lists(odd_items, max_size=5) | json_values)
@settings(max_examples=4 * settings().max_examples)
def test_whatever_the_provider_gives_is_kept_and_harmless(output: Any) -> None:
    output = read_json(json.dumps(output).encode())[0]
    kept = stored_output(output)
    assert len(kept) == (0 if output is None else len(output) if isinstance(output, list) else 1)
    assert len({k.id for k in kept}) == len(kept)
    everything_works(kept)


@given(st.lists(odd_items, min_size=1, max_size=5))
@settings(max_examples=4 * settings().max_examples)
def test_what_a_client_sends_is_refused_by_its_path_or_is_harmless(sent: list[Any]) -> None:
    sent = read_json(json.dumps(sent).encode())[0]
    refused: BadRequest | None = None
    try:
        items = items_of(sent)
    except BadRequest as error:
        refused = error
    if refused is not None:
        assert (refused.param or "").startswith("input")
    else:
        everything_works(stored_input(with_facts(items)))


@given(json_values)
def test_an_imported_item_of_any_shape_is_harmless(data: Any) -> None:
    data = read_json(json.dumps({"x": data} if not isinstance(data, dict) else data).encode())[0]
    for origin in ("input", "output"):
        everything_works([StoredItem(imported_type(origin, data), "item_1", data)])


@given(st.binary(max_size=200))
def test_reading_never_fails_in_another_way_than_it_says(data: bytes) -> None:
    try:
        value, _ = read_json(data)
    except NotJSON:
        return
    json.dumps(value).encode()  # No half character is left.


@given(json_values)
def test_a_count_of_tokens_is_a_count_whatever_it_was(value: Any) -> None:
    assert 0 <= count(value) < 2**53


call_ids = st.sampled_from(["a", "b"])
tool_items = st.one_of(
    st.builds(lambda i: {"type": "function_call", "call_id": i, "name": "f", "arguments": "{}"}, call_ids),
    st.builds(lambda i: {"type": "function_call_output", "call_id": i, "output": "o"}, call_ids),
    st.builds(lambda i: {"type": "custom_tool_call", "call_id": i, "name": "g", "input": "x"}, call_ids),
    st.builds(lambda i: {"type": "custom_tool_call_output", "call_id": i, "output": "o"}, call_ids),
    st.just({"type": "reasoning", "summary": []}),
    st.sampled_from(["user", "assistant", "system"]).map(lambda r: {"type": "message", "role": r, "content": "said"}),
)


@given(st.lists(tool_items, max_size=12), st.lists(tool_items, min_size=1, max_size=4), st.integers(0, 200))
@settings(max_examples=4 * settings().max_examples)
def test_the_provider_takes_every_order_of_calls_and_outputs(history: list[Item], new: list[Item], budget: int) -> None:
    for model in (ROOMY, Abilities(budget), Abilities(budget, takes_tool_outputs=False)):
        sent = rebuild(history, new, model).input
        if not sent:
            continue
        try:
            context = validate.input_items(sent)
            validate.tool_outputs(context)
            name = "qwen3.5-plus" if model.takes_tool_outputs else "qwen-plus"
            validate.for_model(MODELS.of(name), context, None, one_system=False)
        except ProviderError as error:
            raise AssertionError(f"{error.message}: {sent}") from error
    # All messages are there, in their order.
    said = [i["content"] for i in rebuild(history, new, ROOMY).input if i.get("role") in ("user", "assistant")]
    outputs = [i for i in [*history, *new] if i["type"].endswith("_output")]
    assert len([i for i in [*history, *new] if i.get("role") in ("user", "assistant")]) <= len(said)
    carried = [i for i in rebuild(history, new, ROOMY).input if i["type"] == "function_call_output"]
    assert len(carried) + len([s for s in said if "answered: " in s]) == len(outputs)


def function(call_id: str, name: str = "f") -> Item:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": "{}"}


def output(call_id: str, said: Any = "o") -> Item:
    return {"type": "function_call_output", "call_id": call_id, "output": said}


def user(said: str) -> Item:
    return {"type": "message", "role": "user", "content": said}


def test_of_two_calls_with_one_id_only_the_answered_one_is_sent() -> None:
    sent = rebuild([user("a"), function("call_0", "first"), user("b"), function("call_0", "second"), output("call_0")],
                   [user("c")], ROOMY).input  # fmt: skip
    assert [item.get("name") for item in sent if item["type"] == "function_call"] == ["second"]


def test_an_output_that_comes_after_other_words_is_put_behind_its_call() -> None:
    sent = rebuild([function("c"), user("wait"), output("c")], [user("on")], ROOMY).input
    assert [item["type"] for item in sent] == ["function_call", "function_call_output", "message", "message"]


def test_an_output_without_its_call_goes_along_in_words() -> None:
    sent = rebuild([user("hi"), output("lost", "42")], [user("on")], ROOMY).input
    assert sent[1] == {"type": "message", "role": "user", "content": "[A tool answered: 42]"}


PAIRS: list[tuple[Item, Item]] = [
    ({"type": "custom_tool_call", "call_id": "c", "name": "sql", "input": "SELECT 1"},
     {"type": "custom_tool_call_output", "call_id": "c", "output": "1"}),
    ({"type": "local_shell_call", "id": "ls_1", "call_id": "c", "action": {"type": "exec", "command": ["ls"]}},
     {"type": "local_shell_call_output", "id": "c", "output": "a.txt"}),
    ({"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"]}},
     {"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "a.txt"}]}),
    ({"type": "apply_patch_call", "call_id": "c", "operation": {"type": "delete_file", "path": "x"}},
     {"type": "apply_patch_call_output", "call_id": "c", "status": "completed", "output": "done"}),
    ({"type": "computer_call", "call_id": "c", "action": {"type": "screenshot"}},
     {"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot", "image_url": PIXEL}}),
    ({"type": "mcp_approval_request", "id": "c", "name": "delete", "arguments": "{}", "server_label": "s"},
     {"type": "mcp_approval_response", "approval_request_id": "c", "approve": True}),
    ({"type": "tool_search_call", "call_id": "c", "execution": "client", "arguments": {"goal": "maps"}},
     {"type": "tool_search_output", "call_id": "c", "tools": [{"type": "function", "name": "f"}]}),
]  # fmt: skip


def test_every_kind_of_call_has_its_pair_here() -> None:
    assert {call["type"] for call, _ in PAIRS} | {"function_call"} == set(CALLS)


@pytest.mark.parametrize(("call", "answer"), PAIRS, ids=lambda item: item["type"])
def test_a_clients_own_tools_keep_their_pairs_through_a_rebuild(
    service: Service, emulator: Emulator, call: Item, answer: Item
) -> None:
    thread = service.thread()
    service.turn(thread, [user("Use it."), call, answer])
    sent = emulator.calls()[-1]["body"]["input"]
    assert [item["type"] for item in sent] == ["message", "function_call", "function_call_output"]
    emulator.forget()
    service.turn(thread, "Recite the conversation")
    assert emulator.calls()[-1]["body"]["input"][:3] == sent
    # A call that was never answered leaves with its missing half.
    other = service.thread(messages=[user("Use it."), call])
    assert "user: Use it." in service.turn(other, "Recite the conversation")["output_text"]


HOSTED: list[Item] = [
    {
        "type": "code_interpreter_call",
        "id": "ci_1",
        "code": "print(42)",
        "outputs": [{"type": "logs", "logs": "FOUND"}],
    },
    {"type": "web_extractor_call", "id": "we_1", "goal": "g", "urls": ["https://x.example"], "output": "FOUND"},
    {"type": "web_search_image_call", "id": "wi_1", "name": "web_search_image", "output": "FOUND"},
    {"type": "image_search_call", "id": "is_1", "name": "image_search", "output": "FOUND"},
    {"type": "mcp_call", "id": "mcp_1", "name": "m", "server_label": "s", "arguments": "{}", "output": "FOUND"},
    {"type": "file_search_call", "id": "fs_1", "queries": ["q"], "results": [{"text": "FOUND"}]},
    {"type": "tomorrows_call", "id": "t_1", "found": "FOUND"},
]


@pytest.mark.parametrize("item", HOSTED, ids=lambda item: item["type"])
def test_our_own_output_sent_back_as_input_is_carried_as_a_rebuild_carries_it(service: Service, item: Item) -> None:
    thread = service.thread()
    turn = service.turn(thread, [user("Look."), item, {"role": "user", "content": "Recite the conversation"}])
    assert "FOUND" in turn["output_text"]


def test_a_vercel_ai_sdks_second_turn_finds_the_items_that_it_refers_to(service: Service, emulator: Emulator) -> None:
    first = service.http.post("/responses", json={"input": [user("My name is Ada.")]}).json()
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    sent = [user("My name is Ada."), reference, user("Recite the conversation")]
    second = service.http.post("/responses", json={"input": sent}).json()
    said = second["output"][0]["content"][0]["text"].splitlines()
    answered = first["output"][0]["content"][0]["text"]
    assert said[:2] == ["user: My name is Ada.", f"assistant: {answered}"]
    # In a thread that holds the item, it is not sent twice.
    sent = [reference, user("Recite the conversation")]
    third = service.http.post("/responses", json={"input": sent, "previous_response_id": first["id"]}).json()
    assert third["output"][0]["content"][0]["text"].splitlines().count(f"assistant: {answered}") == 1
    unknown = [{"type": "item_reference", "id": "msg_unknown"}, user("Hi")]
    refused = service.http.post("/responses", json={"input": unknown})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input[0].id")


def test_an_item_of_another_project_cannot_be_referred_to(service: Service, project: Project) -> None:
    first = service.http.post("/responses", json={"input": "My name is Ada."}).json()
    sent = [{"type": "item_reference", "id": first["output"][0]["id"]}, user("Recite the conversation")]
    refused = project.http.post("/responses", json={"input": sent})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "item_not_found")


@pytest.mark.parametrize(
    ("element", "param"),
    [
        ({"type": "code_interpreter_call", "outputs": ["x"]}, "input[0].outputs[0]"),
        ({"type": "code_interpreter_call", "outputs": 5}, "input[0].outputs"),
        ({"type": "web_extractor_call", "urls": 5}, "input[0].urls"),
        ({"type": "file_search_call", "results": ["x"]}, "input[0].results[0]"),
        ({"type": "function_call", "call_id": "", "name": "f", "arguments": "{}"}, "input[0].call_id"),
        ({"type": "function_call_output", "call_id": "c", "output": 5}, "input[0].output"),
        ({"type": "function_call_output", "call_id": "c", "output": ["x"]}, "input[0].output[0]"),
        ({"type": "reasoning", "summary": "x"}, "input[0].summary"),
        ({"type": "malformed"}, "input[0].type"),
        ({"type": "something"}, "input[0].type"),
        ({"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}, "input[0].content[0]"),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "input[0].content[0]"),
        ({"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}, "input[0].content[0]"),
        ({"role": "system", "content": [{"type": "input_image", "image_url": PIXEL}]}, "input[0].content[0]"),
        ({"role": "tool", "tool_call_id": "c", "content": 5}, "input[0].content"),
        ({"role": "function", "name": "never_called", "content": "1"}, "input[0].name"),
        # Forms of LangChain, ShareGPT and Anthropic: `everthread import` accepts them, and a request does not.
        (
            {"lc": 1, "type": "constructor", "id": ["langchain", "HumanMessage"], "kwargs": {"content": "Hi"}},
            "input[0].type",
        ),
        ({"type": "human", "data": {"content": "Hi"}}, "input[0].type"),
        ({"from": "human", "value": "Hi"}, "input[0]"),
        (
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "42"}]},
            "input[0].content[0].type",
        ),
        ({"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}]}, "input[0].content[0].type"),
        ({"type": "reasoning", "summary": []}, "input"),
        (function("c"), "input"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_cannot_be_sent_is_refused_with_its_path(service: Service, element: Item, param: str) -> None:
    refused = service.http.post(f"/threads/{service.thread()}/turns", json={"input": [element]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "What is 6 * 7?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "mul", "arguments": '{"a":6}'}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "42"},
    {"role": "assistant", "content": "It is 42."},
]
CHAT_FORMS: dict[str, list[Any]] = {
    "chat": CHAT,
    "older functions": [
        *CHAT[:2],
        {"role": "assistant", "content": None, "function_call": {"name": "mul", "arguments": '{"a":6}'}},
        {"role": "function", "name": "mul", "content": "42"},
        CHAT[-1],
    ],
}  # fmt: skip


@pytest.mark.parametrize("form", CHAT_FORMS)
def test_chat_messages_become_items(service: Service, emulator: Emulator, form: str) -> None:
    thread = service.thread(messages=CHAT_FORMS[form])
    service.turn(thread, "And now?")
    sent = emulator.calls()[-1]["body"]["input"]
    roles = [item.get("role", item["type"]) for item in sent]
    assert roles == ["system", "user", "function_call", "function_call_output", "assistant", "user"]
    assert sent[2]["name"] == "mul"
    assert json.loads(sent[2]["arguments"]) == {"a": 6}
    assert sent[2]["call_id"] == sent[3]["call_id"]
    assert sent[3]["output"] == "42"
    assert sent[4]["content"] == "It is 42."


def test_images_in_a_tools_output_are_kept_weighed_as_images_and_sent(service: Service, emulator: Emulator) -> None:
    screenshot = "data:image/png;base64," + "A" * 400_000
    thread = service.thread()
    service.turn(thread, "My name is Ada.")
    tool = [{"type": "function", "name": "look", "parameters": {}}]
    call = service.turn(thread, "Please look", tools=tool)["output"][0]
    parts = [{"type": "text", "text": "seen"}, {"type": "image_url", "image_url": {"url": screenshot}}]
    answered = service.turn(thread, [{"role": "tool", "tool_call_id": call["call_id"], "content": parts}], tools=tool)
    assert answered["continuation"] == "chained"
    (sent,) = emulator.calls()[-1]["body"]["input"]
    assert sent["output"][1] == {"type": "input_image", "image_url": screenshot}
    assert tokens(sent) < IMAGE_TOKENS + 100
    emulator.forget()
    assert service.turn(thread, "What is my name?")["output_text"] == "Ada"
    chat = service.http.get(f"/threads/{thread}/messages?format=chat").json()["data"]
    (answered,) = [message for message in chat if message["role"] == "tool"]
    assert answered["content"][1] == {"type": "image_url", "image_url": {"url": screenshot}}


def test_a_model_that_cannot_see_says_so_before_it_is_called_and_reads_what_was_seen_before(
    service: Service, emulator: Emulator
) -> None:
    thread = service.thread()
    image = {
        "role": "user",
        "content": [{"type": "input_text", "text": "Look:"}, {"type": "input_image", "image_url": PIXEL}],
    }
    service.turn(thread, [image])
    calls = len(emulator.calls())
    body = {"input": [image], "model": "qwen-turbo"}
    refused = service.http.post(f"/threads/{thread}/turns", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input")
    assert len(emulator.calls()) == calls
    service.turn(thread, "Recite the conversation", model="qwen-turbo")
    # Models that take text only refuse lists of parts.
    assert emulator.calls()[-1]["body"]["input"][0]["content"] == "Look:[An image, which this model cannot see]"


def test_a_model_that_refuses_tool_outputs_reads_them_in_words(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    tool = [{"type": "function", "name": "mul", "parameters": {}}]
    call = service.turn(thread, "Use mul", tools=tool)["output"][0]
    service.turn(thread, [output(call["call_id"], "42")], tools=tool)
    recited = service.turn(thread, "Recite the conversation", model="qwen-plus")["output_text"]
    assert "[Called mul with " in recited
    assert "[mul answered: 42]" in recited
    other = service.thread()
    call = service.turn(other, "Use mul", tools=tool, model="qwen-plus")["output"][0]
    assert service.turn(other, [output(call["call_id"], "42")], tools=tool, model="qwen-plus")["status"] == "completed"


def test_a_thread_that_was_cut_in_the_middle_of_a_call_goes_on(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    tool = [{"type": "function", "name": "mul", "parameters": {}}]
    call = service.turn(thread, "Use mul", tools=tool)["output"][0]
    ignored = service.turn(thread, "Never mind. Recite the conversation")
    assert ignored["continuation"] == "rebuilt"
    assert ignored["output_text"].splitlines()[-1].startswith("user: Never mind")
    # And when the answer comes late, call and output are together again.
    late = service.turn(thread, [output(call["call_id"], "42"), user("Recite the conversation")])
    assert late["status"] == "completed"
    sent = [item["type"] for item in emulator.calls()[-1]["body"]["input"]]
    assert sent[1:3] == ["function_call", "function_call_output"]


def test_a_system_message_in_mid_conversation_goes_first_with_the_others(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    service.turn(thread, [{"role": "system", "content": "Be kind."}, user("Hi")])
    turn = service.turn(thread, [{"role": "developer", "content": "Be brief."}, user("Recite the conversation")])
    assert turn["continuation"] == "rebuilt"
    assert turn["output_text"].splitlines()[0] == "system: Be kind. Be brief."
    assert service.turn(thread, "Recite the conversation")["continuation"] == "chained"
    assert turn["status"] == "completed"


def test_an_input_of_which_nothing_can_be_sent_is_refused() -> None:
    with pytest.raises(BadRequest):
        check_sendable(with_facts([{"type": "reasoning", "summary": []}]), "input")
    assert MALFORMED in KINDS


@pytest.mark.parametrize("lost", [False, True])
def test_a_configuration_update_is_stored_and_shown_and_never_sent(
    service: Service, emulator: Emulator, lost: bool
) -> None:
    update = {"type": "configuration_update", "reasoning": {"effort": "high"}, "text": {"format": {"type": "text"}}}
    thread = service.thread()
    body = {"input": [update, {"role": "user", "content": "My name is Ada."}]}
    answer = service.http.post(f"/threads/{thread}/turns", json=body)
    assert answer.status_code == 200
    # It is not acted on, and the answer says so.
    assert "configuration_update" in answer.headers["everthread-ignored"]
    if lost:
        emulator.forget()
    assert service.turn(thread, "What is my name?")["output_text"] == "Ada"
    kept = [item for item in service.every(f"/threads/{thread}/messages") if item["type"] == "configuration_update"]
    assert [(item["reasoning"], item["text"]) for item in kept] == [(update["reasoning"], update["text"])]
    assert "configuration_update" not in json.dumps([call["body"]["input"] for call in emulator.calls()])


def test_a_configuration_update_alone_is_refused_and_leaves_the_thread_as_it_was(
    service: Service, emulator: Emulator
) -> None:
    thread = service.thread()
    body = {"input": [{"type": "configuration_update", "reasoning": {"effort": "high"}}]}
    refused = service.http.post(f"/threads/{thread}/turns", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "nothing_to_send")
    # Added without a turn, it is carried like any other item.
    conversation = service.http.post("/conversations", json={"items": body["input"]}).json()["id"]
    said = service.http.post("/responses", json={"input": "Echo: on", "conversation": conversation})
    assert said.status_code == 200
    listed = service.http.get(f"/conversations/{conversation}/items").json()["data"]
    assert "configuration_update" in [item["type"] for item in listed]

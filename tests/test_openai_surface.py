"""/v1/responses and /v1/conversations through the official `openai` client, unchanged."""

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx2
import openresponses_types.types as spec
import pytest
from openai import AsyncOpenAI, BadRequestError, ConflictError, NotFoundError, OpenAI
from openai.types.conversations import Conversation, ConversationItem
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from tests.projects import new_key
from tests.service import Emulator, Service, read_events

MODEL = "qwen3.5-plus"


@pytest.fixture
def client(service: Service) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0)


async def test_previous_response_id_of_any_age_continues_the_conversation(
    client: AsyncOpenAI, emulator: Emulator
) -> None:
    first = await client.responses.create(model=MODEL, input="My name is Ada.")
    emulator.advance(days=30)
    second = await client.responses.create(model=MODEL, input="What is my name?", previous_response_id=first.id)
    assert second.output_text == "Ada"
    assert second.previous_response_id == first.id
    third = await client.responses.create(model=MODEL, input="What is my name?", previous_response_id=second.id)
    assert third.output_text == "Ada"
    assert len(emulator.calls()) == 4  # new, refused, rebuilt, chained


async def test_an_earlier_response_is_continued_on_its_own_branch(client: AsyncOpenAI) -> None:
    first = await client.responses.create(model=MODEL, input="My name is Ada.")
    await client.responses.create(model=MODEL, input="My name is Grace.", previous_response_id=first.id)
    again = await client.responses.create(model=MODEL, input="What is my name?", previous_response_id=first.id)
    assert again.output_text == "Ada"


async def test_instructions_are_replaced_with_each_turn(client: AsyncOpenAI, emulator: Emulator) -> None:
    first = await client.responses.create(model=MODEL, input="Hi", instructions="Be rude.")
    assert first.instructions == "Be rude."
    second = await client.responses.create(
        model=MODEL, input="Recite the conversation", instructions="Be kind.", previous_response_id=first.id
    )
    assert second.output_text.startswith("system: Be kind.\nuser: Hi")
    assert "rude" not in second.output_text
    third = await client.responses.create(model=MODEL, input="Hi", previous_response_id=second.id)
    assert third.instructions is None


async def test_a_response_is_complete_and_reads_back_the_same(client: AsyncOpenAI) -> None:
    tool: Any = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": False}
    made = await client.responses.create(
        model=MODEL, input="Hello", metadata={"k": "v"}, tools=[tool], temperature=0.3, max_output_tokens=100,
        reasoning={"effort": "low"},
    )  # fmt: skip
    shown = json.loads(made.to_json(exclude_unset=True))
    assert (made.metadata, made.temperature, made.max_output_tokens) == ({"k": "v"}, 0.3, 100)
    assert made.tools[0].type == "function"
    assert made.reasoning is not None
    assert made.reasoning.effort == "low"
    read = await client.responses.retrieve(made.id)
    assert json.loads(read.to_json(exclude_unset=True)) == shown


async def test_objects_and_events_are_what_the_typed_models_say(client: AsyncOpenAI, service: Service) -> None:
    events = TypeAdapter[Any](ResponseStreamEvent)
    body: dict[str, Any] = {"model": MODEL, "input": "Find f", "enable_thinking": True, "stream": True}
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
    for tools in ([], [{"type": "web_search"}], [tool]):
        with service.http.stream("POST", "/responses", json={**body, "tools": tools}) as answer:
            data = [line[6:] for line in answer.iter_lines() if line.startswith("data: ")]
        for line in data:
            events.validate_json(line, strict=True)
        plain = service.http.post("/responses", json={**body, "tools": tools, "stream": False})
        made = Response.model_validate_json(plain.content, strict=True)
        assert made.status == "completed"
        Response.model_validate_json(service.http.get(f"/responses/{made.id}").content, strict=True)
        replayed = service.http.get(f"/responses/{made.id}", params={"stream": "true"}).text.splitlines()
        for line in replayed:
            if line.startswith("data: "):
                events.validate_json(line[6:], strict=True)
    conversation = service.http.post("/conversations", json={"items": [{"role": "user", "content": "Hi"}]})
    id_ = Conversation.model_validate_json(conversation.content, strict=True).id
    for item in service.http.get(f"/conversations/{id_}/items").json()["data"]:
        TypeAdapter[Any](ConversationItem).validate_json(json.dumps(item), strict=True)


async def test_the_id_of_the_first_event_is_usable_as_soon_as_the_stream_ends(client: AsyncOpenAI) -> None:
    stream = await client.responses.create(model=MODEL, input="My name is Ada.", stream=True)
    ids = [
        event.response.id
        async for event in stream
        if event.type in ("response.created", "response.in_progress", "response.completed")
    ]
    assert len(set(ids)) == 1
    answer = await client.responses.create(model=MODEL, input="What is my name?", previous_response_id=ids[0])
    assert answer.output_text == "Ada"


async def test_the_stream_helper_gathers_the_whole_response(client: AsyncOpenAI) -> None:
    async with client.responses.stream(model=MODEL, input="Echo: one two three four five six") as stream:
        deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert "".join(deltas) == final.output_text == "one two three four five six"


class Person(BaseModel):
    name: str
    age: int
    tags: list[str]


async def test_parse_gives_a_pydantic_object_and_says_that_the_format_was_prompted(client: AsyncOpenAI) -> None:
    parsed = await client.responses.parse(model=MODEL, input="Ada", text_format=Person, instructions="Be exact.")
    assert parsed.output_parsed == Person(name="Ada", age=1, tags=[])
    raw = await client.responses.with_raw_response.create(
        model=MODEL, input="Ada", text={"format": {"type": "json_object"}}
    )
    assert raw.headers["everthread-prompted"] == "text.format"


def test_the_synchronous_client_works_too(service: Service) -> None:
    with OpenAI(base_url=f"{service.url}/v1", api_key=service.key) as client:
        first = client.responses.create(model=MODEL, input="My name is Ada.")
        with client.responses.stream(model=MODEL, input="What is my name?", previous_response_id=first.id) as stream:
            stream.until_done()
            assert stream.get_final_response().output_text == "Ada"


async def test_a_background_response_is_polled_until_it_is_done(client: AsyncOpenAI, emulator: Emulator) -> None:
    emulator.fault("slow", seconds_per_event=0.05)
    made = await client.responses.create(model=MODEL, input="Echo: done", background=True)
    assert made.status in ("queued", "in_progress")
    while made.status in ("queued", "in_progress"):
        await asyncio.sleep(0.05)
        made = await client.responses.retrieve(made.id)
    assert (made.status, made.output_text, made.background) == ("completed", "done", True)


async def test_a_background_stream_is_taken_up_after_any_event(client: AsyncOpenAI, emulator: Emulator) -> None:
    emulator.fault("slow", seconds_per_event=0.05)
    words = "one two three four five six"
    stream = await client.responses.create(model=MODEL, input=f"Echo: {words}", background=True, stream=True)
    seen: list[Any] = []
    async for event in stream:
        seen.append(event)
        if len(seen) == 4:
            break
    await stream.close()
    id_ = seen[0].response.id
    rest = await client.responses.retrieve(id_, stream=True, starting_after=seen[-1].sequence_number)
    seen += [event async for event in rest]
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert "".join(event.delta for event in seen if event.type == "response.output_text.delta") == words
    assert seen[-1].type == "response.completed"
    again = await client.responses.retrieve(id_, stream=True)
    kinds = [event.type async for event in again]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")


async def test_a_background_response_can_be_cancelled_and_keeps_what_it_said(
    client: AsyncOpenAI, emulator: Emulator
) -> None:
    emulator.fault("slow", seconds_per_event=0.1)
    made = await client.responses.create(model=MODEL, input="Echo: " + "word " * 100, background=True)
    async for event in await client.responses.retrieve(made.id, stream=True):
        if event.type == "response.output_text.delta":
            break
    cancelled = await client.responses.cancel(made.id)
    assert cancelled.status == "cancelled"
    assert cancelled.output_text.startswith("word")
    assert (await client.responses.cancel(made.id)).status == "cancelled"
    after = await client.responses.create(model=MODEL, input="Recite the conversation", previous_response_id=made.id)
    assert "assistant: word" in after.output_text


async def test_store_false_leaves_nothing_behind(client: AsyncOpenAI, service: Service, emulator: Emulator) -> None:
    first = await client.responses.create(model=MODEL, input="My name is Ada.")
    assert first.conversation is not None
    before = service.http.get("/threads", params={"limit": 1}).json()
    hidden = await client.responses.create(
        model=MODEL, input="What is my name?", store=False, previous_response_id=first.id
    )
    assert hidden.output_text == "Ada"
    assert hidden.model_extra is not None
    assert hidden.model_extra["store"] is False
    alone = await client.responses.create(model=MODEL, input="Hello", store=False)
    for id_ in (hidden.id, alone.id):
        with pytest.raises(NotFoundError):
            await client.responses.retrieve(id_)
        with pytest.raises(BadRequestError):
            await client.responses.create(model=MODEL, input="Hi", previous_response_id=id_)
    assert service.http.get("/threads", params={"limit": 1}).json() == before
    assert emulator.calls()[1]["body"]["store"] is False


async def test_a_deleted_response_is_gone_and_no_later_turn_knows_it(client: AsyncOpenAI, emulator: Emulator) -> None:
    first = await client.responses.create(model=MODEL, input="My name is Ada.")
    second = await client.responses.create(model=MODEL, input="Echo: hello", previous_response_id=first.id)
    await client.responses.delete(first.id)
    with pytest.raises(NotFoundError):
        await client.responses.retrieve(first.id)
    with pytest.raises(BadRequestError, match="not found"):
        await client.responses.create(model=MODEL, input="Hi", previous_response_id=first.id)
    third = await client.responses.create(model=MODEL, input="What is my name?", previous_response_id=second.id)
    assert third.output_text == "I do not know your name."


async def test_input_items_are_listed_in_pages(client: AsyncOpenAI) -> None:
    items: Any = [{"role": "user", "content": f"part {n}"} for n in range(5)]
    made = await client.responses.create(model=MODEL, input=items)
    page = await client.responses.input_items.list(made.id, order="asc", limit=2)
    texts = [item.to_dict()["content"] async for item in page]
    assert texts == [[{"type": "input_text", "text": f"part {n}"}] for n in range(5)]


@pytest.mark.parametrize("limit", [1, 2, 5, 100])
async def test_a_conversation_is_read_from_its_end_page_by_page(client: AsyncOpenAI, limit: int) -> None:
    conversation = await client.conversations.create()
    for number in range(9):
        await client.responses.create(model=MODEL, input=f"Echo: {number}", conversation=conversation.id)
    await client.conversations.items.create(
        conversation.id, items=[{"type": "message", "role": "user", "content": f"note {number}"} for number in range(6)]
    )
    oldest_first = [str(item.id) async for item in client.conversations.items.list(conversation.id, order="asc")]
    assert len(set(oldest_first)) == 2 * 9 + 6
    latest_first = [item.id async for item in client.conversations.items.list(conversation.id, limit=limit)]
    assert latest_first == oldest_first[::-1]
    with pytest.raises(BadRequestError):
        await client.conversations.items.list(conversation.id, after="msg_nobodys")


async def test_a_conversation_holds_its_items_and_its_responses(client: AsyncOpenAI, emulator: Emulator) -> None:
    conversation = await client.conversations.create(
        metadata={"topic": "names"}, items=[{"type": "message", "role": "user", "content": "My name is Ada."}]
    )
    assert conversation.metadata == {"topic": "names"}
    first = await client.responses.create(model=MODEL, input="What is my name?", conversation=conversation.id)
    assert first.output_text == "Ada"
    assert first.conversation is not None
    assert first.conversation.id == conversation.id
    # Items that are added outside a turn are seen by the next one, though the chain lives.
    added = await client.conversations.items.create(
        conversation.id, items=[{"type": "message", "role": "user", "content": "My name is Grace."}]
    )
    second = await client.responses.create(model=MODEL, input="What is my name?", conversation={"id": conversation.id})
    assert second.output_text == "Grace"
    item_id = added.data[0].id
    assert item_id is not None
    shown = await client.conversations.items.retrieve(item_id, conversation_id=conversation.id)
    assert shown.type == "message"
    # A deleted item is forgotten, though the chain lives.
    await client.conversations.items.delete(item_id, conversation_id=conversation.id)
    third = await client.responses.create(model=MODEL, input="What is my name?", conversation=conversation.id)
    assert third.output_text == "Ada"
    with pytest.raises(NotFoundError):
        await client.conversations.items.retrieve(item_id, conversation_id=conversation.id)
    everything = [item async for item in client.conversations.items.list(conversation.id, order="asc", limit=2)]
    assert [item.role for item in everything if item.type == "message"] == [
        "user", "user", "assistant", "user", "assistant", "user", "assistant",
    ]  # fmt: skip
    latest = await client.conversations.items.list(conversation.id, limit=1)
    assert latest.data[0].id == everything[-1].id
    updated = await client.conversations.update(conversation.id, metadata={"topic": "people"})
    assert (await client.conversations.retrieve(conversation.id)).metadata == updated.metadata == {"topic": "people"}
    assert (await client.conversations.delete(conversation.id)).deleted
    with pytest.raises(NotFoundError):
        await client.conversations.retrieve(conversation.id)


async def test_a_conversation_is_a_thread(client: AsyncOpenAI, service: Service) -> None:
    thread = service.thread(name="as-a-conversation")
    made = await client.responses.create(
        model=MODEL, input="My name is Ada.", conversation=thread.replace("thread_", "conv_")
    )
    assert service.turn(thread, "What is my name?", parent_id=made.id)["output_text"] == "Ada"
    service.http.delete(f"/threads/{thread}")


async def test_a_function_call_finds_its_output_after_a_rebuild(client: AsyncOpenAI, emulator: Emulator) -> None:
    tool: Any = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
    first = await client.responses.create(model=MODEL, input="Paris?", tools=[tool], tool_choice="required")
    call = first.output[0]
    assert call.type == "function_call"
    emulator.forget()
    output: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees"}]
    second = await client.responses.create(model=MODEL, input=output, tools=[tool], previous_response_id=first.id)
    assert second.output_text == "The tool answered: 18 degrees"


async def test_an_output_sent_back_as_input_replays(client: AsyncOpenAI) -> None:
    history: list[Any] = [{"role": "user", "content": "My name is Ada."}]
    for _ in range(2):
        made = await client.responses.create(
            model=MODEL, input=history, store=False, extra_body={"enable_thinking": True}
        )
        history += made.output
        history.append({"role": "user", "content": "What is my name?"})
    assert made.output_text == "Ada"


@pytest.mark.parametrize("value", ["resp_" + "0" * 32, "msg_1", "bf0d5c2e-f14b-9ad7-bc0d-ee0c8c9ee2d8"])
async def test_an_unknown_previous_response_is_an_error_and_never_a_new_thread(
    client: AsyncOpenAI, emulator: Emulator, value: str
) -> None:
    with pytest.raises(BadRequestError) as refused:
        await client.responses.create(model=MODEL, input="Hi", previous_response_id=value)
    assert refused.value.code == "previous_response_not_found"
    assert refused.value.param == "previous_response_id"
    assert emulator.calls() == []


async def test_wrong_requests_get_openais_errors(client: AsyncOpenAI) -> None:
    with pytest.raises(BadRequestError) as refused:
        await client.responses.create(model=MODEL, input="Hi", previous_response_id="resp_1", conversation="conv_1")
    assert refused.value.code == "mutually_exclusive_parameters"
    with pytest.raises(NotFoundError):
        await client.responses.create(model=MODEL, input="Hi", conversation="conv_" + "0" * 32)
    with pytest.raises(NotFoundError):
        await client.responses.retrieve("resp_" + "0" * 32)
    with pytest.raises(NotFoundError):
        await client.conversations.retrieve("conv_x")
    wrong: Any = [{"role": "nobody", "content": "x"}]
    with pytest.raises(BadRequestError) as refused:
        await client.responses.create(model=MODEL, input=wrong)
    assert refused.value.param == "input[0].role"


async def test_items_are_not_changed_under_a_running_turn(client: AsyncOpenAI, emulator: Emulator) -> None:
    conversation = await client.conversations.create()
    emulator.fault("slow", seconds_per_event=0.1)
    running = await client.responses.create(
        model=MODEL, input="Echo: a b c", conversation=conversation.id, background=True
    )
    with pytest.raises(ConflictError) as refused:
        await client.conversations.items.create(
            conversation.id, items=[{"type": "message", "role": "user", "content": "x"}]
        )
    assert refused.value.code == "thread_busy"
    await client.responses.cancel(running.id)


@pytest.mark.parametrize("path", ["/compatible-mode/v1", "/api/v2/apps/protocols/compatible-mode/v1"])
async def test_only_the_host_changes_for_a_client_of_the_provider(service: Service, path: str) -> None:
    async with AsyncOpenAI(base_url=service.url + path, api_key=service.key, max_retries=0) as client:
        made = await client.responses.create(model=MODEL, input="My name is Ada.")
        next_ = await client.responses.create(model=MODEL, input="What is my name?", previous_response_id=made.id)
        assert next_.output_text == "Ada"
        chat = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Echo: hi"}])
        assert chat.choices[0].message.content == "hi"
        chunks = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Echo: hi there"}], stream=True
        )
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in chunks]) == "hi there"
        with pytest.raises(BadRequestError):
            await client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "x"}])


async def test_a_conversation_that_ends_with_the_users_words_is_answered_without_more_input(
    client: AsyncOpenAI, emulator: Emulator
) -> None:
    conversation = await client.conversations.create(
        items=[
            {"type": "message", "role": "user", "content": "My name is Ada."},
            {"type": "message", "role": "user", "content": "What is my name?"},
        ]
    )
    answer = await client.responses.create(model=MODEL, conversation=conversation.id)
    assert answer.output_text == "Ada"
    items = await client.conversations.items.list(conversation.id, order="asc")
    assert [item.type for item in items.data] == ["message"] * 3
    with pytest.raises(BadRequestError) as refused:
        await client.responses.create(model=MODEL, conversation=conversation.id)
    assert refused.value.param == "input"
    assert len(emulator.calls()) == 1
    with pytest.raises(BadRequestError):
        await client.responses.create(model=MODEL)
    with pytest.raises(BadRequestError):
        await client.responses.create(model=MODEL, previous_response_id=answer.id)


def test_responses_and_conversations_are_listed_and_paged(
    service: Service, emulator: Emulator, database_url: str
) -> None:
    mine = {"Authorization": f"Bearer {new_key(database_url, f'lists-{uuid4()}')}"}
    made: list[dict[str, Any]] = [
        service.http.post("/responses", json={"input": f"Echo: {n}"}, headers=mine).json() for n in range(5)
    ]
    wanted = [response["id"] for response in reversed(made)]
    found: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = service.http.get("/responses", params={"limit": 2, **after}, headers=mine).json()
        found += [response["id"] for response in page["data"]]
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert found == wanted
    assert page["data"][0] == service.http.get(f"/responses/{found[-1]}", headers=mine).json()
    others = service.http.get("/responses", params={"after": wanted[0]})
    assert (others.status_code, others.json()["error"]["code"]) == (400, "invalid_cursor")
    conversations = service.http.get("/conversations", params={"limit": 100}, headers=mine).json()["data"]
    assert [c["id"] for c in conversations] == [r["conversation"]["id"] for r in reversed(made)]
    counted = service.http.get("/threads/count", headers=mine).json()
    assert counted == {"object": "thread.count", "count": 5, "more": False}
    assert service.http.get("/threads/count", params={"user": "nobody"}, headers=mine).json()["count"] == 0
    assert service.http.delete(f"/responses/{wanted[0]}", headers=mine).status_code == 200
    left = service.http.get("/responses", headers=mine).json()["data"]
    assert [response["id"] for response in left] == wanted[1:]


@pytest.mark.parametrize(
    "asked",
    [
        {"input": "Hello"},
        {"input": "Call f", "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}]},
        {"input": "Think", "reasoning": {"effort": "low"}, "metadata": {"k": "v"}, "temperature": 0.5},
        {"input": "Think", "reasoning": {"effort": "low", "summary": "auto"}},
        {"input": "Echo: " + "word " * 50, "max_output_tokens": 16},
        {"input": "Search", "text": {"format": {"type": "json_object"}}, "instructions": "Be brief."},
    ],
)
def test_responses_and_events_fit_the_open_responses_specification(service: Service, asked: dict[str, Any]) -> None:
    plain = service.http.post("/responses", json=asked)
    spec.ResponseResource.model_validate_json(plain.content, strict=True)
    kept = service.http.get(f"/responses/{plain.json()['id']}")
    spec.ResponseResource.model_validate_json(kept.content, strict=True)
    with service.http.stream("POST", "/responses", json={**asked, "stream": True}) as answer:
        events = read_events(answer.iter_lines())
    named = [getattr(spec, name) for name in dir(spec) if name.endswith("StreamingEvent")]
    models = {next(iter(model.model_fields["type"].annotation)).value: model for model in named}
    checked = 0
    for event in events:
        model = models.get(event["type"])
        # The specification has no `reasoning_text` events: the provider's own stay as they are.
        assert model is not None or event["type"].startswith("response.reasoning_text.")
        if model is not None:
            model.model_validate_json(json.dumps(event), strict=True)
            checked += 1
    assert checked >= 6


async def test_deleting_a_conversation_ends_its_open_streams_with_an_event_in_every_worker(
    client: AsyncOpenAI, service: Service, service_env: dict[str, str], emulator: Emulator
) -> None:
    other = Service(env=service_env)
    try:
        conversation = await client.conversations.create()
        emulator.fault("slow", seconds_per_event=0.1)
        began: asyncio.Queue[str] = asyncio.Queue()

        async def follow() -> str | None:
            stream = await client.responses.create(
                model=MODEL, input="Tell me a story", conversation=conversation.id, stream=True
            )
            async for event in stream:
                if event.type == "response.created":
                    began.put_nowait(event.response.id)
            return event.code if event.type == "error" else None

        follows = threading.Event()

        async def follow_elsewhere(response_id: str) -> dict[str, Any]:
            return await asyncio.to_thread(lambda: followed(other, response_id, follows)[-1])

        own = asyncio.create_task(follow())
        response_id = await began.get()
        elsewhere = asyncio.create_task(follow_elsewhere(response_id))
        assert await asyncio.to_thread(follows.wait, 30)
        await client.conversations.delete(conversation.id)
        assert await asyncio.wait_for(own, 10) == "turn_deleted"
        last = await asyncio.wait_for(elsewhere, 10)
        assert (last["type"], last["code"]) == ("error", "turn_deleted")
        with pytest.raises(NotFoundError):
            await client.responses.retrieve(response_id)
    finally:
        other.stop()


def followed(service: Service, response_id: str, begun: threading.Event | None = None) -> list[dict[str, Any]]:
    """Return the events of a stream that is resumed. Args: begun: set once its first bytes have arrived."""

    def lines(answer: httpx2.Response) -> Iterator[str]:
        for line in answer.iter_lines():
            if begun is not None:
                begun.set()
            yield line

    with service.http.stream("GET", f"/responses/{response_id}", params={"stream": True}) as answer:
        return read_events(lines(answer))


async def test_a_response_in_a_conversation_names_no_previous_response_as_openais_does(
    client: AsyncOpenAI, emulator: Emulator
) -> None:
    conversation = await client.conversations.create()
    first = await client.responses.create(model=MODEL, input="My name is Ada.", conversation=conversation.id)
    second = await client.responses.create(model=MODEL, input="What is my name?", conversation=conversation.id)
    assert second.output_text == "Ada"
    assert (first.previous_response_id, second.previous_response_id) == (None, None)
    assert (await client.responses.retrieve(second.id)).previous_response_id is None
    third = await client.responses.create(model=MODEL, input="And now?", previous_response_id=second.id)
    assert third.previous_response_id == second.id
    said = [item async for item in client.conversations.items.list(conversation.id, order="asc")]
    assert [item.id for item in said if item.id is not None][1] == first.output[0].id
    assert all("conversation" not in call["body"] for call in emulator.calls())

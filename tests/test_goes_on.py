"""Every thread can go on: a rebuilt history that the provider refuses is sent with less, within the same turn."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.chain.rebuild import NO_USER_MESSAGE, Abilities, rebuild
from app.chain.reduction import Step
from app.emulator import validate
from app.emulator.errors import ProviderError
from app.emulator.state import Refused
from app.items import media
from app.items.shapes import media_of
from tests.service import Emulator, Service, said

ASK = "What is my name?"
IMAGE_BYTES = 2_700_000
"""Two megabytes of an image, in base64."""
PIXEL = "data:image/png;base64,iVBORw0KGgo="
URL = "https://media.example/cat.png"
BAD = "[[inadmissible]]"
TOOL = {"type": "function", "name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}}


def picture(url: str, text: str = "Look at this.") -> list[dict[str, Any]]:
    parts = [{"type": "input_text", "text": text}, {"type": "input_image", "image_url": url}]
    return [{"type": "message", "role": "user", "content": parts}]


class Native:
    """A thread, over HTTP."""

    def __init__(self, service: Service, stream: bool) -> None:
        self.service, self.stream = service, stream
        self.thread = service.thread()

    async def say(self, input_: Any, **fields: Any) -> str:
        if self.stream:
            return said(self.service.stream(self.thread, input_, **fields))
        text: str = self.service.turn(self.thread, input_, **fields)["output_text"]
        return text


class OpenAI:
    """A conversation, with the `openai` client."""

    def __init__(self, service: Service, stream: bool) -> None:
        self.client, self.stream = service.openai, stream
        self.previous: str | None = None

    async def say(self, input_: Any, **fields: Any) -> str:
        how: Any = {"model": "qwen3.5-plus", "input": input_, "previous_response_id": self.previous, **fields}
        if not self.stream:
            response = await self.client.responses.create(**how)
        else:
            async for event in await self.client.responses.create(stream=True, **how):
                if event.type == "response.completed":
                    response = event.response
        self.previous = response.id
        return str(response.output_text)


Talk = Native | OpenAI


@pytest.fixture(scope="module")
def roomy_service(service_env: dict[str, str]) -> Iterator[Service]:
    """A service that takes large bodies, as it does by default, and leaves the emulator the time to read them."""
    roomy = {"EVERTHREAD_MAX_BODY_BYTES": str(32 * 1024 * 1024), "EVERTHREAD_PROVIDER_STALL_SECONDS": "60"}
    service = Service(env={**service_env, **roomy})
    yield service
    service.stop()


@pytest.fixture
def roomy(roomy_service: Service, emulator: Emulator) -> Service:
    return roomy_service


SURFACES = pytest.mark.parametrize(("surface", "stream"), [(s, t) for s in (Native, OpenAI) for t in (False, True)])


def rebuilt_calls(emulator: Emulator) -> list[dict[str, Any]]:
    return [call for call in emulator.calls() if "previous_response_id" not in call["body"]]


def urls_sent(call: dict[str, Any]) -> list[str]:
    return [part["image_url"] for item in call["body"]["input"] for part in media_of(item.get("content"))]


@SURFACES
@pytest.mark.parametrize("arguments", ['{"city": "Par', "", "[1]"])
async def test_a_call_whose_arguments_are_no_json_object_can_be_sent_again(
    service: Service, emulator: Emulator, surface: Any, stream: bool, arguments: str
) -> None:
    talk: Talk = surface(service, stream)
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "weather", "arguments": arguments}
    emulator.fault("output", output=[{**call, "status": "completed"}])
    await talk.say("My name is Ada. How is the weather?", tools=[TOOL])
    await talk.say([{"type": "function_call_output", "call_id": "call_1", "output": "18 degrees"}], tools=[TOOL])
    emulator.forget()
    assert await talk.say(ASK) == "Ada"
    sent = rebuilt_calls(emulator)[-1]["body"]["input"]
    assert len(rebuilt_calls(emulator)) == 2  # The first turn, and no refusal.
    place = next(place for place, item in enumerate(sent) if item["type"] == "function_call")
    assert (sent[place]["arguments"], sent[place + 1]["output"]) == ("{}", "18 degrees")
    if arguments:
        assert arguments in sent[place - 1]["content"]


@SURFACES
async def test_images_that_make_the_body_too_large_become_words_oldest_first(
    roomy: Service, emulator: Emulator, surface: Any, stream: bool
) -> None:
    talk: Talk = surface(roomy, stream)
    await talk.say("My name is Ada.")
    for letter in "ABCDE":
        await talk.say(picture("data:image/png;base64," + letter * IMAGE_BYTES))
    emulator.forget()
    assert await talk.say(ASK) == "Ada"
    last = rebuilt_calls(emulator)[-1]
    assert len(rebuilt_calls(emulator)) == 2
    assert [url[-1] for url in urls_sent(last)] == ["C", "D", "E"]
    assert orjson.dumps(last["body"]["input"]).count(media.LEFT_OUT["image"].encode()) == 2
    assert len(orjson.dumps(last["body"])) <= 10_000_000


async def test_what_became_words_for_want_of_room_is_said(roomy: Service, emulator: Emulator) -> None:
    thread = roomy.thread()
    for letter in "ABCD":
        roomy.turn(thread, picture("data:image/png;base64," + letter * IMAGE_BYTES))
    emulator.forget()
    answer = roomy.http.post(f"/threads/{thread}/turns", json={"input": ASK})
    assert answer.headers["Everthread-Adjusted"] == "history.images_in_words=1"
    assert answer.json()["context"]["images_in_words"] == 1


@SURFACES
async def test_an_image_whose_url_has_expired_becomes_words(
    service: Service, emulator: Emulator, surface: Any, stream: bool
) -> None:
    talk: Talk = surface(service, stream)
    await talk.say("My name is Ada.")
    await talk.say(picture(URL))
    emulator.control("refuse", {"urls": ["https://media.example/"]})
    emulator.forget()
    assert await talk.say(ASK) == "Ada"
    *_, refused, last = rebuilt_calls(emulator)
    assert (urls_sent(refused), urls_sent(last)) == ([URL], [])
    assert media.LEFT_OUT["image"] in orjson.dumps(last["body"]).decode()


@SURFACES
async def test_an_old_message_that_inspection_refuses_is_left_out(
    service: Service, emulator: Emulator, surface: Any, stream: bool
) -> None:
    talk: Talk = surface(service, stream)
    await talk.say(f"Something {BAD}")
    await talk.say("Something else, at some length, so that it weighs more than what came before it.")
    await talk.say("My name is Ada. This is the newest message of the history, and of some length as well.")
    emulator.control("refuse", {"texts": [BAD]})
    emulator.forget()
    assert await talk.say(ASK) == "Ada"
    assert BAD not in orjson.dumps(rebuilt_calls(emulator)[-1]["body"]).decode()


@SURFACES
async def test_a_thread_goes_on_when_all_of_its_history_is_refused(
    service: Service, emulator: Emulator, surface: Any, stream: bool
) -> None:
    talk: Talk = surface(service, stream)
    for _ in range(3):
        await talk.say(f"{BAD} again")
    emulator.control("refuse", {"texts": [BAD]})
    emulator.forget()
    assert await talk.say("Echo: Here we are") == "Here we are"
    assert await talk.say("Echo: And on") == "And on"


def refused_history(service: Service, emulator: Emulator, turns: int = 4) -> tuple[str, list[str]]:
    """A thread whose first message is refused by now, and whose chain is forgotten."""
    thread = service.thread()
    first = service.turn(thread, f"My number is 74. {BAD}")
    rest = [
        service.turn(thread, f"Message {number} of a usual length, as people write them.") for number in range(turns)
    ]
    emulator.control("refuse", {"texts": [BAD]})
    emulator.forget()
    return thread, [turn["id"] for turn in (first, *rest)]


def test_what_was_left_out_is_said(service: Service, emulator: Emulator) -> None:
    thread, turns = refused_history(service, emulator)
    answer = service.http.post(f"/threads/{thread}/turns", json={"input": "Hello"})
    assert answer.status_code == 200
    assert answer.headers["Everthread-Adjusted"] == "history=newest_half"
    assert int(answer.headers["Everthread-Dropped-Items"]) > 0
    context = answer.json()["context"]
    assert context["dropped_items"] == int(answer.headers["Everthread-Dropped-Items"])
    reduced = context["reduced"]
    assert (reduced["history"], reduced["through"]) == ("newest_half", turns[-1])
    assert reduced["code"] == "DataInspectionFailed"
    assert reduced["refused_turns"][0] == turns[0]
    assert turns.index(reduced["refused_turns"][-1]) < len(turns) - 1
    assert service.http.get(f"/threads/{thread}").json()["context"]["reduced"] == reduced


def test_a_refused_image_names_its_turn(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    service.turn(thread, "My name is Ada.")
    seen = service.turn(thread, picture(URL))
    service.turn(thread, "Thank you.")
    emulator.control("refuse", {"urls": ["https://media.example/"]})
    emulator.forget()
    answer = service.http.post(f"/threads/{thread}/turns", json={"input": ASK})
    assert answer.headers["Everthread-Adjusted"] == "history=without_images"
    assert "Everthread-Dropped-Items" not in answer.headers
    assert answer.json()["context"]["reduced"]["refused_turns"] == [seen["id"]]


@pytest.mark.parametrize("stream", [False, True])
def test_the_next_rebuild_begins_with_the_step_that_succeeded(
    service: Service, emulator: Emulator, stream: bool
) -> None:
    thread, _ = refused_history(service, emulator)
    service.turn(thread, "My name is Ada.")
    chained = service.http.post(f"/threads/{thread}/turns", json={"input": "Hello"})
    assert chained.headers["Everthread-Continuation"] == "chained"
    assert chained.headers["Everthread-Adjusted"] == "history=newest_half"
    emulator.forget()
    before = len(rebuilt_calls(emulator))
    answer = said(service.stream(thread, ASK)) if stream else service.turn(thread, ASK)["output_text"]
    assert answer == "Ada"  # Later messages are sent whole.
    assert len(rebuilt_calls(emulator)) == before + 1


def test_another_model_is_sent_everything_again(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    service.turn(thread, picture(URL))
    emulator.control("refuse", {"urls": ["https://media.example/"]})
    emulator.forget()
    service.turn(thread, "Hello")
    emulator.control("refuse", {})
    service.turn(thread, "Hello", model="qwen3.6-plus")
    assert urls_sent(emulator.calls()[-1]) == [URL]
    head = service.http.get(f"/threads/{thread}").json()
    assert head["context"]["reduced"] is None


def test_nothing_is_deleted(service: Service, emulator: Emulator) -> None:
    thread, turns = refused_history(service, emulator)
    service.turn(thread, "Hello")
    messages = service.http.get(f"/threads/{thread}/messages", params={"limit": 100}).json()
    assert BAD in orjson.dumps(messages).decode()
    assert BAD in service.http.get(f"/threads/{thread}/messages", params={"format": "markdown"}).text
    hits = service.http.get("/search", params={"q": "inadmissible", "limit": 100}).json()["data"]
    assert thread in {hit.get("thread_id") for hit in hits} or thread in orjson.dumps(hits).decode()
    ids = [turn["id"] for turn in service.http.get(f"/threads/{thread}/turns", params={"limit": 100}).json()["data"]]
    assert set(turns) < set(ids)


@SURFACES
async def test_new_input_is_never_changed_and_its_refusal_is_the_clients(
    service: Service, emulator: Emulator, surface: Any, stream: bool
) -> None:
    talk: Talk = surface(service, stream)
    await talk.say("My name is Ada.")
    await talk.say(picture(URL))
    await talk.say("Thank you.")
    emulator.control("refuse", {"texts": [BAD]})
    emulator.forget()
    new = picture(URL, f"And {BAD}")
    before = len(rebuilt_calls(emulator))
    body = {"input": new, "stream": stream}
    if isinstance(talk, Native):
        answer = service.http.post(f"/threads/{talk.thread}/turns", json=body)
    else:
        answer = service.http.post("/responses", json={**body, "previous_response_id": talk.previous})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "DataInspectionFailed")
    calls = rebuilt_calls(emulator)[before:]
    assert 2 <= len(calls) <= 6
    assert all(call["body"]["input"][-1:] == new for call in calls)
    assert len({orjson.dumps(call["body"]) for call in calls}) == len(calls)  # Nothing is sent twice.
    assert calls[-1]["body"]["input"] == new
    assert await talk.say(ASK) == "Ada"


def test_a_call_that_the_new_input_answers_stays_with_it(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    service.turn(thread, f"My name is Ada. {BAD}")
    called = service.turn(thread, "Paris", tools=[TOOL], tool_choice="required")["output"][-1]
    emulator.control("refuse", {"texts": [BAD, "Paris."]})
    emulator.forget()
    output = {"type": "function_call_output", "call_id": called["call_id"], "output": "18 degrees"}
    answer = service.turn(thread, [output], tools=[TOOL])
    assert answer["output_text"] == "The tool answered: 18 degrees"
    assert [item["type"] for item in emulator.calls()[-1]["body"]["input"]][-2:] == [
        "function_call",
        "function_call_output",
    ]


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ({"status": 401, "code": "InvalidApiKey", "message": "Invalid API-key provided."}, 502),
        ({"status": 403, "code": "AccessDenied", "message": "Access denied."}, 502),
        ({"status": 404, "code": "ModelNotFound", "message": "Model not exist."}, 404),
        ({"status": 429, "retry_after": 0}, 429),
        ({"status": 500, "retry_after": 0}, 502),
        ({"status": 503, "retry_after": 0}, 502),
        ({"status": 400, "code": "InvalidParameter", "message": "Range of temperature should be [0.0, 2.0)"}, 400),
        (
            {
                "status": 400,
                "code": "DataInspectionFailed",
                "message": "Output data may contain inappropriate content.",
            },
            400,
        ),
    ],
)
def test_a_failure_that_is_not_about_the_input_takes_nothing_away(
    service: Service, emulator: Emulator, fault: dict[str, Any], status: int
) -> None:
    thread = service.thread()
    service.turn(thread, picture(URL))
    service.turn(thread, "Hello")
    emulator.fault("status", times=20, **fault)
    # Another model: the history is rebuilt.
    answer = service.http.post(f"/threads/{thread}/turns", json={"input": "Hello", "model": "qwen3.6-plus"})
    assert answer.status_code == status, answer.text
    assert "Everthread-Adjusted" not in answer.headers
    calls = emulator.calls()[2:]
    assert 1 <= len(calls) <= 3
    assert len({orjson.dumps(call["body"]["input"]) for call in calls}) == 1


def test_with_truncation_disabled_nothing_that_was_said_is_left_out(service: Service, emulator: Emulator) -> None:
    thread, _ = refused_history(service, emulator)
    body = {"input": "Hello", "truncation": "disabled"}
    answer = service.http.post(f"/threads/{thread}/turns", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "DataInspectionFailed")
    assert service.turn(thread, "Hello")["status"] == "completed"


def test_the_bodies_of_all_attempts_are_kept_as_they_were_sent(service: Service, emulator: Emulator) -> None:
    thread, _ = refused_history(service, emulator)
    before = len(emulator.calls())
    turn = service.turn(thread, "Hello")
    kept = service.http.get(f"/threads/{thread}/turns/{turn['id']}/calls").json()["data"]
    assert [call["body"] for call in kept] == [call["body"] for call in emulator.calls()[before:]]


def test_a_summary_that_is_refused_is_left_out(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    service.turn(thread, f"My number is 74 {BAD}.")
    service.turn(thread, "My name is Ada.")
    compacted = service.http.post(f"/threads/{thread}/compact", json={"keep_turns": 1})
    assert BAD in compacted.json()["text"], compacted.text
    emulator.control("refuse", {"texts": [BAD]})
    assert service.turn(thread, "Echo: Here we are")["output_text"] == "Here we are"
    assert service.turn(thread, "Echo: And on")["output_text"] == "And on"
    assert service.http.get(f"/threads/{thread}/compactions").json()["data"][0]["text"] == compacted.json()["text"]


ODD_OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "The provider itself says this."}


@SURFACES
async def test_a_chain_that_the_provider_refuses_is_rebuilt_in_the_same_turn(
    service: Service, emulator: Emulator, surface: Any, stream: bool
) -> None:
    talk: Talk = surface(service, stream)
    await talk.say("My name is Ada.")
    emulator.fault("output", output=[ODD_OUTPUT])
    talk.stream = False
    await talk.say("Hello")
    talk.stream = stream
    assert await talk.say(ASK) == "Ada"
    assert len(rebuilt_calls(emulator)) == 2


REFUSED = {"status": 400, "code": "DataInspectionFailed", "message": "Input data may contain inappropriate content."}


@SURFACES
async def test_a_message_that_inspection_refuses_is_sent_once_and_the_chain_goes_on(
    service: Service, emulator: Emulator, surface: Any, stream: bool
) -> None:
    talk: Talk = surface(service, stream)
    await talk.say("My name is Ada.")
    emulator.fault("status", **REFUSED)
    with pytest.raises(Exception, match=r"DataInspectionFailed|inappropriate"):
        await talk.say("Something inadmissible")
    assert len(emulator.calls()) == 2
    assert await talk.say(ASK) == "Ada"
    assert len(rebuilt_calls(emulator)) == 1  # The first turn of the thread.


@SURFACES
async def test_a_chain_that_inspection_refuses_twice_in_a_row_is_rebuilt(
    service: Service, emulator: Emulator, surface: Any, stream: bool
) -> None:
    talk: Talk = surface(service, stream)
    await talk.say("My name is Ada.")
    emulator.fault("status", **REFUSED)
    with pytest.raises(Exception, match=r"DataInspectionFailed|inappropriate"):
        await talk.say("Hello")
    emulator.fault("status", **REFUSED)
    assert await talk.say(ASK) == "Ada"
    assert len(rebuilt_calls(emulator)) == 2


@SURFACES
async def test_an_input_without_a_users_message_is_answered(
    service: Service, emulator: Emulator, surface: Any, stream: bool
) -> None:
    talk: Talk = surface(service, stream)
    await talk.say([{"role": "developer", "content": "Greet people."}])
    sent = emulator.calls()[-1]["body"]["input"]
    assert [item["role"] for item in sent] == ["system", "user"]
    emulator.forget()
    await talk.say("Hello")
    assert NO_USER_MESSAGE not in orjson.dumps(emulator.calls()[-1]["body"]).decode()


async def test_a_model_that_takes_text_only_gets_a_message_of_parts_as_one_string(
    service: Service, emulator: Emulator
) -> None:
    thread = service.thread()
    parts = [{"type": "input_text", "text": "My name "}, {"type": "input_text", "text": "is Ada."}]
    service.turn(thread, [{"role": "user", "content": parts}], model="qwen-plus")
    assert emulator.calls()[-1]["body"]["input"][-1]["content"] == "My name is Ada."


def test_a_system_message_that_is_refused_is_named_and_can_be_deleted(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    first = service.turn(thread, [{"role": "system", "content": f"Be kind. {BAD}"}, *picture(PIXEL, "My name is Ada.")])
    emulator.control("refuse", {"texts": [BAD]})
    emulator.forget()
    answer = service.http.post(f"/threads/{thread}/turns", json={"input": ASK})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "DataInspectionFailed")
    assert first["id"] in answer.json()["error"]["message"]
    items = f"/conversations/conv_{thread.partition('_')[2]}/items"
    (system,) = [item for item in service.http.get(items).json()["data"] if item.get("role") == "system"]
    assert service.http.delete(f"{items}/{system['id']}").status_code == 200
    assert service.turn(thread, ASK)["output_text"] == "Ada"


def test_an_imported_image_whose_url_cannot_be_used_goes_along_as_words(service: Service, emulator: Emulator) -> None:
    thread = service.thread(messages=picture(URL, "My name is Ada."))
    exported = service.http.get(f"/threads/{thread}/export").json()
    (turn,) = exported["turns"]
    turn["items"][0]["data"]["content"][1]["image_url"] = "cat.png"
    assert service.http.delete(f"/threads/{thread}").status_code == 200
    moved = service.http.post("/threads/import", json=exported)
    assert moved.status_code == 201, moved.text
    assert service.turn(moved.json()["id"], ASK)["output_text"] == "Ada"
    sent = emulator.calls()[-1]["body"]["input"]
    assert sent[0]["content"][1] == {"type": "input_text", "text": media.UNUSABLE["image"]}


STEPS_OF = [
    *picture(URL, "See"),
    {"type": "function_call", "call_id": "a", "name": "f", "arguments": '{"n": 1}'},
    {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_file", "file_data": "AAAA"}]},
    {"type": "mcp_call", "name": "m", "arguments": "{}", "output": "found"},
    {"type": "message", "role": "assistant", "content": "Seen."},
    {"type": "message", "role": "user", "content": "Pinned", "pinned": True},
]
NEW = [{"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": URL}]}]


def sent_at(step: Step) -> str:
    rebuilt = rebuild(STEPS_OF, NEW, Abilities(1_000_000), step=step)
    assert rebuilt.input[-1:] == NEW
    return orjson.dumps(rebuilt.input[:-1]).decode()


def test_each_step_sends_less_of_the_history() -> None:
    whole, seen, words, half, last = map(
        sent_at, (Step.WHOLE, Step.WITHOUT_IMAGES, Step.WORDS_ONLY, Step.NEWEST_HALF, Step.LEFT_OUT)
    )
    assert URL in whole
    assert URL not in seen
    assert "input_file" not in seen
    assert "function_call" in seen
    assert "found" in seen
    assert "function_call" not in words
    assert "found" not in words
    assert "[Called f with" in words
    assert "Seen." in words
    assert len(half) < len(words)
    assert "Seen." in half
    assert "Seen." not in last
    assert "Pinned" in last


def test_steps_are_counted(service: Service, emulator: Emulator) -> None:
    thread, _ = refused_history(service, emulator)
    service.turn(thread, "Hello")
    metrics = service.http.get(f"{service.url}/metrics").text
    assert 'everthread_reduced_histories_total{step="newest_half"}' in metrics


@pytest.mark.parametrize(
    "url",
    ["", " ", "cat.png", "ftp://media.example/a.png", "file:///etc/passwd", "https://", "https://media.example/a b.png",
     "https://media.example/a.png\n", "data:image/png;base64,", "data:text/html;base64,AAAA", "data:,",
     "data:image/png", "https://media.example/" + "a" * 10_000],
)  # fmt: skip
@pytest.mark.parametrize("field", ["content", "output", "screenshot"])
def test_an_image_url_that_cannot_be_used_is_refused_at_the_door(
    service: Service, emulator: Emulator, url: str, field: str
) -> None:
    part = {"type": "input_image", "image_url": url}
    item: dict[str, Any] = {"role": "user", "content": [{"type": "input_text", "text": "Look"}, part]}
    at = "input[0].content[1].image_url"
    if field == "output":
        item = {"type": "function_call_output", "call_id": "a", "output": [part]}
        at = "input[0].output[0].image_url"
    elif field == "screenshot":
        item = {"type": "computer_call_output", "call_id": "a", "output": {**part, "type": "computer_screenshot"}}
        at = "input[0].output.image_url"
    thread = service.thread()
    for path, more in ((f"/threads/{thread}/turns", {}), ("/responses", {"model": "qwen3.5-plus"})):
        answer = service.http.post(path, json={"input": [item], **more})
        assert answer.status_code == 400, answer.text
        assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (at, "invalid_image_url")
    assert service.http.post("/threads", json={"messages": [item]}).status_code == 400
    assert emulator.calls() == []


def test_new_input_over_the_limit_of_bytes_is_refused_before_the_call(roomy: Service, emulator: Emulator) -> None:
    thread = roomy.thread()
    answer = roomy.http.post(
        f"/threads/{thread}/turns", json={"input": picture("data:image/png;base64," + "A" * 10_000_000)}
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, "input", "input_too_large")
    assert emulator.calls() == []
    assert roomy.http.get(f"/threads/{thread}/turns").json()["data"] == []


text = st.text(max_size=30)
LONG = "data:image/png;base64," + "A" * 2000
urls = st.one_of(st.sampled_from([PIXEL, URL, LONG, "", "cat.png", "https://expired.example/a.png"]), text)
image = st.builds(
    lambda url, chat: {"type": "input_image", "image_url": {"url": url} if chat else url}, urls, st.booleans()
)
arguments = st.one_of(text, st.sampled_from(["{}", '{"city": "Par', "", "[1]", "null", '{"a": 1}']))
call_ids = st.sampled_from(["a", "b", "c"])
words = st.builds(lambda said: {"type": "input_text", "text": said}, text)
parts = st.lists(st.one_of(image, words), min_size=1)
user = st.builds(
    lambda role, content, pinned: {"type": "message", "role": role, "content": content, "pinned": pinned},
    st.sampled_from(["user", "user", "system"]),
    st.one_of(text, parts),
    st.booleans(),
)
assistant = st.builds(lambda said: {"type": "message", "role": "assistant", "content": said}, text)


def half(type_: str, field: str, values: st.SearchStrategy[Any], **more: Any) -> st.SearchStrategy[dict[str, Any]]:
    """A tool call, or the output of one."""
    return st.builds(lambda id_, value: {"type": type_, "call_id": id_, field: value, **more}, call_ids, values)


screenshots = st.builds(lambda url: {"type": "computer_screenshot", "image_url": url}, urls)
others = st.sampled_from(
    [
        {"type": "reasoning", "summary": [], "encrypted_content": "x"},
        {"type": "web_search_call", "id": "w", "status": "completed", "action": {}},
        {"type": "mcp_call", "name": "m", "arguments": "{", "output": "o"},
        {"type": "mcp_approval_request", "id": "c", "name": "m", "arguments": "{", "server_label": "s"},
        {"type": "something_of_tomorrow_call", "payload": {"deep": [1]}},
        {"type": "malformed"},
    ]
)
stored_items = st.one_of(
    user,
    assistant,
    half("function_call", "arguments", arguments, name="f"),
    half("custom_tool_call", "input", text, name="g"),
    half("computer_call", "actions", st.sampled_from([[{"type": "screenshot"}], None, []])),
    half("function_call_output", "output", st.one_of(text, parts)),
    half("computer_call_output", "output", screenshots),
    others,
)


@given(
    st.lists(stored_items, max_size=20),
    st.lists(
        st.builds(lambda said: {"type": "message", "role": "user", "content": said or "Hello"}, text),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from(list(Step)),
    st.one_of(st.none(), st.integers(0, 20)),
    st.one_of(st.none(), st.integers(0, 5000)),
    st.booleans(),
)
def test_the_provider_takes_every_step_of_every_history(
    history: list[dict[str, Any]],
    new: list[dict[str, Any]],
    step: Step,
    reduced_items: int | None,
    byte_budget: int | None,
    takes_outputs: bool,
) -> None:
    abilities = Abilities(1_000_000, takes_tool_outputs=takes_outputs, byte_budget=byte_budget)
    rebuilt = rebuild(history, new, abilities, step=step, reduced_items=reduced_items)
    try:
        items = validate.input_items(orjson.loads(orjson.dumps(rebuilt.input)))
        validate.tool_outputs(items)
        if step is not Step.WHOLE and reduced_items is None:
            validate.inspect(items, Refused())
    except ProviderError as error:
        raise AssertionError(error.message) from error
    assert rebuilt.input[-len(new) :] == new
    assert len(rebuilt.sources) == len(rebuilt.input)
    again = rebuild(history, new, abilities, step=step, reduced_items=reduced_items)
    assert rebuilt == again
    left = [history[place] for of in rebuilt.sources for place in of]
    stays = [item.get("pinned") is True or item.get("role") == "system" for item in left]
    if byte_budget is not None and not all(stays):
        assert sum(len(orjson.dumps(item)) + 1 for item in rebuilt.input) <= byte_budget
    if step is Step.LEFT_OUT and reduced_items is None:
        assert all(stays)

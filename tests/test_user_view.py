"""Answers to user tokens: on every route that is open to them, they show nothing of what the app has said."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fastapi.routing import iter_route_contexts
from websockets.sync.client import connect

from app.main import PROVIDER_PATHS, build
from app.projects.user_tokens import is_for_users
from app.projects.user_view import OBJECTS
from app.settings import Connected
from tests.service import Emulator, Service
from tests.tenants import Tenant
from tests.test_presets import LOOKUP, MODEL, SECRET, seen, thread_of, turn
from tests.test_user_tokens import browser, token_of

SOCKET = "WEBSOCKET"

QUIET_SECONDS = 1.5
"""A stream without an end is read until it has been silent for so long."""

SHAPES: dict[str, list[dict[str, Any]]] = {
    "POST /threads": [{"title": "Of Ann", "messages": [{"role": "user", "content": "Hi"}]}],
    "PATCH /threads/{thread_id}": [{"title": "Named"}],
    "POST /threads/{thread_id}/turns": [
        {"input": "Plain."}, {"input": "Streamed.", "stream": True}, {"input": "Unstored.", "store": False},
        {"input": "In the background.", "background": True, "if_busy": "wait"},
        {"input": "Edited.", "replaces": "{turn_id}", "if_busy": "wait"}, {"replaces": "{turn_id}", "if_busy": "wait"},
        {"input": "Beside.", "parent_id": "{turn_id}", "stream": True},
    ],
    "POST /threads/{thread_id}/turns/{turn_id}/feedback": [{"score": 1}],
    "POST /threads/{thread_id}/fork": [{}, {"title": "Fork"}],
    "POST /threads/{thread_id}/compact": [{"keep_turns": 0}],
    "POST /responses": [
        {"input": "Plain.", "conversation": "{conversation_id}"},
        {"input": "Streamed.", "conversation": "{conversation_id}", "stream": True},
        {"input": "After.", "previous_response_id": "{response_id}"}, {"input": "Without a thread."},
        {"input": "Unstored.", "previous_response_id": "{response_id}", "store": False, "stream": True},
    ],
    "POST /responses/compact": [{"model": MODEL, "previous_response_id": "{response_id}"}],
    "POST /responses/input_tokens": [{"input": "How much?", "conversation": "{conversation_id}"}],
    "POST /conversations": [{"items": [{"role": "user", "content": "Hi"}]}],
    "POST /conversations/{conversation_id}": [{"metadata": {"a": "b"}}],
    "POST /conversations/{conversation_id}/items": [{"items": [{"role": "user", "content": "Hi"}]}],
    "POST /stream_tickets": [{"path": "/v1/threads/{thread_id}/events"}],
    "POST /threads/claim": [{"token": "{anonymous}"}],
}  # fmt: skip
"""Bodies that are sent to a route. A route that is not here gets an empty one."""

QUERIES: dict[str, list[dict[str, str]]] = {
    "GET /threads/{thread_id}/messages": [
        {}, {"format": "chat"}, {"format": "markdown"}, {"turns": "100"}, {"order": "desc"},
    ],
    "GET /search": [{"q": SECRET}, {"q": "Hello"}, {"q": "hidden"}],
    "GET /responses/{response_id}": [{}, {"stream": "true"}],
}  # fmt: skip

STREAMS = {"Last-Event-ID": "0"}
"""The stream of a turn begins at the beginning. Other streams begin with a snapshot."""


def open_routes() -> set[tuple[str, str]]:
    """Return each route that accepts user tokens, by its method and path, from the service's own table of routes."""
    service = build(Connected(database_url="postgresql://nowhere/none", redis_url="redis://nowhere"))
    found: set[tuple[str, str]] = set()
    for context in iter_route_contexts(service.routes):
        endpoint = getattr(context, "endpoint", None) or getattr(context.route, "endpoint", None)
        if is_for_users(endpoint):
            methods = context.methods if isinstance(context.methods, set) else {SOCKET}
            found |= {(method, str(context.path).replace(":path}", "}")) for method in methods - {"HEAD", "OPTIONS"}}
    return found


@pytest.fixture
def told(service: Service, emulator: Emulator) -> tuple[Tenant, dict[str, str]]:
    """A project, and a thread of Ann's in which the app has said secrets in every way that there is."""
    tenant = Tenant(service)
    tenant.settings(user_preset={"tools": [LOOKUP], "limits": {"max_output_tokens": 900}})
    return tenant, things(tenant)


def things(tenant: Tenant) -> dict[str, str]:
    thread = thread_of(
        tenant, "ann", name=f"ann:notes-{len(tenant.http.get('/threads').json()['data'])}", title="A talk",
        preset={"instructions": f"Of the thread: {SECRET}."},
        messages=[
            {"role": "system", "content": f"At the beginning: {SECRET}, hidden."}, {"role": "user", "content": "Hello"},
        ],
    )  # fmt: skip
    of_key = {
        "input": [{"role": "developer", "content": f"In a turn: {SECRET}."}, {"role": "user", "content": "Go on"}],
        "instructions": f"Of the key: {SECRET}.", "tools": [LOOKUP], "metadata": {"a": "b"},
        "reasoning": {"effort": "low", "note": SECRET}, "text": {"format": {"type": "text", "note": SECRET}},
        "safety_identifier": SECRET, "prompt_cache_key": SECRET, "stop": [SECRET],
    }  # fmt: skip
    assert tenant.http.post(f"/threads/{thread}/turns", json=of_key).status_code == 200
    ann = browser(tenant, "ann")
    made = turn(ann, thread, "Hello, app")
    items = ann.get(f"/threads/{thread}/turns/{made['id']}").json()["input"]
    return {
        "thread_id": thread,
        "name": tenant.http.get(f"/threads/{thread}").json()["name"].removeprefix("ann:"),
        "turn_id": made["id"],
        "response_id": made["id"].replace("turn_", "resp_"),
        "conversation_id": thread.replace("thread_", "conv_"),
        "item_id": items[0]["id"],
        "share_id": ann.post(f"/threads/{thread}/shares").json()["id"],
        "model": MODEL,
        "anonymous": tenant.http.post("/user_tokens", json={"anonymous": True}).json()["token"],
    }


def filled(value: Any, given: dict[str, str]) -> Any:
    return json.loads(re.sub(r"{(\w+)}", lambda found: given.get(found[1], found[0]), json.dumps(value)))


def read(client: httpx2.Client, method: str, path: str, **how: Any) -> tuple[int, str]:
    """Return the status of an answer, and all of it: its headers, and its body as far as it comes."""
    heard: list[bytes] = []
    endless = path.endswith("/events") and "/turns/" not in path
    headers = {} if endless else STREAMS
    with client.stream(
        method, path, headers=headers, timeout=httpx2.Timeout(60, read=QUIET_SECONDS * 10), **how
    ) as answer:
        said = repr(answer.headers.raw)
        try:
            heard += _until_quiet(answer) if endless else answer.iter_bytes()
        except httpx2.ReadTimeout:
            assert endless, (method, path)
        return answer.status_code, said + b"".join(heard).decode()


def _until_quiet(answer: httpx2.Response) -> Iterator[bytes]:
    answer.request.extensions["timeout"]["read"] = QUIET_SECONDS
    yield from answer.iter_bytes()


def requests(method: str, path: str) -> Iterator[dict[str, Any]]:
    """Yield what is sent to a route."""
    name = f"{method} {path}".replace("by-name/{name}", "{thread_id}")
    if method in ("GET", "DELETE"):
        yield from ({"params": query} for query in QUERIES.get(name, [{}]))
    else:
        yield from ({"json": body} for body in SHAPES.get(name, [{}]))


def test_secrets_of_the_app_are_on_no_route_and_always_with_the_model(
    told: tuple[Tenant, dict[str, str]], emulator: Emulator
) -> None:
    tenant, given = told
    ann = browser(tenant, "ann", preset={"tools": [LOOKUP]})
    assert f"In a turn: {SECRET}." in seen(emulator)
    looked_at = set()
    # Deletions come last, and each has something of its own to delete.
    for method, path in sorted(open_routes(), key=lambda route: (route[0] == "DELETE", route[1])):
        prefix = next(each for each in (*PROVIDER_PATHS, "/v1") if path.startswith(each))
        ann.base_url = httpx2.URL(f"{tenant.service.url}{prefix}")
        place = path.removeprefix(prefix)
        if method == SOCKET:
            continue  # See below.
        mine = things(tenant) if method == "DELETE" else given
        for request in requests(method, place):
            before = len(emulator.calls())
            status, said = read(ann, method, place.format(**mine), **filled(request, mine))
            assert SECRET not in said.replace("?q=" + SECRET, ""), (method, path, request, said)
            assert status < 500, (method, path, request, said)
            if place.endswith(("/turns", "/responses")) and method == "POST":
                assert status == 200, (path, request, said)
                emulator.is_asked(before + 1)  # A turn in the background is answered before.
                body = seen(emulator)
                assert LOOKUP["description"] in body, (path, request)
                if "Without a thread." not in said and request["json"].get("input") != "Without a thread.":
                    for secret in ("Of the thread", "At the beginning", "In a turn"):
                        assert f"{secret}: {SECRET}" in body, (path, request, secret)
            looked_at.add((method, path, status < 400))
    worked = {(method, path) for method, path, good in looked_at if good}
    assert {route for route in open_routes() if route[0] != SOCKET} - worked == set()


def test_secrets_of_the_app_are_on_no_websocket(told: tuple[Tenant, dict[str, str]], emulator: Emulator) -> None:
    tenant, given = told
    headers = {"Authorization": f"Bearer {token_of(tenant, 'ann')}"}
    heard: list[str] = []
    assert {path for method, path in open_routes() if method == SOCKET} == {
        f"{prefix}/responses" for prefix in ("/v1", *PROVIDER_PATHS)
    }
    with connect(f"{tenant.service.url.replace('http', 'ws')}/v1/responses", additional_headers=headers) as socket:
        for fields in (
            {"input": "One", "conversation": given["conversation_id"]}, {"input": "Two", "stream_id": "a"},
            {"input": "Three", "previous_response_id": given["response_id"], "store": False},
            {"input": "Four", "previous_response_id": given["response_id"], "generate": False},
            {"input": "Five", "instructions": "Mine.", "conversation": given["conversation_id"]},
            {"input": "Six", "conversation": "conv_" + "0" * 32},
        ):  # fmt: skip
            socket.send(json.dumps({"type": "response.create", **fields}))
            while True:
                heard.append(str(socket.recv(timeout=30)))
                if json.loads(heard[-1])["type"] in ("response.completed", "error"):
                    break
            if fields["input"] in ("One", "Three"):
                assert f"Of the thread: {SECRET}." in seen(emulator)
                assert f"At the beginning: {SECRET}" in seen(emulator)
    assert SECRET not in "".join(heard)
    ends = [event for event in map(json.loads, heard) if event["type"] in ("response.completed", "error")]
    assert [event["type"] for event in ends] == ["response.completed"] * 4 + ["error"] * 2
    assert [event["error"]["code"] for event in ends[4:]] == ["not_permitted_by_preset", "thread_not_found"]
    assert ends[0]["response"]["output"][0]["content"][0]["text"]


def test_websocket_of_a_user_reaches_only_what_is_the_users(told: tuple[Tenant, dict[str, str]]) -> None:
    tenant, given = told
    headers = {"Authorization": f"Bearer {token_of(tenant, 'bob')}"}
    with connect(f"{tenant.service.url.replace('http', 'ws')}/v1/responses", additional_headers=headers) as socket:

        def asked(**fields: Any) -> dict[str, Any]:
            socket.send(json.dumps({"type": "response.create", "input": "Hi", **fields}))
            while (event := json.loads(socket.recv(timeout=30)))["type"] not in ("response.completed", "error"):
                pass
            found: dict[str, Any] = event
            return found

        assert asked(conversation=given["conversation_id"])["error"]["code"] == "thread_not_found"
        assert asked(previous_response_id=given["response_id"])["error"]["code"] == "previous_response_not_found"
        assert asked(previous_response_id=given["response_id"], generate=False)["type"] == "error"
        assert asked(previous_response_id=given["response_id"], store=False)["type"] == "error"
        made = asked()["response"]
    thread = tenant.http.get(f"/threads/{made['conversation']['id'].replace('conv_', 'thread_')}").json()
    assert (thread["user"], thread["turn_count"]) == ("bob", 1)


@pytest.mark.parametrize("place", ["/threads/{thread_id}/events", "/events"])
def test_streams_of_threads_show_nothing_of_what_the_app_says_meanwhile(
    told: tuple[Tenant, dict[str, str]], place: str
) -> None:
    tenant, given = told
    thread, heard = given["thread_id"], b""
    with browser(tenant, "ann").stream("GET", place.format(**given)) as stream:
        for part in stream.iter_bytes():
            if not heard:
                tenant.http.patch(f"/threads/{thread}", json={"preset": {"instructions": f"Again: {SECRET}."}})
                of_key = [{"role": "developer", "content": f"Now: {SECRET}."}, {"role": "user", "content": "Go on"}]
                said = {"input": of_key, "instructions": f"Of the key: {SECRET}.", "tools": [LOOKUP]}
                assert tenant.http.post(f"/threads/{thread}/turns", json=said).status_code == 200
                tenant.http.patch(f"/threads/{thread}", json={"title": "The end"})
            heard += part
            if b"The end" in heard:
                break
    assert b"snapshot" in heard
    assert b"thread.turn.created" in heard
    assert SECRET.encode() not in heard


def test_messages_of_the_provider_are_not_for_users(told: tuple[Tenant, dict[str, str]], emulator: Emulator) -> None:
    tenant, given = told
    ann = browser(tenant, "ann")
    for streams in (False, True):
        for how in ({"kind": "status", "status": 400, "code": "DataInspectionFailed"}, {"kind": "failed", "code": "x"}):
            emulator.reset()
            emulator.fault(**how, message=f"The tool {SECRET} is wrong.", times=50)
            body = {"input": "Hi", "stream": streams, "if_busy": "wait"}
            _, said = read(ann, "POST", f"/threads/{given['thread_id']}/turns", json=body)
            assert SECRET not in said, said
            assert "could not answer" in said, said
    assert SECRET in tenant.http.get(f"/threads/{given['thread_id']}/turns").text
    assert SECRET not in ann.get(f"/threads/{given['thread_id']}/turns").text


@pytest.mark.parametrize("streams", [False, True])
def test_tools_that_a_server_lists_are_not_for_users(
    told: tuple[Tenant, dict[str, str]], emulator: Emulator, streams: bool
) -> None:
    tenant, given = told
    ann, place = browser(tenant, "ann"), f"/threads/{given['thread_id']}/turns"
    tools = [{"name": "lookup", "description": f"Looks up {SECRET}.", "input_schema": {}}]
    listing = {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "shop", "tools": tools}
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Done."}]}
    emulator.fault("output", output=[listing, said], times=1)
    status, answer = read(ann, "POST", place, json={"input": "Hi", "stream": streams})
    assert (status, SECRET in answer, "mcp_list_tools" in answer) == (200, False, True), answer
    assert SECRET not in ann.get(place).text
    assert f"Looks up {SECRET}." in json.dumps(
        [item for turn in tenant.http.get(place).json()["data"] for item in turn["output"]]
    )


def test_answers_have_the_fields_that_clients_need(told: tuple[Tenant, dict[str, str]]) -> None:
    tenant, given = told
    ann = browser(tenant, "ann")
    made = ann.get(f"/threads/{given['thread_id']}/turns/{given['turn_id']}").json()
    own = tenant.http.get(f"/threads/{given['thread_id']}/turns/{given['turn_id']}").json()
    assert own["instructions"] == f"Of the thread: {SECRET}."
    assert set(made) == set(own) - {"user"}
    assert {name for name in own if made.get(name) != own[name]} <= {
        "instructions", "tools", "tool_choice", "text", "account", "cost", "prompt_cache_key", "safety_identifier",
        "usage", "continuation_reason",
    }  # fmt: skip
    assert (made["instructions"], made["tools"], made["account"], made["cost"]) == (None, [], None, None)
    assert made["output_text"] == own["output_text"]
    assert set(own["usage"]) - set(made["usage"]) == {"x_details"}
    thread = ann.get(f"/threads/{given['thread_id']}").json()
    assert thread["last_message"]["role"] == "assistant"
    # A page without its system messages goes on behind them.
    page = ann.get(f"/conversations/{given['conversation_id']}/items", params={"order": "asc", "limit": 1}).json()
    assert (page["data"], page["has_more"]) == ([], True)
    after = {"order": "asc", "limit": 1, "after": page["last_id"]}
    assert ann.get(f"/conversations/{given['conversation_id']}/items", params=after).json()["data"][0]["role"] == "user"


def test_every_object_that_users_get_is_listed(told: tuple[Tenant, dict[str, str]]) -> None:
    """Check the lists of fields against answers to a key, so that a renamed field does not vanish for users."""
    tenant, given = told
    thread = given["thread_id"]
    for path in (
        f"/threads/{thread}", f"/threads/{thread}/branches", f"/threads/{thread}/shares", "/search?q=Hello",
        f"/conversations/{given['conversation_id']}", "/models",
    ):  # fmt: skip
        answer = tenant.http.get(path).json()
        found = answer["data"][0] if answer["object"] == "list" else answer
        assert set(OBJECTS[found["object"]]) - set(found) <= {"unreadable", "path"}, path


def test_search_does_not_tell_the_words_of_pinned_messages(service: Service) -> None:
    """Check hits as well as pages: a next page without hits would confirm a guessed word."""
    tenant = Tenant(service)
    thread = thread_of(tenant, "ann")
    ann = browser(tenant, "ann")
    pinned = {"role": "user", "content": f"Hidden {SECRET}", "pinned": True}
    said = {"input": [pinned, {"role": "user", "content": "Open"}]}
    assert tenant.http.post(f"/threads/{thread}/turns", json=said).status_code == 200
    guess = turn(ann, thread, f"A guess: {SECRET}")
    found = ann.get("/search", params={"q": SECRET, "limit": 1}).json()
    assert ([hit["turn_id"] for hit in found["data"]], found["has_more"]) == ([guess["id"]], False)
    assert ann.get("/search", params={"q": "Hidden"}).json()["data"] == []
    assert len(tenant.http.get("/search", params={"q": SECRET}).json()["data"]) == 2


def test_large_answers_come_whole_and_without_what_the_app_has_said(service: Service) -> None:
    """Check answers that are large enough to be made in a thread."""
    tenant = Tenant(service)
    given = things(tenant)
    ann, place = browser(tenant, "ann"), f"/threads/{given['thread_id']}/turns"
    words = "many words " * 10_000
    with ann.stream("POST", place, json={"input": f"Echo: {words}", "stream": True}) as stream:
        events = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] == "response.completed"
    assert words.strip() in json.dumps(events[-1])
    page = ann.get(place)
    assert words.strip() in page.text
    headers = {"Authorization": f"Bearer {token_of(tenant, 'ann')}"}
    with connect(
        f"{tenant.service.url.replace('http', 'ws')}/v1/responses", additional_headers=headers, max_size=None
    ) as socket:
        said = {"input": f"Echo: {words}", "conversation": given["conversation_id"]}
        socket.send(json.dumps({"type": "response.create", **said}))
        while (event := json.loads(socket.recv(timeout=30)))["type"] not in ("response.completed", "error"):
            pass
    assert words.strip() in json.dumps(event)
    assert SECRET not in json.dumps([*events, page.json(), event])

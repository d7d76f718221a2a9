"""The Python client against the service, through a proxy that loses connections."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import pytest

from everthread_client import (
    APIError,
    AsyncEverthread,
    AuthenticationError,
    BadRequestError,
    ByName,
    ConflictError,
    ConnectionFailedError,
    Everthread,
    EverthreadError,
    InvalidAnswerError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
)
from everthread_client._async_client import AsyncListStream
from tests.clients.cutting_proxy import CuttingProxy, canned
from tests.service import Emulator, Service, eventually, free_port

SOURCE = Path(__file__).parents[2] / "clients" / "python"
WORDS = " ".join(f"word{number}" for number in range(60))

Kind = Literal["sync", "async"]
KINDS: tuple[Kind, Kind] = ("sync", "async")


@pytest.fixture
def client(service: Service) -> Iterator[Everthread]:
    with Everthread(service.url, service.key) as client:
        yield client


def events_of(kind: Kind, url: str, key: str, thread: str, **fields: Any) -> list[dict[str, Any]]:
    """Return the events of a new turn, read by one of the two clients."""
    if kind == "sync":
        with Everthread(url, key) as client, client.threads.turns.stream(thread, **fields) as stream:
            return list(stream)

    async def read() -> list[dict[str, Any]]:
        async with AsyncEverthread(url, key) as client, client.threads.turns.stream(thread, **fields) as stream:
            return [event async for event in stream]

    return asyncio.run(read())


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


def test_the_synchronous_client_is_made_of_the_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    command = [sys.executable, "-c", "import unasync; print(unasync.made(), end='')"]
    made = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, check=True).stdout
    assert made == (SOURCE / "src" / "everthread_client" / "_client.py").read_text()


def test_the_example_of_the_readme_runs(service: Service) -> None:
    code = (SOURCE / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    env = {
        **os.environ,
        "EVERTHREAD_URL": service.url,
        "EVERTHREAD_KEY": service.key,
        "PYTHONPATH": str(SOURCE / "src"),
    }
    subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, timeout=120)


def test_the_package_has_the_version_of_the_service_and_its_types(tmp_path: Path) -> None:
    source = shutil.copytree(SOURCE, tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__"))
    command: list[str | Path] = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    version = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text())["project"]["version"]
    (wheel,) = tmp_path.glob(f"everthread_client-{version}-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"everthread_client/py.typed", "everthread_client/agents.py"} <= set(names)
    assert not [name for name in names if not name.startswith("everthread_client")]


# Threads and what they hold


def test_threads_are_created_changed_listed_and_deleted(client: Everthread) -> None:
    batch, name = uuid4().hex, f"client {uuid4().hex} ü?"
    thread = client.threads.get_or_create(name, metadata={"batch": batch})
    assert client.threads.get_or_create(name)["id"] == thread["id"]
    assert client.threads.retrieve(ByName(name))["id"] == thread["id"]
    assert client.threads.update(thread["id"], title="A talk")["title"] == "A talk"
    assert client.threads.update(thread["id"], title=None)["title"] is None
    others = [client.threads.create(metadata={"batch": batch})["id"] for _ in range(4)]
    listed = client.threads.list(limit=2, metadata={"batch": batch})
    assert [each["id"] for each in listed] == [*reversed(others), thread["id"]]
    assert [len(page["data"]) for page in listed.pages()] == [2, 2, 1]
    assert client.threads.count(metadata={"batch": batch})["count"] == 5
    assert all(result["done"] for result in client.threads.bulk("archive", others)["data"])
    assert [each["id"] for each in client.threads.list(archived=False, metadata={"batch": batch})] == [thread["id"]]
    assert client.threads.delete(thread["id"])["deleted"]
    with pytest.raises(NotFoundError) as error:
        client.threads.retrieve(thread["id"])
    assert (error.value.status, error.value.code) == (404, "thread_not_found")


def test_a_list_is_read_backwards_from_a_cursor(client: Everthread) -> None:
    batch = uuid4().hex
    ids = [client.threads.create(metadata={"batch": batch})["id"] for _ in range(5)]
    listed = client.threads.list(limit=2, order="asc", before=ids[4], metadata={"batch": batch})
    assert [[each["id"] for each in page["data"]] for page in listed.pages()] == [ids[2:4], ids[0:2]]


def test_a_list_goes_on_after_an_empty_page_and_ends_without_a_cursor(service: Service) -> None:
    def page(*ids: str, last_id: str | None) -> bytes:
        data = [{"id": each} for each in ids]
        return canned("200 OK", json.dumps({"data": data, "first_id": None, "last_id": last_id, "has_more": True}))

    plan = [page("1", last_id="1"), page(last_id="2"), page("3", last_id=None)]
    with CuttingProxy(service.port, *plan) as proxy, Everthread(proxy.url, "any") as client:
        assert [thread["id"] for thread in client.threads.list()] == ["1", "3"]
        assert proxy.connections == 3


def test_a_conversation_is_read_forked_branched_and_shared(client: Everthread) -> None:
    thread = client.threads.create(title="Ada's talk")["id"]
    turns = client.threads.turns
    first = turns.create(thread, input="My name is Ada.")
    second = turns.create(thread, input="What is my name?", instructions="Be brief.")
    assert (second["output_text"], second["parent_id"], second["status"]) == ("Ada", first["id"], "completed")
    other = turns.create(thread, input="Echo: another way", parent_id=first["id"])
    assert [turn["id"] for turn in turns.list(thread, limit=1)] == [other["id"], second["id"], first["id"]]
    assert turns.retrieve(thread, first["id"])["input"][0]["content"] == "My name is Ada."
    assert {branch["id"] for branch in client.threads.branches(thread)} == {second["id"], other["id"]}
    assert client.threads.update(thread, head_id=second["id"])["head_id"] == second["id"]
    fork = client.threads.fork(thread, title="Fork", turn_id=first["id"])
    assert fork["forked_turn_id"] == first["id"]
    assert turns.create(fork["id"], input="What is my name?")["output_text"] == "Ada"
    assert [item["turn_id"] for item in client.threads.messages(thread, limit=1)] == [
        *[first["id"]] * 2,
        *[second["id"]] * 2,
    ]
    newest = next(client.threads.messages(thread, turns=1).pages())
    assert [item["turn_id"] for item in newest["data"]] == [second["id"]] * 2
    assert "My name is Ada." in client.threads.markdown(thread)
    link = client.threads.shares.create(thread, expires_in=3600)
    assert client.shared(link["path"].rpartition("/")[2])["title"] == "Ada's talk"
    assert [share["id"] for share in client.threads.shares.list(thread)] == [link["id"]]
    assert client.threads.shares.delete(link["id"])["deleted"]
    with pytest.raises(NotFoundError):
        client.shared(link["path"].rpartition("/")[2])


def test_items_feedback_search_models_and_summaries(client: Everthread) -> None:
    thread, word = client.threads.create()["id"], f"w{uuid4().hex}"
    added = client.threads.items.add(thread, [{"role": "user", "content": f"Remember {word}."}])["data"]
    turn = client.threads.turns.create(thread, input="Recite the conversation")
    assert word in turn["output_text"]
    assert [item["role"] for item in client.threads.items.list(thread, limit=1)] == ["user", "user", "assistant"]
    assert client.threads.items.retrieve(thread, added[0]["id"])["id"] == added[0]["id"]
    assert [hit["thread_id"] for hit in client.search(word, role="user", limit=1)] == [thread]
    client.threads.items.delete(thread, added[0]["id"])
    assert (
        word
        not in client.threads.turns.create(thread, input="Recite the conversation", replaces=turn["id"])["output_text"]
    )
    feedback = client.threads.turns.feedback.create(thread, turn["id"], score=1, label=word)
    assert [each["id"] for each in client.threads.turns.feedback.list(thread, turn["id"])] == [feedback["id"]]
    assert [each["id"] for each in client.feedback.list(label=word)] == [feedback["id"]]
    assert client.feedback.delete(feedback["id"])["deleted"]
    models = {model["id"]: model for model in client.models.list()}
    assert client.models.retrieve("qwen4-max") == models["qwen4-max"]
    client.threads.turns.create(thread, input="My name is Ada.")
    summary = client.threads.compact(thread, keep_turns=1)
    assert [each["id"] for each in client.threads.compactions(thread)] == [summary["id"]]
    assert client.request("GET", "/usage", params={"group_by": "model"})["object"] == "list"


def test_a_user_token_reads_and_writes_threads_of_its_user_only(client: Everthread, service: Service) -> None:
    user, others = f"user-{uuid4().hex}", client.threads.create(user="somebody else")["id"]
    token = client.user_tokens.create(user=user, expires_in=60)
    with Everthread(service.url, token["token"]) as browser:
        own = browser.threads.create()["id"]
        assert [thread["id"] for thread in browser.threads.list()] == [own]
        with pytest.raises(NotFoundError):
            browser.threads.retrieve(others)
        with pytest.raises(NotFoundError):
            browser.threads.turns.create(others, input="Recite the conversation")
        with pytest.raises(PermissionDeniedError):
            browser.user_tokens.create(user="somebody else")


# Streams


@pytest.mark.parametrize("kind", KINDS)
def test_no_delta_is_lost_or_doubled_on_connections_that_break(
    service: Service, emulator: Emulator, kind: Kind
) -> None:
    """The first connection is lost before its answer, others within headers, within an event and between events."""
    thread = service.thread()
    with CuttingProxy(service.port, 0, 40, 900, 0, 3000, 5000) as proxy:
        events = events_of(kind, proxy.url, service.key, thread, input=f"Echo: {WORDS}")
        assert not proxy.plan
    assert text_of(events) == WORDS
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert len(service.every(f"/threads/{thread}/turns")) == 1
    assert len(emulator.calls()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_breaks_while_the_model_speaks_goes_on(service: Service, emulator: Emulator, kind: Kind) -> None:
    emulator.fault("slow", seconds_per_event=0.02)
    thread = service.thread()
    with CuttingProxy(service.port, 3000, 4000) as proxy:
        events = events_of(kind, proxy.url, service.key, thread, input=f"Echo: {WORDS}")
        assert not proxy.plan
    assert text_of(events) == WORDS
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert len(emulator.calls()) == 1


def test_a_turn_is_resumed_after_a_restart(client: Everthread, service: Service) -> None:
    thread = service.thread()
    with client.threads.turns.stream(thread, input=f"Echo: {WORDS}") as stream:
        begun = [next(stream) for _ in range(8)]
        turn, last = stream.turn_id, stream.last_sequence_number
    assert turn is not None
    with Everthread(service.url, service.key) as restarted:
        rest = list(restarted.threads.turns.resume(thread, turn, starting_after=last))
        assert text_of(begun + rest) == WORDS
        assert [event["sequence_number"] for event in begun + rest] == list(range(len(begun + rest)))
        assert text_of(list(restarted.threads.turns.resume(thread, turn))) == WORDS


def test_a_stream_gives_its_text_and_its_turn(client: Everthread, service: Service) -> None:
    thread = service.thread()
    assert "".join(client.threads.turns.stream(thread, input="Echo: one two").text()) == "one two"
    assert client.threads.turns.stream(thread, input="Echo: three").result()["output_text"] == "three"


def test_a_stream_is_stopped(client: Everthread, service: Service, emulator: Emulator) -> None:
    emulator.fault("slow", seconds_per_event=0.05)
    thread = service.thread()
    stream = client.threads.turns.stream(thread, input=f"Echo: {WORDS}")
    with pytest.raises(EverthreadError, match="no id yet"):
        stream.cancel()
    assert next(iter(stream.text())).startswith("word0")
    assert stream.cancel()["status"] == "cancelled"
    assert list(stream)[-1]["type"] == "response.incomplete"


def test_a_refused_stream_raises_the_error(client: Everthread, service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    with pytest.raises(BadRequestError) as error:
        list(client.threads.turns.stream(thread, input="Hello", temperature=7))
    assert error.value.param == "temperature"
    emulator.fault("slow", seconds_per_event=0.2)
    with client.threads.turns.stream(thread, input=f"Echo: {WORDS}") as running:
        next(running)
        with pytest.raises(ConflictError) as busy:
            list(client.threads.turns.stream(thread, input="Hello", if_busy="reject"))
        assert busy.value.code == "thread_busy"
        running.cancel()


def test_events_of_a_thread_go_on_after_a_lost_connection(
    client: Everthread, service: Service, emulator: Emulator
) -> None:
    emulator.fault("slow", seconds_per_event=0.02)
    thread = service.thread()
    with client.threads.turns.stream(thread, input=f"Echo: {WORDS}") as begun:
        next(begun)
    events: list[dict[str, Any]] = []
    with CuttingProxy(service.port, 4000, 5000) as proxy, Everthread(proxy.url, service.key) as listener:
        for event in listener.threads.events(thread):
            events.append(event)
            if event["type"] == "response.completed":
                client.threads.delete(thread)
        assert not proxy.plan
    assert "thread.turn.created" in {event["type"] for event in events[:2]}
    assert text_of(events) == WORDS
    numbers = [event["sequence_number"] for event in events if "sequence_number" in event]
    assert numbers == list(range(len(numbers)))
    assert events[-1]["type"] == "thread.deleted"


async def test_many_open_streams_keep_no_request_waiting(service: Service) -> None:
    async with AsyncEverthread(service.url, service.key) as client:
        thread = (await client.threads.create())["id"]
        streams = [client.threads.events(thread) for _ in range(110)]

        async def read(stream: AsyncListStream) -> list[str]:
            return [event["type"] async for event in stream]

        reading = [asyncio.ensure_future(read(stream)) for stream in streams]
        async with asyncio.timeout(120):
            await client.threads.update(thread, title="A talk")
            await client.threads.delete(thread)
            # A stream that was opened too late finds no thread.
            ended = await asyncio.gather(*reading, return_exceptions=True)
    assert all(
        each[-1] == "thread.deleted" if isinstance(each, list) else isinstance(each, NotFoundError) for each in ended
    )


def test_a_stream_without_events_is_given_up(service: Service) -> None:
    silent = canned("200 OK", ": keep-alive\n\n", kind="text/event-stream")
    with CuttingProxy(service.port, *[silent] * 5) as proxy, Everthread(proxy.url, "any", max_reconnects=1) as client:
        with pytest.raises(ConnectionFailedError, match="ended before its last event"):
            list(client.threads.turns.resume("thread_x", "turn_x"))
        assert proxy.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        canned("200 OK", "data: {\n\n", kind="text/event-stream"),
        canned("200 OK", "data: []\n\n", kind="text/event-stream"),
        canned("200 OK", "<html>", kind="text/html"),
    ],
)
def test_a_stream_that_is_none_is_an_error(service: Service, answer: bytes) -> None:
    with CuttingProxy(service.port, answer) as proxy, Everthread(proxy.url, "any") as client:
        with pytest.raises(InvalidAnswerError):
            list(client.threads.turns.resume("thread_x", "turn_x"))
        assert proxy.connections == 1


@pytest.mark.parametrize(
    ("event", "error", "connections"),
    [
        ({"code": "service_stopping", "message": "Stopping."}, NotFoundError, 2),
        ({"code": "credential_expired", "message": "Expired.", "starting_after": 3}, AuthenticationError, 1),
        ({"code": "turn_deleted", "message": "Deleted."}, NotFoundError, 1),
        ({"code": "thread_busy", "message": "Busy.", "status": 409}, ConflictError, 1),
    ],
)
def test_an_error_event_ends_the_stream_or_its_connection_only(
    service: Service, event: dict[str, Any], error: type[APIError], connections: int
) -> None:
    body = f"event: error\ndata: {json.dumps({'type': 'error', **event})}\n\n"
    with CuttingProxy(service.port, canned("200 OK", body, kind="text/event-stream")) as proxy:
        with Everthread(proxy.url, service.key) as client, pytest.raises(error):
            list(client.threads.turns.resume(service.thread(), "turn_" + "0" * 32))
        assert proxy.connections == connections


# Retries


@pytest.mark.parametrize("kind", KINDS)
def test_a_turn_whose_answer_is_lost_is_asked_for_once(service: Service, emulator: Emulator, kind: Kind) -> None:
    thread = service.thread()

    async def ask(url: str) -> str:
        async with AsyncEverthread(url, service.key) as client:
            return (await client.threads.turns.create(thread, input="Echo: once"))["output_text"]

    with CuttingProxy(service.port, 0, 60) as proxy:
        if kind == "sync":
            with Everthread(proxy.url, service.key) as client:
                said = client.threads.turns.create(thread, input="Echo: once")["output_text"]
        else:
            said = asyncio.run(ask(proxy.url))
        assert proxy.connections == 3
    assert said == "once"
    assert len(service.every(f"/threads/{thread}/turns")) == 1
    assert len(emulator.calls()) == 1


def test_two_turns_with_one_idempotency_key_are_one(client: Everthread, service: Service, emulator: Emulator) -> None:
    thread, key = service.thread(), uuid4().hex
    first = client.threads.turns.create(thread, input="Hello", idempotency_key=key)
    assert client.threads.turns.create(thread, input="Hello", idempotency_key=key)["id"] == first["id"]
    assert client.threads.turns.create(thread, input="Hello")["id"] != first["id"]
    with pytest.raises(ConflictError) as error:
        client.threads.turns.create(thread, input="Something else", idempotency_key=key)
    assert error.value.code == "idempotency_key_reused"
    assert len(emulator.calls()) == 2


def test_a_request_that_would_create_a_second_object_is_not_repeated(service: Service) -> None:
    batch = uuid4().hex
    with CuttingProxy(service.port, 0) as proxy, Everthread(proxy.url, service.key) as client:
        with pytest.raises(ConnectionFailedError):
            client.threads.create(metadata={"batch": batch})
        assert proxy.connections == 1
        eventually(lambda: len(list(client.threads.list(metadata={"batch": batch}))) == 1)


REFUSED = '{"error": {"message": "Later.", "type": "rate_limit_error", "param": null, "code": "rate_limit_exceeded"}}'


def test_a_refusal_with_retry_after_is_repeated_after_that_time(service: Service) -> None:
    full = '{"error": {"message": "Full.", "type": "server_error", "param": null, "code": "overloaded"}}'
    busy = canned("429 Too Many Requests", REFUSED, "Retry-After: 0")
    overloaded = canned("503 Service Unavailable", full, "Retry-After: 1")
    with CuttingProxy(service.port, busy, overloaded) as proxy, Everthread(proxy.url, service.key) as client:
        began = time.monotonic()
        assert client.threads.create()["object"] == "thread"
        assert proxy.connections == 3
        assert time.monotonic() - began >= 1


def test_a_long_retry_after_is_an_error_that_tells_it(service: Service) -> None:
    refused = canned("429 Too Many Requests", REFUSED, "Retry-After: 3600", "X-Request-Id: req_1")
    with CuttingProxy(service.port, refused) as proxy, Everthread(proxy.url, service.key) as client:
        with pytest.raises(RateLimitError) as error:
            client.threads.list().__iter__().__next__()
        assert proxy.connections == 1
    found = error.value
    assert (found.retry_after, found.code, found.request_id) == (3600, "rate_limit_exceeded", "req_1")


def test_an_error_of_the_model_is_not_repeated_and_a_proxys_is(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    failed = '{"error": {"message": "Failed.", "type": "server_error", "param": null, "code": "provider_timeout"}}'
    with CuttingProxy(service.port, canned("504 Gateway Timeout", failed)) as proxy:
        with Everthread(proxy.url, service.key) as client, pytest.raises(APIError) as error:
            client.threads.turns.create(thread, input="Hello")
        assert (error.value.code, proxy.connections) == ("provider_timeout", 1)
    with CuttingProxy(service.port, canned("502 Bad Gateway", "<html>", kind="text/html")) as proxy:
        with Everthread(proxy.url, service.key) as client:
            assert client.threads.turns.create(thread, input="Hello")["status"] == "completed"
        assert proxy.connections == 2


def test_a_service_that_is_away_is_an_error_after_the_last_attempt() -> None:
    client = Everthread(f"http://127.0.0.1:{free_port()}", "any", max_retries=1)
    with client, pytest.raises(ConnectionFailedError):
        client.threads.create()


def test_a_page_that_is_not_json_is_an_error(service: Service) -> None:
    page = canned("200 OK", "<html>", kind="text/html")
    with CuttingProxy(service.port, page) as proxy, Everthread(proxy.url, "any") as client:
        with pytest.raises(InvalidAnswerError):
            client.models.retrieve("qwen4-max")
        assert proxy.connections == 1


# Credentials


def test_a_refused_token_is_replaced_once(service: Service) -> None:
    tokens = iter(["et_old", service.key])
    with Everthread(service.url, lambda: next(tokens)) as client:
        assert client.threads.create()["object"] == "thread"
    asked = 0

    async def wrong() -> str:
        nonlocal asked
        asked += 1
        return "et_wrong"

    async def use() -> None:
        async with AsyncEverthread(service.url, wrong) as client:
            await client.threads.create()

    with pytest.raises(AuthenticationError):
        asyncio.run(use())
    assert asked == 2


def test_a_stream_whose_token_is_refused_goes_on_with_a_new_one(service: Service) -> None:
    thread, tokens = service.thread(), iter(["et_old", service.key])
    with Everthread(service.url, lambda: next(tokens)) as client:
        assert client.threads.turns.stream(thread, input="Echo: hello").result()["output_text"] == "hello"


def test_a_stream_whose_token_expires_goes_on_with_a_new_one(service: Service) -> None:
    thread = service.thread()
    turn = service.turn(thread, "Echo: hello")["id"]
    expired = {"type": "error", "code": "credential_expired", "message": "Expired.", "starting_after": -1}
    body = f"event: error\ndata: {json.dumps(expired)}\n\n"
    tokens = iter(["et_old", service.key])
    with CuttingProxy(service.port, canned("200 OK", body, kind="text/event-stream")) as proxy:
        with Everthread(proxy.url, lambda: next(tokens)) as client:
            assert text_of(list(client.threads.turns.resume(thread, turn))) == "hello"
        assert proxy.connections == 2


def test_a_token_is_not_sent_to_another_host(service: Service) -> None:
    with CuttingProxy(service.port) as other:
        moved = canned("307 Temporary Redirect", "", f"Location: {other.url}/v1/threads")
        with CuttingProxy(service.port, moved) as proxy, Everthread(proxy.url, service.key) as client:
            with pytest.raises(APIError) as error:
                client.threads.create()
            assert (error.value.status, proxy.connections) == (307, 1)
        assert other.connections == 0


def test_a_client_without_a_token_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERTHREAD_KEY", raising=False)
    with pytest.raises(EverthreadError, match="EVERTHREAD_KEY"):
        Everthread()


def test_address_and_key_are_read_from_the_environment(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERTHREAD_URL", f"{service.url}/v1/")
    monkeypatch.setenv("EVERTHREAD_KEY", service.key)
    with Everthread() as client:
        assert client.threads.create()["object"] == "thread"

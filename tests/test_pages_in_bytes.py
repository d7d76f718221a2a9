"""Bounds in bytes of what is read back: a page ends when it is full, and the pages together have every entry once."""

import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import orjson
import psutil
import pytest

from app.http.pages import PAGE_BYTES
from tests.projects import Project
from tests.service import Service

ENTRIES = 8
SIZE = 10_000_000
MOST_GROWTH = 8 * PAGE_BYTES
"""Growth of a worker that answers with a page: JSON of the database, values, and JSON of the answer."""

GROW = f"""
    UPDATE items SET data = jsonb_set(data::jsonb, '{{content}}', to_jsonb(CASE turn_id::text < '8'
        WHEN true THEN repeat('ab', {SIZE} / 2)
        ELSE (SELECT string_agg(md5(turn_id::text || n), '') FROM generate_series(1, {SIZE} / 32) n)
    END))::json
    WHERE project_id = $1 AND origin = 'input'
"""
"""Make stored messages long without sending them. Postgres compresses some to a hundredth, and others not at all."""


@contextmanager
def bounded(service: Service) -> Iterator[None]:
    """Check how far the memory of each of the service's processes grows within."""
    parent = psutil.Process(service.process.process.pid)
    processes = [p for p in (parent, *parent.children(recursive=True)) if "postgres" not in p.name()]
    before, grown, done = {p: p.memory_info().rss for p in processes}, 0, threading.Event()

    def watch() -> None:
        nonlocal grown
        while not done.wait(0.005):
            grown = max(grown, *(p.memory_info().rss - before[p] for p in processes))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        done.set()
        watching.join()
    assert grown < MOST_GROWTH


@pytest.fixture
def thread(project: Project) -> str:
    """A thread of turns with a long message each."""
    id_: str = project.call("POST", "/threads", json={})["id"]
    for number in range(ENTRIES):
        turn = project.call("POST", f"/threads/{id_}/turns", json={"input": f"Echo: {number}"})
        assert turn["status"] == "completed"
    project.sql(GROW)
    return id_


def pages(project: Project, path: str, **params: Any) -> Iterator[list[dict[str, Any]]]:
    after: dict[str, str] = {}
    while True:
        answer = project.http.get(path, params={"limit": 100, **params, **after})
        assert len(answer.content) < PAGE_BYTES + 100_000
        page = answer.json()
        yield page["data"]
        if not page["has_more"]:
            return
        after = {"after": page["last_id"]}


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_lists_of_long_entries_end_early_and_have_each_entry_once(
    service: Service, project: Project, thread: str, order: str
) -> None:
    conversation = thread.replace("thread_", "conv_")
    with bounded(service):
        found = {
            path: list(pages(project, path, order=order))
            for path in (
                f"/threads/{thread}/turns",
                f"/threads/{thread}/messages",
                f"/conversations/{conversation}/items",
            )
        }
    for path, each in found.items():
        assert len(each) >= ENTRIES - 1, path
        entries = [entry["id"] for page in each for entry in page]
        assert len(set(entries)) == len(entries) == (ENTRIES if path.endswith("turns") else 2 * ENTRIES), path
    turns, messages, items = found.values()
    assert [entry for page in messages for entry in page] != []
    assert [e["id"] for page in messages for e in page] == [e["id"] for page in items for e in page]
    of_turns = dict.fromkeys(e["turn_id"] for page in messages for e in page)
    assert list(of_turns) == [turn["id"] for page in turns for turn in page]


def test_the_responses_of_a_project_end_early_and_come_once(service: Service, project: Project, thread: str) -> None:
    with bounded(service):
        found = list(pages(project, "/responses"))
    assert len(found) >= ENTRIES - 1
    turns = [turn["id"] for page in pages(project, f"/threads/{thread}/turns", order="desc") for turn in page]
    assert [each["id"].replace("resp_", "turn_") for page in found for each in page] == turns


def test_a_conversation_is_shared_replayed_and_exported_a_page_at_a_time(
    service: Service, project: Project, thread: str
) -> None:
    turns = [turn["id"] for page in pages(project, f"/threads/{thread}/turns", order="asc") for turn in page]
    project.call("POST", f"/threads/{thread}/turns/{turns[-1]}/feedback", json={"score": 1})
    link, shared, after = project.call("POST", f"/threads/{thread}/shares", json={})["path"], [], 0
    with bounded(service):
        while after is not None:
            page = httpx2.get(service.url + link, params={"after": after}).json()
            shared += [message["role"] for message in page["messages"]]
            assert page["has_more"] == (page["next"] is not None)
            assert page["next"] is None or page["next"] > after
            after = page["next"]
    assert shared == ["user", "assistant"] * ENTRIES
    with bounded(service):
        with project.http.stream("GET", f"/threads/{thread}/replay", params={"speed": 0}) as replay:
            events = sum(line == "event: thread.turn" for line in replay.iter_lines())
        assert events == ENTRIES
    with bounded(service):
        line = orjson.loads(project.http.get("/feedback/export").content)
    with bounded(service), project.http.stream("GET", f"/threads/{thread}/export") as answer:
        exported = b"".join(answer.iter_bytes())
    record = orjson.loads(exported)
    assert [turn["id"] for turn in record["turns"]] == turns
    assert all(len(turn["items"][0]["data"]["content"]) == SIZE for turn in record["turns"])
    assert line["earlier_turns"] == ENTRIES - len(line["messages"]) // 2
    assert line["messages"][-1]["content"] == str(ENTRIES - 1)


def test_a_fork_shares_a_history_that_is_too_large_to_be_copied(
    service: Service, project: Project, thread: str
) -> None:
    with bounded(service):
        fork = project.call("POST", f"/threads/{thread}/fork", json={})
    found = project.sql(f"SELECT forked_turn_id FROM threads WHERE id = '{fork['id'].removeprefix('thread_')}'")
    assert found[0]["forked_turn_id"] is not None
    assert len([turn for page in pages(project, f"/threads/{fork['id']}/messages") for turn in page]) == 2 * ENTRIES


def test_a_history_is_rebuilt_from_the_newest_of_its_long_items(service: Service, project: Project) -> None:
    id_ = project.call("POST", "/conversations", json={})["id"]
    system = {"type": "message", "role": "system", "content": "Be brief."}
    said = [message_of(f"Note {number}") for number in range(ENTRIES)]
    added = project.call("POST", f"/conversations/{id_}/items", json={"items": [system, *said]})["data"]
    short = project.call("POST", f"/conversations/{id_}/items", json={"items": [message_of("My name is Ada")]})["data"]
    project.sql(f"{GROW} AND item_id IN ({', '.join(repr(item['id']) for item in added[1:])})")
    thread = id_.replace("conv_", "thread_")
    with bounded(service):
        turn = project.call("POST", f"/threads/{thread}/turns", json={"input": "What is my name?"})
    assert (turn["status"], turn["output_text"]) == ("completed", "Ada")
    assert turn["context"]["dropped_items"] == ENTRIES
    (call,) = project.call("GET", f"/threads/{thread}/turns/{turn['id']}/calls")["data"]
    assert [item["content"] for item in call["body"]["input"]] == ["Be brief.", "My name is Ada", "What is my name?"]
    assert short[0]["id"] in [item["id"] for page in pages(project, f"/conversations/{id_}/items") for item in page]


def message_of(text: str) -> dict[str, str]:
    return {"type": "message", "role": "user", "content": text}


def test_media_that_are_stored_beside_their_items_count(service: Service, project: Project) -> None:
    id_ = project.call("POST", "/conversations", json={})["id"]
    for number in range(ENTRIES):
        data = b64encode(f"{number}".encode() + b"\0" * 300_000).decode()
        content = [{"type": "input_image", "image_url": f"data:image/png;base64,{data}"}]
        item = {"type": "message", "role": "user", "content": content}
        project.call("POST", f"/conversations/{id_}/items", json={"items": [item]})
    grown = f"UPDATE media SET data = data || repeat('A', {SIZE}) WHERE project_id = $1 RETURNING id"
    assert len(project.sql(grown)) == ENTRIES
    thread = id_.replace("conv_", "thread_")
    with bounded(service):
        for path in (f"/threads/{thread}/messages", f"/conversations/{id_}/items"):
            found = list(pages(project, path, order="asc"))
            assert [len(page) for page in found] == [1] * ENTRIES
    asked = {"input": "Echo: seen", "model": "qwen3.6-plus"}
    with bounded(service):
        # The service gives up after two seconds of silence; the emulator may take longer to read 10 MB when busy.
        turns = (project.call("POST", f"/threads/{thread}/turns", json=asked) for _ in range(3))
        turn = next(turn for turn in turns if turn.get("error", {}) is None)
    assert (turn["status"], turn["output_text"]) == ("completed", "seen")

"""Forks, edits and second answers: histories that part, and share what they have in common."""

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from tests.projects import Project
from tests.service import Emulator, Service


def recited(service: Service, thread: str) -> list[str]:
    lines: list[str] = service.turn(thread, "Recite the conversation")["output_text"].splitlines()
    return lines[:-1]


def test_a_fork_goes_on_from_its_turn_and_shares_the_history_before(service: Service, emulator: Emulator) -> None:
    source = service.thread(title="A talk", user="ann", metadata={"a": "1"})
    first = service.turn(source, "Echo: one")
    service.turn(source, "Echo: two")
    answer = service.http.post(f"/threads/{source}/fork", json={"turn_id": first["id"], "title": "Another way"})
    assert answer.status_code == 201
    fork = answer.json()
    assert (fork["title"], fork["user"], fork["metadata"]) == ("Another way", "ann", {"a": "1"})
    assert (fork["head_id"], fork["forked_turn_id"]) == (first["id"], first["id"])
    turn = service.turn(fork["id"], "Echo: three")
    assert (turn["continuation"], turn["parent_id"], turn["thread_id"]) == ("chained", first["id"], fork["id"])
    emulator.forget()
    assert recited(service, fork["id"]) == [
        "user: Echo: one",
        "assistant: one",
        "user: Echo: three",
        "assistant: three",
    ]
    assert recited(service, source) == ["user: Echo: one", "assistant: one", "user: Echo: two", "assistant: two"]
    messages = service.http.get(f"/threads/{fork['id']}/messages").json()["data"]
    assert messages[0]["turn_id"] == first["id"]
    assert service.http.get(f"/threads/{fork['id']}/turns/{first['id']}").json()["output_text"] == "one"
    own = service.http.get(f"/threads/{fork['id']}/turns", params={"order": "asc"}).json()["data"]
    assert own[0]["id"] == turn["id"]


def test_a_fork_without_turns_of_its_own_ends_where_it_was_forked(service: Service) -> None:
    source = service.thread()
    turn = service.turn(source, "Hello")
    fork = service.http.post(f"/threads/{source}/fork").json()
    branches = service.http.get(f"/threads/{fork['id']}/branches").json()["data"]
    assert [(branch["id"], branch["head"]) for branch in branches] == [(turn["id"], True)]
    again = service.turn(fork["id"], "Echo: x", parent_id=turn["id"])
    service.turn(fork["id"], "Echo: y", parent_id=turn["id"])
    assert service.http.patch(f"/threads/{fork['id']}", json={"head_id": again["id"]}).status_code == 200
    assert service.http.patch(f"/threads/{fork['id']}", json={"head_id": turn["id"]}).status_code == 200
    assert service.http.patch(f"/threads/{source}", json={"head_id": again["id"]}).status_code == 404
    refused = service.http.post(f"/threads/{source}/turns", json={"input": "x", "parent_id": again["id"]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (404, "parent_id")


def test_a_fork_keeps_what_it_shares_when_the_other_thread_is_deleted(project: Project) -> None:
    def turn(thread: str, text: str) -> dict[str, str]:
        answer: dict[str, str] = project.call("POST", f"/threads/{thread}/turns", json={"input": f"Echo: {text}"})
        return answer

    source = project.call("POST", "/threads")["id"]
    first, second = turn(source, "one"), turn(source, "two")
    turn(source, "lost")
    late = project.call("POST", f"/threads/{source}/fork", json={"turn_id": second["id"]})["id"]
    early = project.call("POST", f"/threads/{source}/fork", json={"turn_id": first["id"]})["id"]
    deep = project.call("POST", f"/threads/{late}/fork")["id"]
    turn(deep, "three")
    assert project.http.delete(f"/threads/{source}").status_code == 200
    assert project.http.get(f"/threads/{source}").status_code == 404

    def said(thread: str) -> list[str]:
        messages = project.call("GET", f"/threads/{thread}/messages", params={"format": "chat"})["data"]
        return [message["content"] for message in messages if message["role"] == "assistant"]

    assert (said(early), said(late), said(deep)) == (["one"], ["one", "two"], ["one", "two", "three"])
    assert project.call("GET", "/search", params={"q": "lost"})["data"] == []
    assert project.verify().problems == []
    assert turn(early, "four")["status"] == "completed"
    for thread in (late, early, deep):
        assert project.http.delete(f"/threads/{thread}").status_code == 200
    assert project.sql("SELECT 1 FROM turns WHERE project_id = $1") == []
    assert project.verify().problems == []
    actions = [record["action"] for record in project.records(thread=source)]
    assert actions[-3:] == ["thread.forked", "thread.forked", "thread.deleted"]


def test_a_changed_history_is_not_chained_on_by_its_forks(service: Service, emulator: Emulator) -> None:
    source = service.thread()
    first = service.turn(source, "My name is Ada.")
    fork = service.http.post(f"/threads/{source}/fork").json()["id"]
    assert service.turn(fork, "What is my name?")["output_text"] == "Ada"
    service.http.delete(f"/responses/{first['id'].replace('turn_', 'resp_')}")
    turn = service.turn(fork, "What is my name?")
    assert (turn["continuation"], turn["output_text"]) == ("rebuilt", "I do not know your name.")


@pytest.mark.parametrize("place", [0, 1])
def test_a_message_is_edited_and_the_turn_before_it_goes_on(service: Service, emulator: Emulator, place: int) -> None:
    thread = service.thread()
    turns = [service.turn(thread, "My name is Ada."), service.turn(thread, "My name is Grace.")]
    edited = service.turn(thread, "My name is Edith.", replaces=turns[place]["id"])
    assert edited["parent_id"] == (None if place == 0 else turns[0]["id"])
    assert edited["continuation"] == ("new" if place == 0 else "chained")
    assert recited(service, thread)[-2] == "user: My name is Edith."
    assert len(service.http.get(f"/threads/{thread}/branches").json()["data"]) == 2


def test_a_turn_is_answered_again_with_the_same_input(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    service.turn(thread, "My name is Ada.")
    items = [{"role": "user", "content": [{"type": "input_text", "text": "What is my name?"}]}]
    turn = service.turn(thread, items)
    again = service.http.post(f"/threads/{thread}/turns", json={"replaces": turn["id"], "model": "qwen3-max"}).json()
    assert (again["output_text"], again["model"], again["parent_id"]) == ("Ada", "qwen3-max", turn["parent_id"])
    kept = [service.http.get(f"/threads/{thread}/turns/{each['id']}").json()["input"][0] for each in (turn, again)]
    assert kept[0]["content"] == kept[1]["content"]
    for body, param in (
        ({"replaces": "turn_" + "0" * 32}, "replaces"),
        ({"replaces": 1}, "replaces"),
        ({"replaces": turn["id"], "parent_id": turn["id"]}, "replaces"),
    ):
        refused = service.http.post(f"/threads/{thread}/turns", json=body)
        assert refused.json()["error"]["param"] == param


def test_a_fork_moves_to_another_project_whole_and_back_as_a_fork(
    service: Service,
    project: Project,
) -> None:
    source = service.thread()
    service.turn(source, "Echo: one")
    fork = service.http.post(f"/threads/{source}/fork", json={"name": uuid4().hex}).json()["id"]
    service.turn(fork, "Echo: two")
    records = [service.http.get(f"/threads/{thread}/export").json() for thread in (source, fork)]
    moved = project.call("POST", "/threads/import", json=records[1])
    assert (moved["turn_count"], moved["forked_turn_id"]) == (2, None)
    project.call("DELETE", f"/threads/{fork}")
    for record in records:
        moved = project.call("POST", "/threads/import", json=record)
    assert (moved["turn_count"], moved["forked_turn_id"]) == (1, records[0]["head_id"])
    messages = project.call("GET", f"/threads/{fork}/messages", params={"format": "chat"})["data"]
    assert [message["content"] for message in messages if message["role"] == "assistant"] == ["one", "two"]
    assert project.verify().problems == []


def test_a_fork_of_what_is_not_there_is_refused(service: Service) -> None:
    thread, elsewhere = service.thread(), service.turn(service.thread(), "Hi")["id"]
    for body, status, param in (
        ({"turn_id": elsewhere}, 404, "turn_id"),
        ({"turn_id": "x"}, 400, "turn_id"),
        ({"turn": "x"}, 400, "turn"),
    ):
        refused = service.http.post(f"/threads/{thread}/fork", json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (status, param)
    assert service.http.post(f"/threads/thread_{'0' * 32}/fork").status_code == 404
    assert service.http.post(f"/threads/{thread}/fork").status_code == 201


def test_what_is_deleted_is_forgotten_by_who_goes_on_from_the_heir_of_it(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    first = service.turn(thread, "My name is Zoe.")["id"]
    service.turn(thread, "Hello")
    near = service.http.post(f"/threads/{thread}/fork", json={"turn_id": first}).json()["id"]
    far = service.http.post(f"/threads/{thread}/fork").json()["id"]
    assert service.http.delete(f"/threads/{thread}").status_code == 200
    # The first turn is the nearer fork's now, the one after it the other's.
    assert service.turn(far, "What is my name?")["output_text"] == "Zoe"
    assert service.http.delete(f"/responses/{first.replace('turn_', 'resp_')}").status_code == 200
    for fork in (near, far):
        assert service.turn(fork, "What is my name?")["output_text"] == "I do not know your name."


def test_a_thread_and_its_forks_can_be_deleted_at_the_same_moment(project: Project) -> None:
    for _ in range(10):
        thread = project.call("POST", "/threads")["id"]
        project.call("POST", f"/threads/{thread}/turns", json={"input": "Hi"})
        all_ = [thread, *(project.call("POST", f"/threads/{thread}/fork")["id"] for _ in range(3))]
        with ThreadPoolExecutor() as pool:
            gone = list(pool.map(lambda each: project.http.delete(f"/threads/{each}").status_code, all_))
        assert gone == [200] * len(all_)
    assert project.sql("SELECT id FROM turns WHERE project_id = $1") == []

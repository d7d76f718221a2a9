"""Forks of short histories: they have a copy of their own, and lie elsewhere than the thread they come from."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.projects import Project
from tests.service import Emulator, Service, eventually


@pytest.fixture(scope="module")
def copying(service_env: dict[str, str]) -> Iterator[Service]:
    """A service with the default: histories of up to 16 turns are copied."""
    env = {name: value for name, value in service_env.items() if name != "EVERTHREAD_FORK_COPIES_TURNS"}
    service = Service(env=env)
    yield service
    assert service.stop() == 0


@pytest.fixture
def forked(
    copying: Service, service_env: dict[str, str], emulator: Emulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    project = Project(copying, service_env, tmp_path_factory.mktemp("project"))
    yield project
    project.http.close()


def bucket(id_: str) -> int:
    return int(id_.rpartition("_")[2], 16) & 1023


def turn(project: Project, thread: str, text: str, **fields: Any) -> dict[str, Any]:
    said: dict[str, Any] = project.call("POST", f"/threads/{thread}/turns", json={"input": text, **fields})
    return said


def recited(project: Project, thread: str) -> list[str]:
    lines: list[str] = turn(project, thread, "Recite the conversation")["output_text"].splitlines()
    return lines[:-1]


def test_a_thousand_users_who_start_from_one_primed_thread_do_not_share_its_bucket(forked: Project) -> None:
    primed = forked.call("POST", "/threads")["id"]
    turn(forked, primed, "My name is Ada.")
    forks = [forked.call("POST", f"/threads/{primed}/fork", json={"user": f"u{n}"})["id"] for n in range(20)]
    buckets = {bucket(fork) for fork in forks}
    assert bucket(primed) not in buckets
    assert len(buckets) > 10
    assert {turn(forked, fork, "What is my name?")["output_text"] for fork in forks} == {"Ada"}


def test_a_copy_goes_on_the_same_chain_and_is_a_thread_of_its_own(forked: Project, emulator: Emulator) -> None:
    source = forked.call("POST", "/threads", json={"title": "A talk", "user": "ann"})["id"]
    first = turn(forked, source, "Echo: one")["id"]
    turn(forked, source, "Echo: two")
    fork = forked.call("POST", f"/threads/{source}/fork", json={"turn_id": first})
    assert (fork["title"], fork["user"], fork["forked_turn_id"], fork["turn_count"]) == ("A talk", "ann", None, 1)
    assert fork["head_id"] != first
    assert turn(forked, fork["id"], "Echo: three")["continuation"] == "chained"
    emulator.forget()
    assert recited(forked, fork["id"]) == ["user: Echo: one", "assistant: one", "user: Echo: three", "assistant: three"]
    again = forked.call("POST", f"/threads/{fork['id']}/fork")["id"]
    assert recited(forked, again)[:2] == ["user: Echo: one", "assistant: one"]
    # What happens to the one does not happen to the other.
    assert forked.http.delete(f"/responses/{first.replace('turn_', 'resp_')}").status_code == 200
    assert recited(forked, fork["id"])[:2] == ["user: Echo: one", "assistant: one"]
    forked.call("DELETE", f"/threads/{source}")
    assert recited(forked, fork["id"])[:2] == ["user: Echo: one", "assistant: one"]
    assert forked.verify().problems == []


def test_a_long_history_is_shared(forked: Project) -> None:
    source = forked.call("POST", "/threads")["id"]
    for number in range(17):
        last = turn(forked, source, f"Echo: {number}")["id"]
    fork = forked.call("POST", f"/threads/{source}/fork")
    assert (fork["head_id"], fork["forked_turn_id"], fork["turn_count"]) == (last, last, 0)
    assert bucket(fork["id"]) == bucket(source)


def test_what_was_used_is_counted_once(forked: Project) -> None:
    source = forked.call("POST", "/threads")["id"]
    turn(forked, source, "Hi")
    before = forked.call("GET", "/usage")["data"]
    forked.call("POST", f"/threads/{source}/fork")
    assert forked.call("GET", "/usage")["data"] == before
    assert before[0]["turns"] == 1


def test_a_purge_of_a_user_empties_what_others_have_copied_of_them(
    forked: Project, emulator: Emulator, tmp_path: Path
) -> None:
    source = forked.call("POST", "/threads", json={"user": "ann"})["id"]
    turn(forked, source, "Echo: marmalade")
    fork = forked.call("POST", f"/threads/{source}/fork", json={"user": "bob"})["id"]
    deep = forked.call("POST", f"/threads/{fork}/fork", json={"user": "cyd"})["id"]
    for thread in (fork, deep):
        turn(forked, thread, "Echo: jam")
    purge = forked.call("DELETE", "/users/ann/data")["id"]
    eventually(lambda: forked.call("GET", f"/purges/{purge}")["status"] == "completed")
    for thread in (fork, deep):
        messages = forked.call("GET", f"/threads/{thread}/messages", params={"format": "chat"})["data"]
        assert [message["content"] for message in messages] == ["Echo: jam", "jam"]
        assert recited(forked, thread) == ["user: Echo: jam", "assistant: jam"]
    assert forked.call("GET", "/search", params={"q": "marmalade"})["data"] == []
    assert not any(
        "marmalade" in row["row"] for row in forked.sql("SELECT (c.*)::text AS row FROM calls c WHERE project_id = $1")
    )
    assert forked.verify().problems == []


def test_a_preview_of_a_purge_counts_the_copies_in_threads_of_others(forked: Project) -> None:
    thread = forked.call("POST", "/threads", json={"user": "ann"})["id"]
    for text in ("one", "two"):
        turn(forked, thread, f"Echo: {text}")
    forked.call("POST", f"/threads/{thread}/fork", json={"user": "bob"})
    preview = forked.call("GET", "/users/ann/data/preview")
    assert (preview["forks"], preview["counts"]["turns_of_forks"], preview["provider_copies"]) == (1, 2, 2)
    purge = forked.call("DELETE", "/users/ann/data")["id"]
    eventually(lambda: forked.call("GET", f"/purges/{purge}")["status"] == "completed")
    certificate = forked.http.get(f"/purges/{purge}/certificate").text
    assert json.loads(certificate.splitlines()[1])["counts"] == preview["counts"]

"""Postgres and Redis away, and back."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.breakable import Servers
from tests.service import KEY, Emulator, Service, eventually, read_events, said


@pytest.mark.parametrize("stream", [False, True])
def test_a_turn_is_the_same_without_redis(
    own_servers: Servers, own_env: dict[str, str], emulator: Emulator, stream: bool
) -> None:
    service = Service(env=own_env)

    def ask(words: str) -> str:
        text: str = service.turn(thread, words)["output_text"]
        return said(service.stream(thread, words)) if stream else text

    thread = service.thread()
    ask("My name is Ada.")
    own_servers.stop_redis()
    assert ask("What is my name?") == "Ada"
    assert service.http.get(f"{service.url}/readyz").json()["redis"] == "unreachable"
    # In the middle of a turn.
    emulator.fault("slow", seconds_per_event=0.05, seconds=0.3)
    own_servers.start_redis()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(ask, "Echo: one two three four")
        emulator.is_asked(3)
        own_servers.stop_redis()
        assert answer.result() == "one two three four"
    own_servers.start_redis()
    assert ask("What is my name?") == "Ada"
    assert {link["continuation"] for link in service.chain(thread)} == {"new", "chained"}
    assert service.stop() == 0


def test_a_request_without_postgres_is_a_503_that_can_be_retried(own_servers: Servers, own_env: dict[str, str]) -> None:
    service = Service(env=own_env)
    thread = service.thread()
    service.turn(thread, "My name is Ada.")
    browser = httpx2.Client(base_url=f"{service.url}/console", timeout=60)
    assert browser.post("/sign-in", data={"key": KEY}).headers["location"] == "/console/threads"
    own_servers.stop_postgres()
    page = browser.get("/threads?user=ada")  # A person reads a page with a way on, and a page's script JSON.
    assert (page.status_code, "<h1>Not available at the moment</h1>" in page.text) == (503, True)
    assert 'href="/console/threads?user=ada"' in page.text
    part = browser.get("/threads/rows", headers={"HX-Request": "true"})
    assert (part.status_code, part.json()["error"]["code"]) == (503, "database_unavailable")
    browser.close()
    for answer in (
        service.http.post(f"/threads/{thread}/turns", json={"input": "Hi"}),
        service.http.get("/threads"),
        service.http.post("/responses", json={"input": "Hi"}),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")
        assert answer.headers["retry-after"] == "1"
    assert service.http.get(f"{service.url}/readyz").status_code == 503
    own_servers.start_postgres()
    assert service.turn(thread, "What is my name?")["output_text"] == "Ada"
    assert service.stop() == 0


def test_a_turn_that_the_model_answers_while_postgres_is_away_is_closed_when_it_is_back(
    own_servers: Servers, own_env: dict[str, str], emulator: Emulator
) -> None:
    service = Service(env=own_env)
    thread = service.thread()
    emulator.fault("slow", seconds=0.6)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(lambda: service.turn(thread, "Echo: kept"))
        emulator.is_asked()
        own_servers.stop_postgres()
        service.process.wait_for("an answered turn waits to be closed")
        own_servers.start_postgres()
        turn = answer.result()
    assert turn["output_text"] == "kept"
    assert service.http.get(f"/threads/{thread}/turns/{turn['id']}").json()["status"] == "completed"
    assert len(emulator.calls()) == 1
    assert service.stop() == 0


def test_a_listener_in_another_worker_hears_the_end_though_postgres_was_away_meanwhile(
    own_servers: Servers, own_env: dict[str, str], emulator: Emulator
) -> None:
    service, other = Service(env=own_env), Service(env=own_env)
    thread = service.thread()
    emulator.fault("slow", seconds_per_event=0.1)
    body = {"input": "Echo: one two three four five six", "background": True, "stream": True}

    with service.http.stream("POST", f"/threads/{thread}/turns", json=body) as begun:
        turn = begun.headers["everthread-turn"]
    with other.http.stream("GET", f"/threads/{thread}/turns/{turn}/events") as listening:
        lines = listening.iter_lines()
        first = next(lines)
        own_servers.stop_postgres()
        time.sleep(2)  # The model has answered.
        own_servers.start_postgres()
        events = read_events(chain([first], lines))
    assert said(events) == "one two three four five six"
    assert events[-1]["type"] == "response.completed"
    assert service.stop() == other.stop() == 0


def test_an_answer_that_cannot_be_written_before_the_process_stops_is_kept_on_disk(
    own_servers: Servers, own_env: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    own_env = {**own_env, "EVERTHREAD_LEASE_SECONDS": "20"}
    service = Service(env=own_env)
    thread = service.thread()
    emulator.fault("slow", seconds_per_event=0.05)
    made = service.http.post(f"/threads/{thread}/turns", json={"input": "Echo: spooled", "background": True}).json()
    emulator.is_asked()
    own_servers.stop_postgres()
    service.process.wait_for("an answered turn waits to be closed")
    assert service.stop() == 0
    assert len(list((tmp_path / "data" / "spool").glob("*.json"))) == 1
    own_servers.start_postgres()
    again = Service(env=own_env)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        turn = again.http.get(f"/threads/{thread}/turns/{made['id']}").json()
        if turn["status"] != "in_progress":
            break
        time.sleep(0.1)
    assert (turn["status"], turn["output_text"]) == ("completed", "spooled")
    assert not list((tmp_path / "data" / "spool").iterdir())
    assert again.turn(thread, "Recite the conversation")["output_text"].splitlines()[1] == "assistant: spooled"
    assert len(emulator.calls()) == 2
    assert again.stop() == 0


def test_two_workers_restarted_in_turn_under_load_lose_nothing(own_env: dict[str, str], emulator: Emulator) -> None:
    own_env = {**own_env, "EVERTHREAD_DRAIN_SECONDS": "10"}
    workers = [Service(env=own_env), Service(env=own_env)]
    thread = workers[0].thread()
    emulator.fault("slow", seconds=0.1, times=1000)
    answers: list[str] = []
    stop = False

    def load() -> None:
        number = 0
        while not stop:
            worker = workers[number % 2]
            try:
                turn = worker.turn(thread, f"Echo: {number}", if_busy="wait")
            except httpx2.TransportError:
                number += 1  # This worker is going: the next one.
                continue
            answers.append(turn["output_text"])
            number += 1

    def more_than(count: int) -> Callable[[], bool]:
        return lambda: len(answers) > count or running.done()

    with ThreadPoolExecutor() as pool:
        running = pool.submit(load)
        for place in range(2):
            eventually(more_than(len(answers) + 5))
            old, new = workers[place], Service(env=own_env)
            workers[place] = new
            assert old.process.stop() == 0
        eventually(more_than(len(answers) + 5))
        stop = True
        running.result()
    turns: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": 100, "order": "asc"}
    while page := workers[0].http.get(f"/threads/{thread}/turns", params=query).json()["data"]:
        turns += page
        query["after"] = page[-1]["id"]
    assert {turn["status"] for turn in turns} == {"completed"}
    kept = [turn["output_text"] for turn in turns]
    assert [text for text in kept if text in answers] == answers
    for worker in workers:
        assert worker.stop() == 0

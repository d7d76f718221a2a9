"""A turn belongs to the service: no dropped client, retry, busy thread, cancel or dead worker loses or doubles one."""

import asyncio
import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx2
import psutil
import pytest
import redis
from openai import AsyncOpenAI

from tests.databases import waiters
from tests.service import Emulator, Service, eventually, free_port, read_events, said

WORDS = "one two three four five six seven eight nine ten"


@pytest.fixture(scope="module")
def two_workers(service_env: dict[str, str]) -> Any:
    """A second service on the same Postgres and Redis, with short leases: another worker."""
    other = Service(env={**service_env, "EVERTHREAD_LEASE_SECONDS": "1.5"})
    yield other
    other.stop()


def begin(service: Service, thread: str, words: str, *, events: int = 4, **fields: Any) -> tuple[str, int]:
    """Start a streamed turn and go away after some events. Gives the turn's id and the last event's number."""
    body = {"input": words, "stream": True, **fields}
    with service.http.stream("POST", f"/threads/{thread}/turns", json=body) as answer:
        turn = answer.headers["everthread-turn"]
        last = -1
        for line in answer.iter_lines():
            if line.startswith("id: "):
                last = int(line[4:])
                if last == events - 1:
                    break
    return turn, last


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("form", ["starting_after", "Last-Event-ID"])
def test_a_client_that_drops_comes_back_to_the_rest_from_any_worker(
    service: Service, two_workers: Service, emulator: Emulator, form: str, elsewhere: bool
) -> None:
    thread = service.thread()
    emulator.fault("slow", seconds_per_event=0.05)
    turn, last = begin(service, thread, f"Echo: {WORDS}")
    how: dict[str, Any] = {"params": {form: last}} if form == "starting_after" else {"headers": {form: str(last)}}
    worker = two_workers if elsewhere else service
    rest = worker.follow(thread, turn, **how)
    assert [event["sequence_number"] for event in rest] == list(range(last + 1, last + 1 + len(rest)))
    assert rest[-1]["type"] == "response.completed"
    assert rest[-1]["response"]["output"][0]["content"][0]["text"] == WORDS
    # Afterwards too, and from the beginning.
    whole = worker.follow(thread, turn)
    assert said(whole) == WORDS
    assert whole[last + 1 :] == rest
    assert len(emulator.calls()) == 1


def test_several_listeners_follow_one_turn(service: Service, two_workers: Service, emulator: Emulator) -> None:
    thread = service.thread()
    emulator.fault("slow", seconds_per_event=0.05)
    turn, _ = begin(service, thread, f"Echo: {WORDS}")
    with ThreadPoolExecutor() as pool:
        workers = [service, two_workers] * 3
        heard = list(pool.map(lambda worker: worker.follow(thread, turn), workers))
    assert all(events == heard[0] for events in heard)
    assert said(heard[0]) == WORDS


def test_the_end_of_a_turn_is_told_when_its_event_log_is_gone(service: Service, redis_url: str) -> None:
    thread = service.thread()
    turn, last = begin(service, thread, f"Echo: {WORDS}")
    assert service.ended_turn(thread)["status"] == "completed"
    redis.Redis.from_url(redis_url).flushall()
    rest = service.follow(thread, turn, params={"starting_after": last})
    assert [event["type"] for event in rest] == ["response.completed"]
    assert rest[0]["response"]["output"][0]["content"][0]["text"] == WORDS
    assert said(service.follow(thread, turn)) == WORDS


@pytest.mark.parametrize("stream", [False, True])
def test_the_same_idempotency_key_gives_the_same_turn(
    service: Service, two_workers: Service, emulator: Emulator, stream: bool
) -> None:
    thread = service.thread()
    emulator.fault("slow", seconds=0.5, seconds_per_event=0.05)
    key = uuid4().hex

    def send(worker: Service) -> httpx2.Response:
        body = {"input": f"Echo: {WORDS}", "stream": stream}
        return worker.http.post(f"/threads/{thread}/turns", json=body, headers={"Idempotency-Key": key})

    with ThreadPoolExecutor() as pool:  # While it runs, from two workers at once.
        answers = list(pool.map(send, [service, two_workers] * 4))
    answers.append(send(two_workers))  # And when it is closed.
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers["everthread-turn"] for answer in answers}) == 1
    if stream:
        assert {said(read_events(answer.text.splitlines())) for answer in answers} == {WORDS}
    else:
        assert {answer.json()["output_text"] for answer in answers} == {WORDS}
        assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(emulator.calls()) == 1


def test_an_idempotency_key_is_for_one_body_and_its_failure_stays(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    headers = {"Idempotency-Key": uuid4().hex}
    emulator.fault("status", status=400, code="DataInspectionFailed", message="No.")
    failed = [service.http.post(f"/threads/{thread}/turns", json={"input": "Hi"}, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in failed] == [400, 400]
    assert [answer.json()["error"]["code"] for answer in failed] == ["DataInspectionFailed"] * 2
    assert len(emulator.calls()) == 1
    other = service.http.post(f"/threads/{thread}/turns", json={"input": "Ho"}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
    for key in ("", "x" * 256):
        wrong = service.http.post(f"/threads/{thread}/turns", json={"input": "Hi"}, headers={"Idempotency-Key": key})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "Idempotency-Key")


def test_waiting_turns_go_first_come_first_served_across_workers(
    service: Service, two_workers: Service, emulator: Emulator, database_url: str
) -> None:
    thread = service.thread()
    emulator.fault("slow", seconds=2, times=1)

    def send(number: int) -> int:
        worker = (service, two_workers)[number % 2]
        body = {"input": f"Echo: {number}", "if_busy": "wait"}
        answer = worker.http.post(f"/threads/{thread}/turns", json=body)
        assert answer.status_code == 200, answer.text
        return number

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(send, 0)
        emulator.is_asked()
        for number in range(1, 6):
            pool.submit(send, number)
            eventually(lambda number=number: first.done() or waiters(database_url, thread) >= number)  # type: ignore[misc]
    turns = service.http.get(f"/threads/{thread}/turns", params={"order": "asc"}).json()["data"]
    assert [turn["output_text"] for turn in turns] == [str(number) for number in range(6)]
    assert [turn["parent_id"] for turn in turns[1:]] == [turn["id"] for turn in turns[:-1]]


async def test_parallel_answers_to_one_response_all_succeed_for_openai_clients(service: Service) -> None:
    client = AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0)
    first = await client.responses.create(model="qwen3.5-plus", input="My name is Ada.")
    answers = await asyncio.gather(
        *(
            client.responses.create(
                model="qwen3.5-plus", input=f"Echo: {n}", previous_response_id=first.id, metadata={"n": str(n)}
            )
            for n in range(6)
        )
    )
    assert [answer.output_text for answer in answers] == [str(n) for n in range(6)]
    assert {answer.previous_response_id for answer in answers} == {first.id}
    await client.close()


def test_if_busy_cancel_stops_the_running_turn_and_goes_on(
    service: Service, two_workers: Service, emulator: Emulator
) -> None:
    thread = service.thread()
    emulator.fault("slow", seconds_per_event=0.1)
    running, _ = begin(service, thread, "Echo: " + "word " * 100, events=8)
    began = time.monotonic()
    body = {"input": "Recite the conversation", "if_busy": "cancel"}
    answer = two_workers.http.post(f"/threads/{thread}/turns", json=body)
    assert time.monotonic() - began < 3
    assert "assistant: word" in answer.json()["output_text"]
    stopped = service.http.get(f"/threads/{thread}/turns/{running}").json()
    assert stopped["status"] == "cancelled"
    assert answer.json()["parent_id"] == running


def test_threads_are_deleted_as_their_turns_end_and_neither_waits_for_the_other(
    service_env: dict[str, str], emulator: Emulator
) -> None:
    service = Service(env=service_env)

    def delete(number: int) -> int:
        thread = service.thread()
        service.http.post(f"/threads/{thread}/turns", json={"input": "Echo: gone", "background": True})
        time.sleep(number % 30 / 1000)
        return service.http.delete(f"/threads/{thread}").status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(delete, range(120))) == {200}
    assert service.stop() == 0
    assert [line for line in service.process.lines if '"level": "error"' in line] == []


def cancelled_by(
    other: Service, service: Service, emulator: Emulator, *, words: int, within: float
) -> tuple[str, str, dict[str, Any]]:
    """A slow turn of one worker that another cancels, in so many seconds: its thread, its id, and how it ended."""
    thread = service.thread()
    emulator.fault("slow", seconds_per_event=0.1)
    turn, _ = begin(service, thread, "Echo: " + "word " * words, events=6)
    began = time.monotonic()
    cancelled = other.http.post(f"/threads/{thread}/turns/{turn}/cancel").json()
    assert time.monotonic() - began < within
    assert cancelled["status"] == "cancelled"
    return thread, turn, cancelled


def test_cancel_reaches_the_worker_that_runs_the_turn(
    service: Service, two_workers: Service, emulator: Emulator
) -> None:
    # Without it, the turn would take more than five seconds.
    thread, turn, cancelled = cancelled_by(two_workers, service, emulator, words=100, within=2)
    assert cancelled["output_text"].startswith("word")
    assert two_workers.follow(thread, turn)[-1]["type"] == "response.incomplete"


def test_cancel_reaches_the_worker_that_runs_the_turn_while_redis_is_away(
    service_env: dict[str, str], emulator: Emulator
) -> None:
    without = {**service_env, "REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
    one, other = Service(env=without), Service(env=without)
    # Without it, the turn would take more than ten seconds.
    cancelled_by(other, one, emulator, words=200, within=5)
    assert (one.stop(), other.stop()) == (0, 0)


def test_the_turns_of_a_killed_worker_are_closed_by_another_with_what_they_had_said(
    service_env: dict[str, str], two_workers: Service, emulator: Emulator
) -> None:
    doomed = Service(env={**service_env, "EVERTHREAD_LEASE_SECONDS": "1.5"})
    thread = doomed.thread()
    doomed.turn(thread, "My name is Ada.")
    emulator.fault("slow", seconds_per_event=0.1)
    turn, _ = begin(doomed, thread, "Echo: " + "word " * 100, events=10)
    plain = doomed.thread()
    emulator.fault("stall", seconds=60)
    with ThreadPoolExecutor() as pool:
        pool.submit(
            lambda: httpx2.post(
                f"{doomed.url}/v1/threads/{plain}/turns",
                json={"input": "Hi"},
                headers={"Authorization": f"Bearer {doomed.key}"},
            )
        )
        emulator.is_asked(3)
        doomed.process.stop(signal.SIGKILL)
    events = two_workers.follow(thread, turn)
    assert events[-1]["response"]["incomplete_details"] == {"reason": "interrupted"}
    closed = two_workers.http.get(f"/threads/{thread}/turns/{turn}").json()
    assert (closed["status"], closed["incomplete_details"]) == ("incomplete", {"reason": "interrupted"})
    assert closed["output_text"] == said(events) != ""
    recited = two_workers.turn(thread, "Recite the conversation", if_busy="wait")["output_text"]
    assert "user: My name is Ada." in recited
    assert f"assistant: {said(events).strip()}" in recited
    assert two_workers.turn(plain, "Echo: on", if_busy="wait")["output_text"] == "on"


def test_who_waited_in_a_killed_worker_holds_nobody_up(
    service_env: dict[str, str], two_workers: Service, emulator: Emulator, database_url: str
) -> None:
    doomed = Service(env=service_env)
    thread = two_workers.thread()
    emulator.fault("slow", seconds=2)
    body = {"input": "Echo: first", "if_busy": "wait"}
    with ThreadPoolExecutor() as pool:
        running = pool.submit(two_workers.turn, thread, "Hi")
        emulator.is_asked()
        lost = pool.submit(doomed.http.post, f"/threads/{thread}/turns", json=body)
        eventually(lambda: waiters(database_url, thread) == 1)
        doomed.process.stop(signal.SIGKILL)
        with pytest.raises(httpx2.HTTPError):
            lost.result()
        body = {"input": "Echo: second", "if_busy": "wait"}
        # Much sooner than the minute for which a request waits at most.
        answer = two_workers.http.post(f"/threads/{thread}/turns", json=body, timeout=20)
        assert answer.json()["output_text"] == "second"
        assert answer.json()["parent_id"] == running.result()["id"]


def test_a_killed_worker_of_several_is_replaced(service_env: dict[str, str], emulator: Emulator) -> None:
    service = Service("--workers", "2", env={**service_env, "EVERTHREAD_LEASE_SECONDS": "1.5"})
    workers = [
        p for p in psutil.Process(service.process.process.pid).children() if "spawn_main" in " ".join(p.cmdline())
    ]
    assert len(workers) == 2
    workers[0].kill()
    workers[0].wait(timeout=60)  # The supervisor may be waiting for the other, which is still starting.
    thread = service.thread()
    for number in range(10):
        assert service.turn(thread, f"Echo: {number}")["output_text"] == str(number)
    assert service.stop() == 0


def test_errors_are_logged_as_json_lines_without_secrets(service_env: dict[str, str], emulator: Emulator) -> None:
    service = Service(env=service_env)
    thread = service.thread()
    service.turn(thread, "My name is Ada.")
    emulator.forget()
    service.turn(thread, "What is my name?")
    service.stop()
    logged = [line for line in service.process.lines if line.startswith("{")]
    assert logged
    assert all(json.loads(line)["event"] for line in logged)
    printed = "\n".join(service.process.lines)
    assert "sk-tests" not in printed
    assert "Ada" not in printed

"""A thread that is locked in Postgres costs other threads nothing but one short transaction at a time."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import asyncpg
import httpx2
import pytest

from tests.databases import query
from tests.service import Emulator, Service

OTHERS = 8
SECONDS = 3.0

WAITING = """SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND $1 = ANY(pg_blocking_pids(pid))"""
"""Backends that wait for the holder: under load, others wait for each other for a moment."""


@contextmanager
def locked(database_url: str, *rows: str) -> Iterator[list[int]]:
    """Hold row locks in an open transaction, as an operator's psql would. Yields how many backends were seen waiting.

    Args:
        rows: statements that lock.
    """
    held, release = threading.Event(), threading.Event()
    waiting: list[int] = []

    async def hold() -> None:
        connection, other = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
        async with connection.transaction():
            for statement in rows:
                await connection.execute(statement)
            held.set()
            while not release.is_set():
                waiting.append(await other.fetchval(WAITING, connection.get_server_pid()))
                await asyncio.sleep(0.01)
        await connection.close()
        await other.close()

    holder = threading.Thread(target=asyncio.run, args=(hold(),))
    holder.start()
    assert held.wait(10)
    try:
        yield waiting
    finally:
        release.set()
        holder.join()


def lock_of(thread: str) -> str:
    return f"SELECT FROM threads WHERE id = '{UUID(thread.partition('_')[2])}' FOR UPDATE"


def talk(service: Service, threads: list[str], seconds: float) -> list[float]:
    """Turns in these threads, one after another in each, for so long. Returns how long each took."""
    took: list[float] = []

    def one(thread: str) -> None:
        ends = time.monotonic() + seconds
        with httpx2.Client(base_url=service.http.base_url, headers=service.http.headers, timeout=60) as http:
            while (began := time.monotonic()) < ends:
                answer = http.post(f"/threads/{thread}/turns", json={"input": "Echo: on"})
                assert answer.status_code == 200, answer.text
                took.append(time.monotonic() - began)

    with ThreadPoolExecutor(len(threads)) as pool:
        list(pool.map(one, threads))
    return took


def ask(pool: ThreadPoolExecutor, service: Service, thread: str, times: int, **fields: Any) -> list[Future[Any]]:
    def one(number: int) -> Any:
        return service.http.post(f"/threads/{thread}/turns", json={"input": f"Echo: {number}", **fields})

    return [pool.submit(one, number) for number in range(times)]


def p99(took: list[float]) -> float:
    return sorted(took)[int(len(took) * 0.99)]


@pytest.fixture
def impatient(fresh_env: dict[str, str], emulator: Emulator) -> Iterator[Service]:
    short = {"EVERTHREAD_DATABASE_TIMEOUT_SECONDS": "2", "EVERTHREAD_LEASE_SECONDS": "1.5"}
    service = Service(env={**fresh_env, **short})
    yield service
    service.stop()


def test_turns_of_other_threads_go_on_while_requests_to_a_locked_thread_wait(
    impatient: Service, fresh_env: dict[str, str]
) -> None:
    threads = [impatient.thread() for _ in range(OTHERS)]
    victim = impatient.thread()
    talk(impatient, threads, SECONDS / 2)
    without = talk(impatient, threads, SECONDS)
    with ThreadPoolExecutor(8) as pool:
        with locked(fresh_env["DATABASE_URL"], lock_of(victim)) as waiting:
            asked = ask(pool, impatient, victim, 8, if_busy="wait")
            during = talk(impatient, threads, SECONDS)
        answers = [each.result() for each in asked]
    print(f"turns {len(without)} -> {len(during)}, p99 {p99(without):.3f} -> {p99(during):.3f} s")  # noqa: T201
    assert len(during) > len(without) / 4
    assert max(waiting) <= 1
    # Each has waited for its time and no longer, and knows what to do.
    assert {answer.status_code for answer in answers} == {503}
    errors = [answer.json()["error"] for answer in answers]
    assert {error["code"] for error in errors} == {"thread_locked"}
    assert "Nothing was changed" in errors[0]["message"]
    assert answers[0].headers["retry-after"] == "1"
    assert impatient.http.get(f"/threads/{victim}/turns").json()["data"] == []
    assert impatient.turn(victim, "Echo: on")["output_text"] == "on"


def test_an_answer_for_a_thread_that_is_locked_meanwhile_is_kept_once_it_is_free(
    service: Service, service_env: dict[str, str], emulator: Emulator
) -> None:
    victim, other = service.thread(), service.thread()
    emulator.fault("slow", seconds=0.5)
    with ThreadPoolExecutor(4) as pool:
        (answer,) = ask(pool, service, victim, 1)
        emulator.is_asked()
        with locked(service_env["DATABASE_URL"], lock_of(victim)) as waiting:
            beside = ask(pool, service, victim, 3, if_busy="beside")
            began = time.monotonic()
            while time.monotonic() - began < 1.5:
                assert service.turn(other, "Echo: on")["output_text"] == "on"
            assert not any(each.done() for each in (answer, *beside))
        answers = [each.result() for each in (answer, *beside)]
    assert max(waiting) <= 1
    assert [each.status_code for each in answers] == [200] * 4
    turns = service.http.get(f"/threads/{victim}/turns").json()["data"]
    assert sorted(turn["id"] for turn in turns) == sorted(each.json()["id"] for each in answers)
    assert {turn["status"] for turn in turns} == {"completed"}


def test_a_retry_after_a_lock_is_one_turn_and_running_turns_keep_their_leases(
    impatient: Service, fresh_env: dict[str, str], emulator: Emulator
) -> None:
    victim, other = impatient.thread(), impatient.thread()
    key = {"Idempotency-Key": "the same"}
    words = {"input": "Echo: once"}
    emulator.fault("slow", seconds=5)
    with ThreadPoolExecutor(1) as pool:
        (slow,) = ask(pool, impatient, other, 1)
        emulator.is_asked()
        with locked(fresh_env["DATABASE_URL"], lock_of(victim)):
            # Its client leaves: nobody knows yet whether it was opened.
            with pytest.raises(httpx2.TimeoutException):
                impatient.http.post(f"/threads/{victim}/turns", json=words, headers=key, timeout=0.5)
            refused = impatient.http.post(f"/threads/{victim}/turns", json=words, headers=key)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "thread_locked")
            time.sleep(1.5)
        answer = impatient.http.post(f"/threads/{victim}/turns", json=words, headers=key)
        assert answer.json()["output_text"] == "once", answer.text
        # Four times as long as its lease.
        assert slow.result().json()["status"] == "completed"
    turns = impatient.http.get(f"/threads/{victim}/turns").json()["data"]
    assert [turn["id"] for turn in turns if turn["status"] == "completed"] == [answer.json()["id"]]
    assert len(emulator.calls()) == 2


def test_turns_that_meet_serialization_failures_and_deadlocks_are_each_done_once(
    impatient: Service, fresh_env: dict[str, str], emulator: Emulator
) -> None:
    conflict = """CREATE SEQUENCE tries;
    CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE try bigint := nextval('tries'); BEGIN
        IF try % 5 = 0 THEN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END IF;
        IF try % 7 = 0 THEN RAISE EXCEPTION 'conflict' USING ERRCODE = '40P01'; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER conflict BEFORE INSERT OR UPDATE ON turns FOR EACH ROW EXECUTE FUNCTION conflict()"""
    query(fresh_env["DATABASE_URL"], conflict)
    threads = [impatient.thread() for _ in range(12)]
    with ThreadPoolExecutor(len(threads)) as pool:
        for _ in range(3):
            list(pool.map(lambda thread: impatient.turn(thread, f"Echo: {thread}"), threads))
    for thread in threads:
        said = impatient.every(f"/threads/{thread}/messages", format="chat")
        assert [message["content"] for message in said] == [f"Echo: {thread}", thread] * 3
    assert len(emulator.calls()) == 36

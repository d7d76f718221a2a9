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

from tests.service import Emulator, Service

OTHERS = 8
SECONDS = 3.0

WAITING = """SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()"""


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
                waiting.append(await other.fetchval(WAITING))
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
    service = Service(env={**fresh_env, "EVERTHREAD_DATABASE_TIMEOUT_SECONDS": "2"})
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
    assert len(during) > len(without) / 2
    assert max(waiting) <= 1
    # Each has waited for its time and no longer, and knows what to do.
    assert {answer.status_code for answer in answers} == {503}
    errors = [answer.json()["error"] for answer in answers]
    assert {error["code"] for error in errors} == {"thread_locked"}
    assert "Nothing was changed" in errors[0]["message"]
    assert answers[0].headers["retry-after"] == "1"
    assert impatient.http.get(f"/threads/{victim}/turns").json()["data"] == []
    assert impatient.turn(victim, "Echo: on")["output_text"] == "on"

"""Statements that come together share a transaction, and none of them notices."""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import asyncpg
import pytest

from app.db.engine import Database
from app.db.group_commit import MOST_CHARACTERS, MOST_STATEMENTS
from app.errors import DatabaseUnavailable
from tests.service import Emulator, Service
from tests.wire import Proxy

SAY = """INSERT INTO said (bucket, said) VALUES ($1::int, $2::text)
RETURNING said, xmin::text AS transaction"""
LOCKED = "UPDATE counted SET n = n + 1 WHERE bucket = $1::int RETURNING n"


@pytest.fixture
async def database(empty_database_url: str) -> AsyncIterator[Database]:
    connection = await asyncpg.connect(empty_database_url)
    await connection.execute(
        """CREATE TABLE said (bucket int, said text CHECK (said <> 'bad'));
        CREATE TABLE counted AS SELECT bucket, 0 AS n FROM generate_series(0, 31) AS bucket"""
    )
    await connection.close()
    database = Database(empty_database_url, pool_size=6, timeout_seconds=5)
    yield database
    await database.close()


async def say(database: Database, bucket: int, said: str | None = None) -> Any:
    said = said or f"words of {bucket}"
    return await database.fetchrow_in_group(bucket, len(said), SAY, bucket, said)


async def said(database: Database) -> list[tuple[int, str]]:
    return [tuple(row) for row in await database.fetch("SELECT bucket, said FROM said ORDER BY bucket, said")]


async def test_those_that_come_together_are_one_transaction_and_each_gets_its_own_row(database: Database) -> None:
    count = 2 * MOST_STATEMENTS + 1
    rows = await asyncio.gather(*(say(database, bucket) for bucket in range(count)))
    assert [row["said"] for row in rows] == [f"words of {bucket}" for bucket in range(count)]
    # The first was alone.
    assert len({row["transaction"] for row in rows}) == 3
    assert len(await said(database)) == count


async def test_one_that_comes_alone_waits_for_nobody(database: Database) -> None:
    rows = [await say(database, bucket) for bucket in range(5)]
    assert len({row["transaction"] for row in rows}) == 5


async def test_two_of_a_bucket_do_not_share_a_transaction(database: Database) -> None:
    rows = await asyncio.gather(*(say(database, 7, f"{number}") for number in range(6)))
    assert len({row["transaction"] for row in rows}) == 6
    assert [row["said"] for row in rows] == [f"{number}" for number in range(6)]


async def test_one_that_writes_much_holds_up_nobody(database: Database) -> None:
    much = "x" * (MOST_CHARACTERS + 1)
    rows = await asyncio.gather(*(say(database, bucket, much if bucket == 3 else None) for bucket in range(8)))
    by_transaction = [[row["transaction"] for row in rows].count(row["transaction"]) for row in rows]
    assert by_transaction == [1, 6, 6, 1, 6, 6, 6, 6]


async def test_what_one_is_refused_for_the_others_do_not_hear_of(database: Database) -> None:
    for wrong, error in (("bad", asyncpg.CheckViolationError), ("\0", asyncpg.CharacterNotInRepertoireError)):
        answers = await asyncio.gather(
            *(say(database, bucket, wrong if bucket == 3 else None) for bucket in range(8)), return_exceptions=True
        )
        assert [type(answer) for bucket, answer in enumerate(answers) if bucket == 3] == [error]
        others: list[Any] = [answer for bucket, answer in enumerate(answers) if bucket != 3]
        assert [answer["said"] for answer in others] == [f"words of {bucket}" for bucket in range(8) if bucket != 3]
    # Each was done once.
    assert await said(database) == [(bucket, f"words of {bucket}") for bucket in range(8) if bucket != 3 for _ in "ab"]


async def test_one_that_nobody_waits_for_any_more_is_not_run(database: Database) -> None:
    asked = [asyncio.create_task(say(database, bucket)) for bucket in range(6)]
    await asyncio.sleep(0)
    asked[4].cancel()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(answers[4], asyncio.CancelledError)
    assert [bucket for bucket, _ in await said(database)] == [0, 1, 2, 3, 5]


async def test_who_goes_away_meanwhile_leaves_the_others_what_they_asked_for(database: Database) -> None:
    slow = "SELECT $1::int AS bucket, pg_sleep(0.1)"
    asked = [asyncio.create_task(database.fetchrow_in_group(bucket, 1, slow, bucket)) for bucket in range(5)]
    await asyncio.sleep(0.15)  # The first has been, and the others are under way together.
    asked[2].cancel()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(answers[2], asyncio.CancelledError)
    assert [answer["bucket"] for answer in answers if not isinstance(answer, BaseException)] == [0, 1, 3, 4]


async def test_one_that_is_held_up_by_a_lock_holds_up_nobody_who_comes_later(
    database: Database, empty_database_url: str
) -> None:
    other = await asyncpg.connect(empty_database_url)
    async with asyncio.timeout(5):
        async with other.transaction():
            await other.execute("UPDATE counted SET n = 100 WHERE bucket = 1")
            held_up = asyncio.create_task(database.fetchrow_in_group(1, 1, LOCKED, 1))
            await asyncio.sleep(0.05)
            for _ in range(3):
                rows = await asyncio.gather(
                    *(database.fetchrow_in_group(bucket, 1, LOCKED, bucket) for bucket in range(2, 12))
                )
            assert [row["n"] for row in rows] == [3] * 10
            assert not held_up.done()
        assert (await held_up)["n"] == 101
    await other.close()


async def test_two_workers_whose_statements_meet_never_wait_for_each_other(
    empty_database_url: str, database: Database
) -> None:
    other = Database(empty_database_url, pool_size=6, timeout_seconds=5)
    rng = random.Random(7)
    rounds, buckets = 60, list(range(8))
    began = time.monotonic()
    for _ in range(rounds):
        asked = []
        for worker in (database, other):
            rng.shuffle(buckets)
            asked += [worker.fetchrow_in_group(bucket, 1, LOCKED, bucket) for bucket in buckets]
        await asyncio.gather(*asked)
    # Postgres notices a deadlock after a second.
    deadlocks = await database.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert (deadlocks, time.monotonic() - began < rounds) == (0, True)
    counts = await database.fetch("SELECT n FROM counted WHERE bucket < 8")
    assert [row["n"] for row in counts] == [2 * rounds] * 8
    await other.close()


async def test_what_locks_rows_in_an_order_of_its_own_meets_no_group(database: Database) -> None:
    all_at_once = """WITH locked AS (SELECT bucket, pg_sleep(0.002) FROM (
        SELECT bucket FROM counted WHERE bucket < 8 ORDER BY bucket DESC FOR NO KEY UPDATE
    ) AS backwards) UPDATE counted c SET n = n + 1 FROM locked WHERE c.bucket = locked.bucket RETURNING c.n"""

    async def again_and_again(bucket: int) -> None:
        for _ in range(40):
            await database.fetchrow_in_group(bucket, 1, LOCKED, bucket)

    async def all_of_them() -> None:
        for _ in range(20):
            async with database.apart():
                await database.fetch(all_at_once)

    await asyncio.gather(all_of_them(), *(again_and_again(bucket) for bucket in range(8)))
    assert await database.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
    assert {row["n"] for row in await database.fetch("SELECT n FROM counted WHERE bucket < 8")} == {60}


async def test_all_are_told_when_the_server_goes_away_under_them(database: Database, empty_database_url: str) -> None:
    slow = "SELECT $1::int AS bucket, pg_sleep(0.2)"
    asked = [asyncio.create_task(database.fetchrow_in_group(bucket, 1, slow, bucket)) for bucket in range(5)]
    await asyncio.sleep(0.3)
    other = await asyncpg.connect(empty_database_url)
    await other.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(0.2)' AND state = 'active'"
    )
    await other.close()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers[1:]] == [DatabaseUnavailable] * 4
    assert (await say(database, 1))["said"] == "words of 1"


@pytest.mark.skipif("TEST_CITUS_NODES" in os.environ, reason="Through its coordinator, a cluster shares none.")
def test_turns_at_once_share_transactions_and_each_is_its_own(fresh_env: dict[str, str], emulator: Emulator) -> None:
    proxy = Proxy(fresh_env["DATABASE_URL"])
    service = Service(env={**fresh_env, "DATABASE_URL": proxy.url})
    try:
        threads = [service.thread() for _ in range(24)]
        with ThreadPoolExecutor(len(threads)) as pool:
            for _ in range(3):
                list(pool.map(lambda thread: service.turn(thread, f"I am {thread}"), threads))
        assert max(proxy.together) > 1
        for thread in threads:
            said = service.http.get(f"/threads/{thread}/messages", params={"format": "chat"}).json()["data"]
            assert [message["content"] for message in said if message["role"] == "user"] == [f"I am {thread}"] * 3
            assert len(said) == 6
    finally:
        service.stop()

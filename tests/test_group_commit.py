"""Statements that come together share a transaction, and none of them notices."""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from app.db.engine import Database
from app.db.group_commit import MOST_CHARACTERS, MOST_IN_LANE, MOST_STATEMENTS
from app.http.errors import DatabaseUnavailable, ThreadLocked
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


async def test_what_has_changed_since_it_was_prepared_is_prepared_again(database: Database) -> None:
    async def read(bucket: int) -> dict[str, int]:
        statement = "SELECT * FROM counted WHERE bucket = $1::int"
        return dict(await database.fetchrow_in_group(bucket, 1, statement, bucket))

    async def read_all() -> list[dict[str, int]]:
        return [await read(0), *await asyncio.gather(*(read(bucket) for bucket in range(1, 9)))]

    assert await read_all() == [{"bucket": bucket, "n": 0} for bucket in range(9)]
    await database.fetchrow("ALTER TABLE counted ADD COLUMN more int NOT NULL DEFAULT 7")
    assert await read_all() == [{"bucket": bucket, "n": 0, "more": 7} for bucket in range(9)]
    await database.fetchrow("ALTER TABLE counted DROP COLUMN n")
    rows = await asyncio.gather(*(read(bucket) for bucket in range(9)))
    assert rows == [{"bucket": bucket, "more": 7} for bucket in range(9)]


async def test_a_hot_statement_stays_prepared_and_keeps_the_time_limit(empty_database_url: str) -> None:
    """It goes to asyncpg's protocol past its public methods: the protocol must do the same."""
    database = Database(empty_database_url, pool_size=3, timeout_seconds=0.5)
    prepared = "SELECT $1::int AS one, (SELECT array_agg(name ORDER BY name) FROM pg_prepared_statements) AS names"
    first = await database.fetchrow_in_group(1, 1, prepared, 1)
    second = await database.fetchrow_in_group(1, 1, prepared, 2)
    assert (first["one"], second["one"]) == (1, 2)
    assert first["names"] == second["names"]
    assert len(second["names"]) >= 1
    assert await database.fetchrow_in_group(1, 1, "SELECT 1 WHERE $1::int = 0", 1) is None
    slow = "SELECT pg_sleep($1::float8)"
    assert await database.fetchrow_in_group(1, 1, slow, 0.0) is not None
    began = time.monotonic()
    with pytest.raises(DatabaseUnavailable):
        await database.fetchrow_in_group(1, 1, slow, 30.0)
    assert time.monotonic() - began < 10
    assert (await database.fetchrow_in_group(1, 1, prepared, 3))["one"] == 3
    await database.close()


async def test_one_that_waits_for_its_turn_too_long_is_told_so(database: Database) -> None:
    slow = "SELECT $1::int AS one, pg_sleep(2)"
    first = asyncio.create_task(database.fetchrow_in_group(1, 1, slow, 1))
    await asyncio.sleep(0.1)
    began = time.monotonic()
    with pytest.raises(DatabaseUnavailable):
        await database.fetchrow_in_group(1, 1, slow, 1, wait_seconds=0.1)
    assert time.monotonic() - began < 1.5
    assert (await first)["one"] == 1


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


@asynccontextmanager
async def held(url: str, *buckets: int) -> AsyncIterator[asyncpg.Connection]:
    """Hold the rows of these buckets in an open transaction. Yields a second connection, to look on."""
    holder, watcher = await asyncpg.connect(url), await asyncpg.connect(url)
    try:
        async with holder.transaction():
            for bucket in buckets:
                await holder.execute("SELECT FROM counted WHERE bucket = $1 FOR UPDATE", bucket)
            yield watcher
    finally:
        await holder.close()
        await watcher.close()


def add(database: Database, bucket: int, key: str | None = None) -> asyncio.Task[Any]:
    return asyncio.create_task(database.fetchrow_in_group(bucket, 1, LOCKED, bucket, key=key))


async def test_members_of_a_group_get_their_rows_while_a_locked_one_still_waits(
    database: Database, empty_database_url: str
) -> None:
    async with held(empty_database_url, 3), asyncio.timeout(5):
        asked = [add(database, bucket) for bucket in range(8)]
        others = [each for bucket, each in enumerate(asked) if bucket != 3]
        assert [row["n"] for row in await asyncio.gather(*others)] == [1] * 7
        assert not asked[3].done()
    assert (await asked[3])["n"] == 1


@pytest.mark.parametrize("pooled", [False, True])
async def test_a_locked_bucket_has_one_transaction_at_most_however_many_ask(
    database: Database, empty_database_url: str, *, pooled: bool
) -> None:
    worker = Database(empty_database_url, pool_size=6, timeout_seconds=5, pooled=pooled)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with held(empty_database_url, 1) as watcher:
        held_up = [add(worker, 1) for _ in range(12)]
        seen = []
        for _ in range(20):
            await asyncio.gather(*(add(worker, bucket) for bucket in range(2, 12)))
            seen.append(await watcher.fetchval(waiting))
            await asyncio.sleep(0.02)
        assert max(seen) == 1
        assert not any(each.done() for each in held_up)
    assert sorted([row["n"] for row in await asyncio.gather(*held_up)]) == list(range(1, 13))
    assert {row["n"] for row in await database.fetch("SELECT n FROM counted WHERE bucket BETWEEN 2 AND 11")} == {20}
    await worker.close()


async def test_many_locked_buckets_leave_connections_to_the_others(database: Database, empty_database_url: str) -> None:
    async with held(empty_database_url, *range(20)), asyncio.timeout(5):
        held_up = [add(database, bucket) for bucket in range(20) for _ in range(3)]
        for _ in range(10):
            await asyncio.gather(*(add(database, bucket) for bucket in range(20, 30)))
        assert not any(each.done() for each in held_up)
    await asyncio.gather(*held_up)
    assert {row["n"] for row in await database.fetch("SELECT n FROM counted WHERE bucket < 20")} == {3}


async def test_a_wait_for_a_lock_ends_with_an_error_and_nothing_done(
    database: Database, empty_database_url: str
) -> None:
    worker = Database(empty_database_url, pool_size=6, timeout_seconds=0.3)
    async with held(empty_database_url, 1), asyncio.timeout(5):
        asked = [add(worker, 1) for _ in range(MOST_IN_LANE + 8)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(answer) for answer in answers} == {ThreadLocked}
        with pytest.raises(ThreadLocked):
            await worker.fetchrow_in_group(1, 1, LOCKED, 1, wait_seconds=0.01)
    assert (await add(worker, 1))["n"] == 1
    await worker.close()


@pytest.mark.parametrize("code", ["40001", "40P01"])
async def test_members_that_meet_deadlocks_or_serialization_failures_are_each_done_once(
    database: Database, code: str
) -> None:
    await database.fetch("CREATE SEQUENCE tries")
    await database.fetch(
        f"""CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.bucket % 3 = 0 AND nextval('tries') % 3 <> 0 THEN
                RAISE EXCEPTION 'conflict' USING ERRCODE = '{code}';
            END IF;
            RETURN NEW; END $$"""
    )
    await database.fetch("CREATE TRIGGER conflict BEFORE INSERT ON said FOR EACH ROW EXECUTE FUNCTION conflict()")
    rows = await asyncio.gather(*(say(database, bucket) for bucket in range(12)))
    assert [row["said"] for row in rows] == [f"words of {bucket}" for bucket in range(12)]
    assert await said(database) == sorted((bucket, f"words of {bucket}") for bucket in range(12))
    assert await database.fetchval("SELECT last_value FROM tries") > 4


async def test_a_group_in_a_real_deadlock_is_done_after_it(database: Database, empty_database_url: str) -> None:
    name = await database.fetchval("SELECT current_database()")
    await database.fetch(f"ALTER DATABASE {name} SET deadlock_timeout = '5ms'")
    worker = Database(empty_database_url, pool_size=6, timeout_seconds=5)
    other = await asyncpg.connect(empty_database_url)
    await other.execute("SET deadlock_timeout = '10s'")
    for _ in range(5):
        async with other.transaction():
            await other.execute(LOCKED.replace("$1::int", "5"))
            asked = [add(worker, bucket) for bucket in range(8)]
            await asyncio.wait(asked, timeout=0.02)
            await other.execute(LOCKED.replace("$1::int", "2"))
        await asyncio.gather(*asked)
    counts = [row["n"] for row in await database.fetch("SELECT n FROM counted WHERE bucket < 8 ORDER BY bucket")]
    assert counts == [5, 5, 10, 5, 5, 10, 5, 5]
    await other.close()
    await worker.close()


async def test_serializable_workers_that_meet_do_each_statement_once(
    database: Database, empty_database_url: str
) -> None:
    name = await database.fetchval("SELECT current_database()")
    await database.fetch(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    workers = [Database(empty_database_url, pool_size=6, timeout_seconds=20) for _ in range(2)]
    for _ in range(10):
        await asyncio.gather(*(add(worker, bucket) for bucket in range(8) for worker in workers))
    assert {row["n"] for row in await database.fetch("SELECT n FROM counted WHERE bucket < 8")} == {20}
    for worker in workers:
        await worker.close()


async def test_another_thread_of_the_same_bucket_is_not_held_up(database: Database, empty_database_url: str) -> None:
    async with held(empty_database_url, 1), asyncio.timeout(5):
        held_up = add(database, 1, "locked")
        await asyncio.sleep(0.2)
        rows = await asyncio.gather(
            *(database.fetchrow_in_group(1, 1, SAY, 1, f"{number}", key="free") for number in range(5))
        )
        assert [row["said"] for row in rows] == [f"{number}" for number in range(5)]
        assert not held_up.done()
    assert (await held_up)["n"] == 1


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
            said = service.every(f"/threads/{thread}/messages", format="chat")
            assert [message["content"] for message in said if message["role"] == "user"] == [f"I am {thread}"] * 3
            assert len(said) == 6
    finally:
        service.stop()

"""Connections are shared in the order of asking, and none is lost."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from app.db.buckets import Buckets
from app.db.engine import Database
from app.http.errors import DatabaseUnavailable
from app.projects import auth
from app.projects.cutoffs import Cutoffs
from app.projects.identity_tokens import IdentityTokens
from app.projects.key_sets import KeySets
from app.projects.keys import ensure_first_key
from app.projects.user_tokens import UserTokens
from app.sealing.content_keys import ContentKeys
from app.sealing.master import masters
from app.sealing.project_cipher import ProjectCipher
from app.settings import Settings
from app.trail.users import UserKeys
from tests.service import KEY
from tests.wire import Proxy


@pytest.fixture
async def narrow(database_url: str) -> AsyncIterator[Database]:
    """A database with one connection for single statements."""
    database = Database(database_url, pool_size=1, timeout_seconds=1)
    yield database
    await database.close()


async def test_who_asks_first_is_answered_first(narrow: Database) -> None:
    answered: list[int] = []

    async def ask(number: int) -> None:
        row = await narrow.fetchrow("SELECT $1::int AS n", number)
        assert row is not None
        answered.append(row["n"])
        if number < 50:
            # One who comes again goes to the end of the queue.
            await ask(number + 100)

    await asyncio.gather(*(ask(number) for number in range(100)))
    assert answered == [*range(100), *range(100, 150)]


async def test_a_connection_survives_errors_and_askers_that_go_away(narrow: Database) -> None:
    for _ in range(5):
        with pytest.raises(asyncpg.DivisionByZeroError):
            await narrow.fetchrow("SELECT 1 / 0")
        slow = asyncio.create_task(narrow.fetchrow("SELECT pg_sleep(0.3)"))
        waiting = [asyncio.create_task(narrow.fetchrow("SELECT 1 AS n")) for _ in range(3)]
        await asyncio.sleep(0.05)
        waiting[0].cancel()
        slow.cancel()
        answers = await asyncio.gather(slow, *waiting, return_exceptions=True)
        assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [True, True, False, False]
    row = await narrow.fetchrow("SELECT 2 AS n")
    assert row is not None
    assert row["n"] == 2


async def test_one_who_is_cancelled_as_the_connection_comes_passes_it_on(narrow: Database) -> None:
    for _ in range(20):
        asked = [asyncio.create_task(narrow.fetchrow("SELECT 1 AS n")) for _ in range(4)]
        await asked[0]
        asked[1].cancel()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [getattr(answer, "get", lambda _: None)("n") for answer in answers[2:]] == [1, 1]


async def test_who_waits_too_long_is_told_so_and_connections_that_died_are_replaced(narrow: Database) -> None:
    answers = await asyncio.gather(*(narrow.fetchrow("SELECT pg_sleep(0.7)") for _ in range(4)), return_exceptions=True)
    assert [isinstance(answer, DatabaseUnavailable) for answer in answers] == [False, False, True, True]
    row = await narrow.fetchrow("SELECT pg_backend_pid() AS pid")
    assert row is not None
    async with narrow.session() as session:
        connection = await session.connection()
        await connection.exec_driver_sql(f"SELECT pg_terminate_backend({row['pid']})")
    await asyncio.sleep(0.1)
    again = await narrow.fetchrow("SELECT pg_backend_pid() AS pid")
    assert again is not None
    assert again["pid"] != row["pid"]


async def test_a_server_that_is_away_is_an_error_for_each_who_asks_and_keeps_no_place() -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/none", pool_size=1, timeout_seconds=1)
    for _ in range(3):
        answers = await asyncio.gather(*(database.fetch("SELECT 1") for _ in range(5)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [DatabaseUnavailable] * 5
    await database.close()


@pytest.mark.parametrize("words", ["jit", "typeinfo_tree", "unnest"])
async def test_a_connection_lost_at_any_step_of_a_statement_is_a_database_that_is_away(
    database_url: str, words: str
) -> None:
    proxy = Proxy(database_url)
    narrow = Database(proxy.url, pool_size=1, timeout_seconds=5)
    statement = "SELECT x.n, o.mode FROM unnest($1::int[]) AS x (n), (SELECT NULL::pg_lsn AS mode) AS o"
    try:
        await narrow.fetchrow("SELECT 1")
        proxy.lose_answer_to(words)
        with pytest.raises(DatabaseUnavailable):
            await narrow.fetchrow(statement, [1, 2])
        assert proxy.lost
        assert len(await narrow.fetch(statement, [1, 2])) == 2
    finally:
        await narrow.close()


async def test_a_look_up_of_a_key_that_is_under_way_at_the_end_is_stopped(
    fresh_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "RENEW_SECONDS", 0.0)
    database = Database(fresh_database_url, pool_size=2, timeout_seconds=30)
    await ensure_first_key(database, KEY)
    cutoffs = Cutoffs(database, UserKeys(database, Buckets(b"")), b"")
    content_keys = ContentKeys(database, ProjectCipher(database, masters(Settings())))
    keys = auth.KeyRing(
        database, UserTokens(b""), IdentityTokens(database, KeySets(), inside=False), cutoffs, content_keys
    )
    assert await keys.grant(KEY, None) is not None
    connection = await asyncpg.connect(fresh_database_url)
    async with connection.transaction():
        await connection.execute("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE")
        assert await keys.grant(KEY, None) is not None  # The cached one, which is looked up again meanwhile.
        (looking_up,) = [task for task in asyncio.all_tasks() if task.get_name() == "keys"]
        await keys.stop()
        assert looking_up.cancelled()
    await connection.close()
    await database.close()

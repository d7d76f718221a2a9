"""A new database costs what a settled one does: each look-up reads what it looks for, whatever the statistics say."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import asyncpg
import pytest

from tests.databases import migrate_now, query
from tests.service import Emulator, Service

THREADS = 160
TURNS = 5000

ROWS_READ = """
SELECT coalesce(sum(idx_tup_read), 0) + (SELECT coalesce(sum(seq_tup_read), 0) FROM pg_stat_user_tables) AS rows
FROM pg_stat_user_indexes
"""


def statistics(url: str, statement: str) -> list[asyncpg.Record]:
    async def run() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(url)
        await asyncio.sleep(1.5)  # The service's sessions tell theirs once a second.
        rows = await connection.fetch(statement)
        await connection.close()
        return rows

    return asyncio.run(run())


@pytest.mark.parametrize("analyzed", [False, pytest.param(True, marks=pytest.mark.long)])
def test_no_look_up_of_a_turn_reads_more_than_it_looks_for(
    service_env: dict[str, str], emulator: Emulator, empty_database_url: str, analyzed: bool
) -> None:
    migrate_now(empty_database_url)
    service = Service(env={**service_env, "DATABASE_URL": empty_database_url})
    service.turn(service.thread(), "Hi")
    if analyzed:
        # As autovacuum does it after a first quiet minute: a scan looks cheapest now.
        query(empty_database_url, "ANALYZE")
    threads = [service.thread() for _ in range(THREADS)]
    turns = TURNS if not analyzed else TURNS // 2

    def talk(thread: str) -> None:
        for number in range(turns // THREADS):
            service.turn(thread, f"Echo: {number}")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(talk, threads))
    service.turn(threads[0], "Echo: read back", model="qwen3.5-flash")  # Rebuilt.
    scanned = statistics(
        empty_database_url,
        "SELECT relname, seq_scan, seq_tup_read FROM pg_stat_user_tables WHERE seq_tup_read > 1000 ORDER BY 1",
    )
    assert [tuple(row) for row in scanned] == []
    read = statistics(
        empty_database_url,
        """SELECT indexrelname, idx_scan, idx_tup_read FROM pg_stat_user_indexes
        WHERE idx_scan > 0 AND idx_tup_read > 3 * idx_scan AND idx_tup_read > 1000 ORDER BY 1""",
    )
    assert [tuple(row) for row in read] == []
    service.stop()


def test_forgetting_reads_what_it_deletes_and_not_every_other_thread(
    service_env: dict[str, str], emulator: Emulator, empty_database_url: str
) -> None:
    migrate_now(empty_database_url)
    service = Service(env={**service_env, "DATABASE_URL": empty_database_url})
    threads = [service.thread(user="ada") for _ in range(3)]
    for thread in threads:
        for number in range(20):
            service.turn(thread, f"Echo: {number}")
    query(
        empty_database_url,
        "SET session_replication_role = replica",
        """INSERT INTO threads (project_id, bucket, id, user_id, trail_key)
        SELECT project_id, n % 1024, gen_random_uuid(), 'bob', trail_key FROM projects, generate_series(1, 30000) n""",
        "SELECT pg_stat_reset()",
    )
    assert service.http.delete(f"/threads/{threads[0]}").status_code == 200
    last = service.http.get(f"/threads/{threads[1]}/turns").json()["data"][0]["id"]
    assert service.http.delete(f"/responses/resp_{last.partition('_')[2]}").status_code == 200
    purge = service.http.delete("/users/ada/data").json()
    while service.http.get(f"/purges/{purge['id']}").json()["status"] != "completed":
        pass
    read = statistics(empty_database_url, ROWS_READ)
    # 60 turns in 3 threads, with their items, calls and records.
    assert 0 < read[0]["rows"] < 10_000
    service.stop()


OTHERS = 20_000


def test_search_and_lists_of_threads_read_what_they_find_and_not_every_other_row(
    service_env: dict[str, str], emulator: Emulator, empty_database_url: str
) -> None:
    migrate_now(empty_database_url)
    service = Service(env={**service_env, "DATABASE_URL": empty_database_url})
    thread = service.thread(name="wanted-1", title="Wanted title", metadata={"plan": "pro"})
    service.turn(thread, "Wanted words.")
    query(
        empty_database_url,
        "SET session_replication_role = replica",
        f"""INSERT INTO threads (project_id, bucket, id, name, title, metadata, trail_key)
        SELECT project_id, n % 1024, gen_random_uuid(), 'other-' || n, 'Other ' || n, '{{"plan": "free"}}', trail_key
        FROM projects, generate_series(1, {OTHERS}) n""",
        f"""INSERT INTO thread_names (project_id, bucket, name, thread_id)
        SELECT project_id, n % 1024, 'other-' || n, gen_random_uuid() FROM projects, generate_series(1, {OTHERS}) n""",
        f"""INSERT INTO items (project_id, bucket, turn_id, position, origin, type, item_id, data)
        SELECT project_id, n % 1024, gen_random_uuid(), 0, 'input', 'message', 'msg_' || n,
            '{{"type": "message", "role": "user", "content": "other"}}'
        FROM projects, generate_series(1, {OTHERS}) n""",
        "ANALYZE",
        "SELECT pg_stat_reset()",
    )
    for asked in (
        "/threads?metadata[plan]=pro",
        "/threads?metadata[plan]=pro&order_by=activity",
        "/threads?name=wanted",
        "/search?q=wanted",
    ):
        assert len(service.http.get(asked).json()["data"]) == 1 + asked.startswith("/search"), asked
    assert service.http.get("/threads/count?metadata[plan]=pro").json()["count"] == 1
    read = statistics(empty_database_url, ROWS_READ)
    assert 0 < read[0]["rows"] < OTHERS / 10
    service.stop()

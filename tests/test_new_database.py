"""A new database costs what a settled one does: each look-up reads what it looks for, whatever the statistics say."""

from concurrent.futures import ThreadPoolExecutor

import asyncpg
import pytest

from tests.databases import query
from tests.postgres_pair import run_sql
from tests.service import Emulator, Service, eventually

THREADS = 60
TURNS = 20
"""Turns of each thread. A look-up that reads a whole thread reads ten rows of it on average."""

ROWS_READ = """
SELECT coalesce(sum(idx_tup_read), 0) + (SELECT coalesce(sum(seq_tup_read), 0) FROM pg_stat_user_tables) AS rows
FROM pg_stat_user_indexes
"""


OTHER_SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


def statistics(url: str, *statements: str) -> list[list[asyncpg.Record]]:
    """Return the rows of statements about what the sessions of a service that has stopped have read. A session tells
    them at its end."""
    eventually(lambda: run_sql(url, OTHER_SESSIONS)[0]["count"] == 0, 30)
    return [run_sql(url, statement) for statement in statements]


COUNTED_FROM_HERE = ("SELECT pg_stat_force_next_flush()", "SELECT pg_stat_reset()")
"""Statements after which the statistics have nothing of what this session has read."""


@pytest.mark.parametrize("analyzed", [False, pytest.param(True, marks=pytest.mark.long)])
def test_no_look_up_of_a_turn_reads_more_than_it_looks_for(
    fresh_env: dict[str, str], emulator: Emulator, analyzed: bool
) -> None:
    url, service = fresh_env["DATABASE_URL"], Service(env=fresh_env)
    service.turn(service.thread(), "Hi")
    if analyzed:
        # As autovacuum does it after a first quiet minute: a scan looks cheapest now.
        query(url, "ANALYZE")
    threads = [service.thread() for _ in range(THREADS)]

    def talk(thread: str) -> None:
        for number in range(TURNS):
            service.turn(thread, f"Echo: {number}")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(talk, threads))
    service.turn(threads[0], "Echo: read back", model="qwen3.5-flash")  # Rebuilt.
    service.stop()
    scanned, read = statistics(
        url,
        "SELECT relname, seq_scan, seq_tup_read FROM pg_stat_user_tables WHERE seq_tup_read > 1000 ORDER BY 1",
        """SELECT indexrelname, idx_scan, idx_tup_read FROM pg_stat_user_indexes
        WHERE idx_scan > 0 AND idx_tup_read > 3 * idx_scan AND idx_tup_read > 1000 ORDER BY 1""",
    )
    assert [tuple(row) for row in scanned] == []
    assert [tuple(row) for row in read] == []


def test_forgetting_reads_what_it_deletes_and_not_every_other_thread(
    fresh_env: dict[str, str], emulator: Emulator
) -> None:
    url, service = fresh_env["DATABASE_URL"], Service(env=fresh_env)
    threads = [service.thread(user="ada") for _ in range(3)]
    for thread in threads:
        for number in range(20):
            service.turn(thread, f"Echo: {number}")
    query(
        url,
        "SET session_replication_role = replica",
        """INSERT INTO threads (project_id, bucket, id, user_id, trail_key)
        SELECT project_id, n % 1024, gen_random_uuid(), 'bob', trail_key FROM projects, generate_series(1, 30000) n""",
        "ANALYZE threads",  # As autovacuum does soon: it may have counted the first three threads alone.
        *COUNTED_FROM_HERE,
    )
    assert service.http.delete(f"/threads/{threads[0]}").status_code == 200
    last = service.http.get(f"/threads/{threads[1]}/turns").json()["data"][0]["id"]
    assert service.http.delete(f"/responses/resp_{last.partition('_')[2]}").status_code == 200
    purge = service.http.delete("/users/ada/data").json()
    while service.http.get(f"/purges/{purge['id']}").json()["status"] != "completed":
        pass
    service.stop()
    ((read,),) = statistics(url, ROWS_READ)
    # 60 turns in 3 threads, with their items, calls and records.
    assert 0 < read["rows"] < 10_000


OTHERS = 20_000


def test_search_and_lists_of_threads_read_what_they_find_and_not_every_other_row(
    fresh_env: dict[str, str], emulator: Emulator
) -> None:
    url, service = fresh_env["DATABASE_URL"], Service(env=fresh_env)
    thread = service.thread(name="wanted-1", title="Wanted title", metadata={"plan": "pro"})
    service.turn(thread, "Wanted words.")
    query(
        url,
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
        *COUNTED_FROM_HERE,
    )
    for asked in (
        "/threads?metadata[plan]=pro",
        "/threads?metadata[plan]=pro&order_by=activity",
        "/threads?name=wanted",
        "/search?q=wanted",
    ):
        assert len(service.http.get(asked).json()["data"]) == 1 + asked.startswith("/search"), asked
    assert service.http.get("/threads/count?metadata[plan]=pro").json()["count"] == 1
    service.stop()
    ((read,),) = statistics(url, ROWS_READ)
    assert 0 < read["rows"] < OTHERS / 10

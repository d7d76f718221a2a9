"""The second wall: as the service's role, a statement that has lost its filter sees nothing of another project."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from app.db import wall
from app.schema import metadata
from tests.databases import migrate_now, new_database, query
from tests.service import Process, Service, eventually
from tests.tenants import Tenant
from tests.test_new_database import ROWS_READ, statistics

pytestmark = pytest.mark.skipif("TEST_CITUS_NODES" in os.environ, reason="a cluster has no second wall")

TABLES = [table.name for table in metadata.sorted_tables if "project_id" in table.columns]
OTHERS = 20_000
WRITTEN = ("threads", "turns", "items", "calls", "audit_records", "api_keys", "thread_activity", "projects")


@pytest.fixture(scope="module")
def walled(service_env: dict[str, str]) -> Iterator[Service]:
    service = Service(env={**service_env, "EVERTHREAD_ROW_SECURITY": "true"})
    yield service
    assert service.stop() == 0


@pytest.fixture
def pair(walled: Service) -> tuple[UUID, UUID]:
    """Two projects in which something has been said."""
    tenants = Tenant(walled), Tenant(walled)
    for tenant in tenants:
        tenant.turn(tenant.thread(), "A secret.")
    mine, theirs = (UUID(tenant.id.removeprefix("proj_")) for tenant in tenants)
    return mine, theirs


def as_role(url: str, project: UUID | None, *statements: tuple[Any, ...]) -> list[Any]:
    """What statements give, one after the other, to the service's role in a transaction for a project."""

    async def run() -> list[Any]:
        connection = await asyncpg.connect(url)
        try:
            transaction = connection.transaction()
            await transaction.start()
            if project is None:
                await connection.execute(f"SET LOCAL ROLE {wall.ROLE}")
            else:
                await connection.execute(wall.said(project))
            try:
                return [await connection.fetch(*statement) for statement in statements]
            finally:
                await transaction.rollback()
        finally:
            await connection.close()

    return asyncio.run(run())


def test_every_table_of_a_project_is_behind_the_wall(walled: Service, database_url: str) -> None:
    (rows,) = as_role(
        database_url,
        None,
        (
            """SELECT c.relname FROM pg_class c JOIN pg_policy p ON p.polrelid = c.oid
            WHERE c.relrowsecurity AND p.polname = 'of_project'""",
        ),
    )
    assert {row["relname"] for row in rows} == set(TABLES)


def test_role_has_no_way_around_it(walled: Service, database_url: str) -> None:
    (rows,) = as_role(
        database_url,
        None,
        ("SELECT rolsuper, rolbypassrls, rolcanlogin, rolcreaterole FROM pg_roles WHERE rolname = current_user",),
    )
    assert tuple(rows[0]) == (False, False, False, False)
    for statement in (
        "ALTER TABLE turns DISABLE ROW LEVEL SECURITY",
        "SET row_security = off; SELECT FROM turns",
        "DROP POLICY of_project ON turns",
        "TRUNCATE turns",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            as_role(database_url, None, *((each,) for each in statement.split("; ")))


@pytest.mark.parametrize("table", TABLES)
def test_statement_without_its_filter_sees_one_projects_rows_alone(
    pair: tuple[UUID, UUID], database_url: str, table: str
) -> None:
    mine, theirs = pair
    seen, other, count = as_role(
        database_url,
        mine,
        (f"SELECT DISTINCT project_id FROM {table}",),
        (f"SELECT FROM {table} WHERE project_id = $1", theirs),
        (f"SELECT count(*) FROM {table}",),
    )
    assert {row["project_id"] for row in seen} <= {mine}
    assert other == []
    if table in WRITTEN:
        assert count[0]["count"] > 0
    (nothing,) = as_role(database_url, None, (f"SELECT FROM {table}",))
    assert nothing == []


def test_rows_of_another_project_are_neither_changed_nor_written(pair: tuple[UUID, UUID], database_url: str) -> None:
    mine, theirs = pair
    for table in ("threads", "turns", "items", "calls", "webhooks", "accounts"):
        (gone,) = as_role(database_url, mine, (f"DELETE FROM {table} WHERE project_id = $1 RETURNING 1", theirs))
        assert gone == [], table
    (changed,) = as_role(
        database_url, mine, ("UPDATE threads SET title = 'x' WHERE project_id <> $1 RETURNING 1", mine)
    )
    assert changed == []
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        as_role(
            database_url,
            mine,
            (
                "INSERT INTO waiters (project_id, bucket, thread_id, id, expires_at) "
                "VALUES ($1, 1, gen_random_uuid(), gen_random_uuid(), now())",
                theirs,
            ),
        )
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        as_role(database_url, mine, ("UPDATE threads SET project_id = $1", theirs))


def test_conversation_is_held_behind_it_and_everything_beside_goes_on(walled: Service) -> None:
    tenant = Tenant(walled)
    thread = tenant.http.put("/threads/by-name/talk", json={"user": "ann"}).json()["id"]
    tenant.turn(thread, "My name is Ada.")
    assert tenant.turn(thread, "What is my name?", stream=False)["output_text"] == "Ada"
    fork = tenant.http.post(f"/threads/{thread}/fork").json()["id"]
    assert tenant.turn(fork, "What is my name?")["output_text"] == "Ada"
    eventually(lambda: bool(tenant.http.get("/search", params={"q": "Ada"}).json()["data"]))
    assert tenant.http.get("/usage").json()["data"]
    assert len(tenant.http.get("/audit", params={"limit": 100}).json()["data"]) > 8
    assert tenant.http.get("/threads", params={"order": "asc"}).json()["data"]
    share = tenant.http.post(f"/threads/{thread}/shares").json()
    assert walled.http.get(share["path"].removeprefix("/v1")).status_code == 200
    purge = tenant.http.delete("/users/ann/data").json()
    eventually(lambda: tenant.http.get(f"/purges/{purge['id']}").json()["status"] == "completed", seconds=30)
    assert tenant.http.get(f"/threads/{thread}").status_code == 404
    assert walled.http.get("/admin/projects").json()["data"]  # Who manages the service goes through all of them.


OF_THE_OWNER = (
    ("found_messages_v1", "($1, $2::tsquery, NULL, NULL, NULL, NULL, NULL, NULL, 9)", "secret:*"),
    ("found_titles_v1", "($1, $2::tsquery, NULL, NULL, NULL, NULL, NULL, 9)", "secret:*"),
    (
        "listed_threads_v1",
        "($1, $2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, true, NULL, NULL, NULL, 9)",
        None,
    ),
)
"""What is done with the owner's rights, behind the wall too."""


@pytest.mark.parametrize(("function", "arguments", "asked"), OF_THE_OWNER)
def test_owners_functions_give_who_is_behind_the_wall_rows_of_its_own_project_alone(
    walled: Service, pair: tuple[UUID, UUID], database_url: str, function: str, arguments: str, asked: str | None
) -> None:
    mine, theirs = pair
    query(database_url, *(f"UPDATE threads SET title = 'A secret' WHERE project_id = '{each}'" for each in pair))
    statement = f"SELECT id FROM {function}{arguments}"
    found, other = as_role(database_url, mine, (statement, mine, asked), (statement, theirs, asked))
    assert len(found) == 1
    assert other == []
    (nothing,) = as_role(database_url, None, (statement, mine, asked))
    assert nothing == []


def test_functions_of_the_owner_are_these_and_nobody_elses(walled: Service, database_url: str) -> None:
    found = statistics(
        database_url,
        """SELECT proname, proacl::text AS may, array_to_string(proconfig, ' ') AS settings FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND prosecdef ORDER BY proname""",
    )
    assert [row["proname"] for row in found] == [name for name, _, _ in OF_THE_OWNER]
    for row in found:
        assert f"{wall.ROLE}=X/" in row["may"]
        assert not any(entry.startswith("=") for entry in row["may"].strip("{}").split(","))
        assert "pg_temp" in row["settings"]


def test_who_may_read_the_tables_may_search_and_nobody_else_and_each_migrate_sees_to_it(
    database_url: str, tmp_path: Path
) -> None:
    url = new_database(database_url)
    migrate_now(url)
    reader, stranger = (f"{kind}_{tmp_path.parent.name.replace('-', '_')}" for kind in ("reader", "stranger"))
    try:
        query(
            url, f"CREATE ROLE {reader}", f"CREATE ROLE {stranger}", f"GRANT SELECT ON threads TO {reader}",
            # As a dump leaves it that was restored without its privileges.
            *(f"GRANT EXECUTE ON FUNCTION {name} TO PUBLIC" for name, _, _ in OF_THE_OWNER),
        )  # fmt: skip
        migrate_now(url)
        for name, _, _ in OF_THE_OWNER:
            may = f"SELECT has_function_privilege($r${{}}$r$, '{name}'::regproc, 'EXECUTE') AS may"
            assert statistics(url, may.format(reader))[0]["may"], name
            assert not statistics(url, may.format(stranger))[0]["may"], name
    finally:
        query(url, *(f"DROP OWNED BY {role}; DROP ROLE {role}" for role in (reader, stranger)))


def test_what_is_found_by_an_index_is_found_by_it_behind_the_wall(
    service_env: dict[str, str], empty_database_url: str
) -> None:
    migrate_now(empty_database_url)
    env = {**service_env, "DATABASE_URL": empty_database_url, "EVERTHREAD_ROW_SECURITY": "true"}
    service = Service(env=env)
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
    )
    for asked in ("/threads?metadata[plan]=pro", "/threads?name=wanted", "/threads/count?metadata[plan]=pro",
                  "/threads?metadata[plan]=pro&order_by=activity", "/search?q=wanted"):  # fmt: skip
        query(empty_database_url, "SELECT pg_stat_reset()")
        answer = service.http.get(asked).json()
        assert answer["count"] == 1 if "count" in asked else answer["data"], asked
        read = next((rows for _ in range(5) if (rows := statistics(empty_database_url, ROWS_READ)[0]["rows"])), 0)
        assert 0 < read < OTHERS / 10, asked
    service.stop()


def test_where_no_role_can_be_made_migrate_says_so_and_serve_does_not_pretend(
    service_env: dict[str, str], database_url: str, tmp_path: Path
) -> None:
    url = new_database(database_url)
    name = f"owner_{tmp_path.name.replace('-', '_')[-20:]}".lower()

    async def owned() -> str:
        connection = await asyncpg.connect(database_url)
        database = url.partition("?")[0].rpartition("/")[2]
        try:
            await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
            await connection.execute(f"ALTER DATABASE {database} OWNER TO {name}")
        finally:
            await connection.close()
        return url.replace("://postgres@", f"://{name}:x@")

    as_owner = asyncio.run(owned())
    env = {**service_env, "DATABASE_URL": as_owner, "EVERTHREAD_DATA_DIR": str(tmp_path)}
    migrated = Process("migrate", env=env)
    assert migrated.ended() == 0, migrated.lines
    assert any("EVERTHREAD_ROW_SECURITY cannot be turned on" in line for line in migrated.lines)
    refused = Process("serve", "--port", "0", env={**env, "EVERTHREAD_ROW_SECURITY": "true"})
    assert refused.ended() == 1
    assert "EVERTHREAD_ROW_SECURITY cannot be turned on" in refused.lines[-1]

"""The second wall: as the service's role, a statement that has lost its filter sees nothing of another project."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from app.db import wall
from app.schema import metadata
from tests.databases import new_database
from tests.service import Process, Service, eventually
from tests.tenants import Tenant

TABLES = [table.name for table in metadata.sorted_tables if "project_id" in table.columns]
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

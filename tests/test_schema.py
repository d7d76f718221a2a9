"""The schema file, compared with the database that the migrations make."""

import asyncio
from pathlib import Path

import asyncpg

from app import schema
from tests.catalogue import catalogue, differences
from tests.databases import migrate_now, new_database

SUPERSEDED = {
    "append_records_v1", "close_turn_v1", "close_turn_v2", "open_turn_v1", "open_turn_v2", "record_hash_v1",
}  # fmt: skip
VERSION_TABLE = """
CREATE TABLE alembic_version (
    version_num varchar(32) NOT NULL CONSTRAINT alembic_version_pkc PRIMARY KEY
)
"""


def test_the_schema_file_makes_what_the_migrations_make(server_urls: tuple[str, str]) -> None:
    migrated, fresh = new_database(server_urls[0]), new_database(server_urls[0])
    migrate_now(migrated)

    async def create() -> None:
        connection = await asyncpg.connect(fresh)
        await connection.execute(VERSION_TABLE)
        await connection.execute((Path(__file__).parents[1] / "migrations" / "schema.sql").read_text())
        for path in (schema.SERVICE_ROLE, schema.FUNCTION_RIGHTS):
            await connection.execute(path.read_text())
        await connection.execute(schema.SET_PLANS)
        await connection.close()

    asyncio.run(create())
    found = differences(catalogue(migrated), catalogue(fresh))
    before, after = found.pop("function audit_guard()")  # Its message names the function that appends records.
    assert before is not None
    assert before.replace("append_record_v1", "append_records_v2") == after
    assert {name.split("(")[0].removeprefix("function ") for name in found} == SUPERSEDED
    assert all(after is None for _, after in found.values())

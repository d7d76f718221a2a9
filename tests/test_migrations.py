"""The schema: made by migrations, agreeing with the models, and with a way back."""

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from alembic import command

from app import schema
from tests.catalogue import catalogue, differences
from tests.databases import migrate_now

TABLES = {
    "accounts",
    "alembic_version",
    "api_keys",
    "audit_checkpoints",
    "audit_cosignatures",
    "audit_witnesses",
    "audit_keys",
    "audit_leaves",
    "audit_origins",
    "audit_positions",
    "audit_records",
    "audit_streams",
    "cache_keys",
    "calls",
    "charges",
    "claimed_audiences",
    "compactions",
    "console_sessions",
    "data_keys",
    "feedback",
    "held_rows",
    "holds",
    "item_media",
    "items",
    "learnt_models",
    "master_nodes",
    "media",
    "pieces",
    "projects",
    "purge_certificates",
    "purge_records",
    "provider_deletions",
    "served_revisions",
    "shares",
    "stream_tickets",
    "thread_activity",
    "thread_names",
    "threads",
    "turn_hours",
    "turns",
    "usage_sums",
    "user_cutoffs",
    "user_keys",
    "user_presets",
    "user_purges",
    "waiters",
    "webhook_deliveries",
    "webhooks",
}


def query(url: str, statement: str, *arguments: Any) -> list[asyncpg.Record]:
    async def run() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close()

    return asyncio.run(run())


def table_names(url: str) -> set[str]:
    return {row["tablename"] for row in query(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}


def test_every_migration_goes_up_down_and_up_again(empty_database_url: str) -> None:
    migrate_now(empty_database_url)
    made = catalogue(empty_database_url)
    assert table_names(empty_database_url) == TABLES
    assert asyncio.run(schema.migrate(empty_database_url, "base")) is None
    assert table_names(empty_database_url) == {"alembic_version"}
    left = {name for name in catalogue(empty_database_url) if not name.startswith(("role ", "schema ", "extension "))}
    assert {name.split(" ", 1)[1].split(".")[0] for name in left} == {"alembic_version", "alembic_version_pkc"}
    migrate_now(empty_database_url)
    assert differences(made, catalogue(empty_database_url)) == {}


def test_models_and_migrations_agree(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate_now(empty_database_url)
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    command.check(schema.alembic_config())


def test_two_who_migrate_at_once_do_it_once(empty_database_url: str) -> None:
    async def both() -> None:
        await asyncio.gather(schema.migrate(empty_database_url), schema.migrate(empty_database_url))

    asyncio.run(both())
    assert table_names(empty_database_url) == TABLES


def test_every_key_and_reference_begins_with_the_project(database_url: str) -> None:
    keys = query(
        database_url,
        """SELECT conrelid::regclass::text AS name, contype, (
            SELECT attname FROM pg_attribute WHERE attrelid = conrelid AND attnum = conkey[1]
        ) AS first
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype IN ('p', 'f')""",
    )
    others = {(key["name"], key["first"]) for key in keys} - {(key["name"], "project_id") for key in keys}
    # The seal of what Redis holds is every project's, and so are the keys of hosts, the nodes of the master key, and
    # what is known of releases and models.
    assert others == {
        ("alembic_version", "version_num"), ("cache_keys", "id"), ("audit_keys", "public_key"),
        ("served_revisions", "revision"), ("learnt_models", "binding"),
        ("master_nodes", "secret_id"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("UPDATE turns SET status = 'in_progress' WHERE id = $2", "turns_completed_at_check"),
        ("UPDATE turns SET status = 'resting' WHERE id = $2", "turns_status_check"),
        (
            "UPDATE threads SET ttl_seconds = 60 WHERE id = (SELECT thread_id FROM turns WHERE id = $2)",
            "threads_ttl_check",
        ),
        ("UPDATE turns SET status = 'failed' WHERE id = $2", "turns_error_check"),
        ("UPDATE turns SET response_id = NULL, response_expires_at = NULL WHERE id = $2", "turns_response_id_check"),
        ("UPDATE turns SET parent_id = gen_random_uuid() WHERE id = $2", "turns_parent_fkey"),
        ("UPDATE threads SET head_turn_id = gen_random_uuid() WHERE head_turn_id = $2", "threads_head_turn_fkey"),
        ("UPDATE threads SET name = 'a/b' WHERE head_turn_id = $2", "threads_name_check"),
        (
            """INSERT INTO turns (project_id, bucket, id, thread_id, seq, status, model, params, lease_expires_at)
            SELECT project_id, bucket, (left(gen_random_uuid()::text, 32) || right(id::text, 4))::uuid, thread_id,
                seq + n, 'in_progress', 'm', '{}', now()
            FROM turns, generate_series(1, 2) AS n WHERE id = $2""",
            "turns_one_active_per_thread",
        ),
    ],
)
def test_the_database_refuses_what_must_not_be(
    service: Any, database_url: str, statement: str, constraint: str
) -> None:
    turn = UUID(service.turn(service.thread(), "Hello")["id"].removeprefix("turn_"))
    statement = statement.replace("$2", "$1")
    with pytest.raises(asyncpg.IntegrityConstraintViolationError) as refused:
        query(database_url, statement, turn)
    assert refused.value.constraint_name == constraint

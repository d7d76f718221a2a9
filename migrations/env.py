"""Runs migrations on DATABASE_URL, or on the connection that the service hands over."""

import asyncio
import os
from collections.abc import Collection, Mapping
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo
from sqlalchemy import Connection
from sqlalchemy.pool import NullPool

from app.db import connecting
from app.schema import metadata


def release_of(revision: str) -> str:
    return revision.partition("_")[0]


def drop_superseded(
    ctx: MigrationContext, step: MigrationInfo, heads: Collection[Any], run_args: Mapping[str, Any]
) -> None:
    """Run the `DROPS_LATER` of a release with the first migration of the next one, in its transaction.

    The release that has superseded the objects may still run then, and the one before it does not.
    """
    up = step.up_revision_id
    for down in step.down_revision_ids if step.is_upgrade else ():
        if up is None or release_of(down) == release_of(up):
            continue
        for script in context.script.walk_revisions(head=down):
            if release_of(script.revision) == release_of(down):
                for statement in getattr(script.module, "DROPS_LATER", ()):
                    context.get_bind().exec_driver_sql(statement)


def run(connection: Connection) -> None:
    # Each migration commits by itself, so that one may leave its transaction (CONCURRENTLY).
    context.configure(
        connection=connection,
        target_metadata=metadata,
        transaction_per_migration=True,
        on_version_apply=drop_superseded,
    )
    with context.begin_transaction():
        context.run_migrations()


async def run_online() -> None:
    engine = connecting.engine(os.environ["DATABASE_URL"], poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    asyncio.run(run_online())

"""Runs migrations on DATABASE_URL, or on the connection that the service hands over."""

import asyncio
import os

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.pool import NullPool

from app.db import connecting
from app.schema import metadata


def run(connection: Connection) -> None:
    # Each migration commits by itself, so that one may leave its transaction (CONCURRENTLY).
    context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)
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

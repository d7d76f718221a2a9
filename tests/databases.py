"""Databases of a test's own, on a server that is running."""

import asyncio
from uuid import uuid4

import asyncpg
from sqlalchemy import make_url

from app import schema


def new_database(server_url: str) -> str:
    """The URL of an empty database on the server."""
    name = f"everthread_{uuid4().hex}"

    async def create() -> None:
        connection = await asyncpg.connect(server_url)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()

    asyncio.run(create())
    return make_url(server_url).set(database=name).render_as_string(hide_password=False)


def migrate_now(url: str) -> None:
    asyncio.run(schema.migrate(url))


def query(url: str, *statements: str) -> None:
    """Run statements, one after the other, on one connection."""

    async def run() -> None:
        connection = await asyncpg.connect(url)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    asyncio.run(run())

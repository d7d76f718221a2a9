"""Databases of a test's own, on a server that is running."""

import asyncio
import os
from uuid import UUID, uuid4

import asyncpg
from sqlalchemy import make_url

from app import schema

_templates: dict[str, str] = {}
"""By server: the name of a migrated database that others are copied from."""


def migrated_database(server_url: str) -> str:
    """The URL of a new, migrated database on the server."""
    if "TEST_CITUS_NODES" in os.environ:
        url = new_database(server_url)
        migrate_now(url)
        return url
    if server_url not in _templates:
        template = new_database(server_url)
        migrate_now(template)
        _templates[server_url] = str(make_url(template).database)
    url = new_database(server_url, template=_templates[server_url])
    query(url, schema.SET_PLANS)  # A setting of the database, which is not copied with it.
    return url


def new_database(server_url: str, *, name: str | None = None, template: str = "template1") -> str:
    """The URL of an empty database on the server, or of a copy of another one."""
    name = name or f"everthread_{uuid4().hex}"

    url = make_url(server_url).set(database=name)
    nodes = [node.rpartition(":") for node in os.environ.get("TEST_CITUS_NODES", "").split(",") if node]

    async def create() -> None:
        # The coordinator, and the workers of its cluster, if it is one.
        places = [make_url(server_url), *(make_url(server_url).set(host=h, port=int(p)) for h, _, p in nodes)]
        for place in places:
            connection = await asyncpg.connect(place.render_as_string(hide_password=False))
            await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
            await connection.close()
            if nodes:
                connection = await asyncpg.connect(place.set(database=name).render_as_string(hide_password=False))
                await connection.execute("CREATE EXTENSION citus")
                await connection.close()
        if nodes:
            connection = await asyncpg.connect(url.render_as_string(hide_password=False))
            await connection.execute("SELECT citus_set_coordinator_host($1, $2)", url.host, url.port or 5432)
            for host, _, port in nodes:
                await connection.execute("SELECT citus_add_node($1, $2)", host, int(port))
            await connection.close()

    asyncio.run(create())
    return url.render_as_string(hide_password=False)


def migrate_now(url: str) -> None:
    asyncio.run(schema.migrate(url))


def waiters(url: str, thread: str) -> int:
    """Return the number of requests that wait for a thread."""

    async def count() -> int:
        connection = await asyncpg.connect(url)
        id_ = UUID(thread.partition("_")[2])
        found: int = await connection.fetchval("SELECT count(*) FROM waiters WHERE thread_id = $1", id_)
        await connection.close()
        return found

    return asyncio.run(count())


def query(url: str, *statements: str) -> None:
    """Run statements, one after the other, on one connection."""

    async def run() -> None:
        connection = await asyncpg.connect(url)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    asyncio.run(run())

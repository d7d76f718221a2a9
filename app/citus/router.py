"""Routing of statements to the server of their bucket: the only server, or the node of a Citus cluster that holds it.

A node that does not hold it any more passes the statement on: a map that is out of date costs time, and stays right.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from app.db.engine import Database
from app.db.ids import BUCKETS
from app.http.errors import DatabaseUnavailable
from app.process.background import Background

log = structlog.get_logger()

REFRESH_SECONDS = 30.0

ROUTES = """
SELECT b AS bucket, n.nodename, n.nodeport FROM generate_series(0, $1::int - 1) AS b
JOIN pg_dist_placement p ON p.shardid = get_shard_id_for_distribution_column('threads'::regclass, b::smallint)
JOIN pg_dist_node n ON n.groupid = p.groupid AND n.isactive
"""

# A driver looks into the catalog at a connection's first array, and Citus hides its shards from every look.
NODE_SETTINGS = {"citus.override_table_visibility": "off"}


async def is_distributed(database: Database) -> bool:
    """Return True if the database is the coordinator of a Citus cluster."""
    return await database.fetchrow("SELECT FROM pg_extension WHERE extname = 'citus'") is not None


class ShardRouter(Background):
    """Connections to the nodes of a cluster, besides those to its coordinator."""

    def __init__(self, database: Database, *, routed: bool) -> None:
        """Args: routed: whether to look for the nodes. Without, everything goes to `database`."""
        super().__init__()
        self._database = database
        self._routed = routed
        self._by_bucket: list[Database] = []
        self._by_place: dict[tuple[str, int], Database] = {}

    def of(self, bucket: int) -> Database:
        """The connections to where a bucket lies."""
        return self._by_bucket[bucket] if self._by_bucket else self._database

    @asynccontextmanager
    async def apart(self) -> AsyncIterator[None]:
        """`Database.apart`, of all of them."""
        async with AsyncExitStack() as stack:
            for each in (self._database, *self._by_place.values()):
                await stack.enter_async_context(each.apart())
            yield

    async def refresh(self) -> None:
        """Refresh the map of buckets to nodes.

        Raises:
            DatabaseUnavailable: the coordinator is unavailable; the map stays as it is.
        """
        rows = await self._database.fetch(ROUTES, BUCKETS)
        by_bucket = {row["bucket"]: self._at(row["nodename"], row["nodeport"]) for row in rows}
        self._by_bucket = [by_bucket.get(bucket, self._database) for bucket in range(BUCKETS)]

    async def close(self) -> None:
        for node in self._by_place.values():
            await node.close()

    def _at(self, host: str, port: int) -> Database:
        known = self._by_place.get((host, port))
        if known is None:
            known = self._by_place[host, port] = self._database.at(host, port, NODE_SETTINGS)
        return known

    async def run(self) -> None:
        while self._routed:
            try:
                await self.refresh()
            except DatabaseUnavailable:
                log.warning("the coordinator is unavailable; buckets are looked for where they were")
            await asyncio.sleep(REFRESH_SECONDS)
